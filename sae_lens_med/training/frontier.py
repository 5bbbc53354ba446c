"""Sparsity against reconstruction over finished runs: the L0 / explained-variance frontier as a table and a plot.

A run is a folder that training wrote (`recipe.yaml`, `metrics.json`, `cfg.json`). Runs whose recipes differ in the
sparsity coefficient alone (`l1_coefficient`, `k`, ...) make one curve; each hook has a panel of its own. Everything is
read from what training measured on held-out text; nothing is computed again.

Out of scope: training (`sweep.py`), and what the metrics mean (`metrics.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.errors import ConfigError
from sae_lens_med.escaping import markdown, markdown_head, markdown_row
from sae_lens_med.plots import describe_frontier, frontier_panels, svg
from sae_lens_med.runs.files import json_sha256, write_json, write_text
from sae_lens_med.runs.parsing import read_json, read_yaml
from sae_lens_med.training.recipe import current_keys

SPARSITY_KEYS = ("l1_coefficient", "l0_coefficient", "k")
"""The field of an architecture's config that trades sparsity for reconstruction: the first of these that it has."""

_NOT_A_SETTING = ("data.folder", "device", "data.harvest_batch_tokens", "n_checkpoints")
"""Recipe keys that change where and how a run is computed, not what comes out."""


