"""Finished study -> `STUDY/alignment/`: every metric that was asked for and that can be measured, then the report.

Metrics that need arrays alone come first, those that run the model last. A metric that was measured with the same
settings is not measured again; with other settings it is, and what changed is said. What cannot be measured is a
sentence, unless it was asked for by name: then it is an error.

The model and the SAE are those of the study's manifest, opened only when something needs them, and refused when their
weights are others than the study's.

Out of scope: making the study (`study`), and several processes: metrics are measured by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sae_lens_med import distributed
from sae_lens_med.alignment.labels.scores import read_labels
from sae_lens_med.alignment.ratings import read_ratings
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import load_concepts, load_lexicon
from sae_lens_med.controls.collect import CONTROLS, Control, choose_controls, collect_control, collected_control
from sae_lens_med.errors import ConfigError, DataError, ReleaseError, StudyError
from sae_lens_med.features.store import CollectedFeatures, load_features
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.inputs import ConceptLabels, Embedder, Inputs, ModelSide, Need, label_concepts
from sae_lens_med.metrics.metric import ALL, BY_NAME, Metric, choose, unmet
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import file_sha256, json_sha256
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.saes.releases import load_sae
from sae_lens_med.study.alignment_report import write_alignment_report
from sae_lens_med.study.folder import StudyFolder, read_study
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.run import item_groups

LEXICON, ANNOTATED = "lexicon", "annotated"
USE_CONCEPTS = {"concepts", "labels", "spans", "reasoning"}
"""Needs of the metrics that use concepts where there are some."""
Opener = Callable[[Provenance], ModelSide]


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
    on_metric: Callable[[str, str], None] | None = None,
) -> AlignmentRun:
    """Measure alignment metrics of a finished study, and write their report.

    Args:
        study: a folder of `run_study`.
        metrics: names of `registry.METRICS`; `all` for every one that can be measured.
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
    chosen = choose(metrics)
    records = read_study(study)
    folder = AlignmentFolder(study)
    features = load_features(study / "features")
    items = tuple(records.items.values())
    tell = on_metric or (lambda _name, _what: None)
    missing: dict[Need, str] = {}
    notes: list[str] = []

    # Read at the door: what is wrong in a file is said before hours of work.
    if ratings is not None:
        read_ratings(ratings)
    if labels is not None:
        read_labels(labels, n_columns(features.acts.acts))
    sides = _Opened(open_model, records.provenance)
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
    wants_concepts = any(USE_CONCEPTS & set(metric.needs) for metric in chosen)
    concept_labels, reason = _concept_labels(concepts, analyser, items, features) if wants_concepts else (None, "")
    if concept_labels is None:
        missing["concepts"] = reason
    for metric in chosen:
        if metric.name in metrics and (lacking := unmet(metric, missing)):
            raise ConfigError(f"{metric.name} cannot be measured: {missing[lacking[0]]}")
    groups, group_notes = _groups(records, sae)
    notes += group_notes

    control_features: dict[str, CollectedFeatures] = {}
    wanted_controls = choose_controls(controls)
    for name in CONTROLS:
        found_control = _control(name, sides, missing, items, features, folder, collect=name in wanted_controls)
        if found_control is not None:
            control_features[name] = found_control
    inputs = Inputs(
        items=items,
        features=features,
        results=tuple(records.results[item.id] for item in items),
        groups=groups,
        permutations=permutations,
        seed=seed,
        concepts=concept_labels,
        controls=control_features,
        ratings=ratings,
        labels=labels,
        judge=judge,
        embedder=embedder,
        embedder_name=embedder_name,
        folder=folder.path,
        settings=settings or MetricSettings(),
        missing=missing,
        threads=threads,
    )
    measured: list[str] = []
    skipped: list[str] = []
    absent: dict[str, str] = {}
    changed: dict[str, tuple[str, ...]] = {}
    for metric in sorted(chosen, key=lambda m: "model" in m.needs):
        if lacking := unmet(metric, missing):
            absent[metric.name] = f"{metric.title} (#{metric.number}) was not measured: {missing[lacking[0]]}"
            tell(metric.name, f"absent: {missing[lacking[0]]}")
            continue
        depends_on = _depends_on(metric, inputs, records, features)
        different = folder.changed(metric, depends_on)
        if different == [] and not force:
            skipped.append(metric.name)
            tell(metric.name, "skip")
            continue
        if different:
            changed[metric.name] = tuple(different)
        tell(metric.name, f"again: {'; '.join(different)}" if different else "measure")
        own_judge = "labels" in metric.needs and judge is None
        if inputs.model is None and ("model" in metric.needs or own_judge):
            inputs = replace(inputs, model=sides.get())
        begin = perf_counter()
        found = metric.measure(_with_reasoning(inputs) if "reasoning" in metric.needs else inputs)
        folder.write(metric, depends_on, found, perf_counter() - begin)
        measured.append(metric.name)
    write_alignment_report(study, absent=absent, notes=notes)
    return AlignmentRun(
        folder=folder.path,
        metrics=tuple(folder.metrics),
        measured=tuple(measured),
        skipped=tuple(skipped),
        absent=absent,
        changed=changed,
        notes=tuple(notes),
    )


