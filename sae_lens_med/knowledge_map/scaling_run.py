"""A recipe, sizes, amounts of text, coefficients, seeds -> SAEs from one harvest, and what size and text are worth.

    manifest.json            what the run depends on, which parts are done
    sweep/                   the SAEs, as `training.sweep` trains them, and their frontier
    coverage/NAME.json       labels of concepts that an SAE covers (`coverage`), and that its shuffled directions cover
    seeds/NAME.json          the match of two seeds (`matching`), and of the first with shuffled directions
    scaling.json  .csv  .svg

The steps of warm-up, decay and resampling are those of the recipe in proportion to the tokens, so that a short run is a
whole run. All seeds read one text in one order of harvest (`data.seed`) and are measured on the same held-out part of
it. Coverage and match are of the SAE of each cell whose L0 is nearest to the common one.

Out of scope: several processes; transcoders.
"""

import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.knowledge_map.coverage import Coverage
from sae_lens_med.knowledge_map.lists import Lists
from sae_lens_med.knowledge_map.matching import MatchRow
from sae_lens_med.knowledge_map.scaling import (
    PowerLaw,
    ScalingCell,
    ScalingPoint,
    cells,
    common_l0,
    laws,
    losses,
    under_trained,
)
from sae_lens_med.knowledge_map.scaling_measure import ScalingMeasure
from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.training.plan import Variant

KIND = Kind("scaling run", format=1, identity=lambda values: values["identity"])
_STEPS = (
    "lr_warm_up_steps",
    "lr_decay_steps",
    "sae.l1_warm_up_steps",
    "resample_dead.every",
    "resample_dead.dead_steps",
)
"""Keys of a recipe that count steps of the training."""


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """What the user chooses."""

    sizes: tuple[int, ...]
    """Features: `d_sae`."""
    tokens: tuple[int, ...]
    coefficients: tuple[float, ...]
    """Of the L1 penalty; of the sweep at each size and amount of text."""
    seeds: tuple[int, ...] = (0, 1)
    l0: float | None = None
    """At which SAEs are compared; None: where most cells can be."""
    permutations: int = 199
    words: int = 20_000
    """Most words of held-out text that seeds are matched on."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sizes", "tokens", "coefficients", "seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"{name} must be one value at least, each once, got {list(given)}.")
        if len(self.coefficients) < 2:
            raise ConfigError(
                "SAEs are compared at one L0, between two coefficients; give two coefficients at least, far enough "
                "apart."
            )
        if not 19 <= self.permutations <= 10**6:
            raise ConfigError(f"permutations must be from 19 to {10**6}, got {self.permutations}.")
        if self.l0 is not None and not 0 < self.l0 < math.inf:
            raise ConfigError(f"the L0 at which SAEs are compared must be above 0, got {self.l0}; or leave it out.")


@dataclass(frozen=True, slots=True)
class CellResult:
    """A cell, with what was measured of its SAE."""

    cell: ScalingCell
    coverage: Coverage | None
    """None where the packaged lists have nothing for the model."""
    shuffled_coverage: float | None
    """Share of the labels that the SAE's shuffled directions cover."""
    matches: tuple[MatchRow, ...]
    """Of the first seed's SAE with each other seed's, and with its shuffled directions; only at the first seed."""

    @property
    def seed_share(self) -> float | None:
        """Mean share matched with other seeds; None without any."""
        shares = [row.share for row in self.matches if row.what == "seed"]
        return float(np.mean(shares)) if shares else None


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """What a run leaves."""

    l0: float
    points: tuple[ScalingPoint, ...]
    cells: tuple[CellResult, ...]
    laws: tuple[PowerLaw, ...]
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def scaling_variants(recipe: str, settings: ScalingSettings, overrides: Sequence[str] = ()) -> "list[Variant]":
    """The SAEs of the run. Raises `ConfigError` for a recipe that has no L1 coefficient, and what `load_recipe`
    refuses."""
    from sae_lens_med.training.plan import Variant
    from sae_lens_med.training.recipe import load_recipe

    base = load_recipe(recipe, list(overrides))
    if "l1_coefficient" not in base.sae:
        raise ConfigError(f"the recipe {recipe} has no sae.l1_coefficient; scaling sweeps it, so use one of tied_l1.")
    whole = base.to_dict()
    found = []
    for d_sae, tokens, seed, coefficient in itertools.product(
        settings.sizes, settings.tokens, settings.seeds, settings.coefficients
    ):
        varied: dict[str, Any] = {
            "sae.d_sae": d_sae,
            "training_tokens": tokens,
            "seed": seed,
            "sae.l1_coefficient": coefficient,
        }
        share = tokens / base.runner["training_tokens"]
        steps = {key: _scaled(steps, share) for key in _STEPS if (steps := _at(whole, key)) is not None}
        changes = {**varied, **steps, "data.seed": base.text_seed}
        texts = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        name = f"d_sae-{d_sae}_tokens-{tokens}_seed-{seed}_l1-{coefficient:g}"
        found.append(Variant(name, varied, load_recipe(recipe, [*overrides, *texts])))
    return found


