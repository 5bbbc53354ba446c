"""Intervals, permutation tests and corrections, on numpy arrays.

What every reported number is compared with is made here. Permutation p values are
`p = (1 + #{null >= observed}) / (B + 1)` (Phipson & Smyth 2010, arXiv 1603.05766): the observed arrangement counts as
one of the permutations, so that p is never 0 and the test is exact. They are one-sided, large values of the statistic
count against the null, unless a function says two-sided.

Strata say which items may be exchanged under the null: permutations move items within a stratum only, so that what
separates the strata (the profession, the specialty) cannot make a result. The stratified permutations are own code:
`scipy.stats.permutation_test` knows no strata, and draws anew for every statistic.

Out of scope: models for clustered or repeated measurements.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray, IntArray

SMALL_N = 50
"""Fewer items than this cannot carry a claim; whatever is reported of so few says so."""

ALPHA = 0.05
"""Significance level: a p value, or a corrected one (q), below it is called significant."""

_CHUNK = 4_000_000
"""Elements of a resampling index, or signs, held at once (32 MB)."""

_TIE = 1e-12
"""Two values of a statistic nearer than this, relative to their size, are the same value summed in another order."""


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion of `k` successes in `n` trials, in [0, 1].

    Wilson 1927; Brown, Cai & DasGupta 2001 recommend it for small n. With `n = 0` nothing is known: (0, 1).
    Raises `DataError` unless 0 <= k <= n, `ConfigError` unless 0 < confidence < 1.
    """
    from scipy.stats import binomtest

    if not 0 <= k <= n:
        raise DataError(f"a proportion needs 0 <= k <= n, got k = {k}, n = {n}.")
    _require_confidence(confidence)
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(
    values: npt.ArrayLike,
    *,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval over items (Efron & Tibshirani 1993, ch. 13).

    Args:
        values: `[n]`, one number per item.
        statistic: maps resampled values `[resamples, n]` to `[resamples]`; the mean when not given.
        resamples: how many resamples are drawn.
        confidence: of the interval, in (0, 1).
        seed: the same seed and values give the same interval.

    Returns None when n < 2: one item says nothing about its spread.
    """
    from scipy.stats import bootstrap

    array = np.asarray(values, dtype=np.float64)
    _require_vector(array, "the bootstrap")
    _require_confidence(confidence)
    if resamples < 1:
        raise ConfigError(f"the bootstrap needs at least one resample, got {resamples}.")
    n = len(array)
    if n < 2:
        return None
    resampled = bootstrap(
        (array,),
        np.mean if statistic is None else lambda sample, axis: statistic(sample),  # noqa: ARG005  (the last axis)
        n_resamples=resamples,
        batch=max(1, _CHUNK // n),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return quantile_interval(resampled.bootstrap_distribution, confidence)


def quantile_interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The central `confidence` share of a sample: its (1-c)/2 and (1+c)/2 quantiles."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def permutation_p(observed: float, null: npt.ArrayLike) -> float:
    """One-sided `(1 + #{null >= observed}) / (B + 1)` for `null` of shape [B]; in (0, 1], and 1 when B = 0."""
    array = np.asarray(null, dtype=np.float64)
    tolerance = _TIE * max(1.0, abs(observed))
    return (1 + int(np.count_nonzero(array >= observed - tolerance))) / (len(array) + 1)


def two_sided_p(observed: float, null: npt.ArrayLike) -> float:
    """Two-sided `(1 + #{i: |null_i - m| >= |observed - m|}) / (B + 1)` for `null` `[B]`; m is the mean of all B + 1.

    Exact where the observed value could as well have been any of the others (Phipson & Smyth 2010): m is the same
    whichever of them is called observed. With B = 0 it is 1.
    """
    array = np.asarray(null, dtype=np.float64)
    _require_vector(array, "the two-sided p")
    together = np.append(array, observed)
    away = np.abs(together - together.mean())
    tolerance = _TIE * max(1.0, float(np.abs(together).max()))
    return float(np.count_nonzero(away >= away[-1] - tolerance)) / len(together)


def null_z(observed: float, null: npt.ArrayLike) -> float | None:
    """`(observed - mean) / sd` of `null` `[B]` (B - 1 in the denominator); None when B < 2 or nothing varies."""
    array = np.asarray(null, dtype=np.float64)
    _require_vector(array, "z")
    return None if (spread := _spread(array)) is None else float((observed - array.mean()) / spread)


def mcnemar_exact(lost: int, won: int) -> float:
    """Two-sided exact p of McNemar's test of two conditions on the same items (McNemar 1947).

    `lost` items are right in the first condition only, `won` in the second only. Where both are as good, each such
    item falls on either side with probability 1/2, so that p = min(1, 2 P(X <= min)) with X ~ Bin(lost + won, 1/2); 1
    when no item differs. Raises `DataError` for a negative count.
    """
    from scipy.stats import binom

    if lost < 0 or won < 0:
        raise DataError(f"McNemar's test needs counts of 0 or more, got {lost} and {won}.")
    return min(1.0, 2 * float(binom.cdf(min(lost, won), lost + won, 0.5)))


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """Adjusted p values `[m]` that control the false discovery rate (Benjamini & Hochberg 1995).

    Rejecting where the adjusted value is <= q keeps the expected share of false discoveries <= q.
    Raises `DataError` when a value is not a probability.
    """
    from scipy.stats import false_discovery_control

    array = np.asarray(p, dtype=np.float64)
    _require_vector(array, "the Benjamini-Hochberg correction")
    if ((array < 0) | (array > 1)).any():
        raise DataError("the Benjamini-Hochberg correction needs p values between 0 and 1.")
    return np.asarray(false_discovery_control(array))


def cohen_dz(differences: npt.ArrayLike) -> float | None:
    """Cohen's d_z of paired differences `[n]`: their mean over their standard deviation (n - 1 in the denominator).

    None when n < 2 or the differences do not vary, where it is not defined.
    """
    array = np.asarray(differences, dtype=np.float64)
    _require_vector(array, "d_z")
    return None if (spread := _spread(array)) is None else float(array.mean()) / spread


@dataclass(frozen=True, slots=True, eq=False)
class PairedContrast:
    """The mean of paired differences d_i = a_i - b_i beside its sign-flip null,

        null: mean_i s_i d_i with s_i = 1 or -1, each with probability 1/2,

    exact where, without an effect, a and b of an item could as well change places (Fisher 1935; Good 2005).
    """

    differences: FloatArray
    """`[n]`."""
    null: FloatArray
    """`[B]`, the mean under random signs; zeros without items."""

    @property
    def value(self) -> float:
        """Mean difference; 0 without items."""
        return float(self.differences.mean()) if len(self.differences) else 0.0

    @property
    def p(self) -> float:
        """One-sided, `(1 + #{null >= value}) / (B + 1)`; 1 without items."""
        return permutation_p(self.value, self.null)

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap over items; None for fewer than two."""
        return bootstrap_interval(self.differences, seed=seed)


def paired_contrast(differences: npt.ArrayLike, draws: int, rng: np.random.Generator) -> PairedContrast:
    """`differences` `[n]` with B = `draws` draws of signs; those that are 0 count in the mean, and for neither side.

    Raises `DataError` for values that are not finite or not one number per item, `ConfigError` when B < 1.
    """
    array = np.asarray(differences, dtype=np.float64)
    _require_vector(array, "a paired contrast")
    if draws < 1:
        raise ConfigError(f"a sign-flip null needs at least one draw, got {draws}.")
    null = np.zeros(draws)
    if len(array):
        step = max(1, _CHUNK // len(array))
        for start in range(0, draws, step):
            n = min(step, draws - start)
            null[start : start + n] = (rng.integers(0, 2, size=(n, len(array)), dtype=np.int8) * 2.0 - 1.0) @ array
        null /= len(array)
    return PairedContrast(array, null)


def standardised(means: npt.NDArray[np.floating]) -> FloatArray:
    """`[n, d]`, per dimension mean 0 and standard deviation 1 over the items; a dimension that does not vary is 0.

    Raises `DataError` when a value is not finite.
    """
    array = np.asarray(means, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DataError(f"the values of row {bad} are not finite, so that they have no standard deviation.")
    centred = array - array.mean(axis=0)
    spread = centred.std(axis=0)
    # Rounding of a constant column is not a spread.
    spread = np.where(spread > 1e-9 * np.abs(array).max(axis=0, initial=0.0), spread, 0.0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def harmonic_numbers(n: int) -> FloatArray:
    """`H_0 ... H_n`, `H_r = sum_{i<=r} 1/i`, of shape [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, n + 1))])


def mrr_chance(n: int) -> float:
    """Expected reciprocal rank of one right answer placed at random among `n >= 1`: `H_n / n`."""
    if n < 1:
        raise DataError(f"retrieval needs at least one candidate, got {n}.")
    return float(harmonic_numbers(n)[-1]) / n


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Which items may be exchanged with which."""

    index: IntArray
    """`[n]`, the stratum of each item, numbered from 0; -1 for an item that can be exchanged with none."""
    level: IntArray
    """`[n]`, the level of the labels that placed the item (0 is the finest); -1 for an item without a stratum."""

    @property
    def exchangeable(self) -> npt.NDArray[np.bool_]:
        """`[n]`, True for items that share their stratum with another."""
        return self.index >= 0

    @property
    def n_coarsened(self) -> int:
        """How many items were placed by a coarser label than the finest."""
        return int(np.count_nonzero(self.level > 0))

    @property
    def n_alone(self) -> int:
        """How many items can be exchanged with none."""
        return int(np.count_nonzero(self.index < 0))

    def members(self) -> list[IntArray]:
        """The positions of the items of each stratum, in order of the stratum's number."""
        return [np.flatnonzero(self.index == s) for s in range(int(self.index.max(initial=-1)) + 1)]


def coarsen_strata(labels: Sequence[Sequence[Hashable]], min_size: int = 2) -> Strata:
    """Strata of at least `min_size` items, as fine as the labels allow.

    Args:
        labels: per item its labels from the finest to the coarsest, for example
            `[("doctor", "A"), "doctor"]`. A finer label must imply the coarser ones.
        min_size: the least size of a stratum, >= 2.

    Level by level, the items that are not yet placed and share a label form a stratum when they are `min_size` or
    more. Fewer than that join the smallest stratum, formed at a finer level, whose items all carry their label; where
    there is none, they wait for the next level. What no level places stays out (`index` -1). A stratum never mixes
    two labels of the coarsest level. The result does not depend on the order of the items, apart from the numbering.

    Raises `DataError` when the items have different numbers of labels or a finer label goes with two coarser ones.
    """
    if min_size < 2:
        raise ConfigError(f"a stratum needs at least two items to exchange, got min_size = {min_size}.")
    n = len(labels)
    depth = len(labels[0]) if n else 0
    for i, own in enumerate(labels):
        if len(own) != depth:
            raise DataError(
                f"item {i} has {len(own)} stratum labels, but the first item has {depth}; give "
                "every item the same number."
            )
    _require_nested(labels, depth)
    index = np.full(n, -1, dtype=np.int64)
    level_of = np.full(n, -1, dtype=np.int64)
    members: list[list[int]] = []
    for level in range(depth):
        waiting: dict[Hashable, list[int]] = {}
        for i in np.flatnonzero(index < 0).tolist():
            waiting.setdefault(labels[i][level], []).append(i)
        formed = len(members)
        for key, group in waiting.items():
            if len(group) >= min_size:
                members.append(group)
                target = len(members) - 1
            else:
                near = [s for s in range(formed) if labels[members[s][0]][level] == key]
                if not near:
                    continue
                target = min(near, key=lambda s: (len(members[s]), repr(labels[members[s][0]])))
                members[target] += group
            index[group] = target
            level_of[group] = level
    return Strata(index=index, level=level_of)


def neighbours(strata: Strata, values: FloatArray, size: int) -> Strata:
    """`strata`, each cut into bins of neighbours in `values` `[n]`, of `size` items or more; a stratum of fewer than
    twice that many stays whole. Items without a stratum stay without."""
    index = np.full(len(strata.index), -1, dtype=np.int64)
    formed = 0
    for group in strata.members():
        bins = max(1, len(group) // size)
        order = group[np.argsort(values[group], kind="stable")]
        index[order] = formed + np.arange(len(group)) * bins // len(group)
        formed += bins
    return Strata(index=index, level=strata.level)


def stratified_permutations(strata: Strata, permutations: int, rng: np.random.Generator) -> IntArray:
    """`[permutations, n]`: each row sends position i to a position of the same stratum, uniformly at random.

    Items without a stratum stay where they are. The identity may occur, as in any random permutation.
    """
    n = len(strata.index)
    rows = np.tile(np.arange(n, dtype=np.int64), (permutations, 1))
    for group in strata.members():
        step = max(1, _CHUNK // len(group))
        for start in range(0, permutations, step):
            count = min(step, permutations - start)
            rows[start : start + count, group] = group[rng.random((count, len(group))).argsort(axis=1)]
    return rows


def halves(clusters: IntArray, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """`[n]`, True for the second of two halves of n items, a cluster (`clusters` `[n]`, any numbers) whole on one side.

    Clusters are drawn in random order, the larger before the smaller, each to the side that has fewer items so far (the
    first one where both have as many): the sides differ by at most the largest cluster, and by at most one item where
    there are single items enough to even them out.
    """
    _, number, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    side = np.zeros(len(sizes), dtype=bool)
    held = [0, 0]
    for cluster in order[np.argsort(-sizes[order], kind="stable")].tolist():
        side[cluster] = held[1] < held[0]
        held[int(side[cluster])] += int(sizes[cluster])
    return side[number]


def permuted_means(table: FloatArray, permutations: IntArray, rows: IntArray) -> FloatArray:
    """`[B]`: the mean over `rows` (`[m]`) of `table[i, pi(i)]`, permutation by permutation.

    `table` `[n, n]` says what item i adds when it is paired with the partner of item j: it is made once, so that a
    permutation costs m look-ups, whatever the statistic costs.
    """
    means = np.empty(len(permutations))
    step = max(1, _CHUNK // max(1, len(rows)))
    for start in range(0, len(permutations), step):
        chosen = permutations[start : start + step][:, rows]
        means[start : start + len(chosen)] = table[rows, chosen].mean(axis=1)
    return means


def _spread(array: FloatArray) -> float | None:
    """Standard deviation (n - 1 in the denominator); None when n < 2 or the values are all the same."""
    if len(array) < 2:
        return None
    spread = float(array.std(ddof=1))
    return None if spread <= _TIE * max(1.0, float(np.abs(array).max())) else spread


def _require_nested(labels: Sequence[Sequence[Hashable]], depth: int) -> None:
    for level in range(1, depth):
        implied: dict[Hashable, Hashable] = {}
        for own in labels:
            if implied.setdefault(own[level - 1], own[level]) != own[level]:
                raise DataError(
                    f"the stratum label {own[level - 1]!r} goes with {implied[own[level - 1]]!r} and with "
                    f"{own[level]!r}; put the coarser label into the finer one."
                )


def _require_vector(array: FloatArray, what: str) -> None:
    if array.ndim != 1:
        raise DataError(f"{what} needs one number per item, got an array of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{what} needs finite numbers; {int(np.count_nonzero(~np.isfinite(array)))} are not.")


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence level must be between 0 and 1, got {confidence}.")
