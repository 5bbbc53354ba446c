"""Does a stem resemble its own explanation more than another's? Two metrics on one similarity matrix.

`S[i, j] = cos(a_i, e_j)` for the stem vector of item i and the explanation vector of item j (float64 `[n, n]`). A
vector without any entry has similarity 0 to everything; it is counted, and stays in.

**Matched minus mismatched** (domain metric #2). Per item, within its stratum,

    d_i = S[i, i] - mean_{j in stratum(i), j != i} S[i, j],        value = mean_i d_i  in [-2, 2]

An effect that only the stem or only the explanation has (a long explanation resembles every stem) cancels in the mean.
The null re-assigns explanations within strata: the same statistic with S[i, pi(i)] in the place of S[i, i]; its mean
over all permutations is exactly 0. Items that share their stratum with none cannot be exchanged and do not take part.

**Retrieval** (#1). Rank all n explanations by S[i, :]; the reciprocal rank of the item's own, and whether it is among
the first k. Ties count by expectation over a random order of the tied, `RR = (H_{g+t} - H_g) / t` with g better and t
equal, so that a stem that cannot tell explanations apart scores exactly chance: `H_n / n` for MRR and `k / n` for R@k.
Similarities equal to 1e-12 are ties. The null re-assigns explanations within strata, and so holds what the stratum
alone gives.

**Adjustment** (`adjust_for_nuisance`). Long texts make dense vectors, and two long texts resemble each other whatever
they say; so do two Korean ones. The part of S that is a function of such properties alone is taken away,

    S' = S - P_X S P_Y + mean(S)

with P_X the projection on the stem properties (a constant, log length, its square, the share of Hangul) and P_Y that on
the explanation's: the least-squares fit of S on all products of the two, over all n^2 pairs. The fit looks at all pairs
alike, so the permutation test on S' is as exact as that on S.

Texts of one subject share words and features, so that length may count more among them than across subjects. Where the
pairs of a stratum alone are compared, the fit on these alone (`adjust_within_strata`) leaves less of it.

Out of scope: similarities that need a model of their own (sentence embeddings).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    Strata,
    bootstrap_interval,
    cohen_dz,
    harmonic_numbers,
    mrr_chance,
    permutation_p,
    permuted_means,
    quantile_interval,
)

RETRIEVAL_CUTS = (1, 5, 10)
"""The k of R@k."""
SMALL_N = 50
"""Fewer items than this are called few in `notes`."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchedMismatched:
    """Metric #2 item by item, for the m items that can be exchanged."""

    matched: FloatArray
    """`[m]`, similarity to the item's own explanation."""
    mismatched_mean: FloatArray
    """`[m]`, mean similarity to the other explanations of the stratum."""
    null: FloatArray
    """`[B]`, the metric under each permutation."""
    positions: IntArray
    """`[m]`, the row of the similarity matrix that each entry is."""

    @property
    def differences(self) -> FloatArray:
        """`[m]`, `matched - mismatched_mean`."""
        return self.matched - self.mismatched_mean


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """Metric #1 item by item, and its null."""

    reciprocal_rank: FloatArray
    """`[n]`, in (0, 1]."""
    hits: dict[int, FloatArray]
    """k -> `[n]`, the probability that the own explanation is among the first k (0 or 1 where nothing ties)."""
    null_mrr: FloatArray
    """`[B]`."""
    null_hits: dict[int, FloatArray]
    """k -> `[B]`."""


def cosine_matrix(stems: FloatArray | sparse.csr_array, explanations: FloatArray | sparse.csr_array) -> FloatArray:
    """`[n, n]` cosines of all stem rows with all explanation rows (`[n, d]` each, sparse or dense), in [-1, 1].

    A row of zeros has similarity 0 to everything. Raises `DataError` when the shapes differ.
    """
    if stems.shape != explanations.shape:
        raise DataError(f"stem vectors {stems.shape} and explanation vectors {explanations.shape} must have one shape.")
    product = _unit_rows(stems) @ _unit_rows(explanations).T
    dense = product.toarray() if sparse.issparse(product) else product
    return np.clip(np.asarray(dense, dtype=np.float64), -1.0, 1.0)