def scale(
    variants: "Sequence[Variant]",
    model: "MedBridge",
    lists: Lists,
    output: Path,
    settings: ScalingSettings,
    *,
    activations: Path | None = None,
    progress: bool = True,
) -> ScalingResult:
    """Train the SAEs that are missing, measure them, and write what they say to `output`.

    Args:
        variants: from `scaling_variants` of the same settings.
        lists: concepts with labels, of which coverage is.
        output: new, empty, or that of the same run, which goes on.
        activations: where the harvest is kept; by default the user's cache.
        progress: show bars on stderr.

    Raises `StudyError` for a folder of something else, `DataError` where no SAE of the sweep can be compared.
    """
    from sae_lens_med.training.sweep import sweep

    chosen = {name: list(getattr(settings, name)) for name in ("sizes", "tokens", "coefficients", "seeds")}
    chosen |= {name: getattr(settings, name) for name in ("l0", "permutations", "words", "seed")}
    recipes = {variant.name: variant.recipe.to_dict() for variant in variants}
    identity = {
        "model": dict(model.provenance),
        "recipes": recipes,
        "lists": {"source": lists.source, "sha256": lists.sha256},
        "settings": chosen,
    }
    run = RunFolder(output, KIND, {"identity": identity, "versions": versions(), "parts": {}})
    run.begin()
    folder = output / "sweep"
    trained = sweep(variants, model, folder, activations=activations, resume=(folder / "sweep.json").is_file())
    points = [_point(folder, v) for v in variants if (folder / v.name / "cfg.json").is_file()]
    l0 = common_l0(_ranges(points)) if settings.l0 is None else settings.l0
    at = cells(points, l0)
    for name in ("coverage", "seeds"):
        (output / name).mkdir(exist_ok=True)
    measure = ScalingMeasure(
        model, variants[0], folder, lists, settings.permutations, settings.words, settings.seed, run
    )
    results: list[CellResult] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("measuring (cells)", total=len(at))
        for cell in at:
            rows, shuffled = measure.coverage(cell.nearest)
            others = [o for o in at if (o.d_sae, o.tokens) == (cell.d_sae, cell.tokens) and o.seed != cell.seed]
            first = cell.seed == settings.seeds[0]
            matches = measure.seeds(cell.nearest, [other.nearest for other in others]) if first and others else ()
            results.append(CellResult(cell, rows, shuffled, tuple(matches)))
            bar.advance(task)
    result = ScalingResult(
        l0,
        tuple(points),
        tuple(results),
        tuple(laws(at)),
        trained.failed,
        tuple(_notes(results, l0, settings, trained.failed)),
    )
    write_scaling(result, output)
    return result


def write_scaling(result: ScalingResult, output: Path) -> None:
    """`scaling.json`, `scaling.csv`, `scaling.svg`."""
    from sae_lens_med.plots.markup import svg
    from sae_lens_med.plots.scaling import describe_scaling, scaling_panels

    write_json(output / "scaling.json", to_json(result))
    write_text(output / "scaling.csv", to_csv(result))
    lines = _lines(result)
    picture = svg(scaling_panels(lines), title="What size and text are worth", description=describe_scaling(lines))
    write_text(output / "scaling.svg", picture)


def to_json(result: ScalingResult) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "l0": result.l0,
        "points": [point.to_dict() for point in result.points],
        "cells": [
            {
                **each.cell.to_dict(),
                "coverage": each.coverage.to_dict() if each.coverage else None,
                "shuffled_coverage": each.shuffled_coverage,
                "seed_share": each.seed_share,
                "matches": [row.to_dict() for row in each.matches],
            }
            for each in result.cells
        ],
        "power_laws": [law.to_dict() for law in result.laws],
        "failed": [{"name": name, "error": error} for name, error in result.failed],
        "notes": list(result.notes),
    }


