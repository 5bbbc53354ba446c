"""The main job: items + model + SAE -> a study folder with every number, and its report.

    collect    features/                       SAE features of every token of questions and explanations
    evaluate   items.jsonl, metrics.json       the model's answers (the model alone, no SAE attached) and accuracy
    align      alignment.safetensors, item_features.json, metrics.json
               similarity of question and explanation features, with nulls and baselines
    examples   examples.json                   top contexts of the features that the report shows
    report     report.md, report.html

`manifest.json` is written first and says where the study comes from and which stages are done; each stage writes its
files atomically and is skipped when the study is run again. A study whose model, SAE, data, settings or seed differ
from those of the folder is refused, naming what changed.

Several processes (`distributed`) share the stages that run the model, collect and evaluate; rank 0 does the others and
writes everything but the shards.

Groups. `left_out`: items whose id the SAE's release lists as kept out of its training text. `trained_on`: the other
items of a data set of which some are left out (that data set is then a source of the training text). Items of data sets
with no left-out item belong to neither: nothing says that the SAE has seen them.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sae_lens_med import distributed
from sae_lens_med.alignment import align
from sae_lens_med.data import LoadedItems, mask_leakage
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.evaluation.accuracy import accuracy_metrics
from sae_lens_med.evaluation.letter import evaluate_letters
from sae_lens_med.features.collect import collect
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import load_features
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.records import BoolArray, ItemResult, McqItem, MetricValue, Provenance, require_unique_ids
from sae_lens_med.runs.files import atomic_path, json_sha256, write_json, write_text
from sae_lens_med.runs.partial import PartialResults, read_results, write_results
from sae_lens_med.runs.provenance import changes, identity, make_provenance
from sae_lens_med.saes.releases import LoadedSae
from sae_lens_med.study.report import write_report

FORMAT = 1
STAGES = ("collect", "evaluate", "align", "examples", "report")
MODEL_STAGES = ("collect", "evaluate")
"""The stages that run the model, and so are shared by all processes."""
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
    on_stage: Callable[[str, bool], None] | None = None,
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
        on_stage: called as each stage begins with its name and whether it is skipped.

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
    on_stage: Callable[[str, bool], None] | None,
) -> StudyResult:
    if permutations < 1 or n_shown < 0 or (batch_tokens is not None and batch_tokens < 1):
        raise ConfigError(
            "a study needs permutations >= 1, n_shown >= 0 and batch_tokens >= 1, "
            f"got {permutations}, {n_shown} and {batch_tokens}."
        )
    require_unique_ids(data.items, data.source)
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
    with distributed.first_before_the_others():
        study = _Study(output, provenance, data.items)
    groups, group_notes = item_groups(data.items, loaded_sae.left_out_ids)
    features_folder = output / "features"

    def run_collect() -> list[str]:
        collect(
            model,
            loaded_sae,
            data.items,
            output=features_folder,
            batch_tokens=batch_tokens,
            shots=shots,
            progress=progress,
        )
        return [*group_notes, *data.bad_rows]

    def run_evaluate() -> list[str]:
        partial = PartialResults(output / "items.partial.jsonl", identity(study.provenance))
        results = evaluate_letters(
            model,
            data.items,
            shots=shots,
            batch_tokens=batch_tokens,
            progress=progress,
            done=partial.done,
            on_results=partial.append,
        )
        if distributed.ranks().first:
            metrics = accuracy_metrics(data.items, results, groups=groups, permutations=permutations, seed=seed)
            study.write_metrics(metrics, "accuracy")
            write_results(output / "items.jsonl", results)
            partial.remove()
        return []

    def run_align() -> list[str]:
        features = load_features(features_folder)
        aligned = align(features, data.items, groups=groups, permutations=permutations, seed=seed)
        similarity: dict[str, float] = {}
        if aligned.detail is not None:
            similarity = dict(zip(aligned.detail_ids, aligned.detail.matched.tolist(), strict=True))
            with atomic_path(output / "alignment.safetensors") as temporary:
                save_file(aligned.arrays, temporary)
        shown = choose_shown(data.items, read_results(output / "items.jsonl"), similarity, n_shown)
        by_id = {entry["id"]: entry for entry in aligned.item_features}
        items = {item.id: item for item in data.items}
        write_json(output / "item_features.json", [{**by_id[i], "masked": _masked(items[i])} for i in shown])
        study.write_metrics(aligned.metrics, "alignment/")
        return list(aligned.notes)

    def run_examples() -> list[str]:
        shown = json.loads((output / "item_features.json").read_text(encoding="utf-8"))
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
    skipped = study.run(work, on_stage)
    notes = distributed.broadcast_object(study.notes)  # the others wait here until rank 0 has written the report
    return StudyResult(
        folder=output,
        provenance=study.provenance,
        metrics=tuple(study.read_metrics()),
        results=tuple(read_results(output / "items.jsonl")),
        skipped=skipped,
        notes=tuple(notes),
    )


def item_groups(
    items: Sequence[McqItem], left_out_ids: Collection[str] | None
) -> tuple[dict[str, BoolArray], list[str]]:
    """`left_out` and `trained_on` as `[n_items]` bools (see the module), each only where it has items; and notes.

    `left_out_ids` is the release's list; None where the SAE says nothing about it.
    """
    if left_out_ids is None:
        return {}, ["The SAE does not say which items its training text left out, so they are not reported apart."]
    left_out = np.array([item.id in left_out_ids for item in items], dtype=bool)
    sources = {_data_set(item) for item, is_out in zip(items, left_out, strict=True) if is_out}
    trained_on = np.array([_data_set(item) in sources for item in items], dtype=bool) & ~left_out
    groups = {name: mask for name, mask in (("left_out", left_out), ("trained_on", trained_on)) if mask.any()}
    if groups:
        return groups, []
    return {}, ["None of the items is listed as left out of the SAE's training text, so groups are not reported apart."]


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


def _data_set(item: McqItem) -> tuple[str | None, str | None]:
    return item.provenance.get("dataset"), item.provenance.get("split")


def _masked(item: McqItem) -> dict[str, int]:
    if item.explanation is None:
        return {}
    masked = mask_leakage(item)
    return {
        "option_text_chars": masked.n_option_chars,
        "stem_quote_chars": masked.n_stem_chars,
        "answer_marks": masked.n_answer_marks,
    }


class _Study:
    """The folder of a study: its manifest, and which stages are done."""

    def __init__(self, folder: Path, provenance: Provenance, items: Sequence[McqItem]) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"
        self.stages: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.provenance = provenance
        if self.manifest.exists():
            self._resume(provenance)
        else:
            self._begin()
        if not (folder / "questions.jsonl").exists():
            lines = (json.dumps(item.to_dict(), ensure_ascii=False) + "\n" for item in items)
            write_text(folder / "questions.jsonl", "".join(lines))

    def _begin(self) -> None:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"{folder} is a file; give a folder as output.")
        # What an interruption before the manifest may leave is our own.
        if folder.is_dir() and any(not p.name.startswith(".manifest.json.") for p in folder.iterdir()):
            raise StudyError(f"{folder} is not empty and holds no study; give an empty or a new folder as output.")
        self._write()

    def _resume(self, provenance: Provenance) -> None:
        try:
            values = json.loads(self.manifest.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise StudyError(f"{self.manifest} has format {values['format']!r}, this version reads {FORMAT}.")
            self.provenance = Provenance.from_dict(values["provenance"])
            self.stages, self.notes = dict(values["stages"]), list(values["notes"])
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{self.manifest} is damaged ({error}); delete the folder or give another output."
            ) from error
        if different := changes(identity(self.provenance), identity(provenance)):
            raise StudyError(
                f"{self.folder} holds a study with other settings ({'; '.join(different)}); "
                "give another output folder, or the settings it was begun with."
            )
        if self.provenance.versions != provenance.versions and not set(STAGES) <= set(self.stages):
            old, new = self.provenance.versions, provenance.versions
            moved = [f"{k} {old.get(k)} -> {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
            self._note([f"Continued with other versions: {', '.join(moved)}."])

    def run(
        self, work: Mapping[str, Callable[[], list[str]]], on_stage: Callable[[str, bool], None] | None
    ) -> tuple[str, ...]:
        """Do what is not done, in the order of `STAGES`; return the stages that were."""
        skipped = tuple(name for name in STAGES if name in self.stages)
        for name in STAGES:
            if on_stage is not None:
                on_stage(name, name in skipped)
            if name in skipped:
                continue
            if name not in MODEL_STAGES and not distributed.ranks().first:
                continue
            start = perf_counter()
            self._note(work[name]())
            self.stages[name] = {
                "done": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(perf_counter() - start, 2),
            }
            self._write()
        return skipped

    def read_metrics(self) -> list[MetricValue]:
        path = self.folder / "metrics.json"
        if not path.exists():
            return []
        return [MetricValue.from_dict(values) for values in json.loads(path.read_text(encoding="utf-8"))]

    def write_metrics(self, metrics: Sequence[MetricValue], prefix: str) -> None:
        """Put `metrics` in the place of those whose name begins with `prefix`."""
        kept = [metric for metric in self.read_metrics() if not metric.name.startswith(prefix)]
        write_json(self.folder / "metrics.json", [metric.to_dict() for metric in [*kept, *metrics]])

    def _note(self, notes: Sequence[str]) -> None:
        self.notes = list(dict.fromkeys([*self.notes, *notes]))

    def _write(self) -> None:
        if not distributed.ranks().first:
            return
        write_json(
            self.manifest,
            {
                "format": FORMAT,
                "provenance": self.provenance.to_dict(),
                "stages": self.stages,
                "notes": self.notes,
            },
        )
