"""The answer of a row -> the index of the option: 3, 3.0, 3번, ③, (3), C, c, (C)."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_med.data.fields import FieldError, short
from sae_lens_med.records import OPTION_LETTERS
from sae_lens_med.runs.parsing import whole_number

_ANSWER = re.compile(
    r"[\[({<]?\s*(?:(?P<letter>[A-Za-z])|(?P<number>[+-]?[0-9]{1,6})(?:\.0+)?)\s*(?P<counted>번)?\s*[\])}>]?[.:]?"
)


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
    own = text.strip()
    match = _ANSWER.fullmatch(unicodedata.normalize("NFKC", own))
    if match is None:
        raise FieldError("answer", f"must be {expected}, got {short(text)}")
    if match["letter"]:
        index = OPTION_LETTERS.index(match["letter"].upper())
        if index >= len(options):
            raise FieldError("answer", f"{text!r} is outside the {len(options)} options (the first is A)")
        alike = [i for i, option in enumerate(options) if option.strip().casefold() == own.casefold()]
        if alike and index not in alike:
            raise FieldError(
                "answer", f"{text!r} is the letter of option {index + 1} and the text of option {alike[0] + 1}"
            )
        return index
    # ③ and 3번 are the third option, from wherever a file counts its bare numbers.
    circled = unicodedata.decomposition(own[0]).startswith(("<circle>", "<compat>"))
    return _place(int(match["number"]), 1 if match["counted"] or circled else first, options)


def _place(number: int, first: int, options: Sequence[str]) -> int:
    if not first <= number < first + len(options):
        shown = str(number) if abs(number) < 10**9 else "the number"
        raise FieldError("answer", f"{shown} is outside the {len(options)} options (the first is {first})")
    return number - first


def bare_number(answer: Any) -> int | None:
    """An answer that is a bare number."""
    match = _ANSWER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    if match and match["number"] and not match["counted"]:
        return int(match["number"])
    return whole_number(answer, 0, 10**6) if not isinstance(answer, str) else None
