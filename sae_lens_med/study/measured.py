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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.metrics.inputs import Measured
from sae_lens_med.metrics.metric import Metric
from sae_lens_med.records import MetricValue
from sae_lens_med.runs.files import write_json, write_text

FORMAT = 1
FOLDER = "alignment"


class AlignmentFolder:
    """The folder `alignment/` of a study; it need not exist yet."""

    def __init__(self, study: Path) -> None:
        """Raises `StudyError` when the folder holds something damaged or of another format."""
        self.study = study
        self.path = study / FOLDER
        self.done: dict[str, dict[str, Any]] = {}
        self.metrics: list[MetricValue] = []
        self.notes: dict[str, list[str]] = {}
        if not (self.path / "manifest.json").exists():
            return
        try:
            manifest = self._read("manifest.json")
            if manifest["format"] != FORMAT:
                raise StudyError(
                    f"{self.path / 'manifest.json'} has format {manifest['format']!r}, this version reads {FORMAT}; "
                    f"delete {self.path} and measure again."
                )
            self.done = {str(name): dict(entry) for name, entry in manifest["metrics"].items()}
            self.metrics = [MetricValue.from_dict(values) for values in self._read("metrics.json")]
            self.notes = {str(name): [str(n) for n in notes] for name, notes in self._read("notes.json").items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise StudyError(f"{self.path} is damaged ({error}); delete it and measure again.") from error

    def changed(self, metric: Metric, settings: Mapping[str, Any]) -> list[str] | None:
        """What differs from the settings a metric was measured with (empty: nothing); None when it was not measured."""
        entry = self.done.get(metric.name)
        if entry is None:
            return None
        old, new = _flat(entry["settings"]), _flat(_as_json(settings))
        return [
            f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]

    def write(self, metric: Metric, settings: Mapping[str, Any], measured: Measured, seconds: float) -> None:
        """Put what was measured in the place of what the metric gave before."""
        for name, value in measured.files.items():
            target = self.path / name
            write_json(target, value) if name.endswith(".json") else write_text(target, str(value))
        kept = [value for value in self.metrics if not metric.owns(value.name)]
        self.metrics = [*kept, *measured.metrics]
        self.notes[metric.name] = list(measured.notes)
        self.done.pop(metric.name, None)
        self._write_manifest()
        write_json(self.path / "metrics.json", [value.to_dict() for value in self.metrics])
        write_json(self.path / "notes.json", self.notes)
        self.done[metric.name] = {
            "settings": _as_json(settings),
            "done": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            "files": sorted(measured.files),
        }
        self._write_manifest()

    def read_file(self, name: str) -> Any:
        """The JSON value of a file that a metric wrote; None when it is not there."""
        return self._read(name) if (self.path / name).is_file() else None

    def _write_manifest(self) -> None:
        write_json(self.path / "manifest.json", {"format": FORMAT, "metrics": self.done})

    def _read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As a file gives them back: tuples become lists."""
    return json.loads(json.dumps(dict(settings)))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With `a.b` for what stands under `b` in the value `a`, so that a change is told by the part that changed."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{part}": own for part, own in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
