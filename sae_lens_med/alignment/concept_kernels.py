"""The loops of `concept_scores` over permutations, compiled.

Activations come by feature (CSC: `indptr` `[F + 1]`, `indices` the rows, one value an entry), labels by concept
(`[C, R]` bool). `LANES` permutations go side by side, so that an entry is read once for all of them and the sums are
vector instructions. `kind` is an empty array of the number type to add in: float32 is exact for the ranks of 2,000 rows
(half-integers whose sums stay below 2²²) and twice as fast; float64 beyond.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sae_lens_med.records import BoolArray, IntArray

FloatArray = npt.NDArray[np.floating]

LANES = 64
FLOAT32_ROWS = 2000

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "nnan"})
"""The sums are of whole and half numbers, exact in any order; nothing here is not a number."""


def number_type(rows: int) -> FloatArray:
    """`kind` for so many rows."""
    return np.zeros(0, np.float32 if rows <= FLOAT32_ROWS else np.float64)


@_jit
def _sources(starts: IntArray, permutations: IntArray, taken: IntArray) -> None:
    """`taken[row, lane]`: the row whose labels `row` takes when group g takes those of group `permutations[lane, g]`,
    stretched to its own length; -1 from a group without rows."""
    for lane in range(len(permutations)):
        for group in range(len(starts) - 1):
            first, size = starts[group], starts[group + 1] - starts[group]
            other = permutations[lane, group]
            source, n_source = starts[other], starts[other + 1] - starts[other]
            for t in range(size):
                taken[first + t, lane] = source + t * n_source // size if n_source > 0 else -1


@_jit
def _fill(labels: BoolArray, taken: IntArray, lanes: int, moved: FloatArray) -> None:
    """`moved[row, lane]`: 1 where the row has the concept (`labels` `[R]`) after the permutation, else 0."""
    for row in range(len(taken)):
        for lane in range(lanes):
            source = taken[row, lane]
            moved[row, lane] = 1.0 if source >= 0 and labels[source] else 0.0


@_jit
def null_max(
    indptr: IntArray,
    indices: IntArray,
    data: FloatArray,
    labels: BoolArray,
    starts: IntArray,
    permutations: IntArray,
    expected: FloatArray,
    scale: FloatArray,
    nuisance: FloatArray,
    slopes: FloatArray,
    kind: FloatArray,
) -> npt.NDArray[np.float64]:
    """`[B, C]`: the largest `(W_f - n expected_f - slopes_f . N) scale_f / sqrt(n (R - n))` over features, at least 0.

    W_f sums `data` over the n labelled rows, N `nuisance` (`[R, q]`; `slopes` `[F, q]`). `expected` and `scale` are
    `[C, F]`, or `[1, F]` for all concepts alike.
    """
    n_rows, n_features = labels.shape[1], len(indptr) - 1
    null = np.zeros((len(permutations), len(labels)))
    taken = np.zeros((n_rows, LANES), dtype=np.int64)
    moved = np.zeros((n_rows, LANES), dtype=kind.dtype)
    sums, best, counts = np.zeros(LANES, kind.dtype), np.zeros(LANES), np.zeros(LANES)
    totals, fitted = np.zeros((slopes.shape[1], LANES)), np.zeros(LANES)
    for begin in range(0, len(permutations), LANES):
        block = permutations[begin : begin + LANES]
        _sources(starts, block, taken)
        for c in range(len(labels)):
            _fill(labels[c], taken, len(block), moved)
            counts[:] = 0.0
            totals[:] = 0.0
            for row in range(n_rows):
                for lane in range(LANES):
                    counts[lane] += moved[row, lane]
                for k in range(len(totals)):
                    for lane in range(LANES):
                        totals[k, lane] += nuisance[row, k] * moved[row, lane]
            which = min(c, len(expected) - 1)
            best[:] = 0.0
            for f in range(n_features):
                if scale[which, f] == 0.0:
                    continue
                sums[:] = 0.0
                for at in range(indptr[f], indptr[f + 1]):
                    value, own = data[at], moved[indices[at]]
                    for lane in range(LANES):
                        sums[lane] += value * own[lane]
                mean, width = expected[which, f], scale[which, f]
                fitted[:] = 0.0
                for k in range(len(totals)):
                    for lane in range(LANES):
                        fitted[lane] += slopes[f, k] * totals[k, lane]
                for lane in range(LANES):
                    z = (sums[lane] - counts[lane] * mean - fitted[lane]) * width
                    best[lane] = z if z > best[lane] else best[lane]
            for lane in range(len(block)):
                n = counts[lane]
                if 0 < n < n_rows:
                    null[begin + lane, c] = best[lane] / np.sqrt(n * (n_rows - n))
    return null


@_jit
def _any_above(hits: FloatArray, labelled: FloatArray, best: FloatArray) -> bool:
    """Whether `2 hits / (hits + labelled)` is greater than `best` in any lane."""
    above = 0
    for lane in range(LANES):
        above |= hits[lane] + hits[lane] > best[lane] * (hits[lane] + labelled[lane])
    return above > 0


@_jit
def _keep_better(
    hits: FloatArray, labelled: FloatArray, fired: Any, level: Any, best: FloatArray, best_level: FloatArray
) -> None:
    """Per lane, keep F1 = `2 hits / (fired + labelled)` and its level where it is at least `best`."""
    for lane in range(LANES):
        value = (hits[lane] + hits[lane]) / (fired + labelled[lane])
        better = value >= best[lane]
        best[lane] = value if better else best[lane]
        best_level[lane] = level if better else best_level[lane]


@_jit
def _f1(
    indices: IntArray, level: IntArray, labels: FloatArray, first: Any, last: Any, threshold: Any, labelled: Any
) -> Any:
    """F1 of "level above `threshold`" over the entries from `first` to `last`; 0 without a hit."""
    hits, fired = 0.0, 0.0
    for at in range(first, last):
        if level[at] > threshold:
            hits += labels[indices[at]]
            fired += 1.0
    return 2.0 * hits / (fired + labelled) if hits > 0 else 0.0


@_jit
def chosen_f1(
    indptr: IntArray,
    indices: IntArray,
    level: IntArray,
    n_train: IntArray,
    labels: BoolArray,
    starts: IntArray,
    permutations: IntArray,
    held_out: BoolArray,
    n_levels: int,
    kind: FloatArray,
) -> tuple[IntArray, IntArray, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per permutation and concept (`[B, C]` each): the feature and threshold that are best on training rows, F1 there,
    and F1 on held-out rows.

    The entries of a feature: first its `n_train[f]` training rows, from the highest `level` (how many thresholds the
    entry exceeds, 1 or more) to the lowest, then its held-out rows.
    """
    n_rows, n_features = labels.shape[1], len(indptr) - 1
    shape = (len(permutations), len(labels))
    feature, threshold = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    train_f1, f1 = np.zeros(shape), np.zeros(shape)
    taken = np.zeros((n_rows, LANES), dtype=np.int64)
    moved = np.zeros((n_rows, LANES), dtype=kind.dtype)
    hits, labelled, left_out = np.zeros(LANES, kind.dtype), np.zeros(LANES, kind.dtype), np.zeros(LANES, kind.dtype)
    best, own_best, own_level = np.zeros(LANES, kind.dtype), np.zeros(LANES, kind.dtype), np.zeros(LANES, kind.dtype)
    best_level, best_feature = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    for begin in range(0, len(permutations), LANES):
        block = permutations[begin : begin + LANES]
        _sources(starts, block, taken)
        for c in range(len(labels)):
            _fill(labels[c], taken, len(block), moved)
            labelled[:], left_out[:], best[:] = 0.0, 0.0, 0.0
            best_feature[:] = -1
            for row in range(n_rows):
                side = left_out if held_out[row] else labelled
                for lane in range(LANES):
                    side[lane] += moved[row, lane]
            for f in range(n_features):
                first, last = indptr[f], indptr[f] + n_train[f]
                hits[:] = 0.0
                for at in range(first, last):
                    own = moved[indices[at]]
                    for lane in range(LANES):
                        hits[lane] += own[lane]
                # A rule fires on at least the rows that it hits: F1 <= 2 hits / (hits + labelled).
                if not _any_above(hits, labelled, best):
                    continue
                hits[:], own_best[:] = 0.0, 0.0
                at = first
                for q in range(n_levels - 1, -1, -1):
                    while at < last and level[at] > q:
                        own = moved[indices[at]]
                        for lane in range(LANES):
                            hits[lane] += own[lane]
                        at += 1
                    if at == first:
                        continue
                    _keep_better(hits, labelled, kind.dtype.type(at - first), kind.dtype.type(q), own_best, own_level)
                for lane in range(LANES):
                    if own_best[lane] > best[lane]:
                        best[lane], best_feature[lane], best_level[lane] = own_best[lane], f, int(own_level[lane])
            for lane in range(len(block)):
                f, q, b = best_feature[lane], best_level[lane], begin + lane
                if f < 0:
                    continue
                feature[b, c], threshold[b, c] = f, q
                train_f1[b, c] = _f1(
                    indices, level, moved[:, lane], indptr[f], indptr[f] + n_train[f], q, labelled[lane]
                )
                f1[b, c] = _f1(indices, level, moved[:, lane], indptr[f] + n_train[f], indptr[f + 1], q, left_out[lane])
    return feature, threshold, train_f1, f1
