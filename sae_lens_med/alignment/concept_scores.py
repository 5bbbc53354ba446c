"""Which feature stands for which concept, and how many concepts have one? AUROC, F1, coverage (domain metrics #4, #5).

Rows are items (pooled vectors) or tokens; `acts` CSR `[R, F]`, >= 0; `labels` `[R, C]` bool, the concept is there.

- **AUROC** `P(a_f(with c) > a_f(without c)) + P(equal) / 2`, in [0, 1], 0.5 by chance, from the ranks of the whole
  column, the zeros being one tie. Only entries that are not 0 are visited.
- **F1** of "a_f > t * max_f": t in {0, .1, ..., .9} and f are chosen on training rows, max_f is the training rows'
  maximum; F1 of that one rule on held-out rows is what is reported (Gurnee et al. 2305.01610; InterPLM 2412.12101).
- **coverage** `(1/|C|) sum_c F1(f_c, c)`, the mean over concepts of that held-out F1 (Karvonen et al. 2408.00113).

Sign: only features that are *stronger* where the concept is count; a feature that is silent there stands for nothing.

Null: labels move between rows, all concepts by the same permutation, within strata. Rows may be **grouped** (tokens of
one item): then whole items exchange their label patterns, stretched to the item's own number of tokens, so that the
runs of labelled tokens stay runs. Both choices, of f and of t, are made again under every permutation.

AUROC is corrected for the choice among F features by the maximum (Westfall & Young 1993). The rank sum W_fc of the
labelled rows is compared in its own standard deviations, so that rare features are not lost among frequent ones,

    z_fc = (W_fc - E W_fc) / sd W_fc,     M_bc = max_f z_fc under permutation b (0 if none is positive)
    p_fc = (1 + #{b: M_bc >= z_fc}) / (B + 1),    over all concepts: max_c M_bc in the place of M_bc

E and sd are those of the permutation within strata (van Elteren 1960); for grouped rows those of free permutation,
which set the scale and nothing else: the p is the permutations'.

**Nuisance.** Where strata are wide, a property of the rows (the length of a question) that goes with both the feature
and the label makes them go together. Its values, centred within strata, are therefore taken from the ranks of each
feature by least squares, and W_fc sums what is left: U = W_fc - slope_f . sum of the nuisance over labelled rows. Where
either the feature's ranks or the label's chance is linear in it, U has the expectation 0 without an effect.

Out of scope: finding concepts in texts, and the correction over layers.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.statistics import Strata, permutation_p

THRESHOLDS = tuple(step / 10 for step in range(10))
"""Shares of a feature's maximum above which it "fires"."""

_TIE = 1e-9
"""Two values of z nearer than this, relative to their size, are the same value summed in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptAuroc:
    """Metric #4 for every feature and concept."""

    auroc: FloatArray
    """`[F, C]`; NaN for a concept that every row or no row has."""
    z: FloatArray
    """`[F, C]`, standardised rank sum; 0 where a feature or a concept does not vary."""
    null_max: FloatArray
    """`[B, C]`, the largest z over features under each permutation, at least 0."""

    def p(self, overall: bool = False) -> FloatArray:
        """`[F, C]`, corrected over features, per concept; with `overall` over features and all concepts."""
        null = self.null_max.max(axis=1, keepdims=True, initial=0.0) if overall else self.null_max
        columns = [permutation_p_each(self.z[:, c], null[:, 0 if overall else c]) for c in range(self.z.shape[1])]
        return np.column_stack(columns) if columns else np.zeros(self.z.shape)


@dataclass(frozen=True, slots=True, eq=False)
class ConceptF1:
    """The rule chosen for each concept on training rows, its held-out F1, and metric #5."""

    concepts: IntArray
    """`[m]`, the columns of `labels` with a labelled row on both sides of the split."""
    feature: IntArray
    """`[m]`, the chosen feature; -1 where no feature fires on a labelled training row."""
    threshold: FloatArray
    """`[m]`, the chosen share of the maximum."""
    train_f1: FloatArray
    """`[m]`, in [0, 1]; the largest of many, so not a result."""
    f1: FloatArray
    """`[m]`, held out, in [0, 1]."""
    prevalence_f1: FloatArray
    """`[m]`, `2 pi / (1 + pi)`, pi the held-out share of labelled rows: F1 of a feature that fires everywhere."""
    null_f1: FloatArray
    """`[B, m]`, held-out F1 of what is chosen under each permutation."""

    @property
    def coverage(self) -> float:
        """Metric #5: mean held-out F1, in [0, 1]; 0 without concepts."""
        return float(self.f1.mean()) if len(self.f1) else 0.0

    @property
    def null_coverage(self) -> FloatArray:
        """`[B]`."""
        return self.null_f1.mean(axis=1) if len(self.f1) else np.zeros(len(self.null_f1))

    @property
    def p(self) -> FloatArray:
        """`[m]`, one-sided, per concept: the choice of feature and threshold is in the null."""
        return np.array([permutation_p(f1, null) for f1, null in zip(self.f1, self.null_f1.T, strict=True)])


