"""The main job: items + model + SAE -> a study folder with every number, and its report.

    collect    features/                       SAE features of every token of questions and explanations
    evaluate   items.jsonl, metrics.json       the model's answers (the model alone, no SAE attached) and accuracy
    align      alignment/, alignment.safetensors, item_features.json
               similarity of question and explanation features, with nulls and baselines (metrics #1 and #2)
    examples   examples.json                   top contexts of the features that the report shows
    report     report.md, report.html, report.ko.md, report.ko.html

`manifest.json` is written first and says where the study comes from, which stages are done, and the hash of each file
that they wrote. Each stage writes its files atomically and is skipped when the study is run again, unless a file of it
is missing or not what it wrote: then it is made again, and said, and so are the later stages where its files came out
otherwise. A study whose model, SAE, data, settings or seed differ from those of the folder is refused, naming what
changed.

Several processes (`distributed`) share the stages that run the model, collect and evaluate; rank 0 does the others and
writes everything but the shards.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sae_lens_med import distributed
from sae_lens_med.alignment.difference import DIFFERENCE, difference_by_item
from sae_lens_med.alignment.item_features import item_features
from sae_lens_med.alignment.retrieval import RETRIEVAL
from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.data import LoadedItems, mask_leakage
from sae_lens_med.errors import ConfigError, listed
from sae_lens_med.evaluation.accuracy import accuracy_metrics
from sae_lens_med.evaluation.methods import run_method
from sae_lens_med.features.collect import collect, require_fit
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import load_features, nothing_fires, repair
from sae_lens_med.features.vectors import explained_items
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.records import (
    ItemResult,
    McqItem,
    MetricValue,
    Provenance,
    require_explanation_sources,
    require_options,
    require_unique_ids,
)
from sae_lens_med.runs.files import atomic_path, json_sha256, write_json, write_jsonl
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.partial import PartialResults, read_results, write_results
from sae_lens_med.runs.provenance import changes, identity, make_provenance
from sae_lens_med.runs.written import hashes, not_as_written
from sae_lens_med.saes.releases import LoadedSae
from sae_lens_med.study.folder import read_metrics
from sae_lens_med.study.groups import item_groups
from sae_lens_med.study.measure import measure_metrics, study_identity
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.report import REPORTS, write_report


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(manifest["stages"], dict) or not isinstance(manifest["notes"], list):
        raise ValueError("stages must be an object and notes a list")
    return identity(Provenance.from_dict(manifest["provenance"]))


KIND = Kind("study", format=1, identity=_identity, parts="stages", bound=lambda _, manifest: bool(manifest["stages"]))
STAGES = ("collect", "evaluate", "align", "examples", "report")
MODEL_STAGES = ("collect", "evaluate")
"""The stages that run the model, and so are shared by all processes."""
WRITES = {
    "collect": ("features/manifest.json", "features/shard-*"),
    "evaluate": ("metrics.json", "items.jsonl"),
    "align": ("alignment.safetensors", "item_features.json"),
    "examples": ("examples.json",),
    "report": REPORTS,
}
"""Files of each stage. What `align` leaves in `alignment/` is shared with the command `align`, whose folder knows what
it wrote."""
READS = {
    "collect": (),
    "evaluate": (),
    "align": ("collect", "evaluate"),
    "examples": ("collect", "align"),
    "report": ("collect", "evaluate", "align", "examples"),
}
"""Stages whose files each stage reads."""
STAGE_METRICS = (RETRIEVAL, DIFFERENCE)
"""What `align` measures here; the command of that name measures the others."""
SHOTS = "settings.shots"
CONTEXTS = 8
"""Contexts kept for each feature that the report shows."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What `run_study` returns; all of it is in `folder`, too."""

    folder: Path
    provenance: Provenance
    metrics: tuple[MetricValue, ...]
    results: tuple[ItemResult, ...]
    """In the order of the items."""
    skipped: tuple[str, ...]
    """Stages that an earlier run had finished."""
    notes: tuple[str, ...]

    @property
    def report_md(self) -> Path:
        return self.folder / "report.md"

    @property
    def report_html(self) -> Path:
        return self.folder / "report.html"


