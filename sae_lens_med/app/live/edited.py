"""A question that somebody edits beside the original one: what differs in the text, the answer and the features.

The original stays as it is. Both are run, one after the other, in the same way. A feature *came* or *went* where it
fires on a counted stem token of the one alone; it *rose* or *fell* where it fires in both, by a tenth of its maximum
over the study or more. Features stand in the order of their difference in multiples of that maximum, weighted as
`align` weights them (how few cases have them); those that `align` leaves out are left out.

Out of scope: running it (`child`), keeping it (`kept`).
"""

import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, ClassVar, Literal

import numpy as np

from sae_lens_med.app.live.settings import MAX_CHARACTERS
from sae_lens_med.app.live.steering import require_options
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.refusals import Words, refusal
from sae_lens_med.app.text import visible
from sae_lens_med.app.views import FeatureName
from sae_lens_med.errors import ConfigError, DataError, NotFoundError
from sae_lens_med.records import OPTION_LETTERS, McqItem, Record

Kind = Literal["came", "went", "rose", "fell"]
KINDS: tuple[Kind, ...] = ("came", "went", "rose", "fell")
SHOWN = 5
"""Features of each kind."""
LEAST = 0.1
"""Of its maximum, by which a feature differs that rose or fell."""
_WORD = re.compile(r"\s+|[^\W_]+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece(Record):
    """Characters of one text or of both."""

    text: str
    """As it is shown."""
    where: Literal["both", "before", "after"]


@dataclass(frozen=True, slots=True)
class ComparedOption(Record):
    """One answer option, in the original and in the edited question."""

    _nested: ClassVar[dict[str, type[Record]]] = {"pieces": Piece}

    letter: str
    pieces: tuple[Piece, ...]
    before: float | None
    """Probability among the options, in [0, 1]; None before it is known."""
    after: float | None


@dataclass(frozen=True, slots=True)
class FeatureChange(Record):
    """A feature in both questions."""

    _nested: ClassVar[dict[str, type[Record]]] = {"name": FeatureName}

    name: FeatureName
    kind: Kind
    before: float
    """Maximum over the counted stem tokens, >= 0."""
    after: float


@dataclass(frozen=True, slots=True)
class EditedView(Record):
    """What is known of an edited question so far."""

    _nested: ClassVar[dict[str, type[Record]]] = {"stem": Piece, "options": ComparedOption, "changes": FeatureChange}

    case: int
    stem: tuple[Piece, ...]
    options: tuple[ComparedOption, ...]
    answer_before: str | None = None
    answer_after: str | None = None
    gold: str | None = None
    """Of the original; whether it is still right, a person has to say."""
    changes: tuple[FeatureChange, ...] = ()
    """At most `SHOWN` of each kind, by kind."""
    totals: tuple[int, ...] = ()
    """How many there are of each of `KINDS`; empty before both are read."""


@dataclass(slots=True, eq=False)
class EditedJob:
    """A comparison of two questions; make it with `edited_job`."""

    case: int
    original: McqItem
    question: str
    options: tuple[str, ...]
    study: OpenStudy
    folder: dict[str, Any]
    _read: dict[str, dict[str, Any]] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """As the form of `runs.Job`."""
        texts = {"question": self.question, "options": list(self.options)}
        return {"do": "compare", **self.folder, "case": self.case, **texts}

    def take(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """As the form of `runs.Job`."""
        if event in ("baseline", "edited"):
            self._read = {**self._read, event: data}
        return {}

    def view(self) -> EditedView:
        """As the form of `runs.Job`."""
        shares = {side: _shares(data["logits"]) for side, data in self._read.items()}
        before, after = shares.get("baseline"), shares.get("edited")
        changes, totals = self._changes()
        return EditedView(
            case=self.case,
            stem=differences(self.original.question, self.question),
            options=tuple(
                ComparedOption(
                    OPTION_LETTERS[k],
                    differences(old, new),
                    None if before is None else before[k],
                    None if after is None else after[k],
                )
                for k, (old, new) in enumerate(zip(self.original.options, self.options, strict=True))
            ),
            answer_before=None if before is None else OPTION_LETTERS[int(np.argmax(before))],
            answer_after=None if after is None else OPTION_LETTERS[int(np.argmax(after))],
            gold=self.original.gold_letter,
            changes=changes,
            totals=totals,
        )

    def _changes(self) -> tuple[tuple[FeatureChange, ...], tuple[int, ...]]:
        index = self.study.index
        if index is None or not {"baseline", "edited"} <= self._read.keys():
            return (), ()
        before, after = (self._dense(side, len(index.maximum)) for side in ("baseline", "edited"))
        most = np.where(index.maximum > 0, index.maximum, np.maximum(before, after))
        share = np.divide(after - before, most, out=np.zeros(len(most)), where=most > 0)
        chosen: dict[Kind, Any] = {
            "came": (before == 0) & (after > 0),
            "went": (before > 0) & (after == 0),
            "rose": (before > 0) & (share >= LEAST),
            "fell": (after > 0) & (share <= -LEAST),
        }
        found: list[FeatureChange] = []
        totals = []
        for kind in KINDS:
            features = np.flatnonzero(chosen[kind] & index.kept)
            rank = np.abs(share[features]) * index.weights[features]
            totals.append(len(features))
            for feature in features[np.lexsort((features, -rank))][:SHOWN].tolist():
                name = self.study.names.name(feature)
                found.append(FeatureChange(name, kind, float(before[feature]), float(after[feature])))
        return tuple(found), tuple(totals)

    def _dense(self, side: str, size: int) -> Any:
        values = np.zeros(size)
        values[self._read[side]["features"]] = self._read[side]["values"]
        return values


def edited_job(
    study: OpenStudy, number: int, question: str | None, options: tuple[str | None, ...], folder: dict[str, Any]
) -> EditedJob:
    """What has to be run.

    Args:
        study: with collected features.
        number: of the case.
        question: the edited stem as a page holds it; None, or what the page showed: the original.
        options: so for each option, as many as there are.
        folder: which study the process opens, and where its model is.

    Raises `NotFoundError` for a case that is not there or a study without features, `DataError` for texts that cannot
    be, `ConfigError` for another number of options or where nothing was edited.
    """
    item = require_options(study, number)
    if study.part is None:
        raise refusal(NotFoundError, "refused.edited.features", study=study.name)
    if len(options) != len(item.options):
        raise refusal(ConfigError, "refused.edited.options", number=number, of=len(item.options), n=len(options))
    stem = _written(item.question, question, Words("refused.edited.stem"))
    texts = tuple(
        _written(old, new, Words("refused.edited.option", {"letter": letter}))
        for letter, old, new in zip(OPTION_LETTERS, item.options, options, strict=False)
    )
    if stem == item.question and texts == item.options:
        raise refusal(ConfigError, "refused.edited.nothing")
    return EditedJob(number, item, stem, texts, study, folder)


def differences(before: str, after: str) -> tuple[Piece, ...]:
    """Both texts in one, word by word: what both have, what only the first and what only the second has."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    found: list[Piece] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if before != after else ():
        if kind == "equal":
            found.append(Piece(visible("".join(old[a:b])).text, "both"))
            continue
        found += [Piece(visible("".join(old[a:b])).text, "before")] if b > a else []
        found += [Piece(visible("".join(new[c:d])).text, "after")] if d > c else []
    return tuple(found) or (Piece(visible(before).text, "both"),)


def editable(text: str) -> str | None:
    """What a form holds of a text; None for one that is too long to be edited in a page."""
    return None if len(text) > MAX_CHARACTERS else visible(text).text


def _written(original: str, given: str | None, what: Words) -> str:
    """The text that was meant: the original where the form still holds what it was given."""
    if given is None:
        return original
    text = given.replace("\r\n", "\n")
    if text == editable(original):
        return original
    if not text.strip():
        raise refusal(DataError, "refused.edited.empty", what=what)
    if len(text) > MAX_CHARACTERS:
        raise refusal(DataError, "refused.edited.long", what=what, n=len(text), most=MAX_CHARACTERS)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise refusal(DataError, "refused.edited.surrogate", what=what) from error
    return text


def _shares(logits: Any) -> list[float]:
    values = np.asarray(logits, dtype=np.float64)
    e = np.exp(values - values.max())
    return (e / e.sum()).tolist()
