"""The answer of a row -> the index of the option: 3, 3.0, 3번, ③, ❸, (3), C, c, (C), 다, 정답 3, Option C."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_med.data.fields import FieldError, short
from sae_lens_med.records import OPTION_LETTERS
from sae_lens_med.runs.parsing import whole_number

_SYLLABLES = "가나다라마바사아자차카타파하"
"""How Korean papers letter their options where they do not number them."""
_ANSWER = re.compile(
    r"(?:(?:정답|답|보기|선택지|선지|(?i:answer|option|choice))(?:은|는)?\s*[:=]?\s*)?"
    rf"[\[({{<]?\s*(?:(?P<letter>[A-Za-z]|[{_SYLLABLES}])|(?P<number>[+-]?[0-9]{{1,6}})(?:\.0+)?)"
    r"\s*(?P<counted>번)?\s*[\])}>]?[.:]?"
)
_DARK_CIRCLES = {first + i: str(i + 1) for first in (0x2776, 0x2780, 0x278A, 0x24F5) for i in range(10)}
"""Circled numbers that have no compatible form."""


def answer_index(row: Mapping[str, Any], values: Mapping[str, Any], options: Sequence[str], first: int) -> int | None:
    """Index of the right option, or None for a row of the generic schema without one.

    Args:
        row: as the file has it.
        values: its fields that hold something.
        options: of the row.
        first: the number that the file gives to the first option.
    """
    last, letters = first + len(options) - 1, OPTION_LETTERS[: len(options)]
    expected = f"a whole number from {first} to {last} or a letter from A to {letters[-1]}"
    if "answer" not in row:
        raise FieldError("answer", f"missing; add {expected}")
    if "answer" not in values and "options" in row:
        return None
    value = values.get("answer")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return _answer_from_text(value, options, first, expected)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError("answer", f"must be {expected}, got {short(value)}")
    return _place(value, first, options)


def _answer_from_text(text: str, options: Sequence[str], first: int, expected: str) -> int:
    """A number, a letter or a circled one of these, as exam papers and tables write an answer."""
    match = _written(text)
    if match is None:
        raise FieldError("answer", f"must be {expected}, got {short(text)}")
    own = text.strip()
    if letter := match["letter"]:
        index = _SYLLABLES.index(letter) if letter in _SYLLABLES else OPTION_LETTERS.index(letter.upper())
        if index >= len(options):
            raise FieldError("answer", f"{text!r} is outside the {len(options)} options (the first is A)")
        alike = [i for i, option in enumerate(options) if option.strip().casefold() == own.casefold()]
        if alike and index not in alike:
            raise FieldError(
                "answer", f"{text!r} is the letter of option {index + 1} and the text of option {alike[0] + 1}"
            )
        return index
    # ③ and 3번 are the third option, from wherever a file counts its bare numbers.
    return _place(int(match["number"]), 1 if _is_counted(text, match) else first, options)


def _written(text: str) -> re.Match[str] | None:
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf").translate(_DARK_CIRCLES)
    return _ANSWER.fullmatch(unicodedata.normalize("NFKC", visible).strip())


def _is_counted(text: str, match: re.Match[str]) -> bool:
    return match["counted"] is not None or any(
        ord(c) in _DARK_CIRCLES or unicodedata.decomposition(c).startswith(("<circle>", "<compat>")) for c in text
    )


def _place(number: int, first: int, options: Sequence[str]) -> int:
    if not first <= number < first + len(options):
        shown = str(number) if abs(number) < 10**9 else "the number"
        raise FieldError("answer", f"{shown} is outside the {len(options)} options (the first is {first})")
    return number - first


def bare_number(answer: Any) -> int | None:
    """An answer that is a bare number, counted from wherever its file counts."""
    if not isinstance(answer, str):
        return whole_number(answer, 0, 10**6)
    match = _written(answer)
    return int(match["number"]) if match and match["number"] and not _is_counted(answer, match) else None


def is_counted_zero(answer: Any) -> bool:
    """Whether an answer is 0번 or ⓪, beside which 1번 is not the first option."""
    match = _written(answer) if isinstance(answer, str) else None
    return bool(match and match["number"] and int(match["number"]) == 0 and _is_counted(answer, match))