def run_study(
    model: MedBridge,
    loaded_sae: LoadedSae,
    data: LoadedItems,
    output: Path,
    *,
    shots: Sequence[McqItem] = (),
    permutations: int = 2000,
    seed: int = 0,
    n_shown: int = 6,
    batch_tokens: int | None = None,
    progress: bool = True,
    on_stage: Callable[[str, str], None] | None = None,
) -> StudyResult:
    """Run what is missing of the study in `output`, and return all of it.

    Args:
        model: from `load_model`.
        loaded_sae: from `load_sae`, trained on `model`.
        data: from `load_items`, without the `shots` (`prompts.shots.choose_shots`).
        output: a new or empty folder, or that of this same study.
        shots: solved examples before every question, for the answers and for the features.
        permutations: B of every permutation null, >= 1.
        seed: of permutations and bootstrap.
        n_shown: how many items the report shows in full, >= 0 (`choose_shown`).
        batch_tokens: the most tokens of one forward pass, padding included; does not change the results.
        progress: show bars on stderr.
        on_stage: called as each stage begins with its name and `run`, `skip` or `again: REASON`.

    Raises `StudyError` when the folder holds something else, or a study whose model, SAE, data or settings differ;
    `DistributedError` when another process of the job ended.
    """
    with distributed.initialised():
        return _run_study(
            model,
            loaded_sae,
            data,
            output,
            shots,
            permutations=permutations,
            seed=seed,
            n_shown=n_shown,
            batch_tokens=batch_tokens,
            progress=progress,
            on_stage=on_stage,
        )