def permutation_p_each(observed: FloatArray, null: FloatArray) -> FloatArray:
    """`statistics.permutation_p` of every entry of `observed` `[m]` with one `null` `[B]`."""
    tolerance = _TIE * np.maximum(1.0, np.abs(observed))
    exceeding = len(null) - np.searchsorted(np.sort(null), observed - tolerance, side="left")
    return (1 + exceeding) / (len(null) + 1)


def crossed_strata(strata: Strata, side: BoolArray) -> Strata:
    """Strata within which both `strata` and `side` (`[n]`, for example held out or not) are the same.

    Permuting within them keeps the number of labelled rows on each side. Items that are left alone exchange with none.
    """
    joint = np.where(strata.exchangeable, 2 * strata.index + side, -1)
    values, index, sizes = np.unique(joint, return_inverse=True, return_counts=True)
    usable = (values >= 0) & (sizes >= 2)
    number = np.where(usable, np.cumsum(usable) - 1, -1)
    return Strata(index=number[index], level=np.where(usable[index], strata.level, -1))


def concept_auroc(
    acts: sparse.csr_array,
    labels: BoolArray,
    strata: Strata,
    permutations: IntArray,
    groups: IntArray | None = None,
    nuisance: FloatArray | None = None,
    threads: int = 1,
) -> ConceptAuroc:
    """Metric #4, AUROC: see the module's text.

    Args:
        acts: `[R, F]`.
        labels: `[R, C]`.
        strata: of the rows, or of the groups where there are any.
        permutations: `[B, R]`, or `[B, G]` of the groups, drawn within `strata`.
        groups: `[R]`, ascending from 0 to G - 1: which group each row is of.
        nuisance: `[R, q]`, taken from the ranks within strata (see the module); not for grouped rows.
        threads: that share the permutations; the result does not depend on it.

    Value on no data: NaN for a concept without both kinds of row, with z = 0 and p = 1. Raises `DataError` when the
    shapes do not fit or an activation is negative.
    """
    starts = _starts(acts, labels, permutations, groups)
    rows, n_features = labels.shape[0], n_columns(acts)
    ranks, of_zero, mean, variance = _rank_entries(acts)
    counts = labels.sum(axis=0).astype(np.float64)
    above = np.asarray(ranks.T @ labels.astype(np.float64))
    pairs = counts * (rows - counts)
    u = above + of_zero[:, None] * counts - counts * (counts + 1) / 2
    auroc = np.divide(u, pairs, out=np.full((n_features, labels.shape[1]), np.nan), where=pairs > 0)
    centred, slopes = np.zeros((rows, 0)), np.zeros((n_features, 0))
    if nuisance is not None:
        centred, slopes = _slopes(ranks, nuisance, strata)
    if groups is None:
        expected, scale = _within_strata(ranks, labels, strata, centred, slopes)
        expected /= np.maximum(counts, 1)[:, None]
        scale *= np.sqrt(np.maximum(pairs, 0))[:, None]
    else:
        expected, scale = mean[None], np.sqrt(_inverse(variance) * (rows - 1))[None]
    from sae_lens_med.alignment.concept_kernels import null_max, number_type  # numba

    by_feature = ranks.tocsc()
    kind = number_type(rows)
    pointers, values, by_concept = _pointers(by_feature), by_feature.data.astype(kind.dtype), _by_concept(labels)

    def measure(some: IntArray) -> tuple[FloatArray]:
        found = null_max(*pointers, values, by_concept, starts, some, expected, scale, centred, slopes, kind)
        return (found,)

    (null,) = _in_threads(measure, permutations, threads)
    spread = np.sqrt(np.where(pairs > 0, pairs, np.inf))
    fitted = slopes @ (centred.T @ labels.astype(np.float64))
    z = (above - expected.T * counts - fitted) * scale.T / spread
    return ConceptAuroc(auroc=auroc, z=z, null_max=null)


