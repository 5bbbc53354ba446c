"""How much each edge of a decoder's graph carries: attribution by gradients (EAP, EAP-IG).

    score(w -> r) = sum over places  (W_w - W'_w) . d m / d x_r        mean over the pairs

`W`, `W'` are what writer w writes on the clean and on the other text, `x_r` what reader r reads, m the metric of
`pairs`. Positive: the edge supports the clean text's answer.

The gradient is the mean over runs whose embedding lies at share a of the way from the other text to the clean one:
a = 1 alone is edge attribution patching (Syed et al., arXiv 2310.10348); K points are EAP-IG (Hanna et al.,
2403.17806), who take a = 0, 1/K .. (K-1)/K. The default here is midpoints, (k + 1/2)/K, whose error falls with K².

Attribution proposes; what a circuit does is measured (`faithfulness`). Grouped queries and norms after attention are
those of the model (`decoder`). Out of scope: pruning by learned masks.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_lens_med.circuits.decoder import GraphDecoder, GraphRun, batched
from sae_lens_med.circuits.pairs import Pair, by_length, metric
from sae_lens_med.errors import ConfigError
from sae_lens_med.records import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

CLEAN = (1.0,)
"""EAP: the gradient on the clean text alone."""


def midpoints(steps: int) -> tuple[float, ...]:
    """(k + 1/2)/steps. Raises `ConfigError` without steps."""
    if steps < 1:
        raise ConfigError(f"ig_steps must be at least 1, got {steps}.")
    return tuple((k + 0.5) / steps for k in range(steps))


def edge_scores(
    decoder: GraphDecoder,
    pairs: Sequence[Pair],
    *,
    points: Sequence[float] | None = None,
    batch_tokens: int = 512,
    on_batch: Callable[[int], None] = lambda _n: None,
) -> FloatArray:
    """`[pairs, n_readers, n_writers]`, in nats; 0 where there is no edge.

    Args:
        decoder: of the model.
        pairs: one at least.
        points: shares of the way to the clean text at which gradients are taken; None: five midpoints.
        batch_tokens: most tokens of a pass.
        on_batch: called with the number of pairs that were done since the last call.
    """
    points = midpoints(5) if points is None else points
    if not points or not all(0 <= a <= 1 for a in points):
        raise ConfigError(f"points lie between 0 (the other text) and 1 (the clean one), got {tuple(points)}.")
    place = {pair.id: i for i, pair in enumerate(pairs)}
    if len(place) < len(pairs):
        raise ConfigError("two pairs have the same id; give each its own.")
    graph = decoder.graph
    found = np.zeros((len(pairs), graph.n_readers, graph.n_writers))
    for batch in by_length(pairs, batch_tokens):
        scores = _scores(decoder, batch, points)
        found[[place[pair.id] for pair in batch]] = scores.double().cpu().numpy()
        on_batch(len(batch))
    return np.where(graph.edges, found, 0.0)


def token_scores(
    decoder: GraphDecoder, pairs: Sequence[Pair], *, points: Sequence[float] | None = None, batch_tokens: int = 512
) -> list[FloatArray]:
    """For each pair `[T]`: what each token's embedding supports, (E - E') . mean gradient, in nats.

    Integrated gradients (Sundararajan et al. 2017) by midpoints: the sum over the tokens is m(clean) - m(other), up to
    the error of the sum over `points` (None: ten)."""
    points = midpoints(10) if points is None else points
    found: dict[str, FloatArray] = {}
    for batch in by_length(pairs, batch_tokens):
        wanted, clean, other = run_pairs(decoder, batch)
        apart = clean.writes[:, 0] - other.writes[:, 0]
        total = torch.zeros_like(apart)
        for a in points:
            embedded = (other.writes[:, 0] + a * apart).requires_grad_()
            with torch.enable_grad():
                run = decoder.run(embedded, wanted, keep=False)
                total = total + torch.autograd.grad(metric(run).sum(), embedded)[0]
        scores = (total * apart).sum(-1) / len(points)
        found |= {pair.id: row.double().cpu().numpy() for pair, row in zip(batch, scores, strict=True)}
    return [found[pair.id] for pair in pairs]


def run_pairs(decoder: GraphDecoder, batch: Sequence[Pair]) -> tuple["Tensor", GraphRun, GraphRun]:
    """Both texts of pairs of one shape, without gradients: the tokens whose logits the runs give (answer, other answer,
    then the choices of the clean and of the other text), and the two runs."""
    device = decoder.model.cfg.device or "cpu"
    wanted = torch.tensor([pair.asked for pair in batch], device=device)
    with torch.no_grad():
        clean, other = (
            decoder.run(decoder.embed(batched([getattr(pair, side) for pair in batch], device)), wanted, keep=False)
            for side in ("clean", "other")
        )
    return wanted, clean, other


def _scores(decoder: GraphDecoder, batch: Sequence[Pair], points: Sequence[float]) -> "Tensor":
    """`[B, n_readers, n_writers]`"""
    graph = decoder.graph
    wanted, clean, other = run_pairs(decoder, batch)
    apart = clean.writes - other.writes
    start, end = other.writes[:, 0], clean.writes[:, 0]
    gradients: list[Tensor] = []
    for a in points:
        embedded = (start + a * (end - start)).requires_grad_()
        with torch.enable_grad():
            run = decoder.run(embedded, wanted)
            found = torch.autograd.grad(metric(run).sum(), run.reads)
        gradients = [
            each if not gradients else kept + each for kept, each in zip(gradients or found, found, strict=True)
        ]
    scores = apart.new_zeros((len(batch), graph.n_readers, graph.n_writers))
    row = 0
    for each in gradients:
        n = each.shape[1]
        scores[:, row : row + n] = torch.einsum("brtd,bwtd->brw", each / len(points), apart)
        row += n
    return scores
