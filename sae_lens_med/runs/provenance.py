"""Where a result comes from, and what changed between two results that should be one.

`identity` is the part of a provenance that decides the numbers: model, weights of the SAE, items, settings, seed. Batch
size and device do not belong to it, so that a run stopped by a full memory may go on with smaller batches; nor do the
names under which the same data, SAE and template were given, so that a moved file is still the same file.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from sae_lens_med.errors import StudyError
from sae_lens_med.records import Provenance

PACKAGES = ("sae-lens-med", "sae-lens", "transformer-lens", "transformers", "torch", "numpy", "scipy")
NOT_IDENTITY = ("batch_tokens", "device", "endpoint")
"""Settings that do not change a result."""
NAMES = (
    *("sae.source", "sae.sae_id", "sae.trained_on", "data.source", "data.split", "data.licence", "data.bad_rows"),
    *("data.reading", "data.ignored_columns", "data.notes", "settings.template"),
)
"""What a thing is called, beside the hash that says what it is."""
SHOWN = 8
"""Changes that a refusal names."""
_ABSENT: Any = object()


class SaeIdentity(Protocol):
    """What is recorded of an SAE: `saes.releases.LoadedSae` has it."""

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def trained_on(self) -> Any: ...


class DataIdentity(Protocol):
    """What is recorded of the data: `data.rows.LoadedItems` has it."""

    @property
    def source(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def sha256(self) -> str: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def items(self) -> Sequence[Any]: ...
    @property
    def bad_rows(self) -> Sequence[Any]: ...
    @property
    def ignored_columns(self) -> Sequence[str]: ...
    @property
    def reading(self) -> Mapping[str, Any]: ...
    @property
    def notes(self) -> Sequence[str]: ...


def versions() -> dict[str, str]:
    """Of `PACKAGES` and Python; `not installed` for code that runs from a folder without its distribution."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": platform.python_version()}


def make_provenance(
    model: Mapping[str, Any], sae: SaeIdentity | None, data: DataIdentity, settings: Mapping[str, Any], seed: int
) -> Provenance:
    """The provenance of a result made now. `model` is `MedBridge.provenance`; `settings` is everything that the user
    chose, defaults included."""
    about_sae = None
    if sae is not None:
        about_sae = {**sae.identity, "trained_on": sae.trained_on}
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        model=dict(model),
        sae=about_sae,
        data={
            "source": data.source,
            "split": data.split,
            "sha256": data.sha256,
            "n_items": len(data.items),
            "bad_rows": len(data.bad_rows),
            "ignored_columns": list(data.ignored_columns),
            "reading": dict(data.reading),
            "licence": data.licence,
            "notes": list(data.notes),
        },
        settings=dict(settings),
        seed=seed,
    )


def identity(provenance: Provenance) -> dict[str, Any]:
    """`{"model.sha256": ..., "settings.shots": ..., "seed": ...}`, flat, with the names in `NAMES`, too."""
    values = provenance.to_dict()
    flat: dict[str, Any] = {"seed": values["seed"]}
    for part in ("model", "sae", "data", "settings"):
        for key, value in (values[part] or {}).items():
            if not (part == "settings" and key in NOT_IDENTITY):
                flat[f"{part}.{key}"] = value
    return flat


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One `name: old -> new` per value that differs between two identities, in the order of the names.

    What stands under `b` in the mapping `a` is `a.b`. Empty when only `NAMES` differ; beside a real change of the same
    part, they say what was changed to what. Values are compared as JSON gives them back: a tuple is a list.
    """
    different = _differences(_as_json(old), _as_json(new))
    parts = {name.split(".")[0] for name in different if not any(f"{name}.".startswith(f"{n}.") for n in NAMES)}
    return [f"{name}: {change}" for name, change in different.items() if name.split(".")[0] in parts]


def require_same(where: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that what lies at `where`, of the identity `old`, may go on as `new`. Raises `StudyError`."""
    if different := changes(old, new):
        more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise StudyError(
            f"{where} was started with other settings ({'; '.join(different[:SHOWN])}{more}); choose another "
            "folder, use the settings that it was started with, or delete it to start again."
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key in sorted({*old, *new}):
        a, b = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = f"{_shown(a)} -> {_shown(b)}"
    return found


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(values)))


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, str) and len(value) == 64:  # a SHA-256
        return value[:12]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
