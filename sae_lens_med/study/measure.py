"""Finished study -> `STUDY/alignment/`: every metric that was asked for and that can be measured, then the report.

Metrics that need arrays alone come first, those that run the model last. A metric that was measured with the same
settings is not measured again; with other settings it is, and what changed is named. What cannot be measured is a
sentence, unless it was asked for by name: then it is an error.

The model and the SAE are those of the study's manifest, opened only when something needs them, and refused when their
weights are others than the study's.

Out of scope: making the study (`study.run`), and several processes: metrics are measured by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sae_lens_med import distributed
from sae_lens_med.alignment import METRICS
from sae_lens_med.alignment.labels.scores import read_labels
from sae_lens_med.alignment.ratings_file import read_ratings
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import load_concepts, load_lexicon
from sae_lens_med.controls.collect import CONTROLS, Control, choose_controls, collect_control, collected_control
from sae_lens_med.errors import ConfigError, DataError, ReleaseError, StudyError
from sae_lens_med.features.store import CollectedFeatures, load_features
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.depends import dependencies, on_concepts
from sae_lens_med.metrics.inputs import ConceptLabels, Embedder, Inputs, label_concepts
from sae_lens_med.metrics.metric import ALL, Metric, Need
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import load_sae
from sae_lens_med.study.alignment_report import write_alignment_report
from sae_lens_med.study.folder import StudyFolder, read_study
from sae_lens_med.study.groups import item_groups
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.opened import OpenedModel, Opener

LEXICON, ANNOTATED = "lexicon", "annotated"
OnMetric = Callable[[str, str], None]


@dataclass(slots=True)
class MeasuredMetrics:
    """What became of each metric that was asked for."""

    measured: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Measured before with the same settings."""
    absent: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be measured, with the reason in one sentence."""
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Metrics that were measured again, with what had changed."""


@dataclass(frozen=True, slots=True)
class AlignmentRun:
    """What `run_alignment` returns; all of it is in `folder`, too."""

    folder: Path
    metrics: tuple[MetricValue, ...]
    """Everything that the folder holds, also from earlier runs."""
    measured: tuple[str, ...]
    skipped: tuple[str, ...]
    """Measured before with the same settings."""
    absent: dict[str, str]
    """Metrics that could not be measured, with the reason in one sentence."""
    changed: dict[str, tuple[str, ...]]
    """Metrics that were measured again, with what had changed."""
    notes: tuple[str, ...]

    @property
    def report_md(self) -> Path:
        return self.folder / "report.md"

    @property
    def report_html(self) -> Path:
        return self.folder / "report.html"


