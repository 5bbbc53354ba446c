"""How much the metrics that run a model are allowed to cost: one value, with the meaning of each number.

Out of scope: what a study fixes for every metric (permutations, seed, concepts, controls: `inputs.Inputs`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.runs.parsing import whole_number

MAX_NUMBER = 1_000_000


def _number(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """Settings of the metrics that run a model, all 1 or more. Raises `ConfigError` for a number below 1."""

    causal_items: int = _number(100, "items that the causal metrics run, drawn by the seed, left-out ones first")
    causal_sizes: tuple[int, ...] = _number((1, 5, 20, 80), "numbers of features that are removed or kept together")
    causal_sets: int = _number(199, "draws of stand-ins for the aligned features, one set per item in each draw")
    stand_ins: int = _number(10, "sets of stand-ins beside the features of each concept and item")
    comparators: int = _number(199, "features that a tested feature is ranked among")
    tested_features: int = _number(25, "features of each kind that get a verdict")
    feature_items: int = _number(20, "most items on which one feature is removed")
    concept_features: int = _number(3, "most features of one concept: the more, the more that only go along with it")
    steering_pairs: int = _number(40, "pairs of item and concept that are steered")
    steering_draws: int = _number(20, "random directions, and random features, beside each steered feature")
    foreign_labels: int = _number(4, "labels of other features that a judge is asked about beside a feature's own")
    reasoning_items: int = _number(50, "items on which the model reasons")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or min(numbers) < 1:
                raise ConfigError(f"the setting {each.name!r} needs whole numbers above 0, got {value}.")
        if list(self.causal_sizes) != sorted(set(self.causal_sizes)):
            raise ConfigError(f"the setting 'causal_sizes' needs ascending numbers, got {self.causal_sizes}.")


def meanings() -> dict[str, tuple[Any, str]]:
    """Name -> default and meaning of every setting."""
    return {each.name: (each.default, each.metadata["meaning"]) for each in fields(MetricSettings)}


def read_settings(given: Iterable[str]) -> MetricSettings:
    """`NAME=N` texts; several numbers are joined by `+`.

    Raises `ConfigError` for an unknown name, or a value that is no positive whole number.
    """
    known, found = meanings(), {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in known:
            hint = nearest(name, known) or f"; the settings are {', '.join(known)}."
            raise ConfigError(f"there is no setting {name!r} of a metric{hint}")
        several = isinstance(known[name][0], tuple)
        parts = [part.strip() for part in (value.split("+") if several else [value])]
        numbers = [number for part in parts if (number := whole_number(part, 1, MAX_NUMBER)) is not None]
        if not equals or len(numbers) < len(parts):
            raise ConfigError(
                f"the setting {name!r} needs {name}=N with N a whole number above 0 and at most {MAX_NUMBER:,}, got "
                f"{text[:60]!r}."
            )
        found[name] = tuple(numbers) if several else numbers[0]
    return MetricSettings(**found)
