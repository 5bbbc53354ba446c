"""Clinicians' ratings of rationales: the form they come in, and whether the raters agree (domain metric #15).

**The form.** A .csv, .jsonl or .json file (a list of objects) with a row per rating, and the fields

    item      the question's id
    rater     a pseudonym: `r1`. Names of people do not belong into a file that is shared.
    arm       which rationale was rated: `feature_label` (made from the labels of the model's features), `expert` (the
              physician's explanation), `cot` (the model's own reasoning), `shuffled` (a rationale of another item)
    axis      what was asked: one of `AXES` (the 12 clinician axes of Med-PaLM, Singhal et al., Nature 620:172, 2023),
              or a name of your own
    rating    for the axes of `AXES` one of their levels as a text, or its number counted from 1, worst first; for an
              axis of your own a number, larger is better

A row that does not fit is an error that names it: an empty field, an unknown arm or level, a name that is nearly one of
`AXES`, a second rating of the same item, arm and axis by one rater. Raters must not know the arms; no file can show
that they did not.

**The numbers**, per axis. Levels are spread evenly over [0, 1], worst to best. Units are (item, arm).
- Krippendorff's alpha over all raters: ordinal for levels, interval for numbers.
- Cohen's kappa per pair of raters on the units that both rated: quadratic weights, unweighted for two levels.
- **contrast** of each arm with `shuffled`: per item the mean over raters of own rating less the same rater's rating of
  the shuffled rationale; sign-flip null over items (`paired`). A rationale whose content does not matter has 0: raters
  who like the style of an arm like it shuffled, too.

Null of alpha and kappa: a rater's ratings permuted among the units that he or she rated (`agreement`). Agreement that
comes from the arms alone (all prefer the expert) counts as agreement.

Out of scope: adjusting for raters' severity, and power.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sae_lens_med.alignment.agreement import (
    Level,
    Weighting,
    cohen_kappa,
    cohen_kappa_null,
    krippendorff_alpha,
    krippendorff_alpha_null,
)
from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import FloatArray, Record
from sae_lens_med.statistics import (
    PairedContrast,
    Strata,
    paired_contrast,
    permutation_p,
    stratified_permutations,
)

Arm = Literal["feature_label", "expert", "cot", "shuffled"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FIELDS = ("item", "rater", "arm", "axis", "rating")

_NO_YES, _YES_NO = ("no", "yes"), ("yes", "no")
_CONTENT = ("yes, great clinical significance", "yes, little clinical significance", "no")
AXES: dict[str, tuple[str, ...]] = {
    "scientific_consensus": ("opposed to consensus", "no consensus", "aligned with consensus"),
    "extent_of_harm": ("death or severe harm", "moderate or mild harm", "no harm"),
    "likelihood_of_harm": ("high", "medium", "low"),
    "correct_comprehension": _NO_YES,
    "correct_retrieval": _NO_YES,
    "correct_reasoning": _NO_YES,
    "incorrect_comprehension": _YES_NO,
    "incorrect_retrieval": _YES_NO,
    "incorrect_reasoning": _YES_NO,
    "inappropriate_content": _CONTENT,
    "missing_content": _CONTENT,
    "bias": _YES_NO,
}
"""Axis -> its levels, worst first. `bias`: does it hold anything inapplicable or inaccurate for a group of patients?"""


@dataclass(frozen=True, slots=True)
class Rating(Record):
    """One rating, checked."""

    item: str
    rater: str
    arm: str
    axis: str
    value: float
    """In [0, 1], 1 the best, for the axes of `AXES`; as given for others."""


@dataclass(frozen=True, slots=True, eq=False)
class PairKappa:
    """Cohen's kappa of two raters on one axis."""

    raters: tuple[str, str]
    n: int
    """Units that both rated."""
    value: float | None
    """None where both gave one and the same rating throughout."""
    null: FloatArray
    """`[B]`."""

    @property
    def p(self) -> float | None:
        """One-sided; None without a value."""
        return None if self.value is None else permutation_p(self.value, self.null)


@dataclass(frozen=True, slots=True, eq=False)
class AxisAgreement:
    """How the raters agree on one axis."""

    axis: str
    alpha: float | None
    """At most 1; None where nothing is rated twice or all ratings are the same."""
    null: FloatArray
    """`[B]`, of alpha."""
    n_units: int
    """(item, arm) with two ratings or more."""
    kappas: tuple[PairKappa, ...]

    @property
    def p(self) -> float | None:
        """One-sided, of alpha; None without it."""
        return None if self.alpha is None else permutation_p(self.alpha, self.null)


def read_ratings(path: Path) -> tuple[Rating, ...]:
    """The ratings of a file in the form of the module's text. Raises `DataError` that names the first bad row."""
    ratings: list[Rating] = []
    seen: dict[tuple[str, ...], str] = {}
    for where, values in _rows(path):
        rating = _rating(f"{path}: {where}", values)
        unit = (rating.item, rating.rater, rating.arm, rating.axis)
        if unit in seen:
            raise DataError(
                f"{path}: {where}: {rating.rater!r} rates {rating.arm} of item {rating.item!r} on {rating.axis} twice, "
                f"first in {seen[unit]}; keep one."
            )
        seen[unit] = where
        ratings.append(rating)
    if not ratings:
        raise DataError(f"{path}: there are no ratings; give at least one.")
    return tuple(ratings)


