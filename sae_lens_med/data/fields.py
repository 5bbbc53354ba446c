"""The fields of a row: what one holds, as text, number or list, and what is wrong with it."""

import ast
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from sae_lens_med.errors import DataError
from sae_lens_med.runs.parsing import ParseError, parse_json

MAX_PRINTED = 100_000
"""Characters of a list as Python prints it."""
_FILLERS = "\u115f\u1160\u3164\uffa0"
"""Hangul letters that show nothing."""


class FieldError(DataError):
    """A field of a row is not what the schema says; the loader adds file and row."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")


def text(values: Mapping[str, Any], name: str) -> str:
    """A text that is not empty."""
    if name not in values:
        raise FieldError(name, "missing")
    value = values[name]
    if not isinstance(value, str):
        raise FieldError(name, f"must be a string, got {short(value)}")
    if is_blank(value):
        raise FieldError(name, "is empty")
    return value


def is_blank(value: str) -> bool:
    """Whether a text shows nothing: white space, zero-width characters, Hangul fillers."""
    return all(c.isspace() or c in _FILLERS or unicodedata.category(c) == "Cf" for c in value)


def cell_text(values: Mapping[str, Any], name: str) -> str:
    """A text, also where a table took it for a number."""
    value = values.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(values, name)


def whole_as_text(value: Any) -> str:
    """A value as text; a whole number without the fraction that pandas writes in a column with gaps."""
    shown = str(value)
    return shown[:-2] if re.fullmatch(r"[0-9]{1,12}\.0", shown) else shown


def from_json(values: Mapping[str, Any], name: str) -> Any:
    """Lists in a CSV cell are JSON, or what Python prints: pandas writes a column of lists so."""
    given = values[name]
    if not isinstance(given, str):
        return given
    try:
        return parse_json(given)
    except ParseError as error:
        if (printed := _python_list(given)) is not None:
            return printed
        raise FieldError(name, f"must be a list written as JSON, got {short(given)} ({error})") from error


def _python_list(given: str) -> list[Any] | None:
    if not given.lstrip().startswith("[") or len(given) > MAX_PRINTED:
        return None
    try:
        found = ast.literal_eval(given.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def short(value: Any) -> str:
    """A value as a sentence shows it."""
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
