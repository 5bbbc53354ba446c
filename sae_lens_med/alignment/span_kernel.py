"""The loop of `span_scores` over draws, compiled. Apart, so that who reads the list of metrics loads no compiler."""

import numba
import numpy as np

from sae_lens_med.records import BoolArray, FloatArray, IntArray

_jit = numba.njit(nogil=True, cache=True)


@_jit
def draw_scores(
    min_iou: float,
    starts: IntArray,
    lengths: IntArray,
    predicted: BoolArray,
    runs: IntArray,
    order: IntArray,
    ends_tie: BoolArray,
) -> FloatArray:
    """`[B, 3]` of `span_scores.SCORES`, for spans `[B, m]` that may go around the end."""
    tokens, n_spans = len(predicted), starts.shape[1]
    n_predicted = predicted.sum()
    scores = np.zeros((len(starts), 3))
    gold = np.zeros(tokens, dtype=np.bool_)
    for b in range(len(starts)):
        gold[:] = False
        n_gold, common = 0, 0
        for k in range(n_spans):
            n_gold += lengths[b, k]
            for t in range(starts[b, k], starts[b, k] + lengths[b, k]):
                at = t if t < tokens else t - tokens
                gold[at] = True
                common += predicted[at]
        scores[b, 0] = 2.0 * common / (n_predicted + n_gold)
        right = 0
        for r in range(len(runs)):
            first, last = runs[r, 0], runs[r, 1]
            for k in range(n_spans):
                begin, end = starts[b, k], starts[b, k] + lengths[b, k]
                both = max(0, min(last, end) - max(first, begin))
                both += max(0, min(last, end - tokens) - max(first, begin - tokens))
                if both >= min_iou * (last - first + end - begin - both):
                    right += 1
                    break
        # The runs at both ends may be the two halves of one span that goes around.
        right = min(right, n_spans)
        if right > 0:
            scores[b, 1] = 2.0 * right / (len(runs) + n_spans)
        hits, counted, total = 0, 0, 0.0
        for at in range(tokens):
            hits += gold[order[at]]
            if ends_tie[at]:
                total += (hits - counted) * hits / (at + 1)
                counted = hits
        scores[b, 2] = total / n_gold
    return scores
