"""A training recipe: one YAML file that says which model, which text and which SAE, in SAELens' own field names.

    model:  {name, dtype}                       what `load_model` takes
    data:   {folder, sources, leave_out, ...}   what `training_text` takes
    sae:    {architecture, d_sae, ...}          the fields of the architecture's SAELens training config
    resample_dead: {every, until, dead_steps, rows}    optional: dead features get new directions (`resample.py`)
    start_at_mean: true                         optional: `b_dec` starts at the activations' mean, not at 0
    unshrink: true                              optional: magnitudes without the penalty's shrinkage (`unshrink.py`)
    hook_name, context_size, lr, ...            fields of SAELens' `LanguageModelSAERunnerConfig`

A key that nothing reads is an error that names the nearest one that something reads. `d_in` comes from the model.
Until 0.2 the key `resample_dead` is also read by its former name, `revive`, with a warning.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.data.encoding import require_encoding
from sae_lens_med.data.rows import COLUMN_CHOICES
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.models.sinks import SINK_MULTIPLE
from sae_lens_med.runs.files import configs_dir, is_file
from sae_lens_med.runs.parsing import MAX_SEED, ParseError, parse_yaml, read_yaml
from sae_lens_med.training.recipe_values import number, require_values, text, whole

RUNNER_KEYS = (
    "hook_name",
    "context_size",
    "training_tokens",
    "train_batch_size_tokens",
    "lr",
    "lr_scheduler_name",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "lr_end",
    "n_restart_cycles",
    "adam_beta1",
    "adam_beta2",
    "seed",
    "device",
    "autocast",
    "n_checkpoints",
    "dead_feature_window",
    "feature_sampling_window",
    "n_batches_for_norm_estimate",
)
"""The fields of SAELens' runner config that training here reads. The others belong to its `ActivationsStore` and to
wandb, which are not used."""

_NOT_GIVEN = ("d_in", "device", "metadata", "reshape_activations")
"""Fields of a SAELens training config that a recipe does not hold: the first three follow from the rest, and
activations are harvested flat."""

PLAIN_SCALES = ("none", "expected_average_only_in")
"""Normalisations that scale all rows alike."""

RENAMED = {"revive": "resample_dead"}
"""Former names of keys."""

REQUIRED = ("hook_name", "context_size", "training_tokens", "train_batch_size_tokens")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of text to train on."""

    path: str
    """Relative to `data.folder`."""
    max_rows: int | None = None
    """Take this many texts at random (by `seed`), or all."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """When dead features get new directions, and how many rows these are drawn from."""

    every: int
    """Steps from one resampling to the next."""
    dead_steps: int
    """A feature that has not fired for more steps than this is dead."""
    until: float = 0.6
    """Share of the training steps after which nothing is resampled, so that what is new can settle."""
    rows: int = 8192
    """Activations that the new directions are drawn from, each time others."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe."""

    model_name: str
    model_dtype: str
    folder: str
    """Where the sources lie; set it with `--set data.folder=PATH`."""
    sources: tuple[Source, ...]
    leave_out: float
    """Share of the exam items that stay out of the text, by a stable hash of their ids."""
    heldout: float
    """Share of the sequences kept for the metrics."""
    sink_multiple: float
    """Tokens whose activation norm exceeds this multiple of the median are not trained on."""
    buffer_tokens: int
    """Activations that are shuffled together, at most."""
    harvest_batch_tokens: int | None
    """Padded tokens in one forward pass of the model; None: as suits the model's device."""
    sae: dict[str, Any]
    """`architecture` and the fields of its SAELens training config, without `d_in`."""
    runner: dict[str, Any]
    """The given `RUNNER_KEYS`."""
    resample_dead: Resampling | None = None
    """None: dead features stay as they are."""
    start_at_mean: bool = False
    """Whether `b_dec` starts at the mean of the first batches; SAELens' architectures have it start at 0."""
    encoding: str | None = None
    """Of the sources that are not UTF-8."""
    extra_columns: str = "refuse"
    """What is done with columns of the sources that nothing reads: `refuse` or `ignore`."""
    skip_bad_items: bool = False
    """Whether rows of the sources that cannot be used are left out, and counted."""
    unshrink: bool = False
    """Whether the trained SAE's magnitudes are fitted anew before it is measured."""
    data_seed: int | None = None
    """Of the order of the text, and of what is held out; None: the run's own `seed`. With one of its own, runs that
    differ in `seed` share a harvest and are measured on the same text."""

    @property
    def text_seed(self) -> int:
        """The seed that the text is made with."""
        return self.runner.get("seed", 42) if self.data_seed is None else self.data_seed

    def to_dict(self) -> dict[str, Any]:
        """The YAML structure again, defaults filled in."""
        return {
            "model": {"name": self.model_name, "dtype": self.model_dtype},
            "data": {
                "folder": self.folder,
                "sources": [dataclasses.asdict(s) for s in self.sources],
                "leave_out": self.leave_out,
                "heldout": self.heldout,
                "sink_multiple": self.sink_multiple,
                "buffer_tokens": self.buffer_tokens,
                "harvest_batch_tokens": self.harvest_batch_tokens,
                **({} if self.encoding is None else {"encoding": self.encoding}),
                **({} if self.extra_columns == "refuse" else {"extra_columns": self.extra_columns}),
                **({"skip_bad_items": True} if self.skip_bad_items else {}),
                **({} if self.data_seed is None else {"seed": self.data_seed}),
            },
            "sae": dict(self.sae),
            **({"resample_dead": dataclasses.asdict(self.resample_dead)} if self.resample_dead else {}),
            **({"start_at_mean": True} if self.start_at_mean else {}),
            **({"unshrink": True} if self.unshrink else {}),
            **self.runner,
        }