def run_alignment(
    study: Path,
    metrics: Sequence[str] = (ALL,),
    *,
    permutations: int = 2000,
    seed: int = 0,
    concepts: str = LEXICON,
    analyser: str = "rules",
    controls: Sequence[str] = (),
    open_model: Opener | None = None,
    sae: str | None = None,
    ratings: Path | None = None,
    labels: Path | None = None,
    judge: Any = None,
    embedder: Embedder | None = None,
    embedder_name: str = "tfidf",
    reasoning: bool = False,
    settings: MetricSettings | None = None,
    force: bool = False,
    threads: int = 1,
    on_metric: OnMetric | None = None,
) -> AlignmentRun:
    """Measure alignment metrics of a finished study, and write their report.

    Args:
        study: a folder of `run_study`.
        metrics: names of `alignment.METRICS`; `all` for every one that can be measured.
        permutations: B of every permutation null, >= 1.
        seed: of permutations, splits and bootstrap; controls have one of their own.
        concepts: `lexicon` (the packaged one), `annotated` (the lexicon within the spans an expert marked in the
            questions), or a file of concepts.
        analyser: of Korean endings after a concept's name: `rules`, or `kiwi` (the extra `korean`).
        controls: `shuffled_decoder`, `random_model`, or `all`, to collect; those that were collected before are
            measured in any case.
        open_model: opens the study's model and SAE; None: nothing that runs the model is measured.
        sae: where the study's SAE lies now; it lists the items that its training text left out.
        ratings: file of clinicians' ratings.
        labels: file of feature labels; labels are made from concepts when not given.
        judge: of labels; the study's own model when not given.
        embedder: of texts, for #12 and #14; TF-IDF when not given.
        embedder_name: what the records call it.
        reasoning: the model generates reasoning, so that #11 is measured.
        settings: of the metrics that run the model.
        force: measure again what is finished.
        threads: for the concept scores; results do not depend on it.
        on_metric: called with a metric's name and `measure`, `skip`, `again: CHANGES` or `absent: REASON`.

    Raises `StudyError` for a folder that is no finished study or whose model and SAE are others than the study's,
    `ConfigError` for an unknown name, or a metric asked for by name that cannot be measured.
    """
    if permutations < 1:
        raise ConfigError(f"a permutation null needs at least one permutation, got {permutations}.")
    if distributed.ranks().world_size > 1:
        raise ConfigError("alignment metrics are measured by one process; start the command without torchrun.")
    chosen = METRICS.choose(metrics)
    # Read at the door: what is wrong in a file is reported before hours of work.
    if ratings is not None:
        read_ratings(ratings)
    records, features, folder = read_study(study), load_features(study / "features"), AlignmentFolder(study)
    if labels is not None:
        read_labels(labels, n_columns(features.acts.acts))
    items = tuple(records.items.values())
    model = OpenedModel(open_model, records.provenance)
    missing = _missing(items, features, open_model=open_model, ratings=ratings, judge=judge, reasoning=reasoning)
    concept_labels: ConceptLabels | None = None
    if any(on_concepts in metric.depends_on for metric in chosen):
        concept_labels, reason = _concept_labels(concepts, analyser, items, features)
        if concept_labels is None:
            missing["concepts"] = reason
    for metric in chosen:
        if metric.name in metrics and (lacking := metric.unmet(missing)):
            raise ConfigError(f"{metric.name} cannot be measured: {missing[lacking[0]]}")
    groups, notes = _groups(records, sae)
    wanted = choose_controls(controls)
    folder.hold()
    collected = {
        name: _control(name, model, missing, items, features, folder, collect=name in wanted) for name in CONTROLS
    }
    inputs = Inputs(
        items=items,
        features=features,
        results=tuple(records.results[item.id] for item in items),
        groups=groups,
        permutations=permutations,
        seed=seed,
        concepts=concept_labels,
        controls={name: control for name, control in collected.items() if control is not None},
        open_model=None if open_model is None else model.get,
        ratings=ratings,
        labels=labels,
        judge=judge,
        embedder=embedder,
        embedder_name=embedder_name,
        folder=folder.path,
        settings=settings or MetricSettings(),
        study=study_identity(records.provenance, features),
        threads=threads,
    )
    found = measure_metrics(chosen, inputs, folder, missing=missing, force=force, on_metric=on_metric)
    write_alignment_report(study, absent=found.absent, notes=notes)
    return AlignmentRun(
        folder=folder.path,
        metrics=tuple(folder.metrics),
        measured=tuple(found.measured),
        skipped=tuple(found.skipped),
        absent=found.absent,
        changed=found.changed,
        notes=tuple(notes),
    )


def measure_metrics(
    chosen: Iterable[Metric],
    inputs: Inputs,
    folder: AlignmentFolder,
    *,
    missing: Mapping[Need, str] | None = None,
    force: bool = False,
    on_metric: OnMetric | None = None,
) -> MeasuredMetrics:
    """Measure what is not measured yet, those that need the model last, each written to the folder when it is done."""
    tell = on_metric or (lambda _name, _what: None)
    missing, found = missing or {}, MeasuredMetrics()
    for metric in sorted(chosen, key=lambda m: "model" in m.needs):
        if lacking := metric.unmet(missing):
            found.absent[metric.name] = f"{metric.title} (#{metric.number}) was not measured: {missing[lacking[0]]}"
            tell(metric.name, f"absent: {missing[lacking[0]]}")
            continue
        settings = dependencies(metric, inputs)
        different = folder.changed(metric, settings)
        if different == [] and not force:
            found.skipped.append(metric.name)
            tell(metric.name, "skip")
            continue
        if different:
            found.changed[metric.name] = tuple(different)
        tell(metric.name, f"again: {'; '.join(different)}" if different else "measure")
        begin = perf_counter()
        folder.write(metric, settings, metric.measure(inputs), perf_counter() - begin)
        found.measured.append(metric.name)
    return found


