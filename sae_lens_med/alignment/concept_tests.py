"""Which features stand for which concepts of a study: the tests that #4 and #5 report, and other metrics build on.

Rows are questions: pooled stem features against "the question names the concept". A feature that fires on the concept's
own name scores highest; that a feature stands for a concept says that the model *reads* it, not that it *uses* it.

**Strata.** Long questions name more concepts and fire more features. Labels are therefore permuted among questions of
one language and subject and of like length (`metrics.inputs.length_strata`); of the ranks that make z, what the length
still explains within these is taken away (`concept_scores`).

**Which concepts.** Those that at least `MIN_NAMED` questions of the group name, and not all of them.

**Split.** Half of the strata, drawn by the seed, are held out whole; F1 is that of held-out items.

Out of scope: the scores themselves (`concept_scores`), tokens as rows, and finding concepts in texts (`concepts`).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.concept_scores import ConceptAuroc, ConceptF1, concept_auroc, concept_f1, crossed_strata
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.inputs import Inputs, length_properties, length_strata
from sae_lens_med.metrics.metric import few, with_z
from sae_lens_med.records import BoolArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    Strata,
    bootstrap_interval,
    permutation_p,
    quantile_interval,
    stratified_permutations,
)

MIN_NAMED = 6
"""Questions that must name a concept before it is scored."""
LISTED = 5
"""Features listed for each concept."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptScores:
    """What one variant gives for one group."""

    concepts: IntArray
    """`[c]`, the scored concepts as columns of `ConceptLabels`."""
    expert: BoolArray
    """`[c]`, at least one explanation of the group names it."""
    auroc: ConceptAuroc
    f1: ConceptF1
    """Its `concepts` are positions within `concepts`."""
    n_items: int
    n_alone: int
    n_duplicates: int
    live: IntArray
    """`[f]`, the features that fire on some stem: the columns of `auroc`."""


class ConceptTests:
    """The tests of one study, each made once; `inputs.view(ConceptTests)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._scores: dict[tuple[str, str], ConceptScores | None] = {}

    def scores(self, group: str, variant: str) -> ConceptScores | None:
        """Of one group and variant; None where no concept is named often enough."""
        if (group, variant) not in self._scores:
            self._scores[group, variant] = _measured(self.inputs, group, variant)
        return self._scores[group, variant]

    def left_out(self, scores: ConceptScores, variant: str) -> dict[str, int]:
        """How much does not count, by reason."""
        total = 0 if self.inputs.concepts is None else len(self.inputs.concepts.concepts)
        return {
            "concepts_named_too_rarely": total - len(scores.concepts),
            "near_duplicates": scores.n_duplicates,
            "items_without_partner": scores.n_alone,
            **self.inputs.pooled_of(variant).mask.counts,
        }


def none_named(group: str) -> str:
    """The note on a group without a scored concept."""
    return (
        f"Concepts: no concept is named by {MIN_NAMED} questions of the group {group!r} and not by all; not measured."
    )


def half_of_strata(strata: Strata, rng: np.random.Generator) -> BoolArray:
    """`[n]`: half of the strata, whole, and half of the items without one. A bin that is cut by the split has next
    to nothing left to exchange."""
    groups = strata.members()
    held_out = np.zeros(len(strata.index), dtype=bool)
    for number in rng.permutation(len(groups))[: len(groups) // 2]:
        held_out[groups[number]] = True
    alone = rng.permutation(np.flatnonzero(~strata.exchangeable))
    held_out[alone[: len(alone) // 2]] = True
    return held_out


def held_out_value(
    tests: ConceptTests, scores: ConceptScores, group: str, variant: str, name: str, chosen: IntArray | None
) -> MetricValue:
    """Mean held-out F1 over the positions `chosen` of `scores.f1` (None: all)."""
    take = np.arange(len(scores.f1.concepts)) if chosen is None else chosen
    f1, null = scores.f1.f1[take], scores.f1.null_f1[:, take].mean(axis=1)
    value = float(f1.mean())
    return MetricValue(
        name=name,
        value=value,
        range=(0.0, 1.0),
        n=len(take),
        unit="concepts",
        interval=bootstrap_interval(f1, seed=tests.inputs.seed),
        null_mean=float(null.mean()),
        null_interval=quantile_interval(null),
        p=permutation_p(value, null),
        group=group,
        variant=variant,
        masked=tests.left_out(scores, variant)
        | {"concepts_on_one_side": len(scores.concepts) - len(scores.f1.concepts)},
        extra=with_z(
            value,
            null,
            {
                "prevalence_f1": float(scores.f1.prevalence_f1[take].mean()),
                "train_f1": float(scores.f1.train_f1[take].mean()),
                "items": float(scores.n_items),
                "permutations": float(len(null)),
            },
        ),
        notes="Feature and threshold chosen on half of the items, F1 on the others; interval: percentile bootstrap "
        "over concepts, which share questions, so it is a rough one; null: labels permuted within strata and halves, "
        "the choice made again; prevalence_f1: a feature that fires everywhere" + few(scores.n_items, " items"),
    )


def _measured(inputs: Inputs, group: str, variant: str) -> ConceptScores | None:
    labels = inputs.concepts
    rows = inputs.distinct(group)
    if labels is None or len(rows) < 4:
        return None
    named = labels.stem[rows].sum(axis=0)
    concepts = np.flatnonzero((named >= MIN_NAMED) & (named < len(rows)))
    strata = length_strata([inputs.items[i] for i in rows], inputs.question_lengths[rows])
    if not len(concepts) or not strata.exchangeable.any():
        return None
    pooled = inputs.pooled_of(variant).stem_maxima[rows]
    live = np.flatnonzero(np.bincount(pooled.indices, minlength=n_columns(pooled)))
    acts = sparse.csr_array(pooled[:, live])
    chosen = labels.stem[rows][:, concepts]
    drawn = stratified_permutations(strata, inputs.permutations, inputs.rng(f"concepts {group}"))
    lengths = length_properties(inputs.question_lengths[rows])
    auroc = concept_auroc(acts, chosen, strata, drawn, nuisance=lengths, threads=inputs.threads)
    held_out = half_of_strata(strata, inputs.rng(f"held out {group}"))
    crossed = crossed_strata(strata, held_out)
    redrawn = stratified_permutations(crossed, inputs.permutations, inputs.rng(f"concepts held out {group}"))
    f1 = concept_f1(acts, chosen, held_out, redrawn, threads=inputs.threads)
    n_duplicates = int(np.count_nonzero(inputs.all_groups[group])) - len(rows)
    expert = np.asarray(labels.explanation[rows][:, concepts].any(axis=0), dtype=bool)
    return ConceptScores(concepts, expert, auroc, f1, len(rows), strata.n_alone, n_duplicates, live)
