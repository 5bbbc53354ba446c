"""Every alignment metric by name: what it means, its range, its null, what it needs, where it comes from.

The numbers are those of the field's table: 1 retrieval ... 15 ratings, and 16, the verdict per feature. `measure` takes
`Inputs` and imports the code of its metric when it is called, so that listing the metrics is light.

**Confirmatory**: the metric values that the correction for multiplicity (Benjamini-Hochberg) counts: one to three for
each metric, of the variant `sae`, on the items left out of the SAE's training text where the study tells them apart,
otherwise on all. Everything else (other groups, other variants, companions) is description and is not corrected.

Out of scope: running them (`study.measure`).
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae_lens_med.errors import ConfigError, nearest

if TYPE_CHECKING:
    from sae_lens_med.metrics.inputs import Inputs, Measured, Need


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the list."""

    name: str
    """What `--metrics` calls it."""
    number: int
    """In the field's table, 1 to 15; 16 is the conclusion drawn from them feature by feature."""
    title: str
    meaning: str
    """One sentence."""
    range: tuple[float | None, float | None]
    """Of the first value it gives; None where unbounded."""
    null: str
    """One sentence: what it is compared with."""
    needs: "tuple[Need, ...]"
    source: str
    """Who defined it."""
    values: tuple[str, ...]
    """Names of the `MetricValue`s that it gives, or their beginnings; they are replaced when it is measured again."""
    confirmatory: tuple[str, ...]
    """Those of them that count in the correction for multiplicity."""
    measure: "Callable[[Inputs], Measured]"

    def owns(self, value_name: str) -> bool:
        """Whether a `MetricValue` of this name is one of this metric's."""
        return any(value_name == name or value_name.startswith(name + "_") for name in self.values)

    def to_dict(self) -> dict[str, Any]:
        """For `list-metrics --json`."""
        return {
            "name": self.name,
            "number": self.number,
            "title": self.title,
            "meaning": self.meaning,
            "range": list(self.range),
            "null": self.null,
            "needs": list(self.needs),
            "source": self.source,
            "values": list(self.values),
            "confirmatory": list(self.confirmatory),
        }


def _later(module: str, function: str) -> "Callable[[Inputs], Measured]":
    """`function` of a module of this folder, imported when it is called."""

    def measure(inputs: "Inputs") -> "Measured":
        return getattr(import_module(f"sae_lens_med.alignment.{module}"), function)(inputs)

    measure.__name__ = function
    return measure


_PERMUTED = "Explanations permuted within strata of language, subject and gold letter"

