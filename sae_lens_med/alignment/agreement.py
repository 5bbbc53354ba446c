"""Agreement: of concepts' effects with the expert's weights (domain metric #9), and of raters (#15).

**Expert-concept causal agreement** (#9; Matton et al. 2504.14150 with the expert in the place of the model's own
explanation). Item i has concepts c with an effect x_ic on the answer and an expert weight y_ic. Two numbers in [-1, 1],
positive where what the expert weighs moves the answer:

- `per_item`: the correlation over the concepts of each item (Spearman's or Pearson's), averaged over items;
- `pooled`: `sum_i <x_i, y_i> / sqrt(sum_i |x_i|² sum_i |y_i|²)`, x_i and y_i (for Spearman their ranks) centred within
  the item: items with more concepts weigh more. What items differ in as wholes is in neither.

Null: the weights are permuted among the concepts of each item.

**Cohen's kappa** (1960, weighted 1968) of two raters and **Krippendorff's alpha** (2011, "Computing Krippendorff's
alpha-reliability") of any number with missing ratings: `1 - observed / expected disagreement`, at most 1, 0 at chance.
Null: ratings are permuted among the items that a rater rated.

Out of scope: intervals (`statistics.bootstrap_interval` over items), and how the effects are made.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import permutation_p, permuted_means

Weighting = Literal["none", "linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]

MIN_CONCEPTS = 3
"""With two concepts a correlation is 1 or -1 whatever they are."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptAgreement:
    """Metric #9 for the m items that have at least `MIN_CONCEPTS` concepts on which neither side is constant."""

    per_item: FloatArray
    """`[m]`, in [-1, 1]."""
    items: IntArray
    """`[m]`, the numbers of these items."""
    pooled: float
    """In [-1, 1]; 0 without items."""
    null_mean: FloatArray
    """`[B]`, the mean of `per_item` under each permutation."""
    null_pooled: FloatArray
    """`[B]`."""
    n_concepts: int
    """Concepts of the m items together."""

    @property
    def mean(self) -> float:
        """Mean over items; 0 without items."""
        return float(self.per_item.mean()) if len(self.per_item) else 0.0

    @property
    def p_mean(self) -> float:
        """One-sided."""
        return permutation_p(self.mean, self.null_mean)

    @property
    def p_pooled(self) -> float:
        """One-sided."""
        return permutation_p(self.pooled, self.null_pooled)


def concept_agreement(
    effects: FloatArray,
    weights: FloatArray,
    items: IntArray,
    draws: int,
    rng: np.random.Generator,
    method: Literal["spearman", "pearson"] = "spearman",
) -> ConceptAgreement:
    """Metric #9: see the module's text.

    Args:
        effects: `[N]`, one entry for every concept of every item.
        weights: `[N]`.
        items: `[N]`, the number of the item that each entry is of.
        draws: B.
        rng: of the permutations.
        method: `spearman` correlates average ranks within the item.

    Value on no data: 0, p = 1, when no item can be measured. Raises `DataError` for arrays of different lengths or
    numbers that are not finite.
    """
    x, y, of = np.asarray(effects, np.float64), np.asarray(weights, np.float64), np.asarray(items)
    if x.ndim != 1 or not x.shape == y.shape == of.shape:
        raise DataError(
            f"effects, weights and items have shapes {x.shape}, {y.shape}, {of.shape}; give one number each."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("some effects or weights are not finite; leave these concepts out.")
    order = np.argsort(of, kind="stable")
    numbers, first = np.unique(of[order], return_index=True)
    per_item, kept = [], []
    null_mean, null_pooled = np.zeros(draws), np.zeros(draws)
    together, power_x, power_y, n_concepts = 0.0, 0.0, 0.0, 0
    for number, rows in zip(numbers, np.split(order, first)[1:], strict=True):
        a, b = (_centred(rankdata(v[rows]) if method == "spearman" else v[rows]) for v in (x, y))
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if len(rows) < MIN_CONCEPTS or size == 0:
            continue
        moved = b[rng.random((draws, len(rows))).argsort(axis=1)] @ a
        null_mean += moved / size
        null_pooled += moved
        per_item.append(float(a @ b) / size)
        kept.append(int(number))
        together, power_x, power_y = together + float(a @ b), power_x + float(a @ a), power_y + float(b @ b)
        n_concepts += len(rows)
    scale = float(np.sqrt(power_x * power_y))
    return ConceptAgreement(
        per_item=np.clip(np.array(per_item), -1.0, 1.0),
        items=np.array(kept, dtype=np.int64),
        pooled=min(1.0, max(-1.0, together / scale)) if kept else 0.0,
        null_mean=null_mean / max(1, len(kept)),
        null_pooled=null_pooled / scale if kept else null_pooled,
        n_concepts=n_concepts,
    )


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
        raise DataError(f"ratings have shape {array.shape}; give one row per rater and one column per item.")
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


def _centred(values: FloatArray) -> FloatArray:
    centred = values - values.mean()
    # Rounding of a constant is not a difference.
    return centred if np.abs(centred).max(initial=0.0) > 1e-12 * np.abs(values).max(initial=0.0) else centred * 0


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
        raise ConfigError(f"kappa's weighting is none, linear or quadratic, not {weighting!r}.")
    return gap if weighting == "linear" else gap**2


def _distance(values: FloatArray, marginal: FloatArray, level: Level) -> FloatArray:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    # For ordinal data the sum from a to b of the marginals, less half of both ends, is a difference of midpoints.
    place = np.cumsum(marginal) - marginal / 2 if level == "ordinal" else values
    return (place[:, None] - place[None, :]) ** 2
