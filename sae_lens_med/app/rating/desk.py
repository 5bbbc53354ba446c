"""The rating of one study: who rates what next, and how far everybody is.

What leaves this module for a rater's page (`RatedUnit`) holds neither arm nor item id, neither the model's answer nor a
feature: the question with its right answer, and the text to be rated. **The right answer is shown**: in the texts it is
masked, so that who does not know it could not tell a right reasoning from a wrong one; it is the same for all arms of a
case, so that it says nothing of them.

Out of scope: addresses and HTML (`routes`), what the ratings say (`agreement`).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from sae_lens_med.alignment.ratings_file import ARMS, AXES
from sae_lens_med.app import index_files
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.rating.axes import Role, axes_of, levels_of
from sae_lens_med.app.rating.design import order_units
from sae_lens_med.app.rating.store import RaterLog, Raters, RatingEntry
from sae_lens_med.app.rating.units import CASES, Unit, Units, draw_units, read_units
from sae_lens_med.app.refusals import refusal
from sae_lens_med.app.text import visible
from sae_lens_med.errors import ConflictError, DataError, NotFoundError
from sae_lens_med.records import OPTION_LETTERS, Record

FOLDER = "ratings"
"""In `STUDY/app/`."""


@dataclass(frozen=True, slots=True)
class RaterProgress(Record):
    """How far a rater is."""

    rater: str
    role: Role
    done: int
    """Units of which every axis is rated."""
    of: int
    ratings: int
    """Axes of units, whether or not the others of the unit are rated."""
    seconds: float | None
    """Median over the units that are done; None where none is."""
    problem: str = ""
    """What of the rater's file cannot be read, in one sentence; empty where all can."""


@dataclass(frozen=True, slots=True)
class RaterList(Record):
    """Everybody who rates."""

    _nested: ClassVar[dict[str, type[Record]]] = {"raters": RaterProgress}

    drawn: bool
    """Whether there are units; the first rater who begins has them drawn."""
    raters: tuple[RaterProgress, ...]


@dataclass(frozen=True, slots=True)
class RatedOption(Record):
    """An option of the question."""

    letter: str
    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class AskedAxis(Record):
    """An axis with its levels, in the order in which they are shown."""

    axis: str
    levels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RatedUnit(Record):
    """What a rater sees of a unit. Texts are visible (`app.text`)."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "options": RatedOption,
        "axes": AskedAxis,
        "ratings": RatingEntry,
    }

    unit: str
    """Its id."""
    number: int
    """Its place in the rater's order, from 1."""
    language: str
    stem: str
    options: tuple[RatedOption, ...]
    text: str
    """To be rated."""
    axes: tuple[AskedAxis, ...]
    ratings: tuple[RatingEntry, ...]
    """Those that were given."""
    before: str | None
    """The unit before it in the rater's order."""


@dataclass(frozen=True, slots=True)
class RaterDesk(Record):
    """What a rater has before him or her."""

    _nested: ClassVar[dict[str, type[Record]]] = {"progress": RaterProgress, "unit": RatedUnit}

    progress: RaterProgress
    unit: RatedUnit | None
    """None where all is rated."""


@dataclass(frozen=True, slots=True)
class RatingSaved(Record):
    """What was written, and how far its rater is now."""

    _nested: ClassVar[dict[str, type[Record]]] = {"entry": RatingEntry}

    entry: RatingEntry
    done: int
    of: int


