"""Does a question find its own explanation? Mean reciprocal rank and R@k (domain metric #1).

Rank all n explanations by their similarity `S[i, :]` to question i (`similarity`); the reciprocal rank of the item's
own, and whether it is among the first k. Ties count by expectation over a random order of the tied,

    RR = (H_{g+t} - H_g) / t       with g explanations better and t equal

so that a stem that cannot tell explanations apart scores exactly chance: `H_n / n` for MRR and `k / n` for R@k.
Similarities equal to 1e-12 are ties. The null re-assigns explanations within strata, and so holds what the stratum
alone gives.

Strata: items of one language, subject and gold letter exchange explanations; an item alone in its stratum exchanges
within its language and subject (`statistics.coarsen_strata`). An item alone in its subject exchanges with none: to let
it exchange across subjects would count the subject as alignment. It stays in, in its place under the null.

Out of scope: which texts and vectors are compared (`similarities`).
"""

from dataclasses import dataclass

import numpy as np

from sae_lens_med.alignment.similarities import Similarities, how_similar
from sae_lens_med.metrics.depends import on_controls
from sae_lens_med.metrics.inputs import Group, Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    bootstrap_interval,
    harmonic_numbers,
    mrr_chance,
    permutation_p,
    permuted_means,
    quantile_interval,
)

RETRIEVAL_CUTS = (1, 5, 10)
"""The k of R@k."""


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


def measure_retrieval(inputs: Inputs) -> Measured:
    """MRR and R@k of every variant and group."""
    similarities = inputs.view(Similarities)
    found = [
        value
        for group in inputs.explained_groups
        for variant in similarities.variants
        for value in _values(similarities, group, variant)
    ]
    return Measured(tuple(found), similarities.notes)


def ranked(similarity: FloatArray, permutations: IntArray, cuts: tuple[int, ...] = RETRIEVAL_CUTS) -> Retrieval:
    """Metric #1 on similarities S (`[n, n]`), all items; those that `permutations` leaves in place add the same
    to every null."""
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


def _values(similarities: Similarities, group: Group, variant: str) -> list[MetricValue]:
    """MRR, and R@k for every k < n (beyond that it cannot fail)."""
    used, plain = similarities.adjusted(group, variant)
    # Without a partner for anyone there is no null.
    permutations = group.permutations if group.strata.exchangeable.any() else group.permutations[:0]
    n = len(used)
    unadjusted = (
        {} if plain is None else {name: (v, null) for name, v, null, _ in _rows(ranked(plain, permutations), n)}
    )
    values = []
    for name, per_item, null, chance in _rows(ranked(used, permutations), n):
        value, extra = float(per_item.mean()), {"chance": chance, "permutations": float(len(null))}
        if name in unadjusted:
            before, null_before = float(unadjusted[name][0].mean()), unadjusted[name][1]
            extra["unadjusted"] = before
            if len(null_before):
                extra["unadjusted_p"] = permutation_p(before, null_before)
        values.append(
            MetricValue(
                name=name,
                value=value,
                range=(0.0, 1.0),
                n=n,
                interval=bootstrap_interval(per_item, seed=similarities.inputs.seed),
                null_mean=float(null.mean()) if len(null) else None,
                null_interval=quantile_interval(null) if len(null) else None,
                p=permutation_p(value, null) if len(null) else None,
                group=group.name,
                variant=variant,
                masked=similarities.left_out(group, variant),
                extra=extra,
                notes="Ranks among the explanations of all items of the group; chance: a random order of them; "
                "interval: percentile bootstrap over items; null: explanations permuted within strata"
                + few(n)
                + how_similar(plain is not None),
            )
        )
    return values


def _rows(result: Retrieval, n: int) -> list[tuple[str, FloatArray, FloatArray, float]]:
    """Name, value per item, null and chance of each number."""
    rows = [("alignment/retrieval_mrr", result.reciprocal_rank, result.null_mrr, mrr_chance(n))]
    rows += [
        (f"alignment/retrieval_at_{k}", hits, result.null_hits[k], k / n) for k, hits in result.hits.items() if k < n
    ]
    return rows


RETRIEVAL = Metric(
    name="retrieval",
    number=1,
    family="readout",
    title="Explanation retrieval (MRR, R@k)",
    meaning="How high the own explanation ranks among all when they are sorted by similarity to the question.",
    range=(0.0, 1.0),
    null="Explanations permuted within strata of language, subject and gold letter; chance is H_n / n for MRR and "
    "k / n for R@k.",
    needs=("explanations",),
    source="Information retrieval; the cosine of IDF-weighted pooled features",
    values=("alignment/retrieval",),
    confirmatory=("alignment/retrieval_mrr",),
    claims={
        "alignment/retrieval_mrr": Claim(
            may=Sentence(
                "a question's features find its own explanation more often than re-paired explanations would be found",
                "질문의 특징이 다시 짝지은 해설보다 자기 해설을 더 잘 찾아낸다",
            ),
            may_not=Sentence("the model uses these features to answer", "모델이 답할 때 이 특징을 사용한다"),
            floor=0.01,
        )
    },
    depends_on=(on_controls,),
    measure=measure_retrieval,
)
