"""The units of a rating: pairs of case and arm, drawn once and kept in `STUDY/app/ratings/units.json`.

    {"format": 1, "id": ..., "seed": ..., "created": ..., "left_out": {...}, "notes": [...],
     "units": [{"id", "item", "arm", "text", "drawn_arm", "drawn_from"}, ...]}

The file stays on the server. A unit's id is random, so that it says nothing of its case or arm, and its text stands in
the file, so that a label that is changed later does not change what was rated. Units of a case stand together, cases in
the order of the draw.

**Shuffled** (the null): each case also gets a rationale of another case, of one of the arms, these in turn; of the same
language and, where there is one, the same subject, never of a near-duplicate of its question, never its own text,
rather of a case that is not rated itself (whose text no rater sees twice). It is masked for both cases. The arm and the
item that it was drawn from stand in the file and in the log of each rating.

**Which cases**: drawn by the seed; one of each cluster of near-duplicates, and first those that may have most arms, as
arms are compared within a case. What a case of the draw has no text for is left out and counted.

Out of scope: the order in which a rater sees the units (`design`).
"""

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from sae_lens_med.alignment.ratings_file import ARMS
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.rating.rationales import TRUE_ARMS, Absent, Rationales, TrueArm, masked
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.metrics.duplicates import near_duplicates
from sae_lens_med.records import Record
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.lock import hold
from sae_lens_med.runs.parsing import ParseError, read_json

FILE = "units.json"
CASES = 30
"""Cases that are drawn where nobody says how many: with four arms 120 units, some hours of one rater's work."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Unit(Record):
    """One rationale of one case, to be rated."""

    id: str
    """Random."""
    item: str
    arm: str
    text: str
    """Masked."""
    drawn_arm: str | None = None
    """Of a shuffled rationale: which arm its text is of."""
    drawn_from: str | None = None
    """Of a shuffled rationale: the item that its text belongs to."""


@dataclass(frozen=True, slots=True)
class Units(Record):
    """All that is rated of a study."""

    _nested: ClassVar[dict[str, type[Record]]] = {"units": Unit}

    id: str
    """Random; the log of a rater says which units it is about."""
    seed: str
    created: str
    """UTC, ISO 8601."""
    units: tuple[Unit, ...]
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Arm -> reason (`Absent`, or `no_donor` of shuffled ones) -> how many cases of the draw."""
    notes: tuple[str, ...] = ()
    format: int = _FORMAT

    @property
    def items(self) -> tuple[str, ...]:
        """The cases, in the order of the draw."""
        return tuple(dict.fromkeys(unit.item for unit in self.units))


