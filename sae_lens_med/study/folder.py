"""Reads a study folder back into checked records: what the report and the web interface show.

`manifest.json`, `questions.jsonl`, `items.jsonl` and `metrics.json` must be there. `alignment.safetensors`,
`item_features.json` and `examples.json` may be missing (a study without explanations has none). Whatever is there must
be whole: a damaged file, an id that the questions do not know, or arrays that contradict the metrics are refused.

Out of scope: the collected features (`features.store` reads them) and writing anything.
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue, Provenance, Record
from sae_lens_med.study import verdict

_AGREEMENT_TOLERANCE = 1e-3
"""Between the stored arrays (float32) and the metric made from them; far below any difference that matters."""

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True, slots=True)
class TopContext(Record):
    """One text in which a feature is strongly active."""

    value: float
    """Activation at the token, > 0."""
    item_id: str
    part: str
    before: str
    token: str
    after: str

    def __post_init__(self) -> None:
        texts = (self.item_id, self.part, self.before, self.token, self.after)
        if not _is_number(self.value) or not all(isinstance(text, str) for text in texts):
            raise DataError("a context needs a number as its value and strings in its other fields")


@dataclass(frozen=True, slots=True)
class FeatureUse(Record):
    """One feature's pooled activation in an item's question and in its explanation, both >= 0."""

    feature: int
    stem: float
    explanation: float

    def __post_init__(self) -> None:
        if not isinstance(self.feature, int) or not _is_number(self.stem) or not _is_number(self.explanation):
            raise DataError("a feature needs its index and two activations")


@dataclass(frozen=True, slots=True)
class ShownItem(Record):
    """The features of one item that the report shows, strongest first."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "shared": FeatureUse,
        "stem_only": FeatureUse,
        "explanation_only": FeatureUse,
    }

    id: str
    shared: tuple[FeatureUse, ...]
    stem_only: tuple[FeatureUse, ...]
    explanation_only: tuple[FeatureUse, ...]
    masked: dict[str, int] | None = None
    """What was masked in this item before comparing, and how many; None when it was not stored per item."""


