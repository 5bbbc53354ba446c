"""`STUDY/alignment/`: the measured values, and with which settings each metric was measured.

    manifest.json    per metric: settings, when, how long, the files it wrote; the format
    metrics.json     list of `MetricValue`; a metric's values are replaced when it is measured again
    notes.json       per metric, what was not measured and why
    report.md/.html, features.md, and what the metrics wrote: concepts.json, ...

A metric counts as finished when `manifest.json` says so, which is written last: an interruption leaves a metric as it
was before, or unmeasured. All files are replaced atomically.

Out of scope: collected controls (`controls/NAME/`, `features.store`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.metrics.metric import Measured, Metric
from sae_lens_med.records import MetricValue
from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.provenance import changes

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
        self._load()

    def hold(self) -> None:
        """Be the one that writes here (`RunFolder.hold`), and know what another process has written meanwhile."""
        before = self._run.values
        self._run.hold()
        if self._run.values is not before:
            self._load()

    def _load(self) -> None:
        self.done = self._run.parts
        if not self.done:
            return
        try:
            self.metrics = [MetricValue.from_dict(values) for values in self._read("metrics.json")]
            self.notes = {str(name): [str(n) for n in notes] for name, notes in self._read("notes.json").items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise StudyError(f"{self.path} is damaged ({error}); delete it and measure again.") from error

    def changed(self, metric: Metric, settings: Mapping[str, Any]) -> list[str] | None:
        """What differs from the settings a metric was measured with (empty: nothing); None when it was not measured."""
        entry = self.done.get(metric.name)
        if entry is None:
            return None
        return changes(entry["settings"], settings)

    def write(self, metric: Metric, settings: Mapping[str, Any], measured: Measured, seconds: float) -> None:
        """Put what was measured in the place of what the metric gave before."""
        self.hold()
        for name, value in measured.files.items():
            target = self.path / name
            write_json(target, value) if name.endswith(".json") else write_text(target, str(value))
        kept = [value for value in self.metrics if not metric.owns(value.name)]
        self.metrics = [*kept, *measured.metrics]
        self.notes[metric.name] = list(measured.notes)
        self.done.pop(metric.name, None)
        self._run.write()
        write_json(self.path / "metrics.json", [value.to_dict() for value in self.metrics])
        write_json(self.path / "notes.json", self.notes)
        self._run.finish(metric.name, seconds, settings=dict(settings), files=sorted(measured.files))

    def read_file(self, name: str) -> Any:
        """The JSON value of a file that a metric wrote; None when it is not there."""
        return self._read(name) if (self.path / name).is_file() else None

    def _read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))
