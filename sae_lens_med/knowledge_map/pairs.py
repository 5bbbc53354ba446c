"""Statements that end before their answer -> pairs that differ in one concept alone, for what is done to a model.

    "{} mainly affects the"   pneumonia -> lungs        clean
                              hepatitis -> liver        corrupted
                              meningitis, arthritis     donors: concepts that are neither

A table of statements (any that `data.tables` reads), a row each: `domain`, `frame` (`medical`, or `plain` for what is
no medicine), `language`, `text` with one slot `{}`, `concept`, which stands there, and `answer`, which comes next. The
texts of a domain serve both frames, so that medical and plain statements differ in the concept alone. The packaged
table was written for this package; no clinician has reviewed it.

Which statements pair depends on the tokenizer. Two do where they have the same text and as many tokens, differ in those
of the concept alone, and have answers that do not begin alike to the end. Answers are compared by their first token
that differs; what they share before it is put to the end of both prompts. Each statement is the clean one of one pair;
what is left without a partner is counted with the reason. A statement stands in two pairs, so that pairs are not
independent to the last.

Out of scope: chat templates; answers of several words.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.lists import (
    FRAMES,
    LANGUAGES,
    SLOT,
    Frame,
    LanguageCode,
    Place,
    checked_rows,
    domain_name,
    one_of,
    required_text,
    text_with_slot,
)
from sae_lens_med.prompts.tokens import continuation_tokens, text_prompt
from sae_lens_med.records import Record, Span
from sae_lens_med.runs.files import json_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DONORS = 2
"""Mismatched donors of a pair."""
_FIELDS = ("domain", "frame", "language", "text", "concept", "answer")

FramedPlace = tuple[str, LanguageCode, Frame]
"""Domain, language and frame."""


@dataclass(frozen=True, slots=True)
class Statement(Record):
    """One text whose next word is known."""

    domain: str
    frame: Frame
    language: LanguageCode
    text: str
    """With one slot."""
    concept: str
    answer: str
    """Without the space before it."""


@dataclass(frozen=True, slots=True)
class Statements:
    """A checked table."""

    rows: tuple[Statement, ...]
    source: str

    def __post_init__(self) -> None:
        for each, times in Counter((row.domain, row.language, row.text, row.concept) for row in self.rows).items():
            if times > 1:
                raise DataError(f"{self.source}: {each[3]!r} stands {times} times in {each[2]!r}; name it once.")

    @property
    def sha256(self) -> str:
        """Of everything that decides the prompts."""
        return json_sha256([each.to_dict() for each in self.rows])

    @property
    def places(self) -> tuple[Place, ...]:
        """Domains and languages that have medical statements and plain ones to compare them with."""
        held = {(row.domain, row.language, row.frame) for row in self.rows}
        named: dict[Place, None] = {(row.domain, row.language): None for row in self.rows}
        return tuple(place for place in named if all((*place, frame) in held for frame in FRAMES))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts that differ in the tokens of one concept."""

    text: str
    """With the slot."""
    concepts: tuple[str, str]
    """Clean, corrupted."""
    clean: tuple[int, ...]
    """Token ids."""
    corrupted: tuple[int, ...]
    """As many."""
    at: tuple[int, ...]
    """Positions of the concept's tokens, the same in both."""
    answers: tuple[int, int]
    """The token of each answer that tells them apart."""
    donors: tuple[tuple[int, ...], ...] = ()
    """Prompts of other concepts with other answers, token for token as long, up to `DONORS`."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Those of one domain, language and frame."""

    pairs: tuple[Pair, ...]
    left_out: dict[str, int]
    """Why a statement is the clean one of no pair -> how many."""


def packaged_statements() -> Statements:
    """Six domains in Korean and English, written for this package and reviewed by no clinician."""
    with as_file(files("sae_lens_med") / "knowledge_map" / "data" / "statements.jsonl") as path:
        return _read(path, "the packaged statements")


def read_statements(path: Path) -> Statements:
    """A user's table. Raises `DataError` naming file, row and field."""
    return _read(path, str(path))