def find_recipe(name: str) -> Path:
    """A recipe's path: as given, or by name among the packaged ones (`gemma-3-270m-res`)."""
    shipped = configs_dir() / "recipes"
    for path in (Path(name), shipped / name, shipped / f"{name}.yaml"):
        if is_file(path):
            return path
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    raise ConfigError(
        f"there is no recipe {name!r}, neither as a file nor among the packaged ones: {', '.join(names)}."
    )


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe. `overrides` are `key=value`, dotted for sections, values as in YAML
    (`sae.l1_coefficient=0.5`). Raises `ConfigError`."""
    path = find_recipe(name)
    return parse_recipe(read_recipe(path, overrides or (), ("model", "data", "sae")), str(path))


def read_recipe(path: Path, overrides: Sequence[str], sections: Sequence[str]) -> dict[str, Any]:
    """The structure of a recipe file with `overrides` in it, unchecked. Raises `ConfigError` for a file or an override
    that is no YAML; `sections` are those that it says are needed."""
    try:
        values = read_yaml(path)
    except ParseError as error:
        raise ConfigError(f"{path} is not YAML that a recipe can be: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} is not a recipe; it needs the sections {', '.join(sections[:-1])} and {sections[-1]}."
        )
    values = _renamed(values, str(path))
    for override in overrides:
        _override(values, override)
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, given = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set needs key=value, got {override!r}.")
    try:
        value = parse_yaml(given)
    except ParseError as error:
        raise ConfigError(f"--set {override}: what follows the = is not a YAML value ({error}).") from error
    section, *rest = key.split(".")
    *sections, last = (_new_name(section, f"--set {override}"), *rest)
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {section!r} is a value, not a section.")
    target[last] = value


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe, or its settings under dotted keys, with each former name of a key replaced by today's."""
    current: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, field = key.partition(".")
        current[f"{RENAMED.get(section, section)}{dot}{field}"] = value
    return current


def _renamed(values: dict[str, Any], where: str) -> dict[str, Any]:
    for old, new in RENAMED.items():
        if old in values and new in values:
            raise ConfigError(f"{where}: {old!r} is the former name of {new!r}; use only {new!r}.")
    return {_new_name(key, where): value for key, value in values.items()}


