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


def krippendorff_alpha(ratings: npt.ArrayLike, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha of `ratings` `[raters, items]`, NaN where missing: `1 - D_o / D_e`.

    Items with fewer than two ratings do not count. With o_ab the coincidences (every ordered pair of ratings of an item
    with m ratings adds 1 / (m - 1)), n_a its row sums, n their sum, and the metric d²_ab,

        D_o = sum o_ab d²_ab / n,    D_e = sum n_a n_b d²_ab / (n (n - 1))

    nominal: d² = [a != b]; interval: (a - b)²; ordinal: (sum_{g=a..b} n_g - (n_a + n_b) / 2)². Range: at most 1, 0 at
    chance. None where nothing is paired or all paired ratings are the same. Raises `ConfigError` for another level.
    """
    array = np.asarray(ratings, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(f"ratings have shape {array.shape}; use one row per rater and one column per item.")
    if level not in ("nominal", "ordinal", "interval"):
        raise ConfigError(f"Krippendorff's alpha knows the levels nominal, ordinal and interval, not {level!r}.")
    present = np.isfinite(array)
    paired = present.sum(axis=0) >= 2
    if not paired.any():
        return None
    values, code = np.unique(array[:, paired][present[:, paired]], return_inverse=True)
    unit = np.nonzero(present[:, paired])[1]
    counts = np.zeros((int(paired.sum()), len(values)))
    np.add.at(counts, (unit, code), 1.0)
    weight = 1.0 / (counts.sum(axis=1) - 1)
    coincidence = (counts * weight[:, None]).T @ counts - np.diag(counts.T @ weight)
    marginal = coincidence.sum(axis=1)
    distance = _distance(values, marginal, level)
    n = float(marginal.sum())
    expected = float(marginal @ distance @ marginal) / (n * (n - 1))
    return None if expected == 0 else 1.0 - float((coincidence * distance).sum()) / n / expected


def krippendorff_alpha_null(
    ratings: npt.ArrayLike, draws: int, rng: np.random.Generator, level: Level = "nominal"
) -> FloatArray:
    """`[B]`: alpha with every rater's ratings permuted among the items that he or she rated; 0 where alpha is None."""
    array = np.array(ratings, dtype=np.float64)
    null = np.zeros(draws)
    for b in range(draws):
        for row in array:
            rated = np.flatnonzero(np.isfinite(row))
            row[rated] = rng.permutation(row[rated])
        null[b] = krippendorff_alpha(array, level) or 0.0
    return null


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