def made_pairs(
    statements: Statements, place: FramedPlace, tokenizer: "PreTrainedTokenizerBase", most: int | None = None
) -> Pairs:
    """The pairs of one domain, language and frame.

    Args:
        statements: the table.
        place: which of them.
        tokenizer: of the model; a fast one.
        most: of the pairs, as many from each text as can be, in their order; None: all.

    Pairs with fewer than `DONORS` donors are last in their text.
    """
    own = [row for row in statements.rows if (row.domain, row.language, row.frame) == place]
    left_out: Counter[str] = Counter()
    by_text: list[list[Pair]] = []
    for text in dict.fromkeys(row.text for row in own):
        groups: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[_Read]] = {}
        for row in own:
            if row.text == text:
                read = _read_statement(row, tokenizer)
                outside = tuple(t for i, t in enumerate(read.token_ids) if i not in read.at)
                groups.setdefault((len(read.token_ids), read.at, outside), []).append(read)
        found: list[Pair] = []
        for group in groups.values():
            for number, read in enumerate(group):
                others = group[number + 1 :] + group[:number]
                partner = next((each for each in others if read.first_difference(each) is not None), None)
                if partner is not None:
                    found.append(_pair(text, read, partner, others))
                elif others:
                    left_out["no other answer among those of as many tokens"] += 1
                else:
                    left_out["no other statement of as many tokens"] += 1
        by_text.append(sorted(found, key=lambda pair: -len(pair.donors)))
    if most is not None:
        by_text = _evenly(by_text, most)
    return Pairs(tuple(pair for found in by_text for pair in found), dict(left_out))


@dataclass(frozen=True, slots=True)
class _Read:
    concept: str
    token_ids: tuple[int, ...]
    at: tuple[int, ...]
    answer: tuple[int, ...]

    def first_difference(self, other: "_Read") -> int | None:
        """The first place at which the answers have different tokens; None where one begins with the other."""
        return next((i for i, (a, b) in enumerate(zip(self.answer, other.answer, strict=False)) if a != b), None)


def _read_statement(row: Statement, tokenizer: "PreTrainedTokenizerBase") -> _Read:
    start = row.text.index(SLOT)
    end = start + len(row.concept)
    text = row.text.replace(SLOT, row.concept)
    prompt = text_prompt(row.concept, text, tokenizer, spans=(Span(start, end, "stem"),))
    at = tuple(i for i, (a, b) in enumerate(prompt.char_spans) if a < end and b > start)
    [answer] = continuation_tokens(prompt, [f" {row.answer}"], tokenizer)
    return _Read(row.concept, prompt.token_ids, at, answer)


def _pair(text: str, read: _Read, partner: _Read, others: Sequence[_Read]) -> Pair:
    differ = read.first_difference(partner)
    assert differ is not None  # that is how the partner was chosen
    shared = read.answer[:differ]
    donors = [
        each.token_ids + shared
        for each in others
        if each is not partner and read.first_difference(each) is not None and each.answer != partner.answer
    ]
    return Pair(
        text,
        (read.concept, partner.concept),
        read.token_ids + shared,
        partner.token_ids + shared,
        read.at,
        (read.answer[differ], partner.answer[differ]),
        tuple(donors[:DONORS]),
    )


def _evenly(by_text: list[list[Pair]], most: int) -> list[list[Pair]]:
    """As many of each as there is room for, the first ones; what one lacks, the others may have."""
    taken = [0] * len(by_text)
    for _ in range(most):
        free = [i for i, found in enumerate(by_text) if taken[i] < len(found)]
        if not free:
            break
        taken[min(free, key=lambda i: (taken[i], i))] += 1
    return [found[:n] for found, n in zip(by_text, taken, strict=True)]


def _read(path: Path, source: str) -> Statements:
    return Statements(tuple(_statements(path)), source)


def _statements(path: Path) -> Iterator[Statement]:
    for where, values in checked_rows(path, _FIELDS):
        yield Statement(
            domain_name(values, where),
            one_of(values, "frame", FRAMES, where),
            one_of(values, "language", LANGUAGES, where),
            text_with_slot(values, "text", where),
            required_text(values, "concept", where),
            required_text(values, "answer", where),
        )