def adjust_for_nuisance(
    similarity: FloatArray, stem_properties: FloatArray, explanation_properties: FloatArray
) -> FloatArray:
    """`S - P_X S P_Y + mean(S)`, `[n, n]`: see the module's text.

    Args:
        similarity: S, `[n, n]`. Rows and columns that are all zero (empty vectors) stay zero.
        stem_properties: `[n, k]`, without the constant. A property that does not vary changes nothing.
        explanation_properties: `[n, k]`.
    """
    adjusted = similarity - _fitted(similarity, stem_properties, explanation_properties) + similarity.mean()
    nonzero = similarity != 0
    return np.where(nonzero.any(axis=1)[:, None] & nonzero.any(axis=0)[None, :], adjusted, similarity)


def adjust_within_strata(
    similarity: FloatArray, stem_properties: FloatArray, explanation_properties: FloatArray, strata: Strata
) -> FloatArray:
    """As `adjust_for_nuisance`, with the fit made on the pairs within strata, and taken from these: `[n, n]`.

    Other pairs stay as they are: permutations within strata never meet them. Pairs of a text that resembles none (all
    zero) take no part and stay zero. Where there are fewer than twice as many pairs as coefficients, nothing is fitted.
    """
    nonzero = similarity != 0
    same = (strata.index[:, None] == strata.index[None]) & strata.exchangeable[:, None]
    same &= nonzero.any(axis=1)[:, None] & nonzero.any(axis=0)[None]
    row, column = np.nonzero(same)
    left, right = _basis(stem_properties), _basis(explanation_properties)
    products = (left[row][:, :, None] * right[column][:, None, :]).reshape(len(row), -1)
    if len(row) < 2 * products.shape[1]:
        return similarity
    # All columns are of one scale, so that rounding is what the least singular values hold.
    u, singular, _ = np.linalg.svd(products, full_matrices=False)
    u = u[:, singular > 1e-9 * singular[0]]
    values = similarity[row, column]
    adjusted = similarity.copy()
    adjusted[row, column] = values - u @ (u.T @ values) + values.mean()
    return adjusted


def matched_minus_mismatched(similarity: FloatArray, strata: Strata, permutations: IntArray) -> MatchedMismatched:
    """Metric #2 on S (`[n, n]`) with `permutations` `[B, n]` of `statistics.stratified_permutations`.

    Raises `DataError` when no two items can be exchanged: there is then nothing to compare with.
    """
    positions = np.flatnonzero(strata.exchangeable)
    if len(positions) == 0:
        raise DataError("no two items share a stratum, so matched and mismatched explanations cannot be compared.")
    # contrast[i, j]: what d_i becomes when explanation j is called its own; only j of i's stratum is ever read.
    contrast = np.zeros_like(similarity)
    for group in strata.members():
        block = similarity[np.ix_(group, group)]
        others = (block.sum(axis=1, keepdims=True) - block) / (len(group) - 1)
        contrast[np.ix_(group, group)] = block - others
    matched = similarity[positions, positions]
    return MatchedMismatched(
        matched=matched,
        mismatched_mean=matched - contrast[positions, positions],
        null=permuted_means(contrast, permutations, positions),
        positions=positions,
    )


def retrieval(similarity: FloatArray, permutations: IntArray, cuts: tuple[int, ...] = RETRIEVAL_CUTS) -> Retrieval:
    """Metric #1 on S (`[n, n]`), all items; items that `permutations` leaves in place add the same to every null."""
    n = len(similarity)
    better, equal = _better_and_equal(similarity)
    harmonic = harmonic_numbers(n)
    reciprocal = (harmonic[better + equal] - harmonic[better]) / equal
    within = {k: np.clip((k - better) / equal, 0.0, 1.0) for k in cuts}
    everyone = np.arange(n)
    return Retrieval(
        reciprocal_rank=np.diagonal(reciprocal).copy(),
        hits={k: np.diagonal(table).copy() for k, table in within.items()},
        null_mrr=permuted_means(reciprocal, permutations, everyone),
        null_hits={k: permuted_means(table, permutations, everyone) for k, table in within.items()},
    )


