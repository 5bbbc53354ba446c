"""May a run be written where it is asked to be, and is its text there: asked before anything heavy is loaded.

Nothing here writes. `train` and `sweep` ask again when they begin, since others may have written meanwhile.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.runs.folder import Kind, RunFolder, require_names
from sae_lens_med.training.plan import Variant
from sae_lens_med.training.recipe import Recipe, current_keys


def _by_name(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "variants": [variant["name"] for variant in manifest["variants"]],
        "recipes": {variant["name"]: current_keys(variant["recipe"]) for variant in manifest["variants"]},
    }


def _has_checkpoint(folder: Path, _recipe: Mapping[str, Any]) -> bool:
    return any(folder.glob("checkpoints/step-*")) or (folder / "cfg.json").is_file()


def _has_begun_training(folder: Path, manifest: Mapping[str, Any]) -> bool:
    return any(_has_checkpoint(folder / variant["name"], variant["recipe"]) for variant in manifest["variants"])


RUN = Kind("training run", format=None, manifest="recipe.yaml", identity=current_keys, bound=_has_checkpoint)
SWEEP = Kind("sweep", format=1, manifest="sweep.json", identity=_by_name, bound=_has_begun_training)


def open_run(recipe: Recipe, output: Path, resume: bool) -> RunFolder:
    """The folder of a run of `recipe`: new or empty, or with `resume` that of the begun run. Raises `StudyError`."""
    require_names(output)
    if (output / "cfg.json").is_file():
        raise StudyError(f"{output} already contains a trained SAE; choose another folder.")
    return RunFolder(output, RUN, recipe.to_dict(), resume=resume)


def open_sweep(variants: Sequence[Variant], output: Path, resume: bool) -> RunFolder:
    """The folder of the sweep of `variants`, as `open_run` does. Raises `StudyError`."""
    listed = [{"name": v.name, "varied": v.varied, "recipe": v.recipe.to_dict()} for v in variants]
    return RunFolder(output, SWEEP, {"variants": listed}, resume=resume)


def require_texts(recipe: Recipe, option: str = "--set data.folder=PATH") -> list[Path]:
    """The recipe's files of text. Raises `DataError` for one that is not there; `option` is what names their folder."""
    paths = [Path(recipe.folder) / source.path for source in recipe.sources]
    for path in paths:
        if not path.is_file():
            raise DataError(f"the recipe's text {path} does not exist; say where it is with {option}.")
    return paths