def _new_name(key: str, where: str) -> str:
    if key in RENAMED:
        warnings.warn(
            f"{where}: the key {key!r} is now {RENAMED[key]!r}; version 0.2 will no longer read the former name.",
            DeprecationWarning,
            stacklevel=2,
        )
    return RENAMED.get(key, key)


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Check the structure of a recipe. `where` names it in errors."""
    values = _renamed(values, where)
    require_known(values, ("model", "data", "sae", "resample_dead", "start_at_mean", "unshrink", *RUNNER_KEYS), where)
    model, data, sae = (section_of(values, name, where) for name in ("model", "data", "sae"))
    require_known(model, ("name", "dtype"), f"{where}: model")
    data_keys = (
        *("folder", "sources", "leave_out", "heldout", "sink_multiple", "buffer_tokens", "harvest_batch_tokens"),
        *("encoding", "extra_columns", "skip_bad_items", "seed"),
    )
    require_known(data, data_keys, f"{where}: data")
    runner = {key: values[key] for key in RUNNER_KEYS if key in values}
    for key, section in [("name", model), ("sources", data), ("architecture", sae), ("d_sae", sae)]:
        if key not in section:
            raise ConfigError(f"{where} has no key {key!r} of its section; see the packaged recipes.")
    for key in REQUIRED:
        if key not in runner:
            raise ConfigError(f"{where} has no key {key!r}.")
    if not isinstance(data["sources"], list) or not data["sources"]:
        raise ConfigError(f"{where}: data.sources must be a list of at least one file, got {data['sources']!r}.")
    recipe = Recipe(
        model_name=text(model["name"], "model.name", where),
        model_dtype=text(model.get("dtype", "float32"), "model.dtype", where),
        folder=text(data.get("folder", "."), "data.folder", where),
        sources=tuple(_source(s, where) for s in data["sources"]),
        leave_out=number(data.get("leave_out", 1 / 3), "data.leave_out", where, 0, below=1),
        heldout=number(data.get("heldout", 0.02), "data.heldout", where, 0, below=1),
        sink_multiple=number(data.get("sink_multiple", SINK_MULTIPLE), "data.sink_multiple", where, 1),
        buffer_tokens=whole(data.get("buffer_tokens", 500_000), "data.buffer_tokens", where),
        harvest_batch_tokens=(
            None
            if data.get("harvest_batch_tokens") is None
            else whole(data["harvest_batch_tokens"], "data.harvest_batch_tokens", where)
        ),
        sae=dict(sae),
        runner=runner,
        resample_dead=_resampling(values, where),
        start_at_mean=_yes_or_no(values, "start_at_mean", where),
        encoding=None if data.get("encoding") is None else text(data["encoding"], "data.encoding", where),
        extra_columns=_extra_columns(data, where),
        skip_bad_items=_yes_or_no(data, "skip_bad_items", f"{where}: data"),
        unshrink=_yes_or_no(values, "unshrink", where),
        data_seed=None if data.get("seed") is None else _seed(data["seed"], where),
    )
    if recipe.start_at_mean and recipe.sae["architecture"] == "tied_l1":
        raise ConfigError(f"{where}: start_at_mean is not for tied_l1; set sae.center: mean instead.")
    if recipe.start_at_mean and recipe.sae.get("normalize_activations", "none") not in PLAIN_SCALES:
        raise ConfigError(
            f"{where}: start_at_mean needs sae.normalize_activations to be one of {', '.join(PLAIN_SCALES)}: "
            "the mean of what is normalised row by row is another."
        )
    if recipe.encoding is not None:
        require_encoding(recipe.encoding)
    if recipe.heldout == 0:
        raise ConfigError(f"{where}: data.heldout must be between 0 and 1, got 0.")
    if recipe.sink_multiple == 1:
        raise ConfigError(f"{where}: data.sink_multiple must exceed 1, got 1.")
    _require_settings(recipe, where)
    return recipe


def _require_settings(recipe: Recipe, where: str) -> None:
    """The runner's fields and those of the SAE, by SAELens' own configs: importing them takes seconds, so this comes
    last."""
    known = sae_fields(text(recipe.sae["architecture"], "sae.architecture", where), where)
    require_known(recipe.sae, known, f"{where}: sae")
    from sae_lens import LanguageModelSAERunnerConfig
    from sae_lens.registry import get_sae_training_class

    from sae_lens_med.models.opening import DTYPES

    if recipe.model_dtype not in DTYPES:
        hint = nearest(recipe.model_dtype, DTYPES) or f"; use one of {', '.join(DTYPES)}."
        raise ConfigError(f"{where}: there is no model.dtype {recipe.model_dtype!r}{hint}")
    config_class = get_sae_training_class(recipe.sae["architecture"])[1]
    require_values(recipe.runner, LanguageModelSAERunnerConfig, where)
    fields = {key: value for key, value in recipe.sae.items() if key != "architecture"}
    require_values(fields, config_class, f"{where}: sae")
    try:
        config_class(d_in=1, **fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: SAELens rejects the section sae: {error}.") from error
    total, batch = recipe.runner["training_tokens"], recipe.runner["train_batch_size_tokens"]
    if total < batch:
        raise ConfigError(
            f"{where}: training_tokens ({total}) must be train_batch_size_tokens ({batch}), one step, at least."
        )


def _resampling(values: dict[str, Any], where: str) -> Resampling | None:
    if values.get("resample_dead") is None:
        return None
    section = section_of(values, "resample_dead", where)
    require_known(section, tuple(f.name for f in dataclasses.fields(Resampling)), f"{where}: resample_dead")
    for key in ("every", "dead_steps"):
        if key not in section:
            raise ConfigError(f"{where} has no key {key!r} of its section 'resample_dead'.")
    for key in ("every", "dead_steps", "rows"):
        whole(section.get(key, 1), f"resample_dead.{key}", where)
    until = section.get("until", 1.0)
    if isinstance(until, bool) or not isinstance(until, int | float) or not 0 < until <= 1:
        raise ConfigError(
            f"{where}: resample_dead.until is a share of the training, above 0 and at most 1, got {until!r}."
        )
    if values["sae"]["architecture"] != "tied_l1":
        raise ConfigError(
            f"{where}: resampling is written for tied_l1, not for {values['sae']['architecture']!r}; remove the "
            "section 'resample_dead'."
        )
    return Resampling(**section)


def sae_fields(architecture: str, where: str) -> tuple[str, ...]:
    """The keys that the `sae` section of `architecture` may hold."""
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    from sae_lens_med.saes import tied_l1

    tied_l1.register()
    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        known = sorted(SAE_TRAINING_CLASS_REGISTRY)
        raise ConfigError(
            f"{where}: SAELens has no training architecture {architecture!r}"
            f"{nearest(architecture, known) or '; it has ' + ', '.join(known) + '.'}"
        )
    config_class = SAE_TRAINING_CLASS_REGISTRY[architecture][1]
    names = [f.name for f in dataclasses.fields(config_class) if f.name not in _NOT_GIVEN]
    return ("architecture", *names)


def require_known(values: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raises `ConfigError` for a key that is not among `known`, naming the nearest."""
    for key in values:
        if key not in known:
            hint = nearest(str(key), known) or f"; the keys are {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")


