"""Which heads read what an earlier head writes, from weights alone: composition scores with their null.

    W_OV = g_in W_V W_O g_post        x -> x W_OV, what a head writes of what it reads
    W_QK = g_in W_Q g_q g_k W_K' g_in     at distance 0, where the rotation of positions is none

    Q-composition   |W_OV(1) W_QK(2)|  / (|W_OV(1)| |W_QK(2)|)        Elhage et al. 2021; Frobenius norms
    K-composition   |W_OV(1) W_QK(2)'| / ...
    V-composition   |W_OV(1) W_OV(2)|  / ...

for head 1 of an earlier layer than head 2. Gains of norms are folded in (Gemma: one plus the weight); what a norm
divides by is a number for each token and is left out, so scores are of directions. Norms of queries and keys (Gemma 3,
Qwen 3) fix directions only, too.

**Null**: what head 1 writes is turned at random (Haar), its singular values kept. The squared score is then 1/d_model
on average, exactly; its spread is sampled. `z` is how many standard deviations of that null a score lies above its
mean. Heads that share keys and values are not independent of each other.

Out of scope: what a text makes of it; single directions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.records import FloatArray

Composition = Literal["q", "k", "v"]
KINDS: tuple[Composition, ...] = ("q", "k", "v")


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """Scores of all pairs of heads; NaN where head 1 is not of an earlier layer."""

    heads: tuple[str, ...]
    scores: dict[Composition, FloatArray]
    """`[heads (1), heads (2)]`, 0 to 1."""
    z: dict[Composition, FloatArray]
    chance: float
    """Root of the mean squared score of the null: 1 / sqrt(d_model)."""


@torch.no_grad()
def composition(decoder: GraphDecoder, *, draws: int = 20, seed: int = 0) -> Composed:
    """Of a model's heads; the null from `draws` turns of what each one writes."""
    graph = decoder.graph
    generator = torch.Generator().manual_seed(seed)
    weights = [decoder.head_weights(layer) for layer in range(graph.n_layers)]
    width = int(weights[0].write.shape[-1])
    heads = tuple(f"a{layer}.h{head}" for layer in range(graph.n_layers) for head in range(graph.n_heads))
    n = len(heads)
    scores: dict[Composition, FloatArray] = {kind: np.full((n, n), np.nan) for kind in KINDS}
    z: dict[Composition, FloatArray] = {kind: np.full((n, n), np.nan) for kind in KINDS}
    for late in range(1, graph.n_layers):
        own = weights[late]
        for early in range(late):
            theirs = weights[early]
            for one in range(graph.n_heads):
                read, write = theirs.value[one], theirs.write[one]  # [d, k], [k, d]
                turned = [_turned(write, generator) for _ in range(draws)]
                for two in range(graph.n_heads):
                    at = (early * graph.n_heads + one, late * graph.n_heads + two)
                    sides: dict[Composition, tuple[Tensor, Tensor]] = {
                        "q": (own.query[two], own.key[two]),
                        "k": (own.key[two], own.query[two]),
                        "v": (own.value[two], own.write[two].T),
                    }
                    for kind, (near, far) in sides.items():
                        whole = _norm(read, write) * _norm(near, far.T)
                        score = _product(read, write, near, far) / whole
                        null = np.array([_product(read, each, near, far) / whole for each in turned])
                        scores[kind][at] = score
                        spread = float(null.std(ddof=1))
                        z[kind][at] = (score - float(null.mean())) / spread if spread > 0 else 0.0
    return Composed(heads, scores, z, width**-0.5)


def _norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of `left [d, k] right [k, d]`."""
    return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())


def _product(read: Tensor, write: Tensor, near: Tensor, far: Tensor) -> float:
    """Frobenius norm of `read write near far'`, all of rank k."""
    middle = write @ near
    return float(((read.T @ read) @ middle @ (far.T @ far) * middle).sum().clamp(min=0).sqrt())


def _turned(write: Tensor, generator: torch.Generator) -> Tensor:
    """`write [k, d]` with its rows turned together at random: the singular values stay."""
    left, values, _ = torch.linalg.svd(write, full_matrices=False)
    drawn = torch.randn((write.shape[1], len(values)), generator=generator).to(write)
    q, r = torch.linalg.qr(drawn)
    return (left * values) @ (q * torch.sign(torch.diagonal(r))).T
