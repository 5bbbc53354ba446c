"""What `study` and `align` measured, feature by feature and case by case, as pages show it.

    alignment.safetensors        per case: similarity of the question to its own explanation, and to others (#2)
    alignment/verdicts.csv       per feature: the 2 x 2, what switching it off does, and what stand-ins do (#16)
    alignment/concepts.json      per concept: its features with their AUROC (#4)
    alignment/causal_items.json  per case: what removing the shared features does, and what removing others does (#7)
    alignment/labels.json        labels that `align` was given, or made of concepts (#13)

Each may be missing or damaged: the others are shown, and `missing` says what makes it. A file of `alignment/` that is
not what its metric wrote does not count (`study.measured`).

The interval of an AUROC is that of Hanley and McNeil (1982); it does not know that the feature was chosen.
"""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sae_lens_med.app.index_files import study_command
from sae_lens_med.app.views import Alignment, Band, ConceptScore, Missing, Verdict
from sae_lens_med.errors import StudyError
from sae_lens_med.runs.arrays import ArrayFile
from sae_lens_med.runs.parsing import ParseError, read_json, read_text
from sae_lens_med.study.measured import AlignmentFolder

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_SIMILARITIES = ("matched", "mismatched_mean", "items")


@dataclass(frozen=True, slots=True)
class TestedFeature:
    """A feature of the verdicts."""

    verdict: Verdict | None
    """None where one of the two tests was not made."""
    effect: float | None
    band: Band | None


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept and the features that tell it."""

    id: str
    forms: tuple[str, ...]
    """How it is written."""
    features: tuple[tuple[int, ConceptScore], ...]
    """Best first."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Of one study."""

    cases: Mapping[int, Alignment] = field(default_factory=dict)
    """By the number of the case."""
    tested: Mapping[int, TestedFeature] = field(default_factory=dict)
    """By feature; empty where no verdicts were measured."""
    concepts: tuple[Concept, ...] = ()
    comprehensiveness: Mapping[int, float] = field(default_factory=dict)
    """By the number of the case: above that of random features; see `CaseRow.comprehensiveness`."""
    labels: Mapping[int, str] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()

    def concepts_of(self, feature: int) -> tuple[ConceptScore, ...]:
        """Those that list the feature, the one that it tells best first."""
        found = [score for concept in self.concepts for own, score in concept.features if own == feature]
        return tuple(sorted(found, key=lambda score: (-score.auroc, score.concept)))


def read_aligned(study: Path, ids: Sequence[str], d_sae: int | None) -> Aligned:
    """What there is. `ids`: of the study's items, in order."""
    missing: list[Missing] = []
    cases = _cases(study, len(ids), missing)
    again = shlex.join(["sae-lens-med", "align", str(study)])
    if not (study / "alignment").is_dir():
        missing += [Missing(f"missing.{what}", again) for what in ("verdicts", "concepts")]
        return Aligned(cases=cases, missing=tuple(missing))
    try:
        folder = AlignmentFolder(study)
    except StudyError as error:
        missing += [Missing(f"missing.{what}", again, str(error)) for what in ("concepts", "verdicts")]
        return Aligned(cases=cases, missing=tuple(missing))
    read = _Reader(folder, again, d_sae, missing)
    tested = read.file("verdicts", "verdicts.csv", _tested, {})
    concepts = read.file("concepts", "concepts.json", lambda path: _concepts(path, len(ids)), ())
    labels = read.file("labels", "labels.json", _labels, {}, wanted=False)
    removed = read.file(
        "comprehensiveness", "causal_items.json", lambda path: _removed(path, ids), {}, wanted=False, by_feature=False
    )
    return Aligned(cases, tested, concepts, removed, labels, tuple(missing))


