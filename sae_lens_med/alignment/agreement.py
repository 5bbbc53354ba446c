"""Agreement of raters (domain metric #15).

**Cohen's kappa** (1960, weighted 1968) of two raters and **Krippendorff's alpha** (2011, "Computing Krippendorff's
alpha-reliability") of any number with missing ratings: `1 - observed / expected disagreement`, at most 1, 0 at chance.
Null: ratings are permuted among the items that a rater rated.

Out of scope: intervals (`ratings` has them, over units).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import permuted_means

Weighting = Literal["none", "linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(first: npt.ArrayLike, second: npt.ArrayLike, weighting: Weighting = "none") -> float | None:
    """Cohen's kappa of two raters of the same items, `[n]` numbers each: `1 - sum w_ab O_ab / sum w_ab E_ab`.

    O counts the items with ratings (a, b), E = outer product of the marginals / n. With k sorted categories (those that
    either rater used), w_ab is [a != b], |rank a - rank b|, or its square. Range: at most 1; 0 where the raters agree
    as often as their marginals let them. None without items or where both gave one and the same rating throughout.
    Equals `sklearn.metrics.cohen_kappa_score` up to rounding, which refuses half points and takes 6 ms, too long for a
    null, which must come from the same code. Raises `DataError` for different lengths and missing ratings.
    """
    disagreement = _disagreement(first, second, weighting)
    expected = float(disagreement.mean()) if len(disagreement) else 0.0
    return None if expected == 0 else 1.0 - float(np.diagonal(disagreement).mean()) / expected


def cohen_kappa_null(
    first: npt.ArrayLike, second: npt.ArrayLike, permutations: IntArray, weighting: Weighting = "none"
) -> FloatArray:
    """`[B]`: kappa with the second rater's ratings permuted (`permutations` `[B, n]`); 0 where kappa is None."""
    disagreement = _disagreement(first, second, weighting)
    expected = float(disagreement.mean()) if len(disagreement) else 0.0
    if expected == 0:
        return np.zeros(len(permutations))
    return 1.0 - permuted_means(disagreement, permutations, np.arange(len(disagreement))) / expected


def cohen_kappa_drawn(
    first: npt.ArrayLike, second: npt.ArrayLike, drawn: IntArray, weighting: Weighting = "none"
) -> FloatArray:
    """`[B]`: kappa of the items `drawn` `[B, m]` (places, with repeats), by the categories of all items; 0 where both
    gave one and the same rating throughout."""
    disagreement = _disagreement(first, second, weighting)
    times = _times(drawn, len(disagreement))
    observed = times @ np.diagonal(disagreement) / drawn.shape[1]
    expected = ((times @ disagreement) * times).sum(axis=1) / drawn.shape[1] ** 2
    return np.where(expected > 0, 1.0 - observed / np.where(expected > 0, expected, 1.0), 0.0)