def read_units(folder: Path, study: OpenStudy) -> Units | None:
    """The units of `folder`; None where none were drawn.

    Raises `StudyError` for a damaged file, another format, and units of items that the study has not got.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        if values["format"] != _FORMAT:
            raise DataError(f"its format is {values['format']!r}, but this version reads format {_FORMAT}")
        found = Units.from_dict(values)
        unknown = [unit.item for unit in found.units if unit.item not in study.items]
        if any(unit.arm not in ARMS for unit in found.units) or len({u.id for u in found.units}) < len(found.units):
            raise DataError("an arm is unknown or an id stands twice")
    except (ParseError, OSError, DataError, KeyError, TypeError, AttributeError) as error:
        said = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise refusal(StudyError, "refused.units.damaged", path=path, reason=said) from error
    if unknown:
        raise refusal(StudyError, "refused.units.other", path=path, item=repr(unknown[0]))
    return found


def draw_units(study: OpenStudy, folder: Path, *, cases: int = CASES, seed: str | None = None) -> Units:
    """Draw the units of a study and write them to `folder`.

    Args:
        study: opened.
        folder: `STUDY/app/ratings`; where units were drawn already, they are not replaced.
        cases: at most so many.
        seed: the same one draws the same cases and texts and gives raters the same orders; random when not given, as
            whoever knows it can work out which arm comes when.

    Raises `StudyError` where there are units already, `DataError` where fewer than two cases have a rationale,
    `ConfigError` for fewer than two cases.
    """
    if cases < 2:
        raise ConfigError(f"at least two cases are rated, so that none follows itself; got {cases}.")
    seed = secrets.token_hex(16) if seed is None else seed
    release = hold(folder)
    try:
        if (folder / FILE).exists():
            raise StudyError(f"{folder / FILE} is there already, and ratings may be about it; it is not replaced.")
        units = _Draw(study, cases, seed).units()
        write_json(folder / FILE, units.to_dict())
    finally:
        release()
    return units


class _Draw:
    def __init__(self, study: OpenStudy, cases: int, seed: str) -> None:
        self.rationales = Rationales(study)
        self.items = self.rationales.items
        self.seed, self.rng = seed, random.Random(f"units {seed}")
        self.clusters = near_duplicates([item.question for item in self.items]).tolist()
        order = list(range(len(self.items)))
        self.rng.shuffle(order)
        self.order = sorted(order, key=lambda number: -self.rationales.may_have(number))
        self._texts: dict[tuple[int, TrueArm], str | Absent] = {}
        self.drawn: list[int] = []
        taken: set[int] = set()
        for number in self.order:
            if len(self.drawn) == cases:
                break
            if self.clusters[number] not in taken and any(isinstance(self.text(number, a), str) for a in TRUE_ARMS):
                self.drawn.append(number)
                taken.add(self.clusters[number])
        self.rng.shuffle(self.drawn)

    def text(self, number: int, arm: TrueArm) -> str | Absent:
        """Of the case's own rationale."""
        key = (number, arm)
        if key not in self._texts:
            self._texts[key] = self.rationales.of(number, arm)
        return self._texts[key]

    def units(self) -> Units:
        """Raises `DataError` where fewer than two cases have a rationale."""
        if len(self.drawn) < 2:
            raise refusal(DataError, "refused.units.few", n=len(self.drawn))
        found: list[Unit] = []
        left_out: dict[str, dict[str, int]] = {}
        arms: list[TrueArm] = [arm for arm in TRUE_ARMS if any(isinstance(self.text(n, arm), str) for n in self.drawn)]
        used: set[tuple[int, TrueArm]] = set()
        for place, number in enumerate(self.drawn):
            item_id = self.items[number].id
            own: list[Unit] = []
            for arm in TRUE_ARMS:
                text = self.text(number, arm)
                if isinstance(text, Absent):
                    _count(left_out, arm, text.value)
                else:
                    own.append(Unit(secrets.token_hex(8), item_id, arm, text))
            turn = arms[place % len(arms) :] + arms[: place % len(arms)]
            shuffled = next(filter(None, (self._of_another(number, arm, used) for arm in turn)), None)
            if shuffled is None:
                _count(left_out, "shuffled", "no_donor")
            else:
                own.append(shuffled)
            found += own
        now = datetime.now(UTC).isoformat(timespec="seconds")
        notes = self.rationales.problems
        return Units(secrets.token_hex(8), self.seed, now, tuple(found), left_out, notes)

    def _of_another(self, number: int, arm: TrueArm, used: set[tuple[int, TrueArm]]) -> Unit | None:
        """A rationale of another case for this one; None where no case has one that may stand for it."""
        item = self.items[number]
        for donor in self._donors(number):
            text = self.text(donor, arm)
            if isinstance(text, Absent) or (donor, arm) in used:
                continue
            text = masked(text, item)
            if not text or any(text == self.text(number, own) for own in TRUE_ARMS):
                continue
            used.add((donor, arm))
            return Unit(secrets.token_hex(8), item.id, "shuffled", text, arm, self.items[donor].id)
        return None

    def _donors(self, number: int) -> Iterator[int]:
        """Other cases of the same language: those of the subject before others, and those that are not rated first."""
        item, drawn = self.items[number], set(self.drawn)
        others = [
            other
            for other in self.order
            if self.clusters[other] != self.clusters[number] and self.items[other].language == item.language
        ]
        self.rng.shuffle(others)
        yield from sorted(others, key=lambda other: (self.items[other].subject != item.subject, other in drawn))


def _count(counts: dict[str, dict[str, int]], arm: str, reason: str) -> None:
    own = counts.setdefault(arm, {})
    own[reason] = own.get(reason, 0) + 1
