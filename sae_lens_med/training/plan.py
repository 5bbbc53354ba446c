"""The plan of a sweep: recipes times the values of --over, checked before anything heavy is loaded.

Out of scope: training (`sweep.py`), and choosing values (no search).
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.parsing import ParseError, parse_yaml
from sae_lens_med.training.recipe import Recipe, find_recipe, load_recipe, sae_fields

_NAME_CHARS = 100


@dataclass(frozen=True, slots=True)
class Variant:
    """One recipe of a sweep."""

    name: str
    """Of its folder: the recipe where there are several, then the varied keys and their values."""
    varied: dict[str, Any]
    """Dotted recipe key -> value."""
    recipe: Recipe


def plan(recipes: Sequence[str], overs: Sequence[str] = (), overrides: Sequence[str] = ()) -> list[Variant]:
    """Every recipe with every combination of the varied values, checked.

    Args:
        recipes: files, or names of packaged recipes.
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
        raise ConfigError("--over names one key twice; list all its values at once: key=value,value.")
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


def _parse_over(over: str) -> tuple[str, list[Any]]:
    key, separator, text = over.partition("=")
    if not separator or not key or not text.strip():
        raise ConfigError(f"--over needs key=value,value, got {over!r}.")
    try:
        values = parse_yaml(f"[{text}]")
    except ParseError as error:
        raise ConfigError(f"--over {over} is not a list of YAML values ({error}); use key=value,value.") from error
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
            raise ConfigError(f"two variants are the same run, {variant.name}; name each recipe once.")
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
