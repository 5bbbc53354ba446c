"""What each head and MLP adds to the metric by itself, through nothing but the last norm: direct logit attribution.

    m = logit(answer) - logit(other answer) = sum_w  (W_w at the last token) . u  +  constant
    u = s g (U[answer] - U[other answer])        g, s: gain and scale of the last norm on this text

The scale is that of the whole (frozen), so the parts add up to m, exactly but for rounding, on every family of
`decoder`: on Gemma 3 heads count by their share behind the norm after attention, elsewhere in the field their write
before it is used, which does not add up. A layer norm's centring and biases are part of it; `constant` is what biases
give. **Positive supports the answer.**

A feature's direct effect is the same with its decoder direction (`feature_effects`). Both see the direct path alone:
what a head does through later layers is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.edges import run_pairs
from sae_lens_med.circuits.pairs import Pair, by_length, metric
from sae_lens_med.records import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Direct:
    """Direct effects on m, in nats."""

    writers: tuple[str, ...]
    values: FloatArray
    """`[pairs, n_writers]`"""
    constant: FloatArray
    """`[pairs]`, of biases."""
    margin: FloatArray
    """`[pairs]`: m, which is the sum of both."""


@torch.no_grad()
def direct_effects(decoder: GraphDecoder, pairs: Sequence[Pair], *, batch_tokens: int = 512) -> Direct:
    """Of the clean texts of `pairs`, in their order."""
    place = {pair.id: i for i, pair in enumerate(pairs)}
    values = np.zeros((len(pairs), decoder.graph.n_writers))
    constant, margin = np.zeros(len(pairs)), np.zeros(len(pairs))
    for batch in by_length(pairs, batch_tokens):
        _, clean, _ = run_pairs(decoder, batch)
        rows = [place[pair.id] for pair in batch]
        last = clean.writes[:, :, -1]
        whole = last.sum(1) + clean.constant
        towards = decoder.towards(whole, batch)
        values[rows] = _read(decoder, last, towards).double().cpu().numpy()
        bias = _read(decoder, clean.constant[None, None].expand(len(batch), 1, -1), towards)[:, 0]
        constant[rows] = (bias + decoder.output_bias(batch)).double().cpu().numpy()
        margin[rows] = metric(clean).double().cpu().numpy()
    return Direct(decoder.graph.writers, values, constant, margin)


@torch.no_grad()
def feature_effects(decoder: GraphDecoder, pair: Pair, directions: "Tensor") -> FloatArray:
    """`[n]`: what a unit of each direction `[n, d_model]` at the last token adds to m of the clean text."""
    _, clean, _ = run_pairs(decoder, [pair])
    whole = clean.writes[:, :, -1].sum(1) + clean.constant
    towards = decoder.towards(whole, [pair])
    return _read(decoder, directions[None].to(whole), towards)[0].double().cpu().numpy()


def _read(decoder: GraphDecoder, x: "Tensor", towards: "Tensor") -> "Tensor":
    """`x [B, n, d_model]`, `towards [B, d_model]` -> `[B, n]`."""
    if decoder.centres:
        x = x - x.mean(-1, keepdim=True)
    return torch.einsum("bnd,bd->bn", x, towards)