@dataclass(frozen=True, slots=True)
class _Reader:
    folder: AlignmentFolder
    command: str
    d_sae: int | None
    missing: list[Missing]

    def file(
        self, metric: str, name: str, read: Any, none: Any, *, wanted: bool = True, by_feature: bool = True
    ) -> Any:
        """What `read` makes of a file of a metric; `none`, and a note, where it is missing, changed or damaged."""
        reason = self.folder.broken.get(metric, "")
        if metric in self.folder.done:
            try:
                found = read(self.folder.path / name)
                if by_feature and self.d_sae is not None and any(not 0 <= f < self.d_sae for f in _features(found)):
                    raise ValueError(f"it names features that the SAE's {self.d_sae} do not hold")
                return found
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
                reason = f"{self.folder.path / name} is damaged: {said}."
        if wanted or reason:
            self.missing.append(Missing(f"missing.{metric}", self.command, reason))
        return none


def _features(found: Any) -> Sequence[int]:
    if isinstance(found, Mapping):
        return list(found)
    return [feature for concept in found for feature, _ in concept.features]


def _cases(study: Path, n: int, missing: list[Missing]) -> dict[int, Alignment]:
    path = study / "alignment.safetensors"
    again = study_command(study)
    if not path.is_file():
        missing.append(Missing("missing.alignment", again))
        return {}
    try:
        file = ArrayFile.open(path)
        if lacking := [name for name in _SIMILARITIES if name not in file.places]:
            raise ParseError(
                f"it has no {' and no '.join(lacking)}, as earlier versions wrote it; delete it, and it is made again"
            )
        matched, mismatched, items = (file.read(name) for name in _SIMILARITIES)
        if not matched.shape == mismatched.shape == items.shape or not ((items >= 0) & (items < n)).all():
            raise ParseError("its numbers are not those of the study's items")
    except ParseError as error:
        missing.append(Missing("missing.alignment", again, f"{path}: {error}."))
        return {}
    rank = np.empty(len(items), dtype=np.int64)
    rank[np.argsort(-(matched - mismatched), kind="stable")] = np.arange(1, len(items) + 1)
    return {
        int(item): Alignment(float(own), float(other), int(place), len(items))
        for item, own, other, place in zip(items, matched, mismatched, rank, strict=True)
    }


def _tested(path: Path) -> dict[int, TestedFeature]:
    found = {}
    for row in csv.DictReader(io.StringIO(read_text(path))):
        verdict = row["verdict"]
        if verdict not in (*VERDICTS, "untested"):
            raise ValueError(f"{verdict!r} is no verdict")
        low, high = (_number(row.get(name)) for name in ("band_low", "band_high"))
        band = None if low is None or high is None else Band(low, high, int(row["comparators"]))
        found[int(row["feature"])] = TestedFeature(
            verdict=next((name for name in VERDICTS if name == verdict), None),
            effect=_number(row["effect"]),
            band=band,
        )
    return found


def _number(cell: str | None) -> float | None:
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None


def _concepts(path: Path, n_items: int) -> tuple[Concept, ...]:
    found = []
    for row in read_json(path):
        n = int(row["questions"])
        scores = tuple(
            (
                int(own["feature"]),
                ConceptScore(row["concept"], own["auroc"], auroc_interval(own["auroc"], n, n_items - n), n),
            )
            for own in row["features"]
        )
        found.append(Concept(str(row["concept"]), tuple(str(form) for form in row["forms"]), scores))
    return tuple(found)


def _removed(path: Path, ids: Sequence[str]) -> dict[int, float]:
    numbers = {item_id: number for number, item_id in enumerate(ids)}
    return {numbers[row["id"]]: float(row["comprehensiveness"]) - float(row["random_mean"]) for row in read_json(path)}


def _labels(path: Path) -> dict[int, str]:
    return {int(feature): str(label) for feature, label in read_json(path).items()}


def auroc_interval(auroc: float, n_with: int, n_without: int) -> tuple[float, float] | None:
    """95 % interval of an AUROC in [0, 1] over so many rows with and without the label (Hanley & McNeil 1982), cut at
    0 and 1; None without rows on one side."""
    if n_with < 1 or n_without < 1:
        return None
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (n_with - 1) * (q1 - auroc**2) + (n_without - 1) * (q2 - auroc**2)
    half = 1.959964 * math.sqrt(max(variance, 0.0) / (n_with * n_without))
    return max(0.0, auroc - half), min(1.0, auroc + half)
