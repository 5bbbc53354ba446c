"""Interventions as a file says them: YAML or JSON -> checked, frozen values -> `(hook_name, fn)` pairs.

    - {kind: steer, features: {123: 5.0}, unit: max, positions: generated}
    - {kind: clamp, features: {7: 0.5}, unit: max, positions: {parts: [stem, option]}, sae: RELEASE/ID}
    - {kind: ablate, features: [3, 9], mode: mean, positions: not_special}
    - {kind: splice, error_term: false}

Each entry is `Intervention.to_dict` again, for the provenance of what was done with it. `sae` says which of several
SAEs; entries of one hook run in the order of the file. What positions can say: `positions.read_positions`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.interventions.dictionary import AnySae
from sae_lens_med.interventions.hooks import (
    ABLATE_MODES,
    CLAMP_UNITS,
    STEER_UNITS,
    Pair,
    ablate,
    clamp,
    splice,
    steer,
)
from sae_lens_med.interventions.positions import read_positions
from sae_lens_med.runs.parsing import MAX_SEED, ParseError, parse_json, parse_yaml, read_text, whole_number

Kind = Literal["splice", "ablate", "clamp", "steer"]

_KEYS: dict[str, tuple[str, ...]] = {
    "splice": ("error_term",),
    "ablate": ("features", "mode", "values", "seed", "error_term"),
    "clamp": ("features", "unit", "error_term"),
    "steer": ("features", "unit"),
}
MAX_FEATURE = 2**31 - 1
MAX_VALUE = 3.4e38
"""About the largest number of float32."""
_CHOICES = {"clamp": ("unit", CLAMP_UNITS), "steer": ("unit", STEER_UNITS), "ablate": ("mode", ABLATE_MODES)}


class Statistics(Protocol):
    """`features.statistics.FeatureStatistics` has these."""

    @property
    def maximum(self) -> Any:
        """`[d_sae]`"""
        ...

    @property
    def mean(self) -> Any:
        """`[d_sae]`"""
        ...


@dataclass(frozen=True, slots=True)
class Intervention:
    """One entry of a file; make it with `from_dict`, which checks it."""

    kind: Kind
    features: tuple[tuple[int, float | None], ...] = ()
    """Index and value; no values for `ablate`."""
    unit: str = "raw"
    """Of `clamp` and `steer`."""
    mode: str = "zero"
    """Of `ablate`."""
    values: tuple[tuple[float, ...], ...] | None = None
    """Of `ablate` by `resample`: rows of activations, one value for each feature."""
    seed: int = 0
    """Of `ablate` by `resample`."""
    error_term: bool = True
    """Of all but `steer`; `splice` has False where nothing is said."""
    positions: str = '"all"'
    """JSON of what `read_positions` takes."""
    sae: str | None = None
    """Which SAE; None where there is only one."""

    @classmethod
    def from_dict(cls, entry: Any, where: str = "an intervention") -> "Intervention":
        """Check one entry. Raises `ConfigError`, which begins with `where`, for what it does not understand."""
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where} must be a mapping such as {{kind: steer, features: {{123: 5.0}}}}.")
        kind: Any = entry.get("kind")
        if kind not in get_args(Kind):
            known = get_args(Kind)
            raise ConfigError(
                f"{where} has the unknown kind {kind!r}{nearest(str(kind), known) or '.'} Known: {', '.join(known)}."
            )
        keys = ("kind", *_KEYS[kind], "positions", "sae")
        for key in entry:
            if key not in keys:
                raise ConfigError(
                    f"{where} ({kind}) has no key {key!r}{nearest(str(key), keys) or '.'} Known: {', '.join(keys)}."
                )
        if kind in _CHOICES:
            name, choices = _CHOICES[kind]
            if (value := entry.get(name, choices[0])) not in choices:
                raise ConfigError(f"{where}: {name} must be one of {', '.join(choices)}, got {value!r}.")
        for key, kinds in (("error_term", bool), ("sae", str)):
            if not isinstance(entry.get(key, kinds()), kinds):
                raise ConfigError(f"{where}: {key} must be of type {kinds.__name__}, got {entry[key]!r}.")
        seed = entry.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"{where}: seed must be of type int, got {seed!r}.")
        if not 0 <= seed <= MAX_SEED:
            raise ConfigError(f"{where}: seed must be from 0 to {MAX_SEED}, got {seed}.")
        positions = entry.get("positions", "all")
        read_positions(positions, special_ids=())  # not_special is resolved when the pairs are made
        features = _features(kind, entry.get("features"), where) if "features" in keys else ()
        return cls(
            kind=kind,
            features=features,
            unit=entry.get("unit", "raw"),
            mode=entry.get("mode", "zero"),
            values=_rows(entry.get("values"), len(features), where),
            seed=seed,
            error_term=entry.get("error_term", kind != "splice"),
            positions=json.dumps(positions),
            sae=entry.get("sae"),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        found: dict[str, Any] = {"kind": self.kind}
        if self.kind == "ablate":
            found["features"] = [feature for feature, _ in self.features]
        elif self.kind != "splice":
            found["features"] = {str(feature): value for feature, value in self.features}
        for key in _KEYS[self.kind]:
            if key not in ("features", "values"):
                found[key] = getattr(self, key)
        if self.values is not None:
            found["values"] = [list(row) for row in self.values]
        found["positions"] = parse_json(self.positions)
        return found if self.sae is None else found | {"sae": self.sae}

    def pairs(
        self,
        sae: AnySae,
        *,
        statistics: Statistics | None = None,
        special_ids: Sequence[int] | None = None,
    ) -> list[Pair]:
        """The hooks. `statistics` where a unit or mode needs them; `special_ids` where positions say `not_special`."""
        positions = read_positions(parse_json(self.positions), special_ids)
        maximum = None if statistics is None else statistics.maximum
        values = {feature: float(value or 0.0) for feature, value in self.features}
        if self.kind == "splice":
            return splice(sae, error_term=self.error_term, positions=positions)
        if self.kind == "ablate":
            return ablate(
                sae,
                values,
                mode=self.mode,  # type: ignore[arg-type]  # checked by from_dict, and again by ablate
                mean=None if statistics is None else statistics.mean,
                values=self.values,
                seed=self.seed,
                error_term=self.error_term,
                positions=positions,
            )
        if self.kind == "clamp":
            return clamp(
                sae,
                values,
                unit=self.unit,  # type: ignore[arg-type]  # as above
                maximum=maximum,
                error_term=self.error_term,
                positions=positions,
            )
        return steer(sae, values, unit=self.unit, maximum=maximum, positions=positions)  # type: ignore[arg-type]  # as above


def read_interventions(path: str | Path) -> tuple[Intervention, ...]:
    """The entries of a YAML or JSON file. Raises `ConfigError` naming the file, the entry and the key."""
    path = Path(path)
    try:
        text = read_text(path)
    except ParseError as error:
        raise ConfigError(f"the interventions in {path} cannot be read: {error}.") from error
    try:
        entries = parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except ParseError as error:
        raise ConfigError(f"{path} is neither YAML nor JSON: {error}.") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path} must contain a list of interventions, each a mapping with a kind.")
    return tuple(Intervention.from_dict(entry, f"{path}, entry {n}") for n, entry in enumerate(entries, 1))


def intervention_pairs(
    interventions: Iterable[Intervention],
    saes: AnySae | Mapping[str, AnySae],
    *,
    statistics: Statistics | Mapping[str, Statistics] | None = None,
    special_ids: Sequence[int] | None = None,
) -> list[Pair]:
    """The hooks of all entries, in order.

    Args:
        interventions: from `read_interventions`.
        saes: the one SAE, or several by the name that entries give under `sae`.
        statistics: of the one SAE, or by the same names; for `unit: max` and `mode: mean`.
        special_ids: for positions that say `not_special`: `tokenizer.all_special_ids`.

    Raises `ConfigError` for an entry that does not say which of several SAEs, or names one that is not there.
    """
    pairs: list[Pair] = []
    for each in interventions:
        of = statistics.get(_name(each, saes)) if isinstance(statistics, Mapping) else statistics
        sae = saes[_name(each, saes)] if isinstance(saes, Mapping) else saes
        pairs += each.pairs(sae, statistics=of, special_ids=special_ids)
    return pairs


def load_interventions(
    path: str | Path,
    saes: AnySae | Mapping[str, AnySae],
    *,
    statistics: Statistics | Mapping[str, Statistics] | None = None,
    special_ids: Sequence[int] | None = None,
) -> list[Pair]:
    """`intervention_pairs` of `read_interventions(path)`."""
    return intervention_pairs(read_interventions(path), saes, statistics=statistics, special_ids=special_ids)


def _name(each: Intervention, saes: Any) -> str:
    if not isinstance(saes, Mapping):
        return each.sae or ""
    if each.sae is None and len(saes) == 1:
        return next(iter(saes))
    if each.sae is None:
        raise ConfigError(f"an intervention of kind {each.kind} must say which sae: {', '.join(saes)}.")
    if each.sae not in saes:
        raise ConfigError(
            f"an intervention names the SAE {each.sae!r}{nearest(each.sae, saes) or '.'} Given: {', '.join(saes)}."
        )
    return each.sae


def _features(kind: str, given: Any, where: str) -> tuple[tuple[int, float | None], ...]:
    shape = "a list of indices" if kind == "ablate" else "a mapping of index to value"
    if not isinstance(given, list if kind == "ablate" else Mapping) or not given:
        raise ConfigError(f"{where}: features of {kind} must be {shape}, got {_short(given)}.")
    found: list[tuple[int, float | None]] = []
    for key in given:
        index = whole_number(key, 0, MAX_FEATURE)
        if index is None:
            raise ConfigError(f"{where}: a feature must be an index >= 0, got {_short(key)} (at most {MAX_FEATURE}).")
        value = None if kind == "ablate" else given[key]
        if value is not None and not _is_number(value):
            raise ConfigError(f"{where}: the value of feature {key} must be a number, got {_short(value)}.")
        if kind != "ablate" and value is None:
            raise ConfigError(f"{where}: feature {key} has no value.")
        found.append((index, None if value is None else float(value)))
    for index, times in Counter(index for index, _ in found).items():
        if times > 1:
            raise ConfigError(f"{where}: the feature {index} is named twice; name each one once.")
    return tuple(found)


def _is_number(value: Any) -> bool:
    # A whole number may be one that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE


def _rows(given: Any, width: int, where: str) -> tuple[tuple[float, ...], ...] | None:
    if given is None:
        return None
    rows_given = given if isinstance(given, list | tuple) else [None]
    if not all(isinstance(row, list | tuple) and all(map(_is_number, row)) for row in rows_given):
        raise ConfigError(f"{where}: values must be a list of rows of finite numbers, got {_short(given)}.")
    rows = tuple(tuple(float(value) for value in row) for row in given)
    if not rows or any(len(row) != width for row in rows):
        raise ConfigError(f"{where}: each row of values needs {width} numbers, one for each feature.")
    return rows


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
