"""The recipe of an organism that is a LoRA adapter of a real model: which base, which part of the exam, which adapter.

    model:  {name}                                            the base, as `load_model` takes it
    exam:   {diseases, cases}                                 the first diseases of the exam; cases trained on
    lora:   {first_layer, r, lora_alpha, target_modules}      in peft's names; layers from `first_layer` on are changed
    steps, batch_items, lr, lr_warm_up_steps, lr_decay_steps

A key that nothing reads is an error. Packaged ones lie in `pretrained_configs/recipes/adapters`, named after the base.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.controls.organisms.cases import require_diseases
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.runs.files import configs_dir, is_file
from sae_lens_med.training.recipe import read_recipe, require_known, section_of
from sae_lens_med.training.recipe_values import number, text, whole

SECTIONS = {
    "model": ("name",),
    "exam": ("diseases", "cases"),
    "lora": ("first_layer", "r", "lora_alpha", "target_modules"),
}
NUMBERS = ("steps", "batch_items", "lr", "lr_warm_up_steps", "lr_decay_steps")


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """A checked recipe."""

    model_name: str
    diseases: int
    cases: int
    first_layer: int
    """The first layer that is changed, from 1: what lies before it is the base's own."""
    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    steps: int
    batch_items: int
    lr: float
    lr_warm_up_steps: int
    lr_decay_steps: int
    """Steps at the end over which the learning rate falls to 0."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "target_modules": list(self.target_modules)}


def find_adapter_recipe(name: str) -> Path:
    """A recipe's path: as given, or by the name of a base among the packaged ones. Raises `ConfigError`."""
    shipped = configs_dir() / "recipes" / "adapters"
    for path in (Path(name), shipped / f"{name}.yaml"):
        if is_file(path):
            return path
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    hint = nearest(name, names) or f"; name a file, or one of {', '.join(names)}."
    raise ConfigError(f"there is no recipe of an adapter for {name!r}{hint}")


def load_adapter_recipe(name: str, overrides: Sequence[str] = ()) -> AdapterRecipe:
    """Read and check a recipe. `overrides` are `key=value` as for any recipe (`lora.r=4`). Raises `ConfigError`."""
    path = find_adapter_recipe(name)
    values, where = read_recipe(path, overrides, tuple(SECTIONS)), str(path)
    require_known(values, (*SECTIONS, *NUMBERS), where)
    given = {name: section_of(values, name, where) for name in SECTIONS}
    for section, keys in SECTIONS.items():
        require_known(given[section], keys, f"{where}: {section}")
        for key in keys:
            if key not in given[section]:
                raise ConfigError(f"{where} has no key {key!r} of its section {section!r}.")
    for key in NUMBERS:
        if key not in values:
            raise ConfigError(f"{where} has no key {key!r}.")
    exam, lora = given["exam"], given["lora"]
    targets = lora["target_modules"]
    if not isinstance(targets, list) or not targets:
        raise ConfigError(f"{where}: lora.target_modules is a list of the names of matrices, got {targets!r}.")
    diseases = whole(exam["diseases"], "exam.diseases", where)
    require_diseases(diseases)
    return AdapterRecipe(
        model_name=text(given["model"]["name"], "model.name", where),
        diseases=diseases,
        cases=whole(exam["cases"], "exam.cases", where),
        first_layer=whole(lora["first_layer"], "lora.first_layer", where),
        r=whole(lora["r"], "lora.r", where),
        lora_alpha=number(lora["lora_alpha"], "lora.lora_alpha", where, 1e-6),
        target_modules=tuple(text(each, "lora.target_modules", where) for each in targets),
        steps=whole(values["steps"], "steps", where),
        batch_items=whole(values["batch_items"], "batch_items", where),
        lr=number(values["lr"], "lr", where, 1e-9),
        lr_warm_up_steps=whole(values["lr_warm_up_steps"], "lr_warm_up_steps", where),
        lr_decay_steps=whole(values["lr_decay_steps"], "lr_decay_steps", where),
    )
