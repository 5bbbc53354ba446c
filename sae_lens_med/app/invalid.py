"""What an address or a body holds that cannot be used -> one plain sentence in the reader's language.

The checks are pydantic's; its own words are for programmers and in English.

Out of scope: what is looked up and not found (`errors`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sae_lens_med.app.strings import text

_LIMITS = {"ge": "invalid.least", "le": "invalid.most", "max_length": "invalid.longer", "min_length": "invalid.shorter"}
_COUNTS = {"too_long": "invalid.more", "too_short": "invalid.fewer"}
_KINDS = {
    "missing": "invalid.missing",
    "extra_forbidden": "invalid.unknown",
    "json_invalid": "invalid.json",
    "bool_parsing": "invalid.truth",
    "int_parsing": "invalid.whole",
    "int_type": "invalid.whole",
    "int_from_float": "invalid.whole",
    "int_parsing_size": "invalid.whole",
    "float_parsing": "invalid.number",
    "float_type": "invalid.number",
    "finite_number": "invalid.number",
    "string_type": "invalid.text",
    "list_type": "invalid.list",
}
_FORMS = {
    "at": "invalid.place",
    "part": "invalid.part",
    "author": "invalid.shorter",
    "entry_id": "invalid.entry",
    "rater": "refused.rater.name",
    "answer": "invalid.letter",
    "unit": "invalid.value",
    "proposal": "invalid.value",
}
"""Fields that a pattern describes."""


def sentences_of(errors: Iterable[Mapping[str, Any]], language: Literal["ko", "en"]) -> str:
    """One sentence for each of pydantic's errors: which field it is, and what would be accepted."""
    return " ".join(_sentence(error, language) for error in errors)


def _sentence(error: Mapping[str, Any], language: Literal["ko", "en"]) -> str:
    kind, given, place = error["type"], error.get("ctx", {}), error["loc"][1:]
    if kind == "json_invalid":
        return text("invalid.json", language)
    name = ".".join(map(str, place)) or str(error["loc"][0])
    if kind in ("literal_error", "enum"):
        return text("invalid.choice", language, name=name, choices=str(given["expected"]).replace(" or ", ", "))
    if kind == "string_pattern_mismatch":
        order = given["pattern"].strip("^$()")
        key = _FORMS.get(name)
        if key is None:
            return text("invalid.choice", language, name=name, choices=order.replace("|", ", "))
        return text(key, language, name=name, limit=1)
    if kind in _COUNTS:
        limit = given["max_length" if kind == "too_long" else "min_length"]
        return text(_COUNTS[kind], language, name=name, limit=limit)
    for limit, key in _LIMITS.items():
        if limit in given:
            return text(key, language, name=name, limit=given[limit])
    return text(_KINDS.get(kind, "invalid.value"), language, name=name)
