"""What metrics are measured from: one finished study, in memory.

`Inputs` is made once and given to each metric. What several metrics need (pooled vectors, groups with their strata and
permutations, the opened model) is made on first use and kept. What the metrics of one room share beyond that is a class
of that room with cached properties, made once by `Inputs.view`.

Groups: `all`, and whatever the study tells apart (`left_out`, `trained_on`). In each, items with an explanation
exchange explanations within strata (`stratum_labels`). Of near-duplicates (`duplicates`) the first one of a group is
measured; the others are counted.

Out of scope: reading a study folder, opening the model, writing results (`study.measure`).
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import sparse

from sae_lens_med.concepts.matching import ConceptMatcher, mentions_in_spans
from sae_lens_med.concepts.sets import ConceptSet
from sae_lens_med.data.mappings import subject_stratum
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.option_words import without_option_words
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    STEM_PARTS,
    Collected,
    FeatureMask,
    TokenScripts,
    explained_items,
    feature_mask,
    idf_weights,
    max_pool,
    text_properties,
    token_scripts,
    weighted,
)
from sae_lens_med.metrics.duplicates import near_duplicates, one_of_each
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import BoolArray, FloatArray, IntArray, ItemResult, McqItem
from sae_lens_med.statistics import Strata, coarsen_strata, halves, stratified_permutations

if TYPE_CHECKING:
    from sae_lens_med.features.store import CollectedFeatures
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae


Embedder = Callable[[Sequence[str]], FloatArray]
"""Texts -> `[n, d]`, one row per text."""

_View = TypeVar("_View")

WIDEST = 0.4
"""Largest difference of the log lengths of items that exchange labels: one is at most half as long again. Wider bins
let through what the longer texts have more of: of 1,000 simulated studies of 40 items in which long questions name more
concepts and fire more features, and nothing else, 30 % are rejected at 5 % with bins of ten, 8 % with neighbours of any
distance; of 60 items of 25 subjects 25 %."""


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
class Pooled:
    """The pooled vectors of one collection of features (`features.vectors`)."""

    scripts: TokenScripts
    mask: FeatureMask
    explained: IntArray
    """`[m]`, the items with an explanation."""
    stem_maxima: sparse.csr_array
    """CSR `[n_items, F]`: maxima over the counted stem tokens of every item, masked features left out, not weighted."""
    stems: sparse.csr_array
    """CSR `[m, F]`, maxima over the stem, weighted by IDF; so `explanations`."""
    explanations: sparse.csr_array
    weights: FloatArray
    """`[F]`, the IDF weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The explained items of one group, one of each cluster of near-duplicates, and how they may be exchanged."""

    name: str
    rows: IntArray
    """`[m]`, positions among the explained items (rows of `Pooled.stems`)."""
    items: IntArray
    """`[m]`, positions among all items."""
    strata: Strata
    permutations: IntArray
    """`[B, m]`."""
    n_duplicates: int = 0
    """Explained items of the group that are not among these, because one of their cluster is."""

    @property
    def left_out(self) -> dict[str, int]:
        """How many items do not count, or cannot be exchanged, by reason."""
        return {"near_duplicates": self.n_duplicates, "items_without_partner": self.strata.n_alone}


@dataclass(frozen=True, eq=False)
class Inputs:
    """One study, for every metric."""

    items: tuple[McqItem, ...]
    features: Collected
    results: tuple[ItemResult, ...] = ()
    """The model's answers, in the order of `items`; empty where no metric that runs the model is measured."""
    groups: Mapping[str, BoolArray] = field(default_factory=dict)
    """Name -> `[n_items]`; `all` is always measured and need not be given."""
    permutations: int = 2000
    """B of every permutation null."""
    seed: int = 0
    concepts: ConceptLabels | None = None
    controls: "Mapping[str, CollectedFeatures]" = field(default_factory=dict)
    """Variant -> the same items collected with an altered model or SAE (`controls`)."""
    open_model: Callable[[], ModelSide] | None = None
    """Opens the study's model and SAE; called once, by the first metric that needs them."""
    ratings: Path | None = None
    """File of clinicians' ratings."""
    labels: Path | None = None
    """File of feature labels."""
    judge: Any = None
    """What tells whether a text fits a label (`alignment.labels.judges`)."""
    embedder: Embedder | None = None
    """None: TF-IDF of character n-grams."""
    embedder_name: str = "tfidf"
    folder: Path | None = None
    """Where metrics that run the model keep partial results; None: nowhere."""
    settings: MetricSettings = field(default_factory=MetricSettings)
    study: Mapping[str, Any] = field(default_factory=dict)
    """Hashes of the study's items and features, as JSON values: what every metric depends on."""
    threads: int = 1

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise ConfigError(f"a permutation null needs at least one permutation, got {self.permutations}.")
        ids = tuple(item.id for item in self.items)
        if ids != tuple(self.features.acts.item_ids):
            have = (*self.features.acts.item_ids, None)
            i = next((i for i, own in enumerate(ids) if own != have[min(i, len(have) - 1)]), len(ids))
            raise DataError(
                f"the features are of {len(have) - 1} items, {len(ids)} were given, and they differ from item {i} on; "
                "pass the items that were collected, in their order."
            )
        if self.results and ids != tuple(result.id for result in self.results):
            raise DataError("the results are not of these items in this order; run the study again.")
        for name, control in self.controls.items():
            if control.acts.item_ids != self.features.acts.item_ids:
                raise DataError(f"the control {name!r} was collected on other items; collect it again.")
        masks = {"has_explanation": self.features.has_explanation}
        masks |= {f"the group {name!r}": chosen for name, chosen in self.groups.items()}
        for name, mask in masks.items():
            if np.shape(mask) != (len(ids),):
                raise DataError(f"{name} has shape {np.shape(mask)}, expected ({len(ids)},): one bool per item.")

    def view(self, kind: "Callable[[Inputs], _View]") -> _View:
        """`kind(self)`, made once: what several metrics of a room share (a class with cached properties)."""
        if kind not in self._views:
            self._views[kind] = kind(self)
        return self._views[kind]

    @cached_property
    def _views(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def model(self) -> ModelSide:
        """The study's model and SAE. Raises `DataError` where nothing opens them."""
        if self.open_model is None:
            raise DataError("this metric needs the study's model; pass it.")
        return self.open_model()

    @cached_property
    def pooled(self) -> Pooled:
        """Of the study's own features."""
        return pool_features(self.compared)

    @cached_property
    def compared(self) -> Collected:
        """The study's features without the rare option words of explanations (`features.option_words`)."""
        return without_option_words(self.features, self.items)

    @cached_property
    def _pooled_controls(self) -> dict[str, Pooled]:
        return {}

    def pooled_of(self, variant: str) -> Pooled:
        """Of the study (`sae`) or of a control, on the same explained items."""
        if variant == "sae":
            return self.pooled
        if variant not in self._pooled_controls:
            control = without_option_words(self.controls[variant], self.items)
            self._pooled_controls[variant] = pool_features(control, explained=self.pooled.explained)
        return self._pooled_controls[variant]

    @property
    def feature_variants(self) -> tuple[str, ...]:
        """`sae` and the controls: what is a sparse code."""
        return ("sae", *self.controls)

    @cached_property
    def explained_groups(self) -> tuple[Group, ...]:
        """Groups with at least two explained items; `all` first."""
        explained, found = self.pooled.explained, []
        for name, chosen in self.all_groups.items():
            every = np.flatnonzero(chosen[explained])
            rows = every[one_of_each(self.clusters[explained[every]])]
            if len(rows) < 2:
                continue
            members = explained[rows]
            strata = coarsen_strata([stratum_labels(self.items[i]) for i in members])
            drawn = stratified_permutations(strata, self.permutations, self.rng(name))
            found.append(Group(name, rows, members, strata, drawn, len(every) - len(rows)))
        return tuple(found)

    @cached_property
    def clusters(self) -> IntArray:
        """`[n_items]`, the cluster of near-duplicate questions of each item (`duplicates.near_duplicates`)."""
        return near_duplicates([item.question for item in self.items])

    def distinct(self, group: str) -> IntArray:
        """Positions of the items of a group, one of each cluster of near-duplicates."""
        rows = np.flatnonzero(self.all_groups[group])
        return rows[one_of_each(self.clusters[rows])]

    def halves(self, name: str, items: IntArray) -> BoolArray:
        """`[len(items)]`: of the items at these positions, True for the second half; near-duplicates on one side.
        `name` is the purpose: equal seed and purpose give equal halves."""
        return halves(self.clusters[items], self.rng(name))

    @cached_property
    def all_groups(self) -> dict[str, BoolArray]:
        """`all` and the study's own."""
        everyone = {"all": np.ones(len(self.items), dtype=bool)}
        return everyone | {name: np.asarray(chosen, dtype=bool) for name, chosen in self.groups.items()}

    @cached_property
    def properties(self) -> tuple[FloatArray, FloatArray]:
        """`[m, 3]` of stems and of explanations (`vectors.text_properties`), for the explained items."""
        stem, explanation = (
            text_properties(self.compared.acts, self.pooled.scripts, parts)[self.pooled.explained]
            for parts in (STEM_PARTS, EXPLANATION_PARTS)
        )
        return stem, explanation

    @cached_property
    def question_lengths(self) -> FloatArray:
        """`[n_items]`, characters of each question."""
        return np.array([len(item.question) for item in self.items], dtype=np.float64)

    def explanation_texts(self) -> list[str]:
        """The masked explanations of the explained items."""
        return [self.compared.texts[self.items[i].id]["explanation"] for i in self.pooled.explained]

    def question_texts(self) -> list[str]:
        """The questions, without options, of the explained items."""
        return [self.items[i].question for i in self.pooled.explained]

    def rng(self, name: str) -> np.random.Generator:
        """The generator of a group or another purpose: equal seed and name give equal draws."""
        return np.random.default_rng([self.seed, *name.encode()])


def stratum_labels(item: McqItem) -> list[tuple[str | None, ...]]:
    """For `statistics.coarsen_strata`: language, subject (`data.mappings.subject_stratum`), block and gold letter; then
    without the letter. A block is what a row's column `block` names, such as the author of its explanation: a likeness
    of question and explanation that all items of a block share is then no alignment."""
    place = (item.language, subject_stratum(item), item.provenance.get("block"))
    return [(*place, item.gold_letter), place]


def length_strata(items: Sequence[McqItem], lengths: FloatArray) -> Strata:
    """Strata of neighbours in length, two or three of one language and subject, at most `WIDEST` apart; an item without
    such a neighbour exchanges with none. `lengths` `[n]` in any unit."""
    places: dict[Hashable, list[int]] = {}
    for i, item in enumerate(items):
        places.setdefault(stratum_labels(item)[-1], []).append(i)
    index = np.full(len(items), -1, dtype=np.int64)
    log = np.log(np.maximum(lengths, 1.0))
    formed = 0
    for members in places.values():
        order = np.array(members)[np.argsort(log[members], kind="stable")]
        first = 0
        while first < len(order):
            size = 2
            if first + 3 == len(order) or (
                first + 3 < len(order) and log[order[first + 3]] - log[order[first + 2]] > WIDEST
            ):
                size = 3  # otherwise the third would be left alone
            while size > 1 and log[order[min(first + size, len(order)) - 1]] - log[order[first]] > WIDEST:
                size -= 1
            if size > 1 and first + size <= len(order):
                index[order[first : first + size]] = formed
                formed += 1
            first += size
    return Strata(index=index, level=np.where(index >= 0, 0, -1))


def length_properties(lengths: FloatArray) -> FloatArray:
    """`[n, 2]`: log length, centred, and its square."""
    log = np.log(np.maximum(lengths, 1.0))
    centred = log - log.mean()
    return np.column_stack([centred, centred**2])


def pool_features(features: Collected, explained: IntArray | None = None) -> Pooled:
    """Mask, pool and weigh one collection. `explained`: the items to take; when not given, those with a question and an
    explanation of which something counts (`features.vectors.explained_items`)."""
    acts = features.acts
    scripts = token_scripts(acts, features.texts)
    mask = feature_mask(acts, scripts)
    chosen = np.flatnonzero(explained_items(features)) if explained is None else explained
    stem_maxima = max_pool(acts, STEM_PARTS, mask.kept)
    stems, explanations = stem_maxima[chosen], max_pool(acts, EXPLANATION_PARTS, mask.kept)[chosen]
    weights = idf_weights(stems, explanations)
    return Pooled(
        scripts=scripts,
        mask=mask,
        explained=chosen,
        stem_maxima=stem_maxima,
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
            f"{where} name none of the {len(number)} concepts of {matcher.concepts.source}; use another concept set."
        )
    return ConceptLabels(matcher.concepts, stem, explanation, annotated, matcher.analyser)
