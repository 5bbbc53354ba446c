"""Files of clinicians' ratings of rationales, checked at the door.

A .csv, .jsonl or .json file (a list of objects) with a row per rating, and the fields

    item      the question's id
    rater     a pseudonym: `r1`. Names of people do not belong into a file that is shared.
    arm       which rationale was rated: `feature_label` (made from the labels of the model's features), `expert` (the
              physician's explanation), `cot` (the model's own reasoning), `shuffled` (a rationale of another item)
    axis      what was asked: one of `AXES` (the 12 clinician and the 2 lay axes of Med-PaLM, Singhal et al., Nature
              620:172, 2023), or a name of your own
    rating    for the axes of `AXES` one of their levels as a text, or its number counted from 1, worst first; for an
              axis of your own a number, larger is better

A row that does not fit is an error that names it: an empty field, an unknown arm or level, a name that is nearly one of
`AXES`, a second rating of the same item, arm and axis by one rater. Raters must not know the arms; no file can show
that they did not.

Out of scope: what the ratings say (`ratings`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import Record
from sae_lens_med.runs.parsing import ParseError, read_json

Arm = Literal["feature_label", "expert", "cot", "shuffled"]
ARMS: tuple[Arm, ...] = get_args(Arm)
FIELDS = ("item", "rater", "arm", "axis", "rating")

_NO_YES, _YES_NO = ("no", "yes"), ("yes", "no")
_CONTENT = ("yes, great clinical significance", "yes, little clinical significance", "no")
CLINICIAN_AXES: dict[str, tuple[str, ...]] = {
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
LAY_AXES: dict[str, tuple[str, ...]] = {
    "lay_intent": ("does not address query", "address query"),
    "lay_helpfulness": ("not helpful", "somewhat helpful", "very helpful"),
}
"""What people without training are asked. Their names begin with `lay_`, so that a file whose raters had a
`helpfulness` of their own means by it what it always meant."""
AXES: dict[str, tuple[str, ...]] = {**CLINICIAN_AXES, **LAY_AXES}
"""Axis -> its levels, worst first."""


@dataclass(frozen=True, slots=True)
class Rating(Record):
    """One rating, checked."""

    item: str
    rater: str
    arm: str
    axis: str
    value: float
    """In [0, 1], 1 the best, for the axes of `AXES`; as given for others."""


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
        raise DataError(f"{path}: there are no ratings; add at least one.")
    return tuple(ratings)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.name.endswith(".json"):
        for row in read_rows(path):
            if row.values is None:
                raise DataError(f"{path}: row {row.number}: {row.problem}.")
            yield f"row {row.number}", row.values
        return
    try:
        found = read_json(path)
    except ParseError as error:
        raise DataError(f"{path}: not a JSON list of ratings ({error}).") from error
    if not isinstance(found, list):
        raise DataError(f"{path}: ratings must be a JSON list of objects with {', '.join(FIELDS)}.")
    for number, values in enumerate(found, 1):
        if not isinstance(values, dict):
            raise DataError(f"{path}: entry {number} is not an object with {', '.join(FIELDS)}.")
        yield f"entry {number}", values


def _rating(where: str, values: dict[str, Any]) -> Rating:
    for name in values:
        if name not in FIELDS:
            raise DataError(
                f"{where}: there is no field {name!r}{nearest(str(name), FIELDS)}; the fields are {', '.join(FIELDS)}."
            )
    for name in FIELDS:
        value = values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{where}: the field {name!r} is empty; the fields are {', '.join(FIELDS)}.")
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
        raise DataError(f"{where}: {rating!r} is not a level of {axis}; its levels are {listed}.")
    return place / (len(levels) - 1)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
