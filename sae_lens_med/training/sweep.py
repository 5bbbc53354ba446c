"""A sweep: variants of recipes, trained one after the other on one model, from one harvest.

    recipes x values of --over  ->  variants (`plan`)  ->  OUTPUT/<variant>/ each  ->  frontier.json, .md, .svg

The plan is decided and checked before anything is trained, and kept as `sweep.json`: a sweep goes on only as the sweep
that it was begun as. A variant that is finished is not trained again, one that was interrupted goes on from its
checkpoint, one that fails is reported and the others are trained. The frontier is written again after each.

Out of scope: training several variants at once, and choosing values (no search).
"""

import itertools
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_med import distributed
from sae_lens_med.errors import SaeLensMedError
from sae_lens_med.escaping import plain
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.runs.files import FULL, json_sha256, system_error, write_text
from sae_lens_med.runs.progress import console
from sae_lens_med.training.activations import corpus
from sae_lens_med.training.frontier import Frontier, frontier, write_frontier
from sae_lens_med.training.harvest import Harvest, default_folder
from sae_lens_med.training.outputs import open_sweep
from sae_lens_med.training.plan import Variant
from sae_lens_med.training.recipe import Recipe
from sae_lens_med.training.run import train


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep leaves."""

    frontier: Frontier | None
    """Of the finished variants; None when there is none."""
    failed: tuple[tuple[str, str], ...]
    """Name and error of each variant that failed."""


def sweep(
    variants: Sequence[Variant],
    model: MedBridge,
    output: Path,
    *,
    activations: Path | None = None,
    resume: bool = False,
) -> SweepResult:
    """Train the variants of `plan` into folders of `output`, and write the frontier of those that are finished.

    Args:
        activations: folder under which harvested activations are kept, in a folder each per hook and text; by default
            the user's cache.
        resume: go on with the sweep in `output`.

    Raises `StudyError` when `output` holds another sweep, or this one and `resume` is not given, and `ModelError` when
    the model lacks one of the hooks, before anything is trained. An interrupt ends
    the sweep with a checkpoint of the variant that was trained. In a job of several processes, so does an error:
    processes that part ways cannot go on together.
    """
    for variant in variants:
        model.require_hook(variant.recipe.runner["hook_name"])
    with distributed.initialised() as me:
        out = console(stderr=True, quiet=not me.first)
        run = open_sweep(variants, output, resume)
        run.begin()  # and held while it is here
        left = distributed.broadcast_object([not (output / v.name / "cfg.json").is_file() for v in variants])
        _harvest_together([v.recipe for v, wanted in zip(variants, left, strict=True) if wanted], model, activations)
        failed: list[tuple[str, str]] = []
        found: Frontier | None = None
        for number, variant in enumerate(variants, start=1):
            folder = output / variant.name
            begun, done = distributed.broadcast_object([(folder / n).is_file() for n in ("recipe.yaml", "cfg.json")])
            out.print(f"variant {number} of {len(variants)}: {variant.name}{' (finished before)' if done else ''}")
            if not done:
                kept = _kept_in(activations, variant.recipe)
                try:
                    train(variant.recipe, model, folder, activations=kept, resume=begun)
                except Exception as error:
                    # On a full disk no other variant fares better.
                    if me.world_size > 1 or system_error(error, folder) in FULL:
                        raise
                    failed.append((variant.name, _in_words(error)))
                    out.print(plain(f"failed: {variant.name}: {failed[-1][1]}"), soft_wrap=True)
                    if not isinstance(error, SaeLensMedError):
                        write_text(output / "errors" / f"{variant.name}.txt", traceback.format_exc())
            if me.first:
                found = _write_frontier(variants, output, failed)
        return SweepResult(found, tuple(failed))


def _harvest_together(recipes: Sequence[Recipe], model: MedBridge, activations: Path | None) -> None:
    """Run the model once over each text that several hooks are trained on, as far as training will come in it.

    What is still missing after it, training harvests itself.
    """
    by_text: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        by_text.setdefault(_text_identity(recipe), []).append(recipe)
    for alike in by_text.values():
        hooks = {recipe.runner["hook_name"]: _kept_in(activations, recipe) for recipe in alike}
        if len(hooks) < 2:
            continue
        text = corpus(alike[0], model.text_tokenizer, alike[0].text_seed)
        folders = {hook: kept or default_folder(model, text, hook) for hook, kept in hooks.items()}
        # A tenth more: sinks and the ends of windows are left out.
        wanted = 1.1 * max(recipe.runner["training_tokens"] for recipe in alike)
        with Harvest(model, text, alike[0], folders) as harvest:
            acts = next(iter(harvest.activations.values()))
            rows = list(itertools.accumulate(acts.rows_per_shard))
            enough = next((n for n, there in enumerate(rows, start=1) if there >= wanted), len(rows))
            harvest.until(max(enough, acts.first_window))
        distributed.barrier()


def _text_identity(recipe: Recipe) -> str:
    """Equal for recipes that train on the same sequences."""
    data = recipe.to_dict()["data"]
    text = {key: data[key] for key in ("folder", "sources", "leave_out", "heldout")}
    return json_sha256([text, recipe.runner["context_size"], recipe.text_seed])


def _kept_in(activations: Path | None, recipe: Recipe) -> Path | None:
    """A folder of its own for each hook and text."""
    if activations is None:
        return None
    return activations / f"{recipe.runner['hook_name']}-{_text_identity(recipe)[:8]}"


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, SaeLensMedError) else f"{type(error).__name__}: {error}"


def _write_frontier(variants: Sequence[Variant], output: Path, failed: Sequence[tuple[str, str]]) -> Frontier | None:
    finished = [output / v.name for v in variants if (output / v.name / "cfg.json").is_file()]
    if not finished:
        return None
    found = frontier(finished)
    write_frontier(found, output, failed)
    return found
