"""Do a question and its explanation fire the same features? Overlap of feature sets (domain metric #3).

Stem i has the vector a_i and explanation j the vector e_j (`[F]`, >= 0, sparse). Three numbers on the pair:

- **weighted Jaccard** `J = sum_f min(a_f, e_f) / sum_f max(a_f, e_f)`, on all features;
- **precision@k** `|T ∩ U| / |T|` and **recall@k** `|T ∩ U| / |U|`, T the k strongest features of the stem, U those of
  the explanation. Features at 0 are in no set, so a set may have fewer than k; where both have k the two are equal.

Large values mean overlap. Every pair is measured once, into `[n, n]` tables; a permutation then costs n look-ups.

**Null**: explanations permuted within strata, which keeps every set as it is, and so every feature's frequency. Long
texts have more features, so long questions overlap more with long explanations whatever they say, and how much is no
low polynomial of their lengths: J of two texts is at most the ratio of their sums. Two things hold that off. The tables
are adjusted, on the pairs that exchange (`similarity.adjust_within_strata`), for the log of each vector's sum up to its
cube, the log length and the script; and explanations exchange among `ALIKE` or more of a stratum that are neighbours in
length. Value and null stay on the scale of the overlap itself: the null is what the sums, lengths and scripts of the
own pairs alone would give, plus what is left of the re-paired ones. Where there are too few pairs for the fit there is
no p.

**Chance**, a floor beside it: two sets of these sizes drawn from F_live features alike, `E|T ∩ U| = |T| |U| / F_live`
(hypergeometric). Features are not equally frequent, and two unrelated texts share the frequent ones.

Only sparse codes have sets: variants are `sae`, the controls, and `tfidf`.

Out of scope: which features to leave out and how to weigh them (`features.vectors`).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.alignment.similarity import MIN_ADJUSTED, adjust_within_strata
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.depends import on_controls
from sae_lens_med.metrics.inputs import Group, Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    bootstrap_interval,
    neighbours,
    permutation_p,
    permuted_means,
    quantile_interval,
    stratified_permutations,
)

DEFAULT_K = 20
"""Features in a set."""
ALIKE = 4
"""Items of a stratum, neighbours in the length of their explanations, that exchange these at least."""


@dataclass(frozen=True, slots=True, eq=False)
class OverlapTables:
    """The overlap of every stem with every explanation; 0 where a side has no feature."""

    jaccard: FloatArray
    """`[n, n]`, in [0, 1]; so `precision` and `recall`."""
    precision: FloatArray
    recall: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class OverlapChance:
    """What sets of these sizes would share if all live features were alike (hypergeometric)."""

    precision: FloatArray
    """`[n]`, `|U| / F_live`, 0 where T is empty."""
    recall: FloatArray
    """`[n]`, `|T| / F_live`, 0 where U is empty."""
    n_live: int
    """F_live: the features that are in at least one vector."""


def measure_overlap(inputs: Inputs, k: int = DEFAULT_K) -> Measured:
    """Weighted Jaccard, precision@k and recall@k of every sparse variant and group."""
    similarities = inputs.view(Similarities)
    codes = {v: (inputs.pooled_of(v).stems, inputs.pooled_of(v).explanations) for v in inputs.feature_variants}
    metrics: list[MetricValue] = []
    exchanges = {group.name: _permutations(inputs, group) for group in inputs.explained_groups}
    for variant, (stems, explanations) in (codes | {"tfidf": similarities.words}).items():
        # The sums over shared features do not depend on the group: the tables serve all.
        tables = overlap_tables(stems, explanations, k)
        for group in inputs.explained_groups:
            chance = overlap_chance(stems[group.rows], explanations[group.rows], k)
            cells = np.ix_(group.rows, group.rows)
            sides = _properties(inputs, group, stems, explanations)
            for name, table, floor in (
                ("jaccard", tables.jaccard, None),
                (f"precision_at_{k}", tables.precision, chance.precision),
                (f"recall_at_{k}", tables.recall, chance.recall),
            ):
                extra = {"k": float(k), "live_features": float(chance.n_live)}
                if floor is not None:
                    extra["chance"] = float(floor.mean())
                called = f"alignment/overlap_{name}"
                drawn = exchanges[group.name]
                metrics.append(_value(inputs, group, called, variant, table[cells], sides, drawn, extra))
    live = next((m.extra["live_features"] for m in metrics if m.variant == "sae"), 0.0)
    note = f"Overlap: {live:.0f} features are active in at least one text; sets have at most {k}."
    return Measured(tuple(metrics), (note,))


def overlap_tables(stems: sparse.csr_array, explanations: sparse.csr_array, k: int = DEFAULT_K) -> OverlapTables:
    """Of pooled vectors, CSR `[n, F]` each; k >= 1 is the size of both sets. Raises `DataError` when the sides differ
    in shape or there is no item."""
    _require_pairs(stems, explanations)
    top, relevant = top_k_sets(stems, k), top_k_sets(explanations, k)
    common = (top @ relevant.T).toarray()
    n_top, n_relevant = np.diff(top.indptr), np.diff(relevant.indptr)
    return OverlapTables(
        jaccard=weighted_jaccard_table(stems, explanations),
        precision=common / np.maximum(n_top, 1)[:, None],
        recall=common / np.maximum(n_relevant, 1)[None, :],
    )


def overlap_chance(stems: sparse.csr_array, explanations: sparse.csr_array, k: int = DEFAULT_K) -> OverlapChance:
    """Of the same vectors, over the features that are in at least one of them."""
    _require_pairs(stems, explanations)
    n_top, n_relevant = (np.diff(top_k_sets(side, k).indptr) for side in (stems, explanations))
    live = max(1, len(np.union1d(stems.indices[stems.data > 0], explanations.indices[explanations.data > 0])))
    return OverlapChance(
        precision=np.where(n_top > 0, n_relevant / live, 0.0),
        recall=np.where(n_relevant > 0, n_top / live, 0.0),
        n_live=live,
    )


def weighted_jaccard_table(stems: sparse.csr_array, explanations: sparse.csr_array) -> FloatArray:
    """`[n, m]` of `sum min / sum max` for every stem (`[n, F]`) with every explanation (`[m, F]`), in [0, 1].

    Two vectors without features have 0. `sum max = sum a + sum e - sum min`, so only shared features are visited.
    Range 0 to 1, 1 for equal vectors; not changed when both are multiplied by one number. Ružička 1958.
    Raises `DataError` for different widths and for negative activations.
    """
    _require_activations(stems, explanations)
    by_feature = explanations.tocsc()
    smaller = np.zeros((_rows(stems), _rows(explanations)))
    for i in range(_rows(stems)):
        own = slice(stems.indptr[i], stems.indptr[i + 1])
        shared = by_feature[:, stems.indices[own]]
        shared.data = np.minimum(shared.data, np.repeat(stems.data[own], np.diff(shared.indptr)))
        smaller[i] = np.bincount(shared.indices, weights=shared.data, minlength=_rows(explanations))
    left, right = (np.asarray(side.sum(axis=1), dtype=np.float64) for side in (stems, explanations))
    larger = np.add.outer(left, right) - smaller
    return np.clip(np.divide(smaller, larger, out=np.zeros_like(smaller), where=larger > 0), 0.0, 1.0)


def top_k_sets(vectors: sparse.csr_array, k: int) -> sparse.csr_array:
    """CSR `[n, F]` of ones: the k features of each row with the largest positive values; of equals the lower index.

    A row with fewer than k positive values has them all. Raises `ConfigError` when k < 1.
    """
    if k < 1:
        raise ConfigError(f"a set of the strongest features needs k of at least 1, got {k}.")
    row_of = np.repeat(np.arange(_rows(vectors)), np.diff(vectors.indptr))
    positive = vectors.data > 0
    rows, features, values = row_of[positive], vectors.indices[positive], np.asarray(vectors.data[positive])
    order = np.lexsort((features, np.negative(values), rows))
    rows, features = rows[order], features[order]
    first = np.searchsorted(rows, np.arange(_rows(vectors)))
    chosen = np.arange(len(rows)) - first[rows] < k
    entries = (rows[chosen], features[chosen])
    return sparse.csr_array((np.ones(np.count_nonzero(chosen)), entries), shape=vectors.shape)


def mass_properties(vectors: sparse.csr_array) -> FloatArray:
    """`[n, 3]`: log(1 + sum) of each vector, standardised, its square and its cube."""
    mass = np.log1p(np.asarray(vectors.sum(axis=1), dtype=np.float64).ravel())
    spread = float(mass.std())
    centred = (mass - mass.mean()) / (spread if spread > 1e-9 else 1.0)
    return np.column_stack([centred, centred**2, centred**3])


def _permutations(inputs: Inputs, group: Group) -> IntArray:
    lengths = inputs.properties[1][group.rows, 0]
    strata = neighbours(group.strata, lengths, ALIKE)
    return stratified_permutations(strata, inputs.permutations, inputs.rng(f"overlap {group.name}"))


def _properties(
    inputs: Inputs, group: Group, stems: sparse.csr_array, explanations: sparse.csr_array
) -> tuple[FloatArray, FloatArray]:
    """What is adjusted for, of both sides: the sums of the vectors, the log length, the share of Hangul."""
    stem, explanation = (
        np.column_stack([mass_properties(vectors[group.rows]), side[group.rows][:, [0, 2]]])
        for vectors, side in zip((stems, explanations), inputs.properties, strict=True)
    )
    return stem, explanation


def _value(
    inputs: Inputs,
    group: Group,
    name: str,
    variant: str,
    table: FloatArray,
    sides: tuple[FloatArray, FloatArray],
    permutations: IntArray,
    extra: dict[str, float],
) -> MetricValue:
    """The mean of the diagonal of `table` `[m, m]` against permutations of the adjusted table, on the table's scale."""
    n = len(table)
    everyone = np.arange(n)
    own = np.diagonal(table).copy()
    value = float(own.mean())
    used = adjust_within_strata(table, *sides, group.strata) if n >= MIN_ADJUSTED else table
    adjusts = used is not table
    offset = value - float(np.diagonal(used).mean())
    null = permuted_means(used, permutations, everyone) + offset if adjusts else np.zeros(0)
    extra = {**extra, "permutations": float(len(null))}
    if adjusts:
        unadjusted = permuted_means(table, permutations, everyone)
        extra |= {"unadjusted_null": float(unadjusted.mean()), "unadjusted_p": permutation_p(value, unadjusted)}
    masked = group.left_out
    if variant in inputs.feature_variants:
        masked |= inputs.pooled_of(variant).mask.counts
    return MetricValue(
        name=name,
        value=value,
        range=(0.0, 1.0),
        n=n,
        interval=bootstrap_interval(own, seed=inputs.seed),
        null_mean=float(null.mean()) if len(null) else None,
        null_interval=quantile_interval(null) if len(null) else None,
        p=permutation_p(value, null) if len(null) else None,
        group=group.name,
        variant=variant,
        masked=masked,
        extra=extra,
        notes="Interval: percentile bootstrap over items; null: "
        + (
            "explanations permuted within strata and among neighbours in length, at the sums, lengths and scripts of "
            "the own pairs"
            if adjusts
            else "none, because too few items exchange to adjust for length"
        )
        + "; chance: hypergeometric, a floor"
        + few(n),
    )


