"""Errors that a page can raise, in the language of its reader.

`refusal` makes one whose sentence is a text of `strings`, by its key; as a message it is English, as everywhere in this
package. `sentence_of` gives it in either language. What rooms below raise, of damaged files, is in English alone.

Out of scope: what pydantic refuses (`invalid`), and with which status an error is answered (`create`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sae_lens_med.app.strings import text
from sae_lens_med.errors import ReadOnlyError, SaeLensMedError, shortened

E = TypeVar("E", bound=SaeLensMedError)


@dataclass(frozen=True, slots=True)
class Words:
    """A word within a sentence, which has a key of its own."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)


def refusal(kind: type[E], key: str, **values: object) -> E:
    """An error of `kind` that says the text of `key`; values that are `Words` are said in the sentence's language."""
    error = kind(_said(key, "en", values))
    error.key, error.values = key, values
    return error


def sentence_of(error: SaeLensMedError, language: Literal["ko", "en"]) -> str | None:
    """What it says in `language`; None where that is not known."""
    if isinstance(error, ReadOnlyError):
        return shortened(text("refused.read_only", language, path=error.path, reason=error.reason))
    if error.key:
        return shortened(_said(error.key, language, error.values))
    return str(error) if language == "en" else None


def _said(key: str, language: Literal["ko", "en"], values: Mapping[str, object]) -> str:
    words = {name: _said(v.key, language, v.values) if isinstance(v, Words) else v for name, v in values.items()}
    return text(key, language, **words)
