"""The tied SAE of an organism: the packaged recipe `organism`, on the organism's own exam.

    exam.jsonl   natural items and items in which the cues disagree, with their explanations
    sae/         cfg.json, weights in bfloat16, metrics.json, left_out_ids.json

A third of the items stays out of the text, as in every recipe here; a study of the same exam tells them apart.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.controls.organisms.cases import exam
from sae_lens_med.controls.organisms.designs import Design
from sae_lens_med.controls.organisms.rows import rows_of
from sae_lens_med.models.organisms import PREFIX, SAE_FOLDER
from sae_lens_med.runs.files import follow_umask, write_json, write_jsonl
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.training.recipe import Recipe, load_recipe

RECIPE = "organism"
EXAM_FILE = "exam.jsonl"
N_NATURAL, N_CONFLICT = 1600, 800
"""Items of the text, those that are left out among them: the first ones of the exam's seed 0."""


def recipe_of(design: Design, overrides: Sequence[str] = (), folder: str = ".") -> Recipe:
    """The recipe of an organism's SAE, for text in `folder`. Raises `ConfigError` for an override that is none."""
    own = [f"model.name={PREFIX}{design.name}", f"data.folder={folder}", f"seed={42 + design.seed}"]
    return load_recipe(RECIPE, [*own, *overrides])


def train_sae(design: Design, folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train the SAE of the organism in `folder`, into it. `overrides` are those of a recipe (`key=value`).

    Returns what `metrics.json` says of held-out text.
    """
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.training.run import train

    model = load_model(str(folder))
    model.provenance = model.provenance | {"name": f"{PREFIX}{design.name}"}
    with tempfile.TemporaryDirectory(prefix="organism-") as name:
        work = Path(name)
        items = [
            *exam(design.language, "natural", N_NATURAL),
            *exam(design.language, "conflict", N_CONFLICT),
        ]
        write_jsonl(work / EXAM_FILE, rows_of(items))
        trained = train(recipe_of(design, overrides, name), model, work / "run", activations=work / "activations")
        _keep(trained.folder, folder / SAE_FOLDER)
    return trained.quality.to_dict()


def _keep(run: Path, target: Path) -> None:
    """What loads, and what is known of it; matrices in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    weights = load_file(run / "sae_weights.safetensors")
    stored = {name: (x.to(torch.bfloat16) if x.ndim == 2 else x).contiguous() for name, x in weights.items()}
    save_file(stored, target / "sae_weights.safetensors")
    follow_umask(target / "sae_weights.safetensors")
    for name in ("metrics.json", "left_out_ids.json", "cfg.json"):
        write_json(target / name, read_json(run / name))
