"""A sweep: variants of recipes, trained one after the other on one model, from one harvest.

    recipes x values of --over  ->  variants  ->  OUTPUT/<variant>/ each  ->  frontier.json, .md, .svg

The plan is decided and checked before anything is trained, and kept as `sweep.json`: a sweep goes on only as the sweep
that it was begun as. A variant that is finished is not trained again, one that was interrupted goes on from its
checkpoint, one that fails is reported and the others are trained. The frontier is written anew after each.

Out of scope: training several variants at once, and choosing values (no search).
"""

import itertools
import json
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from sae_lens_med import distributed
from sae_lens_med.config import json_sha256, write_json, write_text
from sae_lens_med.errors import ConfigError, SaeLensMedError, nearest
from sae_lens_med.models import MedBridge
from sae_lens_med.training.activations import corpus
from sae_lens_med.training.frontier import Frontier, frontier, write_frontier
from sae_lens_med.training.harvest import Harvest, default_folder
from sae_lens_med.training.recipe import Recipe, find_recipe, load_recipe, sae_fields, yaml_value
from sae_lens_med.training.run import train

_NAME_CHARS = 100


@dataclass(frozen=True, slots=True)
class Variant:
    """One recipe of a sweep."""

    name: str
    """Of its folder: the recipe where there are several, then the varied keys and their values."""
    varied: dict[str, Any]
    """Dotted recipe key -> value."""
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep leaves."""

    frontier: Frontier | None
    """Of the finished variants; None when there is none."""
    failed: tuple[tuple[str, str], ...]
    """Name and error of each variant that failed."""


def plan(recipes: Sequence[str], overs: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[Variant]:
    """Every recipe with every combination of the varied values, checked.

    Args:
        recipes: files, or names of recipes that ship.
        overs: `key=value,value,...`, keys and values as in `load_recipe`'s overrides. A key of the section `sae` is
            varied in the recipes whose architecture has it, which must be one at least.
        overrides: `key=value` for all variants.

    Raises `ConfigError` for a recipe that `load_recipe` refuses, a key that no recipe reads, two variants that are the
    same run, or variants of different models.
    """
    if not recipes:
        raise ConfigError("a sweep needs a recipe.")
    varied = dict(_parse_over(over) for over in overs)
    if len(varied) < len(overs):
        raise ConfigError("--over names one key twice; give all its values at once: key=value,value.")
    loaded = [load_recipe(name, list(overrides)) for name in recipes]
    _refuse_unknown(varied, loaded)
    variants: list[Variant] = []
    for name, base in zip(recipes, loaded, strict=True):
        own = {key: values for key, values in varied.items() if _applies(key, base)}
        for values in itertools.product(*own.values()):
            chosen = dict(zip(own, values, strict=True))
            texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in chosen.items()]
            recipe = load_recipe(name, [*overrides, *texts])
            label = find_recipe(name).stem if len(recipes) > 1 or not chosen else ""
            variants.append(Variant(_name(label, chosen), chosen, recipe))
    return _told_apart(variants)


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

    Raises `ConfigError` when `output` holds another sweep, or this one and `resume` is not given, and `ModelError` when
    the model lacks one of the hooks, before anything is trained. An interrupt ends
    the sweep with a checkpoint of the variant that was trained. In a job of several processes, so does an error:
    processes that part ways cannot go on together.
    """
    for variant in variants:
        model.require_hook(variant.recipe.runner["hook_name"])
    with distributed.initialised() as me:
        console = Console(stderr=True, quiet=not me.first)
        if me.first:
            _prepare(variants, output, resume)
        distributed.barrier()
        left = distributed.broadcast_object([not (output / v.name / "cfg.json").is_file() for v in variants])
        _harvest_together([v.recipe for v, wanted in zip(variants, left, strict=True) if wanted], model, activations)
        failed: list[tuple[str, str]] = []
        found: Frontier | None = None
        for number, variant in enumerate(variants, start=1):
            folder = output / variant.name
            begun, done = distributed.broadcast_object([(folder / n).is_file() for n in ("recipe.yaml", "cfg.json")])
            console.print(f"variant {number} of {len(variants)}: {variant.name}{' (finished before)' if done else ''}")
            if not done:
                kept = _kept_in(activations, variant.recipe)
                try:
                    train(variant.recipe, model, folder, activations=kept, resume=begun)
                except Exception as error:
                    if me.world_size > 1:
                        raise
                    failed.append((variant.name, _in_words(error)))
                    console.print(f"failed: {variant.name}: {failed[-1][1]}", soft_wrap=True)
                    if not isinstance(error, SaeLensMedError):
                        write_text(output / "errors" / f"{variant.name}.txt", traceback.format_exc())
            if me.first:
                found = _write_frontier(variants, output, failed)
        return SweepResult(found, tuple(failed))