def _run_study(
    model: MedBridge,
    loaded_sae: LoadedSae,
    data: LoadedItems,
    output: Path,
    shots: Sequence[McqItem],
    *,
    permutations: int,
    seed: int,
    n_shown: int,
    batch_tokens: int | None,
    progress: bool,
    on_stage: Callable[[str, str], None] | None,
) -> StudyResult:
    if permutations < 1 or n_shown < 0 or (batch_tokens is not None and batch_tokens < 1):
        raise ConfigError(
            "a study needs permutations >= 1, n_shown >= 0 and batch_tokens >= 1, "
            f"got {permutations}, {n_shown} and {batch_tokens}."
        )
    require_unique_ids(data.items, data.source)
    require_options(data.items, "a study")
    require_explanation_sources(data.items, data.source)
    require_fit(model, data.items, shots)
    settings = {
        "method": "option_letter",
        "shots": [shot.id for shot in shots],
        "permutations": permutations,
        "n_shown": n_shown,
        # Not part of the weights, but it decides the groups.
        "left_out": None if loaded_sae.left_out_ids is None else json_sha256(sorted(loaded_sae.left_out_ids)),
        "batch_tokens": batch_tokens,
        "device": str(model.cfg.device),
    }
    provenance = make_provenance(model.provenance, loaded_sae, data, settings, seed)
    run = RunFolder(output, KIND, {"provenance": provenance.to_dict(), "stages": {}, "notes": []})
    run.hold()
    if run.replaces is not None and distributed.ranks().first:
        _take_away(output, run.replaces, provenance)
    run.begin()
    begun = Provenance.from_dict(run.values["provenance"])
    if not set(STAGES) <= set(run.parts):
        run.note(_moved(begun.versions, provenance.versions))
    if distributed.ranks().first:
        write_jsonl(output / "questions.jsonl", (item.to_dict() for item in data.items))
    groups, group_notes = item_groups(data.items, loaded_sae.left_out_ids)
    features_folder = output / "features"

    def run_collect() -> list[str]:
        with distributed.first_before_the_others():
            if distributed.ranks().first:
                repair(features_folder)
        collect(
            model,
            loaded_sae,
            data.items,
            output=features_folder,
            batch_tokens=batch_tokens,
            shots=shots,
            progress=progress,
        )
        silent = nothing_fires(features_folder) if distributed.ranks().first else None
        nothing = _nothing_left(data.items, features_folder) if distributed.ranks().first else []
        ignored = [f"Columns of the data that nothing reads: {', '.join(data.ignored_columns)}."]
        n_left_out = [f"{len(data.bad_rows)} rows or items of the data were left out."]
        return [
            *group_notes,
            *data.notes,
            *(n_left_out if data.bad_rows else []),
            *data.bad_rows,
            *(ignored if data.ignored_columns else []),
            *([silent] if silent else []),
            *nothing,
        ]

    def run_evaluate() -> list[str]:
        partial = PartialResults(output / "items.partial.jsonl", identity(begun))
        results = run_method(
            Engine(model, batch_tokens=batch_tokens),
            data.items,
            shots=shots,
            progress=progress,
            done=partial.records(ItemResult),
            on_results=partial.append,
        )
        if distributed.ranks().first:
            metrics = accuracy_metrics(data.items, results, groups=groups, permutations=permutations, seed=seed)
            write_json(output / "metrics.json", [metric.to_dict() for metric in metrics])
            write_results(output / "items.jsonl", results)
            partial.remove()
        return []

    def run_align() -> list[str]:
        features, results = load_features(features_folder), read_results(output / "items.jsonl")
        inputs = Inputs(
            items=tuple(data.items),
            features=features,
            results=tuple(results),
            groups=groups,
            permutations=permutations,
            seed=seed,
            study=study_identity(begun, features),
        )
        if inputs.explained_groups:
            measure_metrics(STAGE_METRICS, inputs, AlignmentFolder(output))
        similarity: dict[str, float] = {}
        if (by_item := difference_by_item(inputs)) is not None:
            ids, difference = by_item
            similarity = dict(zip(ids, difference.matched.tolist(), strict=True))
            place = {item.id: i for i, item in enumerate(data.items)}
            numbers = np.array([place[i] for i in ids], dtype=np.int32)
            with atomic_path(output / "alignment.safetensors") as temporary:
                save_file({**difference.arrays, "items": numbers}, temporary)
        shown = choose_shown(data.items, results, similarity, n_shown)
        by_id = {entry["id"]: entry for entry in item_features(inputs)}
        items = {item.id: item for item in data.items}
        write_json(output / "item_features.json", [{**by_id[i], "masked": _masked(items[i])} for i in shown])
        return list(inputs.view(Similarities).notes)

    def run_examples() -> list[str]:
        shown = read_json(output / "item_features.json")
        kinds = ("shared", "stem_only", "explanation_only")
        wanted = sorted({use["feature"] for entry in shown for kind in kinds for use in entry[kind]})
        contexts = top_contexts(load_features(features_folder), k=CONTEXTS)
        found = {
            str(feature): [
                {
                    "value": float(context.value),
                    "item_id": context.item_id,
                    "part": context.part,
                    "before": context.before,
                    "token": context.token,
                    "after": context.after,
                }
                for context in contexts.get(feature, [])
            ]
            for feature in wanted
        }
        write_json(output / "examples.json", found)
        return []

    def run_report() -> list[str]:
        write_report(output)
        return []

    work: dict[str, Callable[[], list[str]]] = {
        "collect": run_collect,
        "evaluate": run_evaluate,
        "align": run_align,
        "examples": run_examples,
        "report": run_report,
    }
    skipped = _run_stages(run, work, on_stage)
    # The others wait here until rank 0 has written the report.
    notes = distributed.broadcast_object(run.values["notes"])
    return StudyResult(
        folder=output,
        provenance=begun,
        metrics=read_metrics(output),
        results=tuple(read_results(output / "items.jsonl")),
        skipped=skipped,
        notes=tuple(notes),
    )


