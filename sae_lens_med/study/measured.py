"""`STUDY/alignment/`: the measured values, and with which settings each metric was measured.

    manifest.json    per metric: settings, when, how long, the files it wrote with their hashes, the hash of its values
    metrics.json     list of `MetricValue`; a metric's values are replaced when it is measured again
    notes.json       per metric, what was not measured and why
    report.md/.html, features.md, and what the metrics wrote: concepts.json, ...

A metric counts as finished when `manifest.json` says so, which is written last: an interruption leaves a metric as it
was before, or unmeasured. All files are replaced atomically. A metric whose values or files are not what it wrote does
not count, so that it is measured again.

Out of scope: collected controls (`controls/NAME/`, `features.store`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError
from sae_lens_med.metrics.metric import Measured, Metric
from sae_lens_med.records import MetricValue
from sae_lens_med.runs.files import json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.provenance import changes
from sae_lens_med.runs.written import hashes, not_as_written

FOLDER = "alignment"


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is common to all metrics: each is measured again when what it depends on has changed."""
    if not all(isinstance(entry["settings"], dict) for entry in manifest["metrics"].values()):
        raise ValueError("a metric's settings are not an object")
    return {}


KIND = Kind(
    "alignment",
    format=1,
    identity=_identity,
    parts="metrics",
    leftovers=lambda _names: True,  # controls and partial results come before the first metric
    together=False,
)


class AlignmentFolder:
    """The folder `alignment/` of a study; it need not exist yet."""

    def __init__(self, study: Path) -> None:
        """Raises `StudyError` when the folder holds something damaged or of another format."""
        self.study = study
        self.path = study / FOLDER
        self.metrics: list[MetricValue] = []
        self.notes: dict[str, list[str]] = {}
        self._run = RunFolder(self.path, KIND, {"metrics": {}})
        self.done = self._run.parts
        self.broken: dict[str, str] = {}
        """Metrics that were measured and do not count, and why."""
        if not self.done:
            return
        try:
            self.metrics = [MetricValue.from_dict(values) for values in self._read("metrics.json")]
            self.notes = {str(name): [str(n) for n in notes] for name, notes in self._read("notes.json").items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            self.metrics, self.notes = [], {}
            self.broken = dict.fromkeys(self.done, f"metrics.json or notes.json is missing or damaged ({error})")
        self.broken |= {name: why for name, entry in self.done.items() if (why := self._not_as_written(entry))}
        for name in self.broken:
            del self.done[name]

    def _not_as_written(self, entry: Mapping[str, Any]) -> str:
        """What of a metric is missing or was changed since it was written; empty where nothing is."""
        # Folders of 0.1.0 list the files without hashes, and no values.
        files = entry["files"] if isinstance(entry["files"], dict) else {}
        for file, state in not_as_written(self.path, files).items():
            return f"{file} {state}"
        if "values" in entry and _sha256(self._of(entry["values"]["names"])) != entry["values"]["sha256"]:
            return "its values in metrics.json were changed since they were written"
        return ""

    def _of(self, names: Sequence[str]) -> list[MetricValue]:
        return [value for value in self.metrics if value.name in names]

    def hold(self) -> None:
        """Be the one that writes here (`RunFolder.hold`)."""
        self._run.hold()

    def changed(self, metric: Metric, settings: Mapping[str, Any]) -> list[str] | None:
        """Why a metric is measured again: what differs from its settings, or is not as it was written (empty: nothing);
        None when it was not measured."""
        if metric.name in self.broken:
            return [self.broken[metric.name]]
        entry = self.done.get(metric.name)
        if entry is None:
            return None
        return changes(entry["settings"], settings)

    def write(self, metric: Metric, settings: Mapping[str, Any], measured: Measured, seconds: float) -> None:
        """Put what was measured in the place of what the metric gave before."""
        for name, value in measured.files.items():
            target = self.path / name
            write_json(target, value) if name.endswith(".json") else write_text(target, str(value))
        at = next((i for i, value in enumerate(self.metrics) if metric.owns(value.name)), len(self.metrics))
        kept = [value for value in self.metrics if not metric.owns(value.name)]
        self.metrics = [*kept[:at], *measured.metrics, *kept[at:]]
        self.notes[metric.name] = list(measured.notes)
        self.done.pop(metric.name, None)
        self.broken.pop(metric.name, None)
        self._run.write()
        write_json(self.path / "metrics.json", [value.to_dict() for value in self.metrics])
        write_json(self.path / "notes.json", self.notes)
        names = sorted({value.name for value in measured.metrics})
        self._run.finish(
            metric.name,
            seconds,
            settings=dict(settings),
            files=hashes(self.path, measured.files),
            values={"names": names, "sha256": _sha256(self._of(names))},
        )

    def read_file(self, name: str) -> Any:
        """The JSON value of a file that a metric wrote; None when it is not there."""
        return self._read(name) if (self.path / name).is_file() else None

    def _read(self, name: str) -> Any:
        return read_json(self.path / name)


def _sha256(values: Sequence[MetricValue]) -> str:
    return json_sha256([value.to_dict() for value in values])
