"""May a run be written where it is asked to be, and is its text there: asked before anything heavy is loaded.

Nothing here writes. `train` and `sweep` ask again when they begin, since others may have written meanwhile.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.training.plan import Variant
from sae_lens_med.training.recipe import Recipe


def require_run(recipe: Recipe, output: Path, resume: bool) -> None:
    """Check that `output` can take a run of `recipe`: it is new or empty, or with `resume` holds the begun run.

    Raises `ConfigError`.
    """
    require_folder(output, "--output")
    stored = output / "recipe.yaml"
    if (output / "cfg.json").is_file():
        raise ConfigError(f"{output} already holds a trained SAE; give another --output.")
    if stored.is_file():
        if not resume:
            raise ConfigError(
                f"{output} holds an unfinished run; add --resume to go on with it, or give another --output."
            )
        before = yaml.safe_load(stored.read_text(encoding="utf-8"))
        changed = sorted(k for k in before | recipe.to_dict() if before.get(k) != recipe.to_dict().get(k))
        if changed:
            raise ConfigError(f"{output} was begun with another {', '.join(changed)}; resume with the same recipe.")
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty and holds no training run; give another --output.")
    elif resume:
        raise ConfigError(f"{output} holds no run to resume; leave --resume out to begin one.")


def require_sweep(variants: Sequence[Variant], output: Path, resume: bool) -> None:
    """Check that `output` can take the sweep of `variants`, as `require_run` does. Raises `ConfigError`."""
    require_folder(output, "--output")
    path = output / "sweep.json"
    if path.is_file():
        if not resume:
            raise ConfigError(f"{output} holds a sweep; add --resume to go on with it, or give another --output.")
        before, wanted = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(as_written(variants)))
        if before != wanted:
            raise ConfigError(
                f"{output} was begun as another sweep: {_difference(before, wanted)}; resume with the same command, or "
                "give another --output and draw both with: sae-lens-med frontier."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty and holds no sweep; give another --output.")
    elif resume:
        raise ConfigError(f"{output} holds no sweep to resume; leave --resume out to begin one.")


def as_written(variants: Sequence[Variant]) -> dict[str, Any]:
    """What `sweep.json` holds."""
    return {
        "format": 1,
        "variants": [{"name": v.name, "varied": v.varied, "recipe": v.recipe.to_dict()} for v in variants],
    }


def require_folder(path: Path, option: str) -> None:
    """Check that `path` is, or can become, a folder that this user may write to. Raises `ConfigError`."""
    there = next((each for each in (path, *path.absolute().parents) if each.exists()), path)
    if not there.is_dir():
        raise ConfigError(f"{option} {path}: {there} is a file; give a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: you may not write to {there}; give another folder.")


def require_texts(recipe: Recipe, option: str = "--set data.folder=PATH") -> list[Path]:
    """The recipe's files of text. Raises `DataError` for one that is not there; `option` is what names their folder."""
    paths = [Path(recipe.folder) / source.path for source in recipe.sources]
    for path in paths:
        if not path.is_file():
            raise DataError(f"the recipe's text {path} does not exist; say where it lies with {option}.")
    return paths


def _difference(before: dict[str, Any], wanted: dict[str, Any]) -> str:
    then, now = ({v["name"]: v["recipe"] for v in each.get("variants", [])} for each in (before, wanted))
    if then.keys() != now.keys():
        lost, new = sorted(then.keys() - now.keys()), sorted(now.keys() - then.keys())
        return "; ".join(f"{word} {', '.join(names)}" for word, names in (("with", lost), ("without", new)) if names)
    changed = sorted({key for name in now for key in now[name] if then[name].get(key) != now[name][key]})
    return f"with another {', '.join(changed)}" if changed else "in another order"