def study_identity(provenance: Provenance, features: CollectedFeatures) -> dict[str, Any]:
    """`Inputs.study` of a study: the items and the collected features, by their hashes."""
    return {"items": provenance.data["sha256"], "features": json_sha256(features.manifest["shards"])}


def _missing(
    items: Sequence[McqItem],
    features: CollectedFeatures,
    *,
    open_model: Opener | None,
    ratings: Path | None,
    judge: Any,
    reasoning: bool,
) -> dict[Need, str]:
    """What no metric can have, and why; concepts are looked for by the caller."""
    missing: dict[Need, str] = {}
    if open_model is None:
        missing["model"] = "nothing that runs the model was asked for."
    if not reasoning:
        missing["reasoning"] = "the model was not said to generate reasoning."
    if int(np.count_nonzero(features.has_explanation)) < 2:
        missing["explanations"] = "fewer than two items have an explanation."
    if not any(item.question_spans for item in items):
        missing["spans"] = "no question has annotated spans."
    if ratings is None:
        missing["ratings"] = "no file of ratings was given."
    if judge is None and open_model is None:
        missing["labels"] = "no judge of feature labels was given, and nothing that runs the model was asked for."
    return missing


def _concept_labels(
    given: str, analyser: str, items: Sequence[McqItem], features: CollectedFeatures
) -> tuple[ConceptLabels | None, str]:
    """The labels, or None and why."""
    annotated = given == ANNOTATED
    if annotated and not any(item.question_spans for item in items):
        return None, "no question has annotated spans."
    concepts = load_lexicon() if annotated or given == LEXICON else load_concepts(given)
    try:
        return label_concepts(items, features.texts, ConceptMatcher(concepts, analyser), annotated=annotated), ""
    except DataError as error:
        return None, str(error)


def _groups(records: StudyFolder, sae: str | None) -> tuple[dict[str, Any], list[str]]:
    """The study's own groups: the list of left-out items is that of the SAE."""
    listed = records.provenance.settings.get("left_out")
    if listed is None or records.provenance.sae is None:
        return {}, []
    try:
        ids = load_sae(sae or str(records.provenance.sae["source"])).left_out_ids
    except ReleaseError as error:
        return {}, [f"Items left out of the SAE's training text are not distinguished: {error}"]
    if ids is None or json_sha256(sorted(ids)) != listed:
        return {}, [
            "Items left out of the SAE's training text are not distinguished: the SAE's list is not the study's."
        ]
    groups, notes = item_groups(list(records.items.values()), ids)
    return dict(groups), notes


def _control(
    name: Control,
    model: OpenedModel,
    missing: Mapping[Need, str],
    items: Sequence[McqItem],
    features: CollectedFeatures,
    folder: AlignmentFolder,
    *,
    collect: bool,
) -> CollectedFeatures | None:
    """The control as it lies in the folder; collected first where it does not and is wanted."""
    target = folder.path / "controls" / name
    if (found := collected_control(target)) is not None:
        if found.acts.item_ids != features.acts.item_ids:
            raise StudyError(f"{target} contains a control of other items; delete it.")
        return found
    if not collect:
        return None
    if "model" in missing:
        raise ConfigError(
            f"the control {name} cannot be collected: {missing['model'].rstrip('.')}; let the model run (without "
            "--no-model), for the metrics that you name."
        )
    opener = model.fresh if name == "random_model" else model.get
    return collect_control(name, opener, items, features, target)