def krippendorff_alpha(ratings: npt.ArrayLike, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha of `ratings` `[raters, items]`, NaN where missing: `1 - D_o / D_e`.

    Items with fewer than two ratings do not count. With o_ab the coincidences (every ordered pair of ratings of an item
    with m ratings adds 1 / (m - 1)), n_a its row sums, n their sum, and the metric d²_ab,

        D_o = sum o_ab d²_ab / n,    D_e = sum n_a n_b d²_ab / (n (n - 1))

    nominal: d² = [a != b]; interval: (a - b)²; ordinal: (sum_{g=a..b} n_g - (n_a + n_b) / 2)². Range: at most 1, 0 at
    chance. None where nothing is paired or all paired ratings are the same. Raises `ConfigError` for another level.
    """
    counts, values = _counts(ratings, level)
    return _alpha(counts, np.ones(len(counts)), values, level)


def krippendorff_alpha_drawn(ratings: npt.ArrayLike, drawn: IntArray, level: Level = "nominal") -> FloatArray:
    """`[B]`: alpha of the items `drawn` `[B, m]` (places, with repeats); 0 where alpha is None."""
    counts, values = _counts(ratings, level)
    return np.array([_alpha(counts, times, values, level) or 0.0 for times in _times(drawn, len(counts))])


def krippendorff_alpha_null(
    ratings: npt.ArrayLike, draws: int, rng: np.random.Generator, level: Level = "nominal"
) -> FloatArray:
    """`[B]`: alpha with every rater's ratings permuted among the items that he or she rated; 0 where alpha is None."""
    array = np.asarray(ratings, dtype=np.float64)
    counts, values = _counts(array, level)
    n, k = counts.shape
    rated = [np.flatnonzero(np.isfinite(row)) for row in array]
    codes = [np.searchsorted(values, row[own]) for row, own in zip(array, rated, strict=True)]
    null = np.zeros(draws)
    for b in range(draws):
        codes = [rng.permutation(own) for own in codes]
        cells = np.concatenate([own * k + code for own, code in zip(rated, codes, strict=True)])
        permuted = np.bincount(cells, minlength=n * k).reshape(n, k).astype(np.float64)
        null[b] = _alpha(permuted, np.ones(n), values, level) or 0.0
    return null


def _counts(ratings: npt.ArrayLike, level: Level) -> tuple[FloatArray, FloatArray]:
    """`[items, k]`: how many gave an item each of the k values, and the values, ascending."""
    array = np.asarray(ratings, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(f"ratings have shape {array.shape}; use one row per rater and one column per item.")
    if level not in ("nominal", "ordinal", "interval"):
        raise ConfigError(f"Krippendorff's alpha knows the levels nominal, ordinal and interval, not {level!r}.")
    present = np.isfinite(array)
    values, code = np.unique(array[present], return_inverse=True)
    counts = np.zeros((array.shape[1], len(values)))
    np.add.at(counts, (np.nonzero(present)[1], code), 1.0)
    return counts, values


def _alpha(counts: FloatArray, times: FloatArray, values: FloatArray, level: Level) -> float | None:
    """Alpha of items with these `counts`, each taken so many `times`."""
    m = counts.sum(axis=1)
    weight = np.where(m >= 2, times, 0.0) / np.maximum(m - 1, 1)
    coincidence = (counts * weight[:, None]).T @ counts - np.diag(counts.T @ weight)
    marginal = coincidence.sum(axis=1)
    n = float(marginal.sum())
    if n <= 0:
        return None
    distance = _distance(values, marginal, level)
    expected = float(marginal @ distance @ marginal) / (n * (n - 1))
    # Of one value alone what is expected is 0, but for the rounding of the marginals of values that nobody gave.
    return None if np.count_nonzero(marginal > 1e-9) < 2 else 1.0 - float((coincidence * distance).sum()) / n / expected


def _times(drawn: IntArray, n: int) -> FloatArray:
    """`[B, n]`: how often each of n items is among those that were drawn."""
    rows = np.arange(len(drawn))[:, None] * n
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * n).reshape(len(drawn), n).astype(np.float64)


def _disagreement(first: npt.ArrayLike, second: npt.ArrayLike, weighting: Weighting) -> FloatArray:
    """`[n, n]`: the weight of the first rater's rating of item i beside the second's of item j."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError(f"kappa needs two complete ratings of the same items; got shapes {a.shape} and {b.shape}.")
    rank = np.unique(np.concatenate([a, b]), return_inverse=True)[1].astype(np.float64)
    gap = np.abs(rank[: len(a), None] - rank[None, len(a) :])
    if weighting == "none":
        return (gap > 0).astype(np.float64)
    if weighting not in ("linear", "quadratic"):
        raise ConfigError(f"kappa's weighting must be none, linear or quadratic, not {weighting!r}.")
    return gap if weighting == "linear" else gap**2


def _distance(values: FloatArray, marginal: FloatArray, level: Level) -> FloatArray:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    # For ordinal data the sum from a to b of the marginals, less half of both ends, is a difference of midpoints.
    place = np.cumsum(marginal) - marginal / 2 if level == "ordinal" else values
    return (place[:, None] - place[None, :]) ** 2
