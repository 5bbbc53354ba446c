"""The conditions file: which interventions to compare with the plain model, on the same items.

    conditions:
      - {kind: splice, positions: not_special}              # the reconstruction in the place of the activation
      - {kind: splice, error_term: true}                    # plus what it misses: must change nothing
      - {name: ablate-two, kind: ablate, features: [12, 99], positions: not_special}
      - name: steer-123
        kind: steer
        features: {123: 1.0}
        unit: max
        strengths: [-4, -2, -1, 1, 2, 4]                    # one condition each
      - name: both                                          # several at once
        interventions:
          - {kind: ablate, features: [12]}
          - {kind: steer, features: {123: 2.0}, unit: max, positions: stem}
    matched_random: 20

An entry is an intervention as `interventions.spec` reads it, or a list of them, plus a `name` and `strengths`, which
multiply the values of all features that are steered or clamped. Plain comes first without being named.
`matched_random` says how many random feature sets are run beside each condition on features.

Out of scope: running (`conditions.run`), what an intervention does (`interventions`).
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.interventions.spec import MAX_VALUE, Intervention
from sae_lens_med.records import Record
from sae_lens_med.runs.files import is_file
from sae_lens_med.runs.parsing import ParseError, read_yaml, whole_number

PLAIN = "plain"
STEER = "steer"
WITH_VALUES = ("clamp", STEER)
MATCHED_RANDOM = 20
"""Random sets when the file does not say."""
MAX_RANDOM_SETS = 10_000
MAX_CONDITIONS = 1_000

Feature = tuple[str | None, int]
"""The SAE, as entries name it (None: the only one), and the index."""

_TOP = ("conditions", "matched_random")
_NAME_BYTES = 200  # a letter of Korean has three
_NAME = re.compile(r"\w[\w+=@.-]{0,99}")  # a folder of this name is made


@dataclass(frozen=True, slots=True)
class Condition(Record):
    """One way of running the model."""

    name: str
    kind: str
    """Kinds of the interventions, joined by `+`; `plain` where there are none."""
    family: str
    """Name of the entry: the same for all strengths of one."""
    interventions: tuple[dict[str, Any], ...] = ()
    """As `Intervention.to_dict` gives them, with the strength multiplied in."""
    strength: float | None = None
    """What the values of the entry's features were multiplied by; None where the entry has no strengths."""

    @property
    def parsed(self) -> tuple[Intervention, ...]:
        """The interventions, for `interventions.intervention_pairs`."""
        return tuple(Intervention.from_dict(entry, f"condition {self.name!r}") for entry in self.interventions)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Each feature once, in the order of the interventions; empty for `plain` and `splice`."""
        return tuple(dict.fromkeys((each.sae, index) for each in self.parsed for index, _ in each.features))

    @property
    def plain_at_zero(self) -> bool:
        """Whether strength 0 would be the plain model; a clamp to 0 is not."""
        return self.kind == STEER

    def on(self, others: Mapping[Feature, int]) -> "Condition":
        """The same condition with the feature `others[feature]` in the place of each feature."""
        found = []
        for entry in self.interventions:
            own, sae = entry.get("features"), entry.get("sae")
            if isinstance(own, dict):
                entry = {**entry, "features": {str(others[sae, int(k)]): value for k, value in own.items()}}
            elif own is not None:
                entry = {**entry, "features": [others[sae, index] for index in own]}
            found.append(entry)
        return replace(self, interventions=tuple(found))


@dataclass(frozen=True, slots=True)
class Conditions(Record):
    """A conditions file."""

    conditions: tuple[Condition, ...]
    """Plain first."""
    matched_random: int = MATCHED_RANDOM
    """Random sets beside each condition on features, >= 0."""


def load_conditions(path: str | Path) -> Conditions:
    """Read a conditions file (YAML or JSON). Raises `ConfigError` when it is missing or not as the module says."""
    try:
        values = read_yaml(Path(path))
    except ParseError as error:
        if not is_file(path):
            raise ConfigError(
                f"there is no conditions file {path}; `sae-lens-med intervene --example` prints one to start from."
            ) from None
        raise ConfigError(f"{path} cannot be read as YAML: {error}.") from error
    return parse_conditions(values, where=str(path))


def parse_conditions(values: Any, *, where: str = "the conditions") -> Conditions:
    """The conditions that `values` (a mapping, as YAML gives it) names. Raises `ConfigError` naming the entry."""
    _require_keys(values, _TOP, where)
    entries = values.get("conditions")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: `conditions` must be a list of at least one intervention.")
    sets = values.get("matched_random", MATCHED_RANDOM)
    if isinstance(sets, str) or whole_number(sets, 0, MAX_RANDOM_SETS) is None:
        raise ConfigError(
            f"{where}: matched_random must be a whole number from 0 to {MAX_RANDOM_SETS:,} (each is a run over the "
            f"data), got {sets!r}."
        )
    found = [Condition(PLAIN, PLAIN, PLAIN)]
    for number, entry in enumerate(entries, 1):
        found += _entry(entry, f"{where}, condition {number}")
    if len(found) > MAX_CONDITIONS:
        raise ConfigError(f"{where}: {len(found)} conditions, more than {MAX_CONDITIONS:,}; make several files.")
    names: set[str] = set()
    for condition in found:
        # Some file systems do not tell capitals apart, or one syllable from its letters.
        folded = unicodedata.normalize("NFC", condition.name).lower()
        if folded in names:
            raise ConfigError(
                f"{where}: two conditions are called {condition.name!r}; give each entry a `name` of its own."
            )
        names.add(folded)
    return Conditions(tuple(found), sets)


def _entry(entry: Any, where: str) -> list[Condition]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must be a mapping such as {{kind: steer, features: {{123: 1.0}}, unit: max}}.")
    own = {key: value for key, value in entry.items() if key not in ("name", "strengths")}
    if "interventions" in own:
        _require_keys(own, ("interventions",), where, and_also=("name", "strengths"))
        listed = own["interventions"]
        if not isinstance(listed, list) or not listed:
            raise ConfigError(f"{where}: interventions must be a list of at least one.")
        read = [Intervention.from_dict(each, f"{where}, intervention {n}") for n, each in enumerate(listed, 1)]
    else:
        read = [Intervention.from_dict(own, where)]
    name = entry.get("name", _default_name(read))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: the name {name!r} cannot be used as a folder name; use letters, digits and _ - . + = @ instead."
        )
    if (length := len(name.encode())) > _NAME_BYTES:
        raise ConfigError(
            f"{where}: the name {name[:30]}... has {length} bytes, more than the {_NAME_BYTES} that leave room in the "
            "name of a folder; choose a shorter one."
        )
    kind = "+".join(dict.fromkeys(each.kind for each in read))
    dicts = tuple(each.to_dict() for each in read)
    if "strengths" not in entry:
        return [Condition(name, kind, name, dicts)]
    if not any(each.kind in WITH_VALUES for each in read):
        raise ConfigError(
            f"{where}: strengths multiply the values of features, which only {' and '.join(WITH_VALUES)} have."
        )
    return [
        Condition(f"{name}@{strength:g}", kind, name, tuple(_scaled(each, strength, where) for each in dicts), strength)
        for strength in _strengths(entry["strengths"], kind, where)
    ]


def _strengths(values: Any, kind: str, where: str) -> list[float]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: strengths must be a list of numbers such as [-2, -1, 1, 2].")
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_VALUE:
            raise ConfigError(
                f"{where}: {_short(value)} is not a strength; use finite numbers of at most {MAX_VALUE:g}."
            )
        if value == 0 and kind == STEER:
            raise ConfigError(
                f"{where}: steering with strength 0 is the plain model, which is always included; leave 0 out."
            )
    return [float(value) for value in values]


def _scaled(entry: dict[str, Any], strength: float, where: str) -> dict[str, Any]:
    if entry["kind"] not in WITH_VALUES:
        return entry
    values = {index: value * strength for index, value in entry["features"].items()}
    if any(abs(value) > MAX_VALUE for value in values.values()):
        raise ConfigError(f"{where}: the strength {strength:g} makes numbers past {MAX_VALUE:g}; use a lower one.")
    return {**entry, "features": values}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _default_name(read: Sequence[Intervention]) -> str:
    parts = []
    for each in read:
        indices = [str(index) for index, _ in each.features]
        more = [f"and-{len(indices) - 4}-more"] if len(indices) > 4 else []
        with_error = ["with-error"] if each.kind == "splice" and each.error_term else []
        parts.append("-".join([each.kind, *indices[:4], *more, *with_error]))
    return "+".join(parts)


def _require_keys(values: Any, known: Sequence[str], where: str, *, and_also: Sequence[str] = ()) -> None:
    known = (*known, *and_also)
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a mapping with the keys {', '.join(known)}.")
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}{nearest(str(key), known) or '; the keys are ' + ', '.join(known) + '.'}"
            )