def matched_metric(
    result: MatchedMismatched,
    *,
    group: str,
    variant: str,
    masked: dict[str, int],
    extra: dict[str, float],
    notes: str = "",
    seed: int = 0,
) -> MetricValue:
    """Metric #2 as a record: value in [-2, 2], 0 under the null; `extra` gains `d_z` and `permutations`."""
    differences = result.differences
    d_z = cohen_dz(differences)
    value = float(differences.mean())
    return MetricValue(
        name="alignment/matched_minus_mismatched",
        value=value,
        range=(-2.0, 2.0),
        n=len(differences),
        interval=bootstrap_interval(differences, seed=seed),
        **_null_fields(value, result.null),
        group=group,
        variant=variant,
        masked=masked,
        extra={**({} if d_z is None else {"d_z": d_z}), "permutations": float(len(result.null)), **extra},
        notes="Interval: percentile bootstrap over items; null: explanations permuted within strata"
        + _small(len(differences))
        + notes,
    )


def retrieval_metrics(
    result: Retrieval,
    *,
    group: str,
    variant: str,
    masked: dict[str, int],
    extra: dict[str, dict[str, float]],
    notes: str = "",
    seed: int = 0,
) -> list[MetricValue]:
    """Metric #1 as records: MRR, and R@k for every k < n (beyond that it cannot fail); `extra` is keyed by name."""
    n = len(result.reciprocal_rank)
    rows = [("alignment/retrieval_mrr", result.reciprocal_rank, result.null_mrr, mrr_chance(n))]
    rows += [
        (f"alignment/retrieval_at_{k}", hits, result.null_hits[k], k / n) for k, hits in result.hits.items() if k < n
    ]
    return [
        MetricValue(
            name=name,
            value=float(per_item.mean()),
            range=(0.0, 1.0),
            n=n,
            interval=bootstrap_interval(per_item, seed=seed),
            **_null_fields(float(per_item.mean()), null),
            group=group,
            variant=variant,
            masked=masked,
            extra={"chance": chance, "permutations": float(len(null)), **extra.get(name, {})},
            notes="Ranks among the explanations of all items of the group; chance: a random order of them; "
            "interval: percentile bootstrap over items; null: explanations permuted within strata" + _small(n) + notes,
        )
        for name, per_item, null, chance in rows
    ]


def _null_fields(value: float, null: FloatArray) -> dict:
    if len(null) == 0:
        return {}
    return {"null_mean": float(null.mean()), "null_interval": quantile_interval(null), "p": permutation_p(value, null)}


def _small(n: int) -> str:
    return f"; n = {n} is small, so this cannot carry a claim." if n < SMALL_N else "."


def _unit_rows(rows: FloatArray | sparse.csr_array) -> FloatArray | sparse.csr_array:
    norm = np.sqrt(np.asarray((rows * rows).sum(axis=1), dtype=np.float64)).ravel()
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    if sparse.issparse(rows):
        return sparse.csr_array(sparse.diags_array(scale) @ rows)
    return np.asarray(rows, dtype=np.float64) * scale[:, None]


def _fitted(similarity: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    left, right = _basis(x), _basis(y)
    return left @ (left.T @ similarity @ right) @ right.T


def _basis(properties: FloatArray) -> FloatArray:
    """Orthonormal columns `[n, rank]` that span the constant and the properties."""
    n = len(properties)
    centred = properties - properties.mean(axis=0)
    spread = centred.std(axis=0)
    # A property that does not vary is rounding after centring; scaled up it would be noise.
    centred = centred[:, spread > 1e-9 * (1 + np.abs(properties).max(axis=0, initial=0.0))]
    design = np.column_stack([np.ones(n), centred / centred.std(axis=0)])
    u, singular, _ = np.linalg.svd(design, full_matrices=False)
    return u[:, singular > 1e-9 * singular[0]]


def _better_and_equal(similarity: FloatArray) -> tuple[IntArray, IntArray]:
    """`[n, n]` each: in row i, how many explanations are better than j, and how many are as good (j among them)."""
    rounded = np.round(similarity, 12)
    better = np.empty(similarity.shape, dtype=np.int64)
    equal = np.empty(similarity.shape, dtype=np.int64)
    for i, row in enumerate(rounded):
        ascending = np.sort(row)
        below = np.searchsorted(ascending, row, side="left")
        not_above = np.searchsorted(ascending, row, side="right")
        better[i] = len(row) - not_above
        equal[i] = not_above - below
    return better, equal
