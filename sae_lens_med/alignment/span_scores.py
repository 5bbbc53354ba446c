"""Scores of token saliency against spans, and their nulls: the arithmetic of #6 (`plausibility`).

Per item: saliency s_t of T tokens (large is important) and the expert's spans `[start, end)` of tokens. As in ERASER
(DeYoung et al. 2020, arXiv 1911.03429), with P = predicted tokens, G = tokens in a span:

- **token-F1** `2 |P ∩ G| / (|P| + |G|)`;
- **IOU-F1**: predicted spans are the runs of predicted tokens; one is right if its intersection over union with some
  expert span is >= 0.5. Precision: right / predicted spans, recall: right / expert spans; F1 of the two. (ERASER's
  macro-average is the F1 of the means of precision and recall; here the mean of the items' F1, so that it has an
  interval.)
- **AUPRC**: average precision, `sum_g (R_g - R_{g-1}) P_g` over the distinct values of saliency from the largest, as in
  scikit-learn's `average_precision_score`: no interpolation, which flatters.

P: tokens with s_t >= a threshold; or, without one, the |G| most salient. Of these only tokens with s_t > 0; tokens tied
with the last one all belong. All three are in [0, 1], and averaged over items.

Nulls, drawn anew for each item: **shift**, all spans of the item moved by one uniform number of tokens around the end
(keeps lengths and gaps); **random**, spans of these lengths placed uniformly without overlap (keeps lengths). Chance of
AUPRC is about the share of tokens in spans.

Both take every place for as likely as any other. Saliency is not like that: it falls over a text, or rises towards its
end, in every item alike, and experts' spans have their usual places, too. A third null respects both: **position**, the
item's spans against the saliency of another item of like length, at the same relative places. Saliencies are permuted
among about `ALIKE` items that are neighbours in length; that of j at token t of T_i is s_j at token
floor((t + 1/2) T_j / T_i). With one item there is no other, and p is 1.

Out of scope: making the saliency, and characters to tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import Strata, permutation_p, permuted_means, stratified_permutations

SCORES = ("token_f1", "iou_f1", "auprc")
MIN_IOU = 0.5
ALIKE = 4
"""Items, neighbours in length, that exchange saliency under the null of position."""


@dataclass(frozen=True, slots=True, eq=False)
class SpanScores:
    """The scores of the n items that have tokens and spans."""

    per_item: dict[str, FloatArray]
    """Name of `SCORES` -> `[n]`."""
    null_shift: dict[str, FloatArray]
    """Name -> `[B]`, the mean over items under each draw."""
    null_random: dict[str, FloatArray]
    null_position: dict[str, FloatArray]
    prevalence: FloatArray
    """`[n]`, the share of tokens in spans."""
    positions: IntArray
    """`[n]`, which of the items given these are; the others have no token or no span."""

    def value(self, score: str) -> float:
        """Mean over items; 0 without items."""
        return float(self.per_item[score].mean()) if len(self.positions) else 0.0

    def nulls(self, score: str) -> dict[str, FloatArray]:
        """`shift`, `random` and `position` -> `[B]`."""
        return {
            "shift": self.null_shift[score],
            "random": self.null_random[score],
            "position": self.null_position[score],
        }

    def harder(self, score: str) -> FloatArray:
        """`[B]`, the null with the largest p; of equals the one with the largest mean."""
        value = self.value(score)
        return max(self.nulls(score).values(), key=lambda null: (permutation_p(value, null), float(null.sum())))

    def p(self, score: str) -> float:
        """One-sided, of the hardest null."""
        return permutation_p(self.value(score), self.harder(score))


def span_scores(
    saliency: Sequence[FloatArray],
    spans: Sequence[IntArray],
    draws: int,
    rng: np.random.Generator,
    threshold: float | None = None,
) -> SpanScores:
    """See the module's text.

    Args:
        saliency: per item `[T]`, finite.
        spans: per item `[m, 2]`, start and end (exclusive) of each span, disjoint, within the T tokens.
        draws: B of each null.
        rng: of the nulls.
        threshold: tokens at or above it are predicted; without it as many as the expert's.

    Value on no data: items without tokens or spans are left out; an item whose predicted set is empty has token-F1 and
    IOU-F1 of 0. Raises `DataError` for spans that overlap or leave the text and for saliency that is not finite.
    """
    if len(saliency) != len(spans):
        raise DataError(
            f"there are {len(saliency)} items with saliency and {len(spans)} with spans; every item needs both."
        )
    positions, observed, prevalence, kept = [], [], [], []
    nulls = np.zeros((2, draws, len(SCORES)))
    for i, (raw, given) in enumerate(zip(saliency, spans, strict=True)):
        values = np.asarray(raw, dtype=np.float64)
        marked = np.asarray(given, dtype=np.int64).reshape(-1, 2)
        if len(values) == 0 or len(marked) == 0:
            continue
        _require_valid(values, marked, i)
        starts, lengths = marked[:, 0], marked[:, 1] - marked[:, 0]
        item = _Item(values, int(lengths.sum()), threshold)
        positions.append(i)
        kept.append((values, starts, lengths))
        prevalence.append(lengths.sum() / len(values))
        observed.append(item.scores(starts[None], lengths[None])[0])
        shift = (starts[None] + rng.integers(len(values), size=(draws, 1))) % len(values)
        nulls[0] += item.scores(shift, np.broadcast_to(lengths, shift.shape))
        nulls[1] += item.scores(*_random_spans(lengths, len(values), draws, rng))
    scores = np.array(observed).reshape(-1, len(SCORES))
    nulls /= max(1, len(positions))
    exchanged = _exchanged(kept, draws, rng, threshold)
    return SpanScores(
        per_item={name: scores[:, k] for k, name in enumerate(SCORES)},
        null_shift={name: nulls[0, :, k] for k, name in enumerate(SCORES)},
        null_random={name: nulls[1, :, k] for k, name in enumerate(SCORES)},
        null_position={name: exchanged[:, k] for k, name in enumerate(SCORES)},
        prevalence=np.array(prevalence),
        positions=np.array(positions, dtype=np.int64),
    )


def _exchanged(
    items: Sequence[tuple[FloatArray, IntArray, IntArray]],
    draws: int,
    rng: np.random.Generator,
    threshold: float | None,
) -> FloatArray:
    """`[B, 3]`: the mean over items of `SCORES` with saliency permuted among neighbours in length; `items` are the
    saliency, the starts and the lengths of the spans of each."""
    n = len(items)
    if n == 0:
        return np.zeros((draws, len(SCORES)))
    order = np.argsort([len(values) for values, _, _ in items], kind="stable")
    index = np.empty(n, dtype=np.int64)
    index[order] = np.arange(n) * max(1, n // ALIKE) // n
    table = np.zeros((len(SCORES), n, n))
    for i, (own, starts, lengths) in enumerate(items):
        for j in np.flatnonzero(index == index[i]).tolist():
            other = items[j][0]
            moved = other[((np.arange(len(own)) + 0.5) * len(other) / len(own)).astype(np.int64)]
            table[:, i, j] = _Item(moved, int(lengths.sum()), threshold).scores(starts[None], lengths[None])[0]
    permutations = stratified_permutations(Strata(index, np.zeros(n, dtype=np.int64)), draws, rng)
    return np.stack([permuted_means(scores, permutations, np.arange(n)) for scores in table], axis=1)


class _Item:
    """What does not change between draws: the predicted set, its runs, and the order of the tokens."""

    def __init__(self, saliency: FloatArray, n_gold: int, threshold: float | None) -> None:
        least = float(np.sort(saliency)[-n_gold]) if threshold is None else threshold
        self.predicted = (saliency >= least) & (saliency > 0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.predicted, [False]]).astype(np.int8)))
        self.runs = edges.reshape(-1, 2).astype(np.int64)
        self.order = np.argsort(-saliency, kind="stable").astype(np.int64)
        descending = saliency[self.order]
        self.ends_tie = np.append(descending[1:] != descending[:-1], True)

    def scores(self, starts: IntArray, lengths: IntArray) -> FloatArray:
        """`[B, 3]` of `SCORES`, for spans `[B, m]` that may go around the end."""
        from sae_lens_med.alignment.span_kernel import draw_scores  # numba

        return draw_scores(
            MIN_IOU,
            np.ascontiguousarray(starts),
            np.ascontiguousarray(lengths),
            self.predicted,
            self.runs,
            self.order,
            self.ends_tie,
        )


def _random_spans(lengths: IntArray, tokens: int, draws: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Starts and lengths `[draws, m]`: the spans in random order, with the free tokens shared out uniformly."""
    m, free = len(lengths), tokens - int(lengths.sum())
    shuffled = lengths[rng.random((draws, m)).argsort(axis=1)]
    # m of free + m slots hold a span, the others one free token each; the m are drawn by Floyd's algorithm.
    slots = np.empty((draws, m), dtype=np.int64)
    for k in range(m):
        drawn = rng.integers(free + k + 1, size=draws)
        taken = (slots[:, :k] == drawn[:, None]).any(axis=1)
        slots[:, k] = np.where(taken, free + k, drawn)
    slots.sort(axis=1)
    return slots - np.arange(m) + np.cumsum(shuffled, axis=1) - shuffled, shuffled


def _require_valid(saliency: FloatArray, spans: IntArray, item: int) -> None:
    if not np.isfinite(saliency).all():
        raise DataError(
            f"item {item}: the saliency of {np.count_nonzero(~np.isfinite(saliency))} tokens is not finite."
        )
    ordered = spans[np.argsort(spans[:, 0])]
    inside = ordered[0, 0] >= 0 and ordered[-1, 1] <= len(saliency) and (ordered[:, 0] < ordered[:, 1]).all()
    if not inside or (ordered[1:, 0] < ordered[:-1, 1]).any():
        raise DataError(
            f"item {item}: the spans must be disjoint, of a token or more, and within its {len(saliency)} tokens; "
            "join those that overlap."
        )