_METRICS = (
    "l0",
    "explained_variance",
    "explained_variance_without_first_direction",
    "dead_fraction",
    "ce_loss_score",
)


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One finished run; the metrics are those of `SaeQuality`, on held-out text."""

    folder: str
    hook_name: str
    architecture: str
    d_sae: int
    coefficient: str
    """`l1_coefficient 0.2`, `k 32`; empty when the architecture has none."""
    curve: str
    """Name of the curve: the architecture, and whatever else distinguishes it from the other curves."""
    l0: float
    explained_variance: float
    explained_variance_without_first_direction: float
    dead_fraction: float
    ce_loss_score: float
    steps: int


@dataclass(frozen=True, slots=True)
class Frontier:
    """Finished runs, by hook, curve and L0, and what a reader must know to compare them."""

    points: tuple[FrontierPoint, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": 1, "points": [asdict(point) for point in self.points], "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    recipe: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def sparsity_key(self) -> str | None:
        return next((key for key in SPARSITY_KEYS if key in self.recipe["sae"]), None)

    def settings(self) -> dict[str, Any]:
        """The recipe, flat, without what varies along a curve or between panels."""
        left_out = (*_NOT_A_SETTING, "hook_name", f"sae.{self.sparsity_key}")
        return {key: value for key, value in _flat(self.recipe).items() if key not in left_out}


def frontier(folders: Sequence[Path]) -> Frontier:
    """Read the finished runs in `folders`: each a run, or a folder that has runs below it, such as a sweep or several;
    one named twice counts once.

    Runs that are not finished are left out. Raises `ConfigError` when a folder has no finished run.
    """
    named = {folder.resolve(): folder for given in folders for folder in _finished(given)}
    runs = [_read(folder) for folder in named.values()]
    if not runs:
        raise ConfigError("there is not a folder to draw; name the output of a sweep, or of a training run.")
    settings = [run.settings() for run in runs]
    names = _curve_names(settings)
    points = [
        FrontierPoint(
            folder=str(run.folder),
            hook_name=run.recipe["hook_name"],
            architecture=run.recipe["sae"]["architecture"],
            d_sae=run.recipe["sae"]["d_sae"],
            coefficient=f"{run.sparsity_key} {run.recipe['sae'][run.sparsity_key]}" if run.sparsity_key else "",
            curve=name,
            steps=run.metrics["steps"],
            **{key: run.metrics["heldout"][key] for key in _METRICS},
        )
        for run, name in zip(runs, names, strict=True)
    ]
    points.sort(key=lambda p: (_natural(p.hook_name), p.curve, p.l0, p.folder))
    return Frontier(tuple(points), tuple(_notes(runs)))


def write_frontier(found: Frontier, output: Path, failed: Sequence[tuple[str, str]] = ()) -> None:
    """Write `frontier.json`, `frontier.md` and `frontier.svg` to `output`; `failed` are runs and their errors."""
    listed = [{"name": name, "error": error} for name, error in failed]
    write_json(output / "frontier.json", found.to_dict() | {"failed": listed})
    write_text(output / "frontier.md", frontier_table(found, failed))
    write_text(output / "frontier.svg", frontier_svg(found.points))


def frontier_svg(points: Sequence[FrontierPoint]) -> str:
    """`plots.frontier_panels` of the points, as SVG."""
    return svg(frontier_panels(points), title="L0 against explained variance", description=describe_frontier(points))


def frontier_table(found: Frontier, failed: Sequence[tuple[str, str]] = ()) -> str:
    """Markdown: a row a run, then what must be known to compare them, then the runs that failed."""
    head = ("hook", "curve", "d_sae", "architecture", "coefficient", "L0", "EV", "EV w/o 1st direction", "dead")
    head = (*head, "CE-loss score", "steps", "run")
    lines = ["# L0 and explained variance on held-out text", "", *markdown_head(head, ["---"] * len(head))]
    for p in found.points:
        lines.append(
            markdown_row(
                [
                    p.hook_name,
                    p.curve,
                    f"{p.d_sae:,}",
                    p.architecture,
                    p.coefficient,
                    f"{p.l0:.1f}",
                    f"{p.explained_variance:.3f}",
                    f"{p.explained_variance_without_first_direction:.3f}",
                    f"{p.dead_fraction:.1%}",
                    f"{p.ce_loss_score:.3f}",
                    f"{p.steps:,}",
                    Path(p.folder).name,
                ]
            )
        )
    lines += ["", *(f"- {markdown(note)}" for note in found.notes)]
    if failed:
        lines += ["", "Failed:", "", *(f"- {markdown(name)}: {markdown(error)}" for name, error in failed)]
    return "\n".join(lines).rstrip() + "\n"


def _finished(folder: Path) -> list[Path]:
    if _is_finished(folder):
        return [folder]
    # At any depth: a folder of sweeps holds runs, too. What is hidden is being written.
    found = sorted(
        path.parent
        for path in folder.rglob("cfg.json")
        if _is_finished(path.parent) and not any(part[0] == "." for part in path.relative_to(folder).parts)
    )
    if not found:
        what = "does not contain a finished training run" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"{folder} {what}; name the output of a sweep, or a run that has cfg.json, recipe.yaml and metrics.json."
        )
    return found


def _is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("cfg.json", "recipe.yaml", "metrics.json"))


def _read(folder: Path) -> _Run:
    try:
        recipe, metrics = read_yaml(folder / "recipe.yaml"), read_json(folder / "metrics.json")
        missing = [key for key in _METRICS if key not in metrics["heldout"]]
        missing += [key for key in ("sae", "hook_name") if key not in recipe]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is damaged: its recipe.yaml or metrics.json cannot be read ({error}).") from error
    if missing:
        raise ConfigError(f"{folder} is damaged: recipe.yaml and metrics.json do not have {', '.join(missing)}.")
    return _Run(folder, current_keys(recipe), metrics)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _curve_names(settings: Sequence[dict[str, Any]]) -> list[str]:
    """One name for equal settings, different names for different ones: the architecture, what varies among the curves
    of that architecture, and the size where any two differ in it."""
    names = []
    for own in settings:
        alike = [other for other in settings if other["sae.architecture"] == own["sae.architecture"]]
        shown = [key for key in sorted(set().union(*alike)) if _varies(key, alike)]
        if "sae.d_sae" not in shown and _varies("sae.d_sae", settings):
            shown = ["sae.d_sae", *shown]
        named = [f"{key.rpartition('.')[2]} {_short(own.get(key, 'none'))}" for key in shown]
        names.append(" · ".join([own["sae.architecture"], *named]))
    return names


def _varies(key: str, settings: Sequence[dict[str, Any]]) -> bool:
    return len({json_sha256(each.get(key)) for each in settings}) > 1


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 24 else f"#{json_sha256(value)[:6]}"


def _notes(runs: Sequence[_Run]) -> list[str]:
    notes = [
        "Held-out text, special tokens and activation sinks left out; EV (explained variance) is centred. A feature is "
        "dead when no held-out token activates it.",
    ]
    if len({run.metrics["text"]["sha256"] for run in runs}) > 1:
        notes.append("The runs were measured on different texts; compare only those of one text.")
    if len({json_sha256(run.metrics["model"]) for run in runs}) > 1:
        notes.append("The runs are of different models, or of one model in different precisions.")
    for run in runs:
        notes += [f"{run.folder.name}: {said}" for said in run.metrics.get("reservations", ())]
    settings = [run.settings() for run in runs]
    keys = [k for k in sorted(set().union(*settings)) if not k.startswith(("sae.", "model.")) and _varies(k, settings)]
    alike = {
        key
        for name in {each["sae.architecture"] for each in settings}
        for key in keys
        if _varies(key, [each for each in settings if each["sae.architecture"] == name])
    }
    if unnamed := [key for key in keys if key not in alike]:
        notes.append(f"The architectures were also trained with different {', '.join(unnamed)}.")
    left = sum(not math.isfinite(run.metrics["heldout"]["l0"]) or run.metrics["heldout"]["l0"] <= 0 for run in runs)
    if left:
        notes.append(f"{left} of the runs have an L0 of 0, which a logarithmic axis cannot show; they are not drawn.")
    return notes


def _natural(name: str) -> list[Any]:
    """Sorts `blocks.9` before `blocks.10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]