def _rows(matrix: sparse.csr_array) -> int:
    return len(matrix.indptr) - 1


def _require_activations(*sides: sparse.csr_array) -> None:
    if len({n_columns(side) for side in sides}) > 1:
        raise DataError(f"the sides have different features: {', '.join(str(side.shape) for side in sides)}.")
    if any(len(side.data) and not side.data.min() >= 0 for side in sides):
        raise DataError("feature overlap needs activations of 0 or more; some are negative or not a number.")


def _require_pairs(stems: sparse.csr_array, explanations: sparse.csr_array) -> None:
    if stems.shape != explanations.shape or _rows(stems) == 0:
        raise DataError(
            f"feature overlap needs as many stems as explanations over the same features, and at least one; "
            f"got {stems.shape} and {explanations.shape}."
        )


OVERLAP = Metric(
    name="overlap",
    number=3,
    family="readout",
    title="Overlap of feature sets",
    meaning="How much of the strongest features question and own explanation share (weighted Jaccard, P@k, R@k).",
    range=(0.0, 1.0),
    null="Explanations permuted within strata of language, subject and gold letter and among neighbours in length, at "
    "the texts' own lengths; beside it the hypergeometric chance.",
    needs=("explanations",),
    source="Ružička 1958; frequency-preserving permutation",
    values=("alignment/overlap",),
    confirmatory=("alignment/overlap_jaccard",),
    claims={
        "alignment/overlap_jaccard": Claim(
            may=Sentence(
                "question and own explanation share more of their features than re-paired texts of their lengths",
                "질문과 자기 해설이 길이가 같은 다시 짝지은 글보다 특징을 더 많이 공유한다",
            ),
            may_not=Sentence("the shared features are medical ones", "공유된 특징이 의학적 특징이다"),
            floor=0.005,
        )
    },
    depends_on=(on_controls,),
    measure=measure_overlap,
)
