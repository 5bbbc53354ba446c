"""Is a question more like its own explanation than like others? Matched minus mismatched similarity (domain metric #2).

Per item, within its stratum (items of one language, subject and gold letter; see `retrieval`),

    d_i = S[i, i] - mean_{j in stratum(i), j != i} S[i, j],        value = mean_i d_i  in [-2, 2]

with the similarities S of `similarity`. An effect that only the stem or only the explanation has (a long explanation
resembles every stem) cancels in the mean. The null re-assigns explanations within strata: the same statistic with
S[i, pi(i)] in the place of S[i, i]; its mean over all permutations is exactly 0. Items that share their stratum with
none cannot be exchanged and do not take part.

Out of scope: which texts and vectors are compared (`similarities`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.alignment.similarities import Similarities, how_similar
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_controls
from sae_lens_med.metrics.inputs import Group, Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    Strata,
    bootstrap_interval,
    cohen_dz,
    permutation_p,
    permuted_means,
    quantile_interval,
)


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

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """`matched` `[m]`, `mismatched_mean` `[m]` and `null` `[B]`, as float32 to be stored."""
        return {name: getattr(self, name).astype(np.float32) for name in ("matched", "mismatched_mean", "null")}


def measure_difference(inputs: Inputs) -> Measured:
    """Matched minus mismatched of every variant and group that has items to exchange."""
    similarities = inputs.view(Similarities)
    found = [
        _value(similarities, group, variant)
        for group in inputs.explained_groups
        if group.strata.exchangeable.any()
        for variant in similarities.variants
    ]
    return Measured(tuple(found), similarities.notes)


def difference_by_item(inputs: Inputs) -> tuple[tuple[str, ...], MatchedMismatched] | None:
    """The ids of the measured items of the group `all`, and the features' difference of each; None when no two items
    can be exchanged."""
    groups = {group.name: group for group in inputs.explained_groups}
    if "all" not in groups or not groups["all"].strata.exchangeable.any():
        return None
    group = groups["all"]
    used, _ = inputs.view(Similarities).adjusted(group, "sae")
    result = matched_minus_mismatched(used, group.strata, group.permutations)
    return tuple(inputs.items[i].id for i in group.items[result.positions]), result


def matched_minus_mismatched(similarity: FloatArray, strata: Strata, permutations: IntArray) -> MatchedMismatched:
    """Metric #2 on similarities S (`[n, n]`) with `permutations` `[B, n]` of `statistics.stratified_permutations`.

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


def _value(similarities: Similarities, group: Group, variant: str) -> MetricValue:
    used, plain = similarities.adjusted(group, variant)
    result = matched_minus_mismatched(used, group.strata, group.permutations)
    value, d_z = float(result.differences.mean()), cohen_dz(result.differences)
    # Empty vectors, and those that meet nothing of the other side: in the count, at similarity 0.
    before = used if plain is None else plain
    extra = {
        "permutations": float(len(result.null)),
        "stems_without_similarity": float(np.count_nonzero(~before.any(axis=1))),
        "explanations_without_similarity": float(np.count_nonzero(~before.any(axis=0))),
        "strata_coarsened_items": float(group.strata.n_coarsened),
    }
    if plain is not None:
        unadjusted = matched_minus_mismatched(plain, group.strata, group.permutations)
        extra["unadjusted"] = float(unadjusted.differences.mean())
        extra["unadjusted_p"] = permutation_p(extra["unadjusted"], unadjusted.null)
    return MetricValue(
        name="alignment/matched_minus_mismatched",
        value=value,
        range=(-2.0, 2.0),
        n=len(result.differences),
        interval=bootstrap_interval(result.differences, seed=similarities.inputs.seed),
        null_mean=float(result.null.mean()),
        null_interval=quantile_interval(result.null),
        p=permutation_p(value, result.null),
        group=group.name,
        variant=variant,
        masked=similarities.left_out(group, variant),
        extra=extra if d_z is None else {"d_z": d_z, **extra},
        notes="Interval: percentile bootstrap over items; null: explanations permuted within strata"
        + few(len(result.differences))
        + how_similar(plain is not None),
    )


DIFFERENCE = Metric(
    name="difference",
    number=2,
    family="readout",
    title="Matched minus mismatched similarity",
    meaning="Similarity of question and own explanation, less the mean over the other explanations of its stratum.",
    range=(-2.0, 2.0),
    null="Explanations permuted within strata of language, subject and gold letter; the mean of the null is 0.",
    needs=("explanations",),
    source="Permutation test, Good 2005",
    values=("alignment/matched_minus_mismatched",),
    confirmatory=("alignment/matched_minus_mismatched",),
    claims={
        "alignment/matched_minus_mismatched": Claim(
            may=Sentence(
                "a question's features resemble those of its own explanation more than those of others of its stratum",
                "질문의 특징이 같은 층의 다른 해설보다 자기 해설의 특징과 더 비슷하다",
            ),
            may_not=Sentence("the model uses these features to answer", "모델이 답할 때 이 특징을 사용한다"),
            floor=0.01,
            least=0.0,
        )
    },
    depends_on=(on_controls,),
    measure=measure_difference,
)