def choose_shown(
    items: Sequence[McqItem], results: Sequence[ItemResult], similarity: Mapping[str, float], n: int
) -> list[str]:
    """Ids of the `n` items that a report shows, in the order chosen; the same inputs give the same items.

    Half are answered correctly (one more where n is odd), half not; where one side has too few, the other fills up.
    On each side, in turn, the item with the highest `similarity` to its own explanation and the one at the median of
    its side; among the subjects shown least often so far, so that one subject does not fill the report. Items with a
    measured similarity come first, then those with an explanation, then the others.
    """
    order = {item.id: (-similarity.get(item.id, -np.inf), item.explanation is None, i) for i, item in enumerate(items)}
    subject = {item.id: item.subject for item in items}
    right = sorted((r.id for r in results if r.correct is True), key=order.__getitem__)
    other = sorted((r.id for r in results if r.correct is not True), key=order.__getitem__)
    n_right = min(len(right), max((n + 1) // 2, n - len(other)))
    used: Counter[str] = Counter()
    chosen: list[str] = []
    for side, quota in ((right, n_right), (other, min(len(other), n - n_right))):
        n_measured = sum(i in similarity for i in side)
        rank = {item_id: k for k, item_id in enumerate(side)}
        left = list(side)
        for turn in range(quota):
            target = 0 if turn % 2 == 0 else n_measured // 2
            # Tiers first (measured, explained, neither), then a fresh subject, then nearness to the wanted rank.
            best = min(
                left,
                key=lambda i: (i not in similarity, order[i][1], used[subject[i]], abs(rank[i] - target), rank[i]),  # noqa: B023 - called at once
            )
            left.remove(best)
            used[subject[best]] += 1
            chosen.append(best)
    return chosen


def _nothing_left(items: Sequence[McqItem], folder: Path) -> list[str]:
    """The items with an explanation that are left out of the alignment because nothing of a text counts, by id."""
    features = load_features(folder)
    compared = explained_items(features)
    notes = []
    for what, left in (
        ("the masks leave nothing of the explanation", ~features.has_explanation),
        ("no token of the question counts", features.has_explanation & ~compared),
    ):
        ids = [item.id for item, out in zip(items, left, strict=True) if out and item.explanation is not None]
        if ids:
            notes.append(f"{len(ids)} items are left out of the alignment, because {what}: {listed(ids)}.")
    return notes


def _masked(item: McqItem) -> dict[str, int]:
    if item.explanation is None:
        return {}
    masked = mask_leakage(item)
    return {
        "option_text_chars": masked.n_option_chars,
        "stem_quote_chars": masked.n_stem_chars,
        "answer_marks": masked.n_answer_marks,
    }


def _run_stages(
    run: RunFolder, work: Mapping[str, Callable[[], list[str]]], on_stage: Callable[[str, str], None] | None
) -> tuple[str, ...]:
    """Do what is not done or not whole, in the order of `STAGES`; return the stages that were."""
    skipped: list[str] = []
    remade: list[str] = []
    for name in STAGES:
        # Rank 0 looks: the others may not see its disk.
        state = distributed.broadcast_object(_state(run, name, remade) if distributed.ranks().first else "")
        if on_stage is not None:
            on_stage(name, state)
        if state == "skip":
            skipped.append(name)
        if state == "skip" or (name not in MODEL_STAGES and not distributed.ranks().first):
            continue
        if state != "run":
            run.note([f"The stage {name} was made {state}."])
        start, before = perf_counter(), run.parts.get(name, {}).get("files")
        run.note(work[name]())
        if name in MODEL_STAGES:
            distributed.barrier()  # all have written
        if distributed.ranks().first:
            files = hashes(run.path, WRITES[name])
            about = {"metrics": _stage_metrics(run.path)} if name == "align" else {}
            run.finish(name, perf_counter() - start, files=files, **about)
            if files != before:
                remade.append(name)
    return tuple(skipped)


def _state(run: RunFolder, name: str, remade: Sequence[str]) -> str:
    """Of a stage: `skip` where it is whole, `run` where it was not done, `again: REASON`."""
    if name not in run.parts:
        return "run"
    if others := [other for other in READS[name] if other in remade]:
        return f"again: what {' and '.join(others)} gave is new"
    written = run.parts[name].get("files", {})
    for file, state in not_as_written(run.path, written).items():
        return f"again: {file} {state}"
    there_too = _stage_metrics(run.path) if name == "align" else []
    for metric in run.parts[name].get("metrics", ()):
        if metric not in there_too:
            return f"again: {metric} is missing or was changed in alignment/ since it was measured"
    return "skip" if written else "again: its files were not recorded"


def _stage_metrics(folder: Path) -> list[str]:
    """Which of the metrics of the stage `align` are measured and whole."""
    done = AlignmentFolder(folder).done
    return [metric.name for metric in STAGE_METRICS if metric.name in done]


def _take_away(output: Path, manifest: Mapping[str, Any], provenance: Provenance) -> None:
    """Delete what a run with other settings that finished no stage left here, but for features that are the same."""
    (output / "questions.jsonl").unlink(missing_ok=True)
    of_features = [
        {key: value for key, value in each.items() if key.startswith(("model.", "sae.", "data.")) or key == SHOTS}
        for each in (_identity(manifest), identity(provenance))
    ]
    if changes(*of_features):
        shutil.rmtree(output / "features", ignore_errors=True)


def _moved(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """A note on versions that are others than those that the study was begun with."""
    moved = [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return [f"Continued with other versions: {', '.join(moved)}."] if moved else []