def _seed(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ConfigError(f"{where}: data.seed must be a whole number from 0 to {MAX_SEED}, got {value!r}.")
    return value


def _yes_or_no(values: dict[str, Any], key: str, where: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} is true or false, got {value!r}.")
    return value


def _extra_columns(data: dict[str, Any], where: str) -> str:
    chosen = data.get("extra_columns", COLUMN_CHOICES[0])
    if chosen not in COLUMN_CHOICES:
        raise ConfigError(f"{where}: data.extra_columns is one of {', '.join(COLUMN_CHOICES)}, got {chosen!r}.")
    return chosen


def section_of(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """The section `name` of a recipe. Raises `ConfigError` where there is none."""
    section = values.get(name)
    if not isinstance(section, dict):
        raise ConfigError(f"{where} has no section {name!r}.")
    return section


def _source(value: Any, where: str) -> Source:
    if isinstance(value, str):
        return Source(text(value, "data.sources: path", where))
    if isinstance(value, dict) and "path" in value:
        require_known(value, ("path", "max_rows"), f"{where}: data.sources")
        max_rows = value.get("max_rows")
        return Source(
            text(value["path"], "data.sources: path", where),
            None if max_rows is None else whole(max_rows, "data.sources: max_rows", where),
        )
    raise ConfigError(f"{where}: a source is a path, or {{path, max_rows}}; got {value!r}.")