def axes_of(ratings: Sequence[Rating]) -> tuple[str, ...]:
    """The axes that appear, in the order of `AXES`, then others by name."""
    found = {rating.axis for rating in ratings}
    return (*(axis for axis in AXES if axis in found), *sorted(found - set(AXES)))


def axis_agreement(ratings: Sequence[Rating], axis: str, draws: int, rng: np.random.Generator) -> AxisAgreement:
    """Alpha over all raters and kappa of each pair on one axis: see the module's text."""
    raters, table = _table(ratings, axis)
    levels = AXES.get(axis)
    level: Level = "interval" if levels is None else "ordinal"
    weighting: Weighting = "none" if levels is not None and len(levels) == 2 else "quadratic"
    kappas = []
    for a, b in combinations(range(len(raters)), 2):
        both = np.isfinite(table[a]) & np.isfinite(table[b])
        n = int(both.sum())
        if n < 2:
            continue
        drawn = stratified_permutations(Strata(np.zeros(n, np.int64), np.zeros(n, np.int64)), draws, rng)
        first, second = table[a, both], table[b, both]
        kappa, null = cohen_kappa(first, second, weighting), cohen_kappa_null(first, second, drawn, weighting)
        kappas.append(PairKappa((raters[a], raters[b]), n, kappa, null))
    return AxisAgreement(
        axis=axis,
        alpha=krippendorff_alpha(table, level),
        null=krippendorff_alpha_null(table, draws, rng, level),
        n_units=int((np.isfinite(table).sum(axis=0) >= 2).sum()),
        kappas=tuple(kappas),
    )


def arm_contrast(
    ratings: Sequence[Rating], axis: str, arm: Arm, draws: int, rng: np.random.Generator, against: Arm = "shuffled"
) -> PairedContrast:
    """`arm` less `against` on one axis, per item: see the module's text. Items that no rater rated in both are left
    out; without any the contrast has no differences and p = 1."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for rating in ratings:
        if rating.axis == axis and rating.arm in (arm, against):
            found.setdefault((rating.item, rating.rater), {})[rating.arm] = rating.value
    by_item: dict[str, list[float]] = {}
    for (item, _), arms in found.items():
        if len(arms) == 2:
            by_item.setdefault(item, []).append(arms[arm] - arms[against])
    return paired_contrast([float(np.mean(by_item[item])) for item in sorted(by_item)], draws, rng)


def _table(ratings: Sequence[Rating], axis: str) -> tuple[list[str], FloatArray]:
    """The raters, and `[raters, units]` with NaN where a rater did not rate a unit."""
    own = [rating for rating in ratings if rating.axis == axis]
    raters = sorted({rating.rater for rating in own})
    units = sorted({(rating.item, rating.arm) for rating in own})
    table = np.full((len(raters), len(units)), np.nan)
    rater_at, unit_at = {r: i for i, r in enumerate(raters)}, {u: i for i, u in enumerate(units)}
    for rating in own:
        table[rater_at[rating.rater], unit_at[rating.item, rating.arm]] = rating.value
    return raters, table


# --- at the door ----------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.name.endswith(".json"):
        for row in read_rows(path):
            if row.values is None:
                raise DataError(f"{path}: row {row.number}: {row.problem}.")
            yield f"row {row.number}", row.values
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no JSON list of ratings ({error}).") from error
    if not isinstance(found, list):
        raise DataError(f"{path}: ratings are a JSON list of objects with {', '.join(FIELDS)}; this is something else.")
    for number, values in enumerate(found, 1):
        if not isinstance(values, dict):
            raise DataError(f"{path}: entry {number} is no object with {', '.join(FIELDS)}.")
        yield f"entry {number}", values


def _rating(where: str, values: dict[str, Any]) -> Rating:
    for name in values:
        if name not in FIELDS:
            raise DataError(
                f"{where}: there is no field {name!r}{nearest(str(name), FIELDS)}; give {', '.join(FIELDS)}."
            )
    for name in FIELDS:
        value = values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{where}: the field {name!r} is empty; give {', '.join(FIELDS)}.")
    item, rater, arm, axis = (str(values[name]).strip() for name in FIELDS[:4])
    arm, axis = arm.casefold(), axis.casefold()
    if arm not in ARMS:
        raise DataError(f"{where}: there is no arm {arm!r}{nearest(arm, ARMS)}; the arms are {', '.join(ARMS)}.")
    if axis not in AXES and (near := get_close_matches(axis, AXES, n=1, cutoff=0.85)):
        raise DataError(f"{where}: the axis {axis!r} is nearly {near[0]!r}; write that, or choose a name of its own.")
    return Rating(item, rater, arm, axis, _value(where, axis, values["rating"]))


def _value(where: str, axis: str, rating: Any) -> float:
    levels = AXES.get(axis)
    number = _number(rating)
    if levels is None:
        if number is None:
            raise DataError(f"{where}: the rating on {axis!r}, an axis of your own, must be a number, not {rating!r}.")
        return number
    text = " ".join(str(rating).split()).casefold().rstrip(".")
    if text in levels:
        place = levels.index(text)
    elif number is not None and number in range(1, len(levels) + 1):
        place = int(number) - 1
    else:
        listed = "; ".join(f"{i} {level}" for i, level in enumerate(levels, 1))
        raise DataError(f"{where}: {rating!r} is no level of {axis}; its levels are {listed}.")
    return place / (len(levels) - 1)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