def _with_reasoning(inputs: Inputs) -> Inputs:
    """The same inputs with the model's reasoning, run now or read from an interrupted run, and, where concepts are
    known, with what moving each concept does."""
    from sae_lens_med.alignment.causal_items import concept_effects
    from sae_lens_med.alignment.reasoning import ReasonedItem
    from sae_lens_med.alignment.reasoning_runs import run_reasoning
    from sae_lens_med.models.engine import Engine

    side, folder = inputs.model, inputs.folder
    assert side is not None  # the metric needs the model, which is open by now
    assert folder is not None  # set for every study
    most = inputs.settings.reasoning_items
    order = inputs.rng("reasoning items").permutation(len(inputs.items))[:most]
    items = [inputs.items[i] for i in sorted(order.tolist())]
    identity = {
        "model": dict(side.model.provenance),
        "items": [item.to_dict() for item in items],
        "shots": [shot.id for shot in side.shots],
        "seed": inputs.seed,
    }
    kept = PartialResults(folder / f"reasoning.{json_sha256(identity)[:12]}.jsonl", identity)
    runs = run_reasoning(
        Engine(side.model, batch_tokens=side.batch_tokens),
        items,
        shots=side.shots,
        seed=inputs.seed,
        progress=side.progress,
        done=kept.records(ReasonedItem),
        on_results=kept.append,
    )
    inputs = replace(inputs, reasoned=runs)
    if inputs.concepts is not None:
        moved, _ = concept_effects(inputs)
        number = {item.id: i for i, item in enumerate(inputs.items)}
        of = np.array([number[name] for name in moved.items], dtype=np.int64)
        inputs = replace(inputs, moved=(moved.effect, of, moved.names))
    return inputs


class _Opened:
    """The model and the SAE, opened once, on first use."""

    def __init__(self, opener: Opener | None, provenance: Provenance) -> None:
        self.opener = opener
        self.provenance = provenance
        self._side: ModelSide | None = None

    def fresh(self) -> ModelSide:
        """Another copy, that may be altered."""
        if self.opener is None:
            raise ConfigError("the model is needed, but nothing that runs it was asked for; leave --no-model out.")
        side = self.opener(self.provenance)
        _require_same(side, self.provenance)
        return side

    def get(self) -> ModelSide:
        """The model as it is; do not alter it."""
        if self._side is None:
            self._side = self.fresh()
        return self._side


def _require_same(side: ModelSide, provenance: Provenance) -> None:
    theirs, sae = side.model.provenance, provenance.sae or {}
    for key in ("sha256", "revision", "dtype"):
        if key in provenance.model and theirs.get(key) != provenance.model[key]:
            raise StudyError(
                f"the study was made with the model {provenance.model['name']!r} of {key} "
                f"{str(provenance.model[key])[:12]}, but {theirs['name']!r} has {str(theirs.get(key))[:12]}; name the "
                "study's model with --model."
            )
    if [shot.id for shot in side.shots] != list(provenance.settings.get("shots", [])):
        raise StudyError(
            "the solved examples before each question of the study are not those of its data now; give the data that "
            "the study names."
        )
    if side.loaded_sae.sha256 != sae.get("sha256"):
        raise StudyError(
            f"the study was made with the SAE {sae.get('source')!r}, but {side.loaded_sae.source!r} has other weights; "
            "name the study's SAE with --sae."
        )


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
    said = records.provenance.settings.get("left_out")
    if said is None or records.provenance.sae is None:
        return {}, []
    try:
        ids = load_sae(sae or str(records.provenance.sae["source"])).left_out_ids
    except ReleaseError as error:
        return {}, [f"Items left out of the SAE's training text are not told apart: {error}"]
    if ids is None or json_sha256(sorted(ids)) != said:
        return {}, ["Items left out of the SAE's training text are not told apart: the SAE's list is not the study's."]
    groups, notes = item_groups(list(records.items.values()), ids)
    return dict(groups), notes


def _control(
    name: Control,
    sides: _Opened,
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
            raise StudyError(f"{target} holds a control of other items; delete it.")
        return found
    if not collect:
        return None
    if "model" in missing:
        raise ConfigError(
            f"the control {name} cannot be collected: {missing['model'].rstrip('.')}; let the model run (without "
            "--no-model), for the metrics that you name."
        )
    opener = sides.fresh if name == "random_model" else sides.get
    return collect_control(name, opener, items, features, target)


def _depends_on(metric: Metric, inputs: Inputs, records: StudyFolder, features: CollectedFeatures) -> dict[str, Any]:
    """Everything that a metric's values depend on."""
    settings: dict[str, Any] = {
        "permutations": inputs.permutations,
        "seed": inputs.seed,
        "items": records.provenance.data["sha256"],
        "features": json_sha256(features.manifest["shards"]),
        "groups": json_sha256({name: np.flatnonzero(mask).tolist() for name, mask in inputs.groups.items()}),
    }
    if "model" not in metric.needs:
        # Metrics that run the model have nulls of their own.
        settings["controls"] = {
            name: json_sha256(control.manifest["shards"]) for name, control in inputs.controls.items()
        }
    if USE_CONCEPTS & set(metric.needs) and inputs.concepts is not None:
        settings["concepts"] = inputs.concepts.identity
    if "embeddings" in metric.needs:
        settings["embedder"] = inputs.embedder_name
    if "ratings" in metric.needs and inputs.ratings is not None:
        settings["ratings"] = file_sha256(inputs.ratings)
    if {"model", "labels", "reasoning"} & set(metric.needs):
        settings["options"] = asdict(inputs.settings)
        settings["results"] = json_sha256([result.to_dict() for result in inputs.results])
    if "labels" in metric.needs:
        settings["labels"] = None if inputs.labels is None else file_sha256(inputs.labels)
        settings["judge"] = getattr(inputs.judge, "name", None)
    return settings


def names() -> tuple[str, ...]:
    """The names that `metrics` may hold, `all` first."""
    return (ALL, *BY_NAME)