METRICS: tuple[Metric, ...] = (
    Metric(
        name="retrieval",
        number=1,
        title="Explanation retrieval (MRR, R@k)",
        meaning="How high the own explanation ranks among all when they are sorted by similarity to the question.",
        range=(0.0, 1.0),
        null=f"{_PERMUTED}; chance is H_n / n for MRR and k / n for R@k.",
        needs=("explanations",),
        source="Information retrieval; the cosine of IDF-weighted pooled features",
        values=("alignment/retrieval",),
        confirmatory=("alignment/retrieval_mrr",),
        measure=_later("measure_similarity", "measure_retrieval"),
    ),
    Metric(
        name="difference",
        number=2,
        title="Matched minus mismatched similarity",
        meaning="Similarity of question and own explanation, less the mean over the other explanations of its stratum.",
        range=(-2.0, 2.0),
        null=f"{_PERMUTED}; the mean of the null is 0.",
        needs=("explanations",),
        source="Permutation test, Good 2005",
        values=("alignment/matched_minus_mismatched",),
        confirmatory=("alignment/matched_minus_mismatched",),
        measure=_later("measure_similarity", "measure_difference"),
    ),
    Metric(
        name="overlap",
        number=3,
        title="Overlap of feature sets",
        meaning="How much of the strongest features question and own explanation share (weighted Jaccard, P@k, R@k).",
        range=(0.0, 1.0),
        null=f"{_PERMUTED}, at the texts' own lengths; beside it the hypergeometric chance.",
        needs=("explanations",),
        source="Ružička 1958; frequency-preserving permutation",
        values=("alignment/overlap",),
        confirmatory=("alignment/overlap_jaccard",),
        measure=_later("measure_similarity", "measure_overlap"),
    ),
    Metric(
        name="concepts",
        number=4,
        title="Features that stand for concepts (AUROC, held-out F1)",
        meaning="How well single features tell which questions name a concept, the best of all features for each.",
        range=(0.0, None),
        null="Concept labels permuted within strata of subject and length; the best feature is chosen again each time.",
        needs=("concepts",),
        source="Gurnee et al. 2305.01610; InterPLM 2412.12101; Westfall & Young 1993",
        values=("alignment/concept_auroc", "alignment/concept_f1"),
        confirmatory=("alignment/concept_auroc_z", "alignment/concept_f1"),
        measure=_later("concepts", "measure_concepts"),
    ),
    Metric(
        name="coverage",
        number=5,
        title="Coverage of the expert's concepts",
        meaning="Mean over the concepts that explanations name of the held-out F1 of the feature chosen for each.",
        range=(0.0, 1.0),
        null="Concept labels permuted; feature and threshold are chosen again each time.",
        needs=("concepts", "explanations"),
        source="Karvonen et al. 2408.00113",
        values=("alignment/concept_coverage",),
        confirmatory=("alignment/concept_coverage",),
        measure=_later("concepts", "measure_coverage"),
    ),
    Metric(
        name="plausibility",
        number=6,
        title="Where the expert looks",
        meaning="Whether the tokens through which the aligned features move the answer are those the expert marked.",
        range=(0.0, 1.0),
        null="The expert's spans shifted around the text, and random spans of equal lengths.",
        needs=("explanations", "spans", "model"),
        source="ERASER, DeYoung et al. 1911.03429",
        values=("alignment/plausibility",),
        confirmatory=("alignment/plausibility_auprc",),
        measure=_later("causal_items", "measure_plausibility"),
    ),
    Metric(
        name="comprehensiveness",
        number=7,
        title="Comprehensiveness (AOPC)",
        meaning="How much of the answer's probability goes when the features shared with the explanation are removed.",
        range=(-1.0, 1.0),
        null="The same for matched-random features: as often and as strongly active.",
        needs=("explanations", "model"),
        source="ERASER 1911.03429; Marks et al. 2403.19647",
        values=("alignment/comprehensiveness",),
        confirmatory=("alignment/comprehensiveness",),
        measure=_later("causal_items", "measure_comprehensiveness"),
    ),
    Metric(
        name="sufficiency",
        number=8,
        title="Sufficiency (normalised faithfulness)",
        meaning="Share of the answer's margin that the features shared with the explanation keep up alone.",
        range=(None, None),
        null="The same for matched-random features; all features give 1, none give 0.",
        needs=("explanations", "model"),
        source="Marks et al. 2403.19647",
        values=("alignment/sufficiency",),
        confirmatory=("alignment/sufficiency",),
        measure=_later("causal_items", "measure_sufficiency"),
    ),
    Metric(
        name="causal-agreement",
        number=9,
        title="Expert-concept causal agreement",
        meaning="Whether the concepts that the expert names more are those whose features move the answer more.",
        range=(-1.0, 1.0),
        null="The expert's weights permuted among the concepts of each item.",
        needs=("explanations", "concepts", "model"),
        source="Matton et al. 2504.14150, with the expert in the place of the model's own explanation",
        values=("alignment/causal_agreement",),
        confirmatory=("alignment/causal_agreement_pooled",),
        measure=_later("causal_items", "measure_causal_agreement"),
    ),
    Metric(
        name="steering",
        number=10,
        title="Steering specificity",
        meaning="How far a concept's feature moves the option that names it, over what it does to all other tokens.",
        range=(None, None),
        null="Random directions of equal norm, and random live features.",
        needs=("concepts", "model"),
        source="SAEBench; Templeton et al. 2024",
        values=("alignment/steering",),
        confirmatory=("alignment/steering_specificity",),
        measure=_later("causal_items", "measure_steering"),
    ),
    Metric(
        name="reasoning",
        number=11,
        title="Fidelity of the chain of thought",
        meaning="Whether the model's own reasoning drives its answer: early answering, hints owned up to, concepts.",
        range=(0.0, 1.0),
        null="Answering without reasoning; no hint owned up to; concepts permuted.",
        needs=("model", "reasoning"),
        source="Lanham et al. 2307.13702; Chen et al. 2505.05410; Turpin et al. 2305.04388",
        values=("alignment/reasoning",),
        confirmatory=("alignment/reasoning_agreement",),
        measure=_later("measure_reasoning", "measure_reasoning"),
    ),
    Metric(
        name="rsa",
        number=12,
        title="Representational similarity (RSA)",
        meaning="Whether questions far apart in features have explanations far apart in wording, beyond shared wording "
        "of the questions and length.",
        range=(-1.0, 1.0),
        null="Mantel test: items moved within strata; studentised where something is partialled out.",
        needs=("explanations", "embeddings"),
        source="Kriegeskorte et al. 2008; Mantel 1967; Smouse, Long & Sokal 1986",
        values=("alignment/rsa",),
        confirmatory=("alignment/rsa_partial",),
        measure=_later("measure_similarity", "measure_rsa"),
    ),
    Metric(
        name="labels",
        number=13,
        title="Quality of feature labels (detection, fuzzing)",
        meaning="Whether a judge who reads a feature's label can tell the texts on which the feature fires.",
        range=(0.0, 1.0),
        null="Labels shuffled among features; guessing is 0.5.",
        needs=("labels",),
        source="delphi (EleutherAI); Templeton et al. 2024; Heap et al. 2501.17727",
        values=("alignment/labels",),
        confirmatory=("alignment/labels_detection",),
        measure=_later("labels.measure", "measure_labels"),
    ),
    Metric(
        name="monosemanticity",
        number=14,
        title="Monosemanticity",
        meaning="Mean similarity of the questions on which a feature fires, against that of any two questions.",
        range=(-1.0, 1.0),
        null="Activations shuffled between questions within strata; its level is the mean cosine of the corpus.",
        needs=("embeddings",),
        source="Pach et al. 2504.02821",
        values=("alignment/monosemanticity",),
        confirmatory=("alignment/monosemanticity",),
        measure=_later("concepts", "measure_monosemanticity"),
    ),
    Metric(
        name="ratings",
        number=15,
        title="Clinicians' ratings",
        meaning="How well raters agree (Cohen's kappa, Krippendorff's alpha), and whether they prefer the true "
        "rationale to a shuffled one.",
        range=(None, 1.0),
        null="Ratings permuted among items; the arm of shuffled rationales.",
        needs=("ratings",),
        source="Singhal et al. 2023; Cohen 1960; Krippendorff 2011",
        values=("alignment/ratings",),
        confirmatory=("alignment/ratings_contrast",),
        measure=_later("measure_ratings", "measure_ratings"),
    ),
    Metric(
        name="verdicts",
        number=16,
        title="Verdict per feature",
        meaning="Which features are both named by explanations and moving the answer: mentioned x causal, feature by "
        "feature.",
        range=(0.0, 1.0),
        null="Mentioned: explanations permuted within strata; causal: removing matched-random features of the same "
        "questions; both corrected over features.",
        needs=("explanations", "model"),
        source="The conclusion of 2 and 7; Benjamini & Heller 2008 for both at once",
        values=("alignment/verdict",),
        confirmatory=(),
        measure=_later("causal_items", "measure_verdicts"),
    ),
)
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
ALL = "all"


def choose(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of these names, in the order of the list; `all` for every one.

    Raises `ConfigError` for an unknown name, with near ones.
    """
    wanted: set[str] = set()
    for name in names:
        if name == ALL:
            wanted |= set(BY_NAME)
        elif name in BY_NAME:
            wanted.add(name)
        else:
            hint = nearest(name, BY_NAME) or f"; the metrics are {', '.join(BY_NAME)}."
            raise ConfigError(f"there is no metric {name!r}{hint}")
    if not wanted:
        raise ConfigError(f"no metric was named; give {ALL} or some of {', '.join(BY_NAME)}.")
    return tuple(metric for metric in METRICS if metric.name in wanted)


def owner(value_name: str) -> Metric | None:
    """The metric that gives `MetricValue`s of this name."""
    return next((metric for metric in METRICS if metric.owns(value_name)), None)


def unmet(metric: Metric, missing: "Collection[Need]") -> "tuple[Need, ...]":
    """The needs of a metric that are missing."""
    return tuple(need for need in metric.needs if need in missing)