@dataclass(frozen=True, slots=True, eq=False)
class Similarities:
    """Arrays behind the headline alignment number (SAE features)."""

    matched: npt.NDArray[np.float32]
    """`[n]`: similarity of each question to its own explanation."""
    mismatched_mean: npt.NDArray[np.float32]
    """`[n]`: mean similarity to the other explanations of the stratum."""
    null: npt.NDArray[np.float32]
    """`[B]`: the mean difference under permutation."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyFolder:
    """All that a report needs of a study folder, checked."""

    folder: Path
    provenance: Provenance
    stages: dict[str, dict[str, Any]]
    """Per finished stage, `done` (ISO 8601) and `seconds`."""
    notes: tuple[str, ...]
    items: dict[str, McqItem]
    """By id, in the order of `questions.jsonl`."""
    results: dict[str, ItemResult]
    """By id; the same ids as `items`."""
    metrics: tuple[MetricValue, ...]
    contexts: dict[int, tuple[TopContext, ...]]
    """Per feature, strongest first; empty when `examples.json` is missing."""
    shown: tuple[ShownItem, ...]
    """Empty when `item_features.json` is missing."""
    similarities: Similarities | None
    """None when `alignment.safetensors` is missing."""


def read_study(study: Path) -> StudyFolder:
    """Read and check a study folder. Raises `StudyError` naming the file and what is wrong with it."""
    require_study(study)
    provenance, stages, notes = read_about(study)
    items = read_questions(study)
    results = read_answers(study, items)
    metrics = read_metrics(study)
    contexts: dict[int, tuple[TopContext, ...]] = {}
    if (study / "examples.json").exists():
        raw_examples = _json(study / "examples.json")
        contexts = _checked(
            study / "examples.json",
            lambda: {int(k): tuple(TopContext.from_dict(c) for c in listed) for k, listed in raw_examples.items()},
        )
    shown: tuple[ShownItem, ...] = ()
    if (study / "item_features.json").exists():
        raw_shown = _json(study / "item_features.json")
        shown = _checked(
            study / "item_features.json", lambda: tuple(ShownItem.from_dict(values) for values in raw_shown)
        )
        for entry in shown:
            if entry.id not in items:
                raise StudyError(
                    f"{study / 'item_features.json'}: the item {entry.id!r} is not in questions.jsonl; "
                    "run the study again."
                )
    similarities = _similarities(study / "alignment.safetensors", metrics)
    return StudyFolder(study, provenance, stages, notes, items, results, metrics, contexts, shown, similarities)


def require_study(study: Path) -> None:
    """Raises `StudyError` for a folder with neither manifest nor questions: no study that lost a file, but another
    folder, or none."""
    if not any((study / name).is_file() for name in ("manifest.json", "questions.jsonl")):
        command = shlex.join(["sae-lens-med", "study", "--output", str(study)])
        raise StudyError(f"{study} is not a study folder: run `{command}` first.")


def read_about(study: Path) -> tuple[Provenance, dict[str, dict[str, Any]], tuple[str, ...]]:
    """What `manifest.json` says: where the study comes from, its finished stages, its notes. Raises `StudyError`."""
    path = study / "manifest.json"
    manifest = _json(path)
    return _checked(path, lambda: _manifest(manifest))


def read_questions(study: Path) -> dict[str, McqItem]:
    """The items of `questions.jsonl` by id, in its order. Raises `StudyError`."""
    return _by_id(study / "questions.jsonl", _records(study / "questions.jsonl", McqItem))


def read_answers(study: Path, items: Mapping[str, McqItem]) -> dict[str, ItemResult]:
    """The results of `items.jsonl` by id: one for each of `items`. Raises `StudyError`."""
    results = _by_id(study / "items.jsonl", _records(study / "items.jsonl", ItemResult))
    for item_id, result in results.items():
        if item_id not in items:
            raise StudyError(
                f"{study / 'items.jsonl'}: the item {item_id!r} is not in questions.jsonl; run the study again."
            )
        _checked(study / "items.jsonl", lambda item_id=item_id, result=result: _check_result(items[item_id], result))
    if missing := [item_id for item_id in items if item_id not in results]:
        raise StudyError(
            f"{study / 'items.jsonl'}: {len(missing)} of {len(items)} items have no result, {missing[0]!r} first; "
            "run the study again; finished stages are skipped."
        )
    return results


def read_metrics(study: Path) -> tuple[MetricValue, ...]:
    """What the stages of a study measured: `metrics.json`, and #1 and #2 from `alignment/metrics.json`, which a study
    of 0.1.0 has in its `metrics.json`."""
    metrics = _metrics(study / "metrics.json")
    measured = study / "alignment" / "metrics.json"
    if (
        any(metric.name == verdict.DIFFERENCE or metric.name == verdict.MRR for metric in metrics)
        or not measured.exists()
    ):
        return metrics
    stages = (verdict.DIFFERENCE, "alignment/retrieval")
    return (*metrics, *(metric for metric in _metrics(measured) if metric.name.startswith(stages)))


def _metrics(path: Path) -> tuple[MetricValue, ...]:
    raw_metrics = _json(path)
    return _checked(path, lambda: tuple(_metric(values) for values in raw_metrics))


def _manifest(values: Any) -> tuple[Provenance, dict[str, dict[str, Any]], tuple[str, ...]]:
    if not isinstance(values, dict):
        raise DataError("it is not an object")
    if values["format"] != 1:
        raise DataError(f"its format is {values['format']!r}, but this version reads format 1")
    provenance = Provenance.from_dict(values["provenance"])
    tables = (provenance.versions, provenance.model, provenance.data, provenance.settings, provenance.sae or {})
    if not all(isinstance(table, dict) for table in tables):
        raise DataError("versions, model, sae, data and settings must be objects")
    if not isinstance(provenance.model.get("name"), str) or not isinstance(provenance.data.get("source"), str):
        raise DataError("provenance needs model.name and data.source")
    stages = {
        str(name): {"done": str(stage["done"]), "seconds": stage["seconds"]} for name, stage in values["stages"].items()
    }
    if not all(_is_number(stage["seconds"]) for stage in stages.values()):
        raise DataError("a stage's seconds are not a number")
    return provenance, stages, tuple(str(note) for note in values["notes"])


def _metric(values: Any) -> MetricValue:
    metric = MetricValue.from_dict(values)
    if not all(
        isinstance(text, str) for text in (metric.name, metric.group, metric.variant, metric.unit, metric.notes)
    ):
        raise DataError(f"metric {metric.name!r}: name, group, variant, unit and notes must be strings")
    if not isinstance(metric.masked, dict) or not isinstance(metric.extra, dict):
        raise DataError(f"metric {metric.name!r}: masked and extra must be objects")
    numbers = [metric.value, *(metric.interval or ()), *(metric.null_interval or ()), *metric.extra.values()]
    numbers += [x for x in (metric.null_mean, metric.p) if x is not None]
    if not all(_is_number(x) for x in numbers):
        raise DataError(f"metric {metric.name!r} contains something that is not a number")
    for name, pair in (("interval", metric.interval), ("null_interval", metric.null_interval)):
        if pair is not None and len(pair) != 2:
            raise DataError(f"metric {metric.name!r}: {name} needs 2 numbers, but has {len(pair)}")
    return metric


def _check_result(item: McqItem, result: ItemResult) -> None:
    letters = OPTION_LETTERS[: len(item.options)]
    if result.gold != item.gold_letter:
        raise DataError(f"item {item.id!r} has gold {result.gold!r} here and {item.gold_letter!r} in questions.jsonl")
    if result.prediction is not None and (len(result.prediction) != 1 or result.prediction not in letters):
        raise DataError(f"item {item.id!r}: the prediction {result.prediction!r} is not one of its options {letters}")
    logprobs = result.option_logprobs
    if logprobs is not None and (len(logprobs) != len(letters) or not all(_is_number(x) for x in logprobs)):
        raise DataError(f"item {item.id!r} needs {len(letters)} option_logprobs, one number per option")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _similarities(path: Path, metrics: Sequence[MetricValue]) -> Similarities | None:
    if not path.exists():
        return None
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StudyError(f"{path} is damaged ({error}); delete it and run the study again.") from error
    if missing := [name for name in ("matched", "mismatched_mean", "null") if name not in arrays]:
        raise StudyError(f"{path} has no array {missing[0]!r}; delete it and run the study again.")
    matched, mismatched, null = arrays["matched"], arrays["mismatched_mean"], arrays["null"]
    sound = matched.ndim == null.ndim == 1 and matched.shape == mismatched.shape and matched.size and null.size
    if not sound or not all(np.isfinite(a).all() for a in (matched, mismatched, null)):
        raise StudyError(
            f"{path}: matched {matched.shape}, mismatched_mean {mismatched.shape} and null {null.shape} must be "
            "non-empty lists of finite numbers, the first two of equal length; delete it and run the study again."
        )
    metric = verdict.find(metrics, verdict.DIFFERENCE, "all", "sae")
    difference = float(np.mean(matched.astype(np.float64) - mismatched))
    if metric is not None and abs(metric.value - difference) > _AGREEMENT_TOLERANCE:
        raise StudyError(
            f"{path} gives a mean difference of {difference:.4f} but metrics.json says {metric.value:.4f}: they are "
            "from different runs; delete both and run the study again."
        )
    return Similarities(matched, mismatched, null)


def _records(path: Path, kind: type[_R]) -> list[_R]:
    listed: list[_R] = []
    for n, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {n}"
            values = _parse(where, line)
            listed.append(_checked(where, lambda values=values: kind.from_dict(values)))
    if not listed:
        raise StudyError(f"{path} is empty; run the study again.")
    return listed


def _by_id(path: Path, records: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records:
        if record.id in found:
            raise StudyError(f"{path}: the id {record.id!r} appears twice; run the study again.")
        found[record.id] = record
    return found


def _json(path: Path) -> Any:
    return _parse(path, _read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StudyError(f"{path} is missing; run the study again; finished stages are skipped.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read ({error}); run the study again.") from error


def _parse(where: Path | str, text: str) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{where} is not valid JSON ({error}); run the study again.") from error


def _checked(where: Path | str, make: Callable[[], _T]) -> _T:
    """`make()`, any shape that it does not accept turned into one sentence that names the file."""
    try:
        return make()
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise StudyError(f"{where} is damaged: {reason}; run the study again.") from error