def _parse_over(over: str) -> tuple[str, list[Any]]:
    key, separator, text = over.partition("=")
    if not separator or not key or not text.strip():
        raise ConfigError(f"--over needs key=value,value, got {over!r}.")
    try:
        values = yaml_value(f"[{text}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--over {over} is no list of YAML values; give key=value,value.") from error
    if len({json_sha256(value) for value in values}) < len(values):
        raise ConfigError(f"--over {over}: a value is given twice.")
    return key, values


def _applies(key: str, recipe: Recipe) -> bool:
    section, _, field = key.partition(".")
    return section != "sae" or field in sae_fields(recipe.sae["architecture"], "the recipe")


def _refuse_unknown(varied: dict[str, list[Any]], recipes: Sequence[Recipe]) -> None:
    for key in varied:
        if key.partition(".")[0] == "model" or key == "device":
            raise ConfigError(f"--over {key}: a sweep runs one model on one device; make a sweep for each.")
        if key == "sae.architecture":
            raise ConfigError("--over sae.architecture: architectures have different fields; name a recipe for each.")
        if not any(_applies(key, recipe) for recipe in recipes):
            architectures = sorted({recipe.sae["architecture"] for recipe in recipes})
            fields = {f"sae.{field}" for name in architectures for field in sae_fields(name, "the recipe")}
            raise ConfigError(
                f"--over {key}: {' and '.join(architectures)} {'has' if len(architectures) == 1 else 'have'} no such "
                f"field{nearest(key, fields) or '; see the fields of the SAELens training config.'}"
            )


def _name(label: str, varied: dict[str, Any]) -> str:
    """`topk_k-32`: readable, safe as a folder name on any system."""
    parts = [label] if label else []
    parts += [f"{key.rpartition('.')[2]}-{value}" for key, value in varied.items()]
    name = re.sub(r"[^\w.+-]+", "-", "_".join(parts)).strip("-.")
    return name[:_NAME_CHARS]


def _told_apart(variants: list[Variant]) -> list[Variant]:
    """Names that stand for two variants get a hash of the recipe; equal recipes and different models are refused."""
    by_recipe: dict[str, Variant] = {}
    named: list[Variant] = []
    first = variants[0].recipe
    for variant in variants:
        identity = json_sha256(variant.recipe.to_dict())
        if identity in by_recipe:
            raise ConfigError(f"two variants are the same run, {variant.name}; give each recipe once.")
        by_recipe[identity] = variant
        shared = (variant.recipe.model_name, variant.recipe.model_dtype, variant.recipe.runner.get("device", "cpu"))
        if shared != (first.model_name, first.model_dtype, first.runner.get("device", "cpu")):
            raise ConfigError(
                f"a sweep runs one model on one device, but {variant.name} has {' '.join(shared)}, and others have "
                f"{first.model_name} {first.model_dtype} {first.runner.get('device', 'cpu')}; make a sweep for each."
            )
        alike = sum(other.name.lower() == variant.name.lower() for other in variants) > 1
        name = f"{variant.name}-{identity[:8]}" if alike else variant.name
        named.append(Variant(name, variant.varied, variant.recipe))
    return named


def _prepare(variants: Sequence[Variant], output: Path, resume: bool) -> None:
    path = output / "sweep.json"
    wanted = {
        "format": 1,
        "variants": [{"name": v.name, "varied": v.varied, "recipe": v.recipe.to_dict()} for v in variants],
    }
    if path.is_file():
        if not resume:
            raise ConfigError(f"{output} holds a sweep; add --resume to go on with it, or give another --output.")
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != json.loads(json.dumps(wanted)):
            raise ConfigError(
                f"{output} was begun as another sweep: {_difference(before, wanted)}; resume with the same command, or "
                "give another --output and draw both with: sae-lens-med frontier."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty and holds no sweep; give another --output.")
    elif resume:
        raise ConfigError(f"{output} holds no sweep to resume; leave --resume out to begin one.")
    else:
        write_json(path, wanted)


def _difference(before: dict[str, Any], wanted: dict[str, Any]) -> str:
    then, now = ({v["name"]: v["recipe"] for v in each.get("variants", [])} for each in (before, wanted))
    if then.keys() != now.keys():
        lost, new = sorted(then.keys() - now.keys()), sorted(now.keys() - then.keys())
        return "; ".join(f"{word} {', '.join(names)}" for word, names in (("with", lost), ("without", new)) if names)
    plain = json.loads(json.dumps(now))
    changed = sorted({key for name in plain for key in plain[name] if then[name].get(key) != plain[name][key]})
    return f"with another {', '.join(changed)}" if changed else "in another order"


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
        text = corpus(alike[0], model.text_tokenizer, alike[0].runner.get("seed", 42))
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
    return json_sha256([text, recipe.runner["context_size"], recipe.runner.get("seed", 42)])


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
