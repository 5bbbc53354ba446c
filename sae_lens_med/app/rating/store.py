"""What raters said: `STUDY/app/ratings/RATER.jsonl`, one line a click, only ever added to (`runs.append_log`).

    {"rater": "r1", "role": "clinician", "units": "<id of the units>", "time": ...}                       the first line
    {"id": ..., "unit": ..., "axis": "bias", "rating": "no", "revision": 1, "seconds": 41.5, "time": ...,
     "item": ..., "arm": "shuffled", "drawn_arm": "cot", "drawn_from": ...}

A click has an id that its page made, so that sending it again is not a second rating, and the revision that it makes of
this unit and axis: whoever saw an older one is refused (`RatingConflictError`) and shown what stands there, unless both
say the same. `seconds`: for how long the unit has been looked at when it was clicked.

A rater is known by a pseudonym, which is looked up among the files that are there; only a new one, of letters, digits,
`_` and `-`, becomes a file.

Out of scope: which units there are (`units`), what may be asked of whom (`axes`).
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_lens_med.alignment.ratings_file import AXES
from sae_lens_med.app.rating.axes import ROLES, Role
from sae_lens_med.app.rating.units import Unit
from sae_lens_med.app.refusals import Words, refusal
from sae_lens_med.errors import ConflictError, DataError, NotFoundError
from sae_lens_med.records import Record
from sae_lens_med.runs.append_log import AppendLog

RATER = r"[A-Za-z0-9_\-]{1,32}"
"""What a pseudonym may be; a browser takes it, too."""
ENTRY_ID = r"[A-Za-z0-9_-]{8,64}"
"""What the id of a click may be."""
LONGEST = 86_400.0
"""Seconds of one unit: a day."""


@dataclass(frozen=True, slots=True)
class RatingEntry(Record):
    """One rating, as its rater may see it."""

    unit: str
    axis: str
    rating: str
    """A level of the axis, as the file of ratings names it."""
    revision: int
    """1, 2, ... of this unit and axis."""
    seconds: float
    """For how long the unit had been looked at, >= 0."""
    time: str
    """UTC, ISO 8601."""


class RatingConflictError(ConflictError):
    """Another page of the same rater has rated the same axis otherwise meanwhile."""

    def __init__(self, entry: RatingEntry) -> None:
        told = refusal(ConflictError, "refused.rated.otherwise", rating=Words(f"rate.level.{entry.rating}"))
        super().__init__(str(told))
        self.key, self.values = told.key, told.values
        self.entry = entry
        """What stands there."""


class RaterLog:
    """The ratings of one rater."""

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self.name = path.stem
        self.role: Role | None = None
        """None before the first line was written."""
        self.units = ""
        self.entries: dict[tuple[str, str], RatingEntry] = {}
        """The last one of each unit and axis."""
        self.arms: dict[str, tuple[str, str]] = {}
        """Unit -> its item and arm, as the log has them."""
        self._by_id: dict[str, RatingEntry] = {}
        self.log = AppendLog(path, self._note)

    def begin(self, role: Role, units: str) -> None:
        """Write who rates what. Written once: another role, or ratings of other units, raise `ConflictError`."""
        with self.log.writing() as write:
            if self.role is None:
                write({"rater": self.name, "role": role, "units": units, "time": _now()})
        if self.role != role:
            known = Words("refused.rater.damaged" if self.role is None else f"rate.who.{self.role}")
            raise refusal(ConflictError, "refused.rater.taken", rater=self.name, role=known)
        if self.units != units:
            raise refusal(ConflictError, "refused.rater.earlier", rater=self.name)

    def add(self, unit: Unit, axis: str, rating: str, revision: int, seconds: float, entry_id: str) -> RatingEntry:
        """Write a rating.

        Args:
            unit: what is rated, known to be of the units that the rater was given.
            axis: one that the rater is asked.
            rating: a level of it.
            revision: of the rating that this one replaces; 0 where there was none.
            seconds: for how long the unit has been looked at.
            entry_id: made by the page; one that was written before gives that entry, and nothing is written.

        Raises `RatingConflictError` where another rating stands there than the one that was seen, and says otherwise;
        `DataError` for a level that the axis has not got, an id or a time that cannot be.
        """
        if rating not in AXES.get(axis, ()):
            levels = "; ".join(AXES.get(axis, ()))
            raise refusal(DataError, "refused.level", rating=repr(rating), axis=axis, levels=levels)
        if not re.fullmatch(ENTRY_ID, entry_id):
            raise refusal(DataError, "refused.rating.id")
        if not 0 <= seconds <= LONGEST:
            raise refusal(DataError, "refused.seconds", most=f"{LONGEST:.0f}", seconds=seconds)
        with self.log.writing() as write:
            if (known := self._by_id.get(entry_id)) is not None:
                return known
            newest = self.entries.get((unit.id, axis))
            if newest is not None and revision != newest.revision:
                if newest.rating == rating:
                    return newest
                raise RatingConflictError(newest)
            if newest is None and revision:
                raise refusal(DataError, "refused.revision", axis=axis, revision=revision)
            entry = RatingEntry(unit.id, axis, rating, revision + 1, round(float(seconds), 1), _now())
            origin = {"item": unit.item, "arm": unit.arm, "drawn_arm": unit.drawn_arm, "drawn_from": unit.drawn_from}
            write({"id": entry_id, **entry.to_dict(), **{k: v for k, v in origin.items() if v is not None}})
            return entry

    def of(self, unit: str) -> tuple[RatingEntry, ...]:
        """The ratings of a unit, one an axis."""
        return tuple(entry for (own, _), entry in self.entries.items() if own == unit)

    def _note(self, values: dict[str, Any]) -> None:
        if "role" in values:
            if self.role is not None or values["role"] not in ROLES or values["rater"] != self.name:
                raise ValueError("it is not the first line of this rater's file")
            self.role, self.units = values["role"], str(values["units"])
            return
        entry = RatingEntry.from_dict({name: values[name] for name in _FIELDS})
        last = self.entries.get((entry.unit, entry.axis))
        # Where a line between them was torn, the next one still counts.
        if entry.rating not in AXES[entry.axis] or entry.revision <= (0 if last is None else last.revision):
            raise ValueError("it is not a newer rating of its unit and axis")
        if not all(isinstance(values[name], str) for name in ("id", "unit", "item", "arm", "time")):
            raise TypeError("an id is not a text")
        if isinstance(entry.seconds, bool) or not 0 <= float(entry.seconds) <= LONGEST:
            raise ValueError("the seconds are no number")
        self.entries[entry.unit, entry.axis] = entry
        self.arms[entry.unit] = (values["item"], values["arm"])
        self._by_id[values["id"]] = entry


class Raters:
    """All raters of a study: the files of a folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        """Read those that are there."""
        self.folder = folder
        self._logs: dict[str, RaterLog] = {}
        self._guard = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have written since."""
        with self._guard:
            for path in sorted(self.folder.glob("*.jsonl")):
                if re.fullmatch(RATER, path.stem) and path.stem not in self._logs:
                    self._logs[path.stem] = RaterLog(path)
            for log in self._logs.values():
                log.log.refresh()

    @property
    def all(self) -> Mapping[str, RaterLog]:
        """By pseudonym."""
        return dict(sorted(self._logs.items()))

    def of(self, rater: str) -> RaterLog:
        """Raises `NotFoundError` for a pseudonym that nobody has taken."""
        if (log := self._logs.get(rater)) is None:
            raise refusal(NotFoundError, "refused.rater.none", rater=repr(rater))
        return log

    def join(self, rater: str, role: Role, units: str) -> RaterLog:
        """The log of a rater, begun where he or she is new.

        Raises `DataError` for a name that is no pseudonym, `ConflictError` where it is taken, in another role, for
        other units, or in other letter cases, which some disks do not tell apart.
        """
        if not re.fullmatch(RATER, rater):
            raise refusal(DataError, "refused.rater.name")
        with self._guard:
            alike = next((name for name in self._logs if name.casefold() == rater.casefold()), None)
            if alike not in (None, rater):
                raise refusal(ConflictError, "refused.rater.alike", rater=repr(alike))
            log = self._logs.get(rater) or RaterLog(self.folder / f"{rater}.jsonl")
            log.begin(role, units)
            self._logs[rater] = log
        return log


_FIELDS = ("unit", "axis", "rating", "revision", "seconds", "time")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