class Desk:
    """The rating of one study. Safe from several threads, and beside other processes."""

    def __init__(self, study: OpenStudy) -> None:
        """Nothing is written before somebody begins."""
        self.study = study
        self.folder = study.folder / index_files.FOLDER / FOLDER
        self.raters = Raters(self.folder)
        self._units: Units | None = None
        self._orders: dict[str, list[Unit]] = {}
        self._guard = threading.Lock()

    @property
    def units(self) -> Units | None:
        """None where none were drawn. Raises `StudyError` for a damaged file."""
        if self._units is None:
            self._units = read_units(self.folder, self.study)
        return self._units

    def draw(self, cases: int = CASES, seed: str | None = None) -> Units:
        """See `draw_units`."""
        with self._guard:
            self._units = draw_units(self.study, self.folder, cases=cases, seed=seed)
            return self._units

    def join(self, rater: str, role: Role) -> RaterProgress:
        """Begin to rate, or go on; the first one has the units drawn. Raises as `Raters.join` and `draw_units` do."""
        self.raters.refresh()
        with self._guard:
            units = self.units or draw_units(self.study, self.folder)
            self._units = units
        return self._progress(self.raters.join(rater, role, units.id))

    def listed(self) -> RaterList:
        """Everybody, as the files are now."""
        self.raters.refresh()
        units = self.units
        if units is None:
            return RaterList(False, ())
        return RaterList(True, tuple(self._progress(log) for log in self.raters.all.values() if log.role is not None))

    def desk(self, rater: str, unit: str | None = None) -> RaterDesk:
        """The unit with this id, or the first that is not rated whole. Raises `NotFoundError` for an unknown one."""
        log, order = self._of(rater)
        log.log.refresh()
        place = self._place(order, unit) if unit is not None else self._first_open(log, order)
        return RaterDesk(self._progress(log), None if place is None else self._shown(log, order, place))

    def rate(
        self, rater: str, unit: str, axis: str, rating: str, revision: int, seconds: float, entry_id: str
    ) -> RatingSaved:
        """Write a rating. Raises `NotFoundError` for an unknown rater or unit, `DataError` for an axis that the rater
        is not asked; else as `RaterLog.add`."""
        log, order = self._of(rater)
        found = order[self._place(order, unit)]
        asked = axes_of(_role(log))
        if axis not in asked:
            raise refusal(DataError, "refused.axis", rater=rater, axis=repr(axis), axes=", ".join(asked))
        entry = log.add(found, axis, rating, revision, seconds, entry_id)
        return RatingSaved(entry, len(self._done(log, order)), len(order))

    def rows(self) -> list[dict[str, str]]:
        """The last rating of every rater, case, arm and axis, as the file of ratings has them; empty without any."""
        self.raters.refresh()
        rows = [
            {"item": log.arms[unit][0], "rater": log.name, "arm": log.arms[unit][1], "axis": axis, "rating": e.rating}
            for log in self.raters.all.values()
            for (unit, axis), e in log.entries.items()
        ]
        axes = list(AXES)
        return sorted(rows, key=lambda r: (r["rater"], r["item"], ARMS.index(r["arm"]), axes.index(r["axis"])))  # type: ignore[arg-type]

    def _of(self, rater: str) -> tuple[RaterLog, list[Unit]]:
        """A rater's log and order. Raises `NotFoundError`, and `ConflictError` where his or her units are gone."""
        units = self.units
        try:
            log = self.raters.of(rater)
        except NotFoundError:
            self.raters.refresh()  # another process may have begun it
            log = self.raters.of(rater)
        if units is None or log.units != units.id:
            raise refusal(ConflictError, "refused.units.gone", rater=rater)
        if rater not in self._orders:
            self._orders[rater] = rater_order(units, rater)
        return log, self._orders[rater]

    def _place(self, order: Sequence[Unit], unit: str) -> int:
        place = next((place for place, each in enumerate(order) if each.id == unit), None)
        if place is None:
            raise refusal(NotFoundError, "refused.unit")
        return place

    def _done(self, log: RaterLog, order: Sequence[Unit]) -> list[Unit]:
        asked = axes_of(_role(log))
        return [unit for unit in order if all((unit.id, axis) in log.entries for axis in asked)]

    def _first_open(self, log: RaterLog, order: Sequence[Unit]) -> int | None:
        asked = axes_of(_role(log))
        return next(
            (i for i, unit in enumerate(order) if any((unit.id, axis) not in log.entries for axis in asked)), None
        )

    def _progress(self, log: RaterLog) -> RaterProgress:
        units = self.units
        order = list(units.units) if units is not None and log.units == units.id else []
        done = self._done(log, order)
        spent = [max(entry.seconds for entry in log.of(unit.id)) for unit in done]
        problem = log.log.problem if order else f"{log.name} rated units that were drawn before."
        return RaterProgress(
            log.name, _role(log), len(done), len(order), len(log.entries), median(spent) if spent else None, problem
        )

    def _shown(self, log: RaterLog, order: Sequence[Unit], place: int) -> RatedUnit:
        unit = order[place]
        item = self.study.items[unit.item]
        return RatedUnit(
            unit=unit.id,
            number=place + 1,
            language=item.language,
            stem=visible(item.question).text,
            options=tuple(
                RatedOption(letter, visible(text).text, item.answer == k)
                for k, (letter, text) in enumerate(zip(OPTION_LETTERS, item.options, strict=False))
            ),
            text=visible(unit.text).text,
            axes=tuple(AskedAxis(axis, levels_of(axis)) for axis in axes_of(_role(log))),
            ratings=log.of(unit.id),
            before=order[place - 1].id if place else None,
        )


def rater_order(units: Units, rater: str) -> list[Unit]:
    """The units in the order in which a rater sees them."""
    cases = {item: number for number, item in enumerate(units.items)}
    pairs = [(cases[unit.item], unit.arm) for unit in units.units]
    return [units.units[place] for place in order_units(pairs, f"{units.seed} {rater}")]


def _role(log: RaterLog) -> Role:
    if log.role is None:
        raise refusal(NotFoundError, "refused.role", rater=log.name)
    return log.role


def as_values(desk: Desk) -> dict[str, Any]:
    """Progress for programs."""
    units = desk.units
    counts = {} if units is None else {arm: sum(unit.arm == arm for unit in units.units) for arm in ARMS}
    return {
        "cases": 0 if units is None else len(units.items),
        "units": counts,
        "left_out": {} if units is None else units.left_out,
        "notes": [] if units is None else list(units.notes),
        "raters": [progress.to_dict() for progress in desk.listed().raters],
    }
