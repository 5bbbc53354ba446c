"""The values of a recipe: of the type that SAELens' configs declare, and in the range that training here can use.

Checked when the recipe is read: SAELens itself finds most of them out of range in the middle of a run, or not at all.
"""

import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.runs.parsing import MAX_SEED

LEAST = {
    "context_size": 2,  # BOS and a token
    "training_tokens": 1,
    "train_batch_size_tokens": 1,
    "lr_end": 0,
    "lr_warm_up_steps": 0,
    "lr_decay_steps": 0,
    "n_restart_cycles": 1,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "seed": 0,
    "n_checkpoints": 0,
    "dead_feature_window": 1,
    "feature_sampling_window": 1,
    "n_batches_for_norm_estimate": 1,
    "d_sae": 1,
    "k": 1,
    "l1_coefficient": 0,
    "l1_warm_up_steps": 0,
    "l0_coefficient": 0,
    "l0_warm_up_steps": 0,
    "pre_act_loss_coefficient": 0,
    "aux_loss_coefficient": 0,
    "residual_threshold": 0,
    "max_iterations": 1,
    "matryoshka_widths": 1,
    "center_batches": 1,
    "initial_density": 0,
}
"""The smallest value of a key, of the runner's and of the `sae` section; of a list, the smallest of its entries."""

ABOVE_0 = (
    "lr",
    "decoder_init_norm",
    "lp_norm",
    "target_l0",
    "topk_threshold_lr",
    "jumprelu_bandwidth",
    "jumprelu_init_threshold",
    "jumprelu_tanh_scale",
)
"""Keys that 0 makes useless or impossible. Every key that holds a number is here or in `LEAST`."""

MOST = {
    "context_size": 2**24,
    "training_tokens": 10**15,
    "train_batch_size_tokens": 2**30,
    "seed": MAX_SEED,
    "n_checkpoints": 10_000,
    "d_sae": 2**24,
    "k": 2**24,
    "matryoshka_widths": 2**24,
}
"""The largest value of a key where a larger one can only be a slip: it would overflow, or fill the memory."""

MOST_OF_OTHERS = 10**15
"""Of every other number."""

BELOW_1 = ("adam_beta1", "adam_beta2")

CHOICES = {
    "lr_scheduler_name": ("constant", "cosineannealing", "cosineannealingwarmrestarts"),
    "dtype": ("float32", "bfloat16", "float16", "float64"),
}
"""Keys whose type is `str` in SAELens and that take one of these."""


def require_values(values: Mapping[str, Any], config_class: type, where: str) -> None:
    """Check each of `values` by the field of its name of a SAELens config class. Raises `ConfigError`."""
    hints = typing.get_type_hints(config_class)
    for key, value in values.items():
        if key not in hints:
            continue
        if not _fits(value, hints[key]):
            raise ConfigError(f"{where}: {key} must be {_in_words(hints[key])}, got {_shown(value)}.")
        if isinstance(value, str):
            text(value, key, where)
        if isinstance(value, list) and not value:
            raise ConfigError(f"{where}: {key} must have an entry at least.")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int | float) and not isinstance(each, bool):
                _require_range(each, key, where)
        if key in CHOICES and value not in CHOICES[key]:
            hint = nearest(str(value), CHOICES[key]) or f"; there are {', '.join(CHOICES[key])}."
            raise ConfigError(f"{where}: SAELens has no {key} {value!r}{hint}")


def _require_range(value: float, key: str, where: str) -> None:
    if key in LEAST and value < LEAST[key]:
        raise ConfigError(f"{where}: {key} must be at least {LEAST[key]}, got {_shown(value)}.")
    if key in ABOVE_0 and value <= 0:
        raise ConfigError(f"{where}: {key} must be above 0, got {_shown(value)}.")
    most = MOST.get(key, MOST_OF_OTHERS)
    if value > most:
        raise ConfigError(f"{where}: {key} must be at most {most:,}, got {_shown(value)}.")
    if key in BELOW_1 and value >= 1:
        raise ConfigError(f"{where}: {key} must be below 1, got {_shown(value)}.")


def number(value: Any, name: str, where: str, least: float, below: float = MOST_OF_OTHERS) -> float:
    """A number of at least `least` and below `below`. Raises `ConfigError`."""
    if not _fits(value, float) or not least <= value < below:
        limits = f"at least {least:g} and below {below:g}"
        raise ConfigError(f"{where}: {name} must be a number of {limits}, got {_shown(value)}.")
    return float(value)


def whole(value: Any, name: str, where: str) -> int:
    """A whole number of at least 1. Raises `ConfigError`."""
    if not _fits(value, int) or value < 1:
        raise ConfigError(f"{where}: {name} must be a whole number of at least 1, got {_shown(value)}.")
    if value > MOST_OF_OTHERS:
        raise ConfigError(f"{where}: {name} must be at most {MOST_OF_OTHERS:,}, got {_shown(value)}.")
    return int(value)


def text(value: Any, name: str, where: str) -> str:
    """A text that is not blank. Raises `ConfigError`."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} must be a string, got {_shown(value)}.")
    if not value.strip():
        raise ConfigError(f"{where}: {name} is empty; leave it out, or say what it is.")
    return value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(_fits(each, typing.get_args(hint)[0]) for each in value)
    if hint is float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


def _in_words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if origin is types.UnionType:
        return " or ".join(_in_words(each) for each in typing.get_args(hint))
    if origin is list:
        return f"a list whose entries are each {_in_words(typing.get_args(hint)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}.get(hint, "null")