def concept_f1(
    acts: sparse.csr_array,
    labels: BoolArray,
    held_out: BoolArray,
    permutations: IntArray,
    groups: IntArray | None = None,
    threads: int = 1,
) -> ConceptF1:
    """Metrics #4 (F1) and #5 (coverage): see the module's text.

    Args:
        acts: `[R, F]`.
        labels: `[R, C]`.
        held_out: `[R]`, the rows that nothing is chosen on; of grouped rows, whole groups.
        permutations: `[B, R]`, or `[B, G]`; draw them within `crossed_strata`, so that every concept keeps its rows on
            both sides.
        groups: as in `concept_auroc`.
        threads: as in `concept_auroc`.

    Of rules equally good on training rows, the one of the lowest feature, then of the lowest threshold, is chosen. A
    concept without labelled rows on both sides is left out. Raises `DataError` as `concept_auroc`.
    """
    from sae_lens_med.alignment.concept_kernels import chosen_f1, number_type  # numba

    starts = _starts(acts, labels, permutations, groups)
    concepts = np.flatnonzero(labels[held_out].any(axis=0) & labels[~held_out].any(axis=0))
    chosen = labels[:, concepts]
    fires, level, n_train = _ordered_levels(acts, held_out)
    pointers, by_concept, kind = _pointers(fires), _by_concept(chosen), number_type(len(labels))

    def measure(some: IntArray) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        return chosen_f1(*pointers, level, n_train, by_concept, starts, some, held_out, len(THRESHOLDS), kind)

    everyone = np.concatenate([np.arange(len(starts) - 1)[None], permutations])
    best, threshold, train_f1, f1 = _in_threads(measure, everyone, threads)
    share = chosen[held_out].mean(axis=0) if len(concepts) else np.zeros(0)
    return ConceptF1(
        concepts=concepts,
        feature=best[0],
        threshold=np.array(THRESHOLDS)[threshold[0]],
        train_f1=train_f1[0],
        f1=f1[0],
        prevalence_f1=2 * share / (1 + share),
        null_f1=f1[1:],
    )


def _starts(acts: sparse.csr_array, labels: BoolArray, permutations: IntArray, groups: IntArray | None) -> IntArray:
    """`[G + 1]`: where the rows of each group begin; without groups every row is its own."""
    rows = len(acts.indptr) - 1
    if labels.ndim != 2 or len(labels) != rows:
        raise DataError(f"concept labels have shape {labels.shape}, expected one row for each of {rows} activations.")
    if len(acts.data) and not acts.data.min() >= 0:
        raise DataError("concept scores need activations of 0 or more; some are negative or not a number.")
    if groups is None:
        starts = np.arange(rows + 1)
    else:
        if len(groups) != rows or (np.diff(groups) < 0).any() or (np.diff(np.unique(groups)) > 1).any():
            raise DataError("the groups of rows must be numbered from 0, in ascending order, one number per row.")
        starts = np.searchsorted(groups, np.arange(int(groups.max(initial=-1)) + 2))
    if permutations.ndim != 2 or permutations.shape[1] != len(starts) - 1:
        raise DataError(f"permutations have shape {permutations.shape}, expected (B, {len(starts) - 1}).")
    return starts.astype(np.int64)


def _in_threads(
    measure: Callable[[IntArray], tuple[npt.NDArray[Any], ...]], permutations: IntArray, threads: int
) -> tuple[npt.NDArray[Any], ...]:
    """`measure` of all permutations, from a share for each thread; the kernels run without the interpreter's lock."""
    shares = np.array_split(permutations, max(1, min(threads, len(permutations))))
    with ThreadPoolExecutor(len(shares)) as pool:
        parts = list(pool.map(measure, shares))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _by_concept(labels: BoolArray) -> BoolArray:
    return np.ascontiguousarray(labels.T)


def _pointers(by_feature: sparse.csc_array) -> tuple[IntArray, IntArray]:
    return by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int64)