def to_csv(result: ScalingResult) -> str:
    """A line for each cell."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    own = ("d_sae", "tokens", "seed", "n", "loss", "ce_increase", "dead", "uses", "nearest", "nearest_l0")
    table.writerow(
        [*own, "labels", "coverage", "coverage_low", "coverage_high", "coverage_chance", "coverage_shuffled"]
        + ["best_auroc", "best_auroc_null", "seed_share", "seed_low", "seed_high", "seed_null_high", "seed_shuffled"]
    )
    for each in result.cells:
        c, rows = each.coverage, {row.what: row for row in each.matches}
        seed, shuffled = rows.get("seed"), rows.get("shuffled")
        covered = ["", "", "", "", ""] if c is None else [c.n, c.share, *c.interval, c.chance]
        best = ["", ""] if c is None else [c.mean_auroc, c.mean_null]
        matched = [each.seed_share, *seed.interval, seed.null_high] if seed else ["", "", "", ""]
        table.writerow(
            [("" if (value := getattr(each.cell, name)) is None else value) for name in own]
            + [*covered, "" if each.shuffled_coverage is None else each.shuffled_coverage, *best]
            + [*matched, shuffled.share if shuffled else ""]
        )
    return text.getvalue()


def _point(folder: Path, variant: "Variant") -> ScalingPoint:
    path = folder / variant.name / "metrics.json"
    metrics = read_json(path)
    try:
        held = metrics["heldout"]
        return ScalingPoint(
            name=variant.name,
            d_sae=variant.varied["sae.d_sae"],
            tokens=variant.varied["training_tokens"],
            seed=variant.varied["seed"],
            coefficient=float(variant.varied["sae.l1_coefficient"]),
            l0=held["l0"],
            loss=1 - held["explained_variance"],
            ce_increase=held["ce_loss_spliced"] - held["ce_loss"],
            dead=held["dead_fraction"],
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete its folder and run the same command again.") from error


def _ranges(points: Sequence[ScalingPoint]) -> list[tuple[float, float]]:
    """Least and largest L0 of each cell, of its SAEs that have any active feature."""
    found: dict[tuple[int, int, int], list[float]] = {}
    for p in points:
        if p.l0 > 0:
            found.setdefault((p.d_sae, p.tokens, p.seed), []).append(p.l0)
    return [(min(each), max(each)) for each in found.values()]


def _notes(
    results: Sequence[CellResult],
    l0: float,
    settings: ScalingSettings,
    failed: Sequence[tuple[str, str]],
) -> list[str]:
    at = [each.cell for each in results]
    notes = [f"All values are at L0 {l0:.1f}, between two SAEs of each sweep; coverage and match are of the nearest."]
    missed = [cell for cell in at if cell.loss is None]
    if missed:
        names = ", ".join(f"{cell.d_sae} features, {cell.tokens:,} tokens, seed {cell.seed}" for cell in missed)
        notes.append(f"The sweep does not reach this L0 with {names}: nothing is said of these; add coefficients.")
    notes += [f"{size:,} features are under-trained: {why}." for size, why in under_trained(at).items()]
    if like_nothing := [each.cell.nearest for each in results if not _above_controls(each)]:
        notes.append(
            "These cover no more labels than chance and than their own shuffled directions, so that nothing may be "
            f"concluded from their coverage: {', '.join(like_nothing)}."
        )
    if len(losses(at)) and not laws(at):
        notes.append("No axis has four sizes or amounts of text with a value, so no power law is fitted.")
    if len(settings.seeds) < 2:
        notes.append("One seed was trained: nothing is known of what another would find.")
    notes.append(
        "More text is also other text: the first tokens of one harvest are a random sample of it, but a small text is "
        "read more than once. Amounts of training text of the model itself were not varied."
    )
    notes.append("The concept lists were reviewed by no clinician; labels of drugs by mechanism are in part spelling.")
    notes += [f"{name} failed: {error}" for name, error in failed]
    return notes


def _above_controls(each: CellResult) -> bool:
    """Whether the whole interval of the coverage is above them; True where there is no coverage."""
    if each.coverage is None or each.shuffled_coverage is None:
        return True
    return each.coverage.interval[0] > max(each.coverage.chance, each.shuffled_coverage)


def _lines(result: ScalingResult) -> Any:
    from sae_lens_med.plots.scaling import ScalingLine

    found = []
    for tokens in sorted({each.cell.tokens for each in result.cells}):
        own = [each for each in result.cells if each.cell.tokens == tokens]
        sizes = sorted({each.cell.d_sae for each in own})

        def mean(values: list[float | None]) -> float | None:
            kept = [value for value in values if value is not None]
            return float(np.mean(kept)) if kept else None

        at = [[each for each in own if each.cell.d_sae == size] for size in sizes]
        found.append(
            ScalingLine(
                name=f"{tokens:,} tokens",
                sizes=tuple(sizes),
                loss=tuple(mean([each.cell.loss for each in some]) for some in at),
                dead=tuple(mean([each.cell.dead for each in some]) for some in at),
                coverage=tuple(mean([each.coverage.share if each.coverage else None for each in some]) for some in at),
                coverage_null=tuple(mean([each.shuffled_coverage for each in some]) for some in at),
                seeds=tuple(mean([each.seed_share for each in some]) for some in at),
                seeds_null=tuple(
                    mean([row.share for each in some for row in each.matches if row.what == "shuffled"]) for some in at
                ),
            )
        )
    return found


def _at(values: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None  # type: ignore[assignment]  # the last is a value
    return values


def _scaled(steps: int, share: float) -> int:
    return 0 if steps == 0 else max(1, round(steps * share))
