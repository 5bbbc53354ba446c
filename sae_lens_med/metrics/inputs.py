"""What every alignment metric is measured from: one finished study, in memory, and what it lacks.

`Inputs` is made once and given to each metric of `registry.METRICS`. What several metrics need (pooled vectors, groups
with their strata and permutations) is made on first use and kept, by the same code and from the same seed for all.

Groups: `all`, and whatever the study tells apart (`left_out`, `trained_on`). In each, items with an explanation
exchange explanations within strata (`stratum_labels`); the permutations are those that `align` draws.

`Need` names what a metric cannot do without; `missing` says in one sentence why it is not there.

Out of scope: reading a study folder, opening the model, writing results.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from scipy import sparse

from sae_lens_med.concepts.matching import ConceptMatcher, mentions_in_spans
from sae_lens_med.concepts.sets import ConceptSet
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    STEM_PARTS,
    Collected,
    FeatureMask,
    TokenScripts,
    feature_mask,
    idf_weights,
    max_pool,
    text_properties,
    token_scripts,
    weighted,
)
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import BoolArray, FloatArray, IntArray, ItemResult, McqItem, MetricValue
from sae_lens_med.statistics import Strata, coarsen_strata, stratified_permutations

if TYPE_CHECKING:
    from sae_lens_med.alignment.reasoning import ReasonedItem
    from sae_lens_med.features.store import CollectedFeatures
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae


Need = Literal["explanations", "concepts", "spans", "model", "reasoning", "labels", "embeddings", "ratings"]
NEEDS: dict[Need, str] = {
    "explanations": "at least two items with an explanation",
    "concepts": "concepts named in the questions: the packaged lexicon, a file, or annotated spans",
    "spans": "spans of the question that an expert annotated",
    "model": "the model and the SAE of the study",
    "reasoning": "a model that generates reasoning",
    "labels": "texts that label features, and a judge",
    "embeddings": "embeddings of texts (TF-IDF where none are given)",
    "ratings": "a file of clinicians' ratings",
}

Embedder = Callable[[Sequence[str]], FloatArray]
"""Texts -> `[n, d]`, one row per text."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one metric gives."""

    metrics: tuple[MetricValue, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not measured and why, one sentence each."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """File name -> JSON value, or text for names that do not end in `.json`: written beside `metrics.json`."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelSide:
    """The study's model and SAE, opened."""

    model: "MedBridge"
    loaded_sae: "LoadedSae"
    batch_tokens: int | None = None
    """Most tokens of one forward pass; None: what suits the device."""
    progress: bool = True
    """Show bars on stderr."""
    shots: tuple[McqItem, ...] = ()
    """The solved examples that stood before every question of the study."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptLabels:
    """Which concepts the texts of each item name."""

    concepts: ConceptSet
    stem: BoolArray
    """`[n_items, C]`, the question names the concept (options are not searched)."""
    explanation: BoolArray
    """`[n_items, C]`, the explanation as it was run (masked) names it; False without an explanation."""
    annotated: bool = False
    """Only mentions within annotated spans of the question count in `stem`."""
    analyser: str = "rules"
    """How mentions were found; `matcher` finds them so in other texts."""

    @property
    def identity(self) -> dict[str, Any]:
        """What settings say of it."""
        concepts = self.concepts
        return {
            "source": concepts.source, "sha256": concepts.sha256, "annotated": self.annotated, "analyser": self.analyser
        }  # fmt: skip

    def matcher(self, ids: Collection[str] | None = None) -> ConceptMatcher:
        """Of all concepts, or of those of `ids`."""
        return ConceptMatcher(self.concepts if ids is None else self.concepts.subset(ids=ids), self.analyser)


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """The pooled vectors of one collection of features."""

    scripts: TokenScripts
    mask: FeatureMask
    explained: IntArray
    """`[m]`, the items with an explanation."""
    pooled: sparse.csr_array
    """CSR `[n_items, F]`: maxima over the counted stem tokens, masked features left out, not weighted."""
    stems: sparse.csr_array
    """CSR `[m, F]`, weighted by IDF; so `explanations`."""
    explanations: sparse.csr_array
    weights: FloatArray
    """`[F]`, the IDF weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The explained items of one group, and how they may be exchanged."""

    name: str
    rows: IntArray
    """`[m]`, positions among the explained items (rows of `Sides.stems`)."""
    items: IntArray
    """`[m]`, positions among all items."""
    strata: Strata
    permutations: IntArray
    """`[B, m]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """One study, for every metric. What is made once is kept also by a copy (`dataclasses.replace`)."""

    items: tuple[McqItem, ...]
    features: Collected
    results: tuple[ItemResult, ...]
    """In the order of `items`."""
    groups: Mapping[str, BoolArray] = field(default_factory=dict)
    """Name -> `[n_items]`; `all` is always measured and need not be given."""
    permutations: int = 2000
    """B of every permutation null."""
    seed: int = 0
    concepts: ConceptLabels | None = None
    controls: "Mapping[str, CollectedFeatures]" = field(default_factory=dict)
    """Variant -> the same items collected with an altered model or SAE (`controls`)."""
    model: ModelSide | None = None
    ratings: Path | None = None
    """File of clinicians' ratings."""
    labels: Path | None = None
    """File of feature labels."""
    judge: Any = None
    """What tells whether a text fits a label (`judges`)."""
    embedder: Embedder | None = None
    """None: TF-IDF of character n-grams."""
    embedder_name: str = "tfidf"
    folder: Path | None = None
    """Where metrics that run the model keep partial results; None: nowhere."""
    settings: MetricSettings = field(default_factory=MetricSettings)
    reasoned: "Sequence[ReasonedItem]" = ()
    """Reasoning of the model on some or all items."""
    moved: tuple[FloatArray, IntArray, tuple[str, ...]] | None = None
    """Effects `[N]` of removing a concept's features, where that was measured, with item numbers and concept ids."""
    missing: Mapping[Need, str] = field(default_factory=dict)
    """Why a need is not met, one sentence each."""
    threads: int = 1
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise ConfigError(f"a permutation null needs at least one permutation, got {self.permutations}.")
        if tuple(item.id for item in self.items) != tuple(self.features.acts.item_ids):
            raise DataError("the features are not of these items in this order; collect them again.")
        if tuple(item.id for item in self.items) != tuple(result.id for result in self.results):
            raise DataError("the results are not of these items in this order; run the study again.")
        for name, control in self.controls.items():
            if control.acts.item_ids != self.features.acts.item_ids:
                raise DataError(f"the control {name!r} was collected on other items; collect it again.")

    def once(self, key: Any, make: Callable[[], _Made]) -> _Made:
        """`make()`, kept under `key` for the next call."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def sides(self) -> Sides:
        """Of the study's own features."""
        return self.once(("sides", "sae"), lambda: pooled_sides(self.features))

    def sides_of(self, variant: str) -> Sides:
        """Of the study (`sae`) or of a control, on the same explained items."""
        if variant == "sae":
            return self.sides
        return self.once(
            ("sides", variant), lambda: pooled_sides(self.controls[variant], explained=self.sides.explained)
        )

    @property
    def feature_variants(self) -> tuple[str, ...]:
        """`sae` and the controls: what is a sparse code."""
        return ("sae", *self.controls)

    @property
    def explained_groups(self) -> tuple[Group, ...]:
        """Groups with at least two explained items; `all` first."""
        return self.once("explained groups", self._explained_groups)

    def _explained_groups(self) -> tuple[Group, ...]:
        explained, found = self.sides.explained, []
        for name, chosen in self.all_groups.items():
            rows = np.flatnonzero(chosen[explained])
            if len(rows) < 2:
                continue
            members = explained[rows]
            strata = coarsen_strata([stratum_labels(self.items[i]) for i in members])
            drawn = stratified_permutations(strata, self.permutations, self.rng(name))
            found.append(Group(name, rows, members, strata, drawn))
        return tuple(found)

    @property
    def all_groups(self) -> dict[str, BoolArray]:
        """`all` and the study's own."""
        everyone = {"all": np.ones(len(self.items), dtype=bool)}
        return everyone | {name: np.asarray(chosen, dtype=bool) for name, chosen in self.groups.items()}

    @property
    def properties(self) -> tuple[FloatArray, FloatArray]:
        """`[m, 3]` of stems and of explanations (`vectors.text_properties`), for the explained items."""
        return self.once("properties", self._properties)

    def _properties(self) -> tuple[FloatArray, FloatArray]:
        sides = self.sides
        stem, explanation = (
            text_properties(self.features.acts, sides.scripts, parts)[sides.explained]
            for parts in (STEM_PARTS, EXPLANATION_PARTS)
        )
        return stem, explanation

    def explanation_texts(self) -> list[str]:
        """The masked explanations of the explained items."""
        return [self.features.texts[self.items[i].id]["explanation"] for i in self.sides.explained]

    def question_texts(self) -> list[str]:
        """The questions, without options, of the explained items."""
        return [self.items[i].question for i in self.sides.explained]

    def rng(self, name: str) -> np.random.Generator:
        """The generator of `align` for a group or another purpose."""
        return np.random.default_rng([self.seed, *name.encode()])


def stratum_labels(item: McqItem) -> list[tuple[str | None, ...]]:
    """For `statistics.coarsen_strata`: language, subject and gold letter; then language and subject."""
    return [(item.language, item.subject, item.gold_letter), (item.language, item.subject)]


def pooled_sides(features: Collected, explained: IntArray | None = None) -> Sides:
    """Mask, pool and weigh one collection, as `align` does. `explained`: the items to take; those that have an
    explanation token that counts when not given."""
    acts = features.acts
    scripts = token_scripts(acts, features.texts)
    mask = feature_mask(acts, scripts)
    chosen = np.flatnonzero(features.has_explanation) if explained is None else explained
    pooled = max_pool(acts, STEM_PARTS, mask.kept)
    stems, explanations = pooled[chosen], max_pool(acts, EXPLANATION_PARTS, mask.kept)[chosen]
    weights = idf_weights(stems, explanations)
    return Sides(
        scripts=scripts,
        mask=mask,
        explained=chosen,
        pooled=pooled,
        stems=weighted(stems, weights),
        explanations=weighted(explanations, weights),
        weights=weights,
    )


def label_concepts(
    items: Sequence[McqItem],
    texts: Mapping[str, Mapping[str, str]],
    matcher: ConceptMatcher,
    *,
    annotated: bool = False,
) -> ConceptLabels:
    """Search the questions and the masked explanations (`texts[id]["explanation"]`) for the matcher's concepts.

    `annotated`: in questions, count only mentions within annotated spans. Raises `DataError` when that leaves none.
    """
    number = {concept: c for c, concept in enumerate(matcher.concepts.ids)}
    stem = np.zeros((len(items), len(number)), dtype=bool)
    explanation = np.zeros_like(stem)
    for i, item in enumerate(items):
        mentions = matcher.find(item.question)
        for mention in mentions_in_spans(mentions, item.question_spans) if annotated else mentions:
            stem[i, number[mention.concept_id]] = True
        for mention in matcher.find(texts.get(item.id, {}).get("explanation", "")):
            explanation[i, number[mention.concept_id]] = True
    if not stem.any():
        where = "the annotated spans of the questions" if annotated else "the questions"
        raise DataError(
            f"{where} name none of the {len(number)} concepts of {matcher.concepts.source}; give another concept set."
        )
    return ConceptLabels(matcher.concepts, stem, explanation, annotated, matcher.analyser)