def _rank_entries(acts: sparse.csr_array) -> tuple[sparse.csr_array, FloatArray, FloatArray, FloatArray]:
    """Average ranks over all rows, less the rank of a zero, where an activation is positive (CSR `[R, F]`); the rank of
    a zero; mean and variance (population) of the entries of each column, zeros included, `[F]` each."""
    by_feature = acts.tocsc()
    rows, n_features = len(acts.indptr) - 1, n_columns(acts)
    column = np.repeat(np.arange(n_features), np.diff(by_feature.indptr))
    positive = by_feature.data > 0
    column, row, value = column[positive], by_feature.indices[positive], by_feature.data[positive]
    order = np.lexsort((value, column))
    column, row, value = column[order], row[order], value[order]
    fires = np.bincount(column, minlength=n_features)
    first = np.cumsum(fires) - fires
    new = np.ones(len(column), dtype=bool)
    new[1:] = (column[1:] != column[:-1]) | (value[1:] != value[:-1])
    tie = np.cumsum(new) - 1
    begins = np.flatnonzero(new)
    size = np.diff(np.append(begins, len(column)))
    place = begins[tie] - first[column] + (size[tie] + 1) / 2
    zeros = rows - fires
    of_zero = (zeros + 1) / 2
    # With no zeros in a column their rank is 1/2: an offset like any other.
    entry = place + zeros[column] - of_zero[column]
    mean = np.bincount(column, weights=entry, minlength=n_features) / rows
    square = np.bincount(column, weights=entry**2, minlength=n_features) / rows
    variance = _no_rounding(square - mean**2, square)
    return sparse.csr_array((entry, (row, column)), shape=(rows, n_features)), of_zero, mean, variance


def _slopes(ranks: sparse.csr_array, nuisance: FloatArray, strata: Strata) -> tuple[FloatArray, FloatArray]:
    """The nuisance `[R, q]` centred within strata, 0 for rows without one; and the least-squares slopes `[F, q]` of the
    ranks on it."""
    centred = np.zeros(nuisance.shape)
    for group in strata.members():
        centred[group] = nuisance[group] - nuisance[group].mean(axis=0)
    slopes = np.asarray(ranks.T @ centred) @ np.linalg.pinv(centred.T @ centred)
    return centred, np.asarray(slopes, dtype=np.float64)


def _within_strata(
    ranks: sparse.csr_array, labels: BoolArray, strata: Strata, centred: FloatArray, slopes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """`[C, F]` each: expectation of the rank sum, less what the nuisance explains, under permutation within strata, and
    one over its deviation (0 where it does not vary)."""
    fixed = ~strata.exchangeable
    expected = np.asarray(ranks.T @ (labels * fixed[:, None]).astype(np.float64)).T.copy()
    variance, largest = np.zeros_like(expected), np.zeros_like(expected)
    for group in strata.members():
        own = ranks[group]
        size, counts = len(group), labels[group].sum(axis=0).astype(np.float64)
        mean = np.asarray(own.sum(axis=0)) / size
        square = np.asarray((own * own).sum(axis=0)) / size
        beside = centred[group]
        left = square - 2 * (np.asarray(own.T @ beside) * slopes).sum(axis=1) / size
        left = left + ((slopes @ (beside.T @ beside)) * slopes).sum(axis=1) / size
        weight = counts * (size - counts) / (size - 1)
        expected += np.outer(counts, mean)
        variance += np.outer(weight, _no_rounding(left - mean**2, square))
        largest += np.outer(weight, square)
    return expected, np.sqrt(_inverse(_no_rounding(variance, largest)))


def _no_rounding(variance: FloatArray, scale: FloatArray) -> FloatArray:
    return np.where(variance > 1e-12 * scale, variance, 0.0)


def _inverse(values: FloatArray) -> FloatArray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def _ordered_levels(acts: sparse.csr_array, held_out: BoolArray) -> tuple[sparse.csc_array, IntArray, IntArray]:
    """The entries that exceed a threshold, by feature; how many each exceeds; how many of a feature's are of training
    rows, which come first, the highest before the others. A feature without training rows has no entry."""
    n_features = n_columns(acts)
    row = np.repeat(np.arange(len(held_out)), np.diff(acts.indptr))
    largest = np.zeros(n_features)
    train = ~held_out[row]
    np.maximum.at(largest, acts.indices[train], acts.data[train])
    top = largest[acts.indices]
    level = np.zeros(len(row), dtype=np.int64)
    for share in THRESHOLDS:
        level += (acts.data > share * top) & (top > 0)
    fires = level > 0
    feature, row, level = acts.indices[fires], row[fires], level[fires]
    order = np.lexsort((-level, held_out[row], feature))
    feature, row, level = feature[order], row[order], level[order]
    indptr = np.searchsorted(feature, np.arange(n_features + 1))
    n_train = np.bincount(feature[~held_out[row]], minlength=n_features).astype(np.int64)
    return sparse.csc_array((level, row, indptr), shape=acts.shape), level, n_train
