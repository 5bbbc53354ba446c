"""What pages and figures say, in the reader's language: English, or Korean by one catalogue (`languages.korean`).

The English text is the key. A text of a template or a figure must be in the catalogue (`text`); a name that may come
from outside (a metric that a user registered, a subject) is shown as it is where the catalogue does not know it
(`name`); a note that the metrics write is put together from the parts that the catalogue knows (`note`).

Out of scope: sentences that depend on numbers in more than their numbers: they are made in both languages where the
numbers are (`Sentence`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sae_lens_med.languages.korean import NOTES, TEXTS, UNITS


def number(value: float) -> str:
    """`value` as shown in a report: 4 decimals, or 2 significant digits below 0.001, fewer decimals above 100."""
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.4f}"
    return f"{value:.2g}" if abs(value) < 0.001 else f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence, or part of one, in both languages of the reports."""

    en: str
    ko: str


@dataclass(frozen=True, slots=True)
class Language:
    """The language of a page or a figure."""

    code: Literal["en", "ko"]
    """As HTML's `lang` has it, and as the fields of a `Sentence` are called."""
    suffix: str = ""
    """What a file's name has before its ending: `report.ko.md`."""
    texts: Mapping[str, str] | None = None
    """English -> this language; None: the English itself."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit -> what is said with a number `{n}`."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Parts of notes, with `{...}` for what differs."""

    def text(self, english: str) -> str:
        """A text of this package. `KeyError` where the catalogue lacks it, which a test excludes."""
        return english if self.texts is None else self.texts[english]

    def name(self, english: str) -> str:
        """A name, as the catalogue has it, or as it is."""
        return english if self.texts is None else self.texts.get(english, english)

    def metric(self, name: str) -> str:
        """The name of a `MetricValue`, with what it is called in this language before it."""
        read = name.removeprefix("alignment/").replace("_", " ")
        return name if self.name(read) == read else f"{self.name(read)} ({name})"

    def count(self, n: int, unit: str = "items") -> str:
        """`60 items`, `60개 문항`."""
        return self.units.get(unit, f"{{n}} {self.name(unit)}").format(n=f"{n:,}")

    def pair(self, low: str, high: str) -> str:
        """From `low` to `high`, already written out."""
        return f"{low} to {high}" if self.code == "en" else f"{low}~{high}"

    def note(self, english: str) -> str | None:
        """A note in this language, whole or by its parts; None where the catalogue does not know one of them."""
        if self.texts is None:
            return english
        if (whole := self._part(english.removesuffix("."))) is not None:
            return f"{whole}."
        said = ""
        for part in re.split(r"(?<=[.;]) ", english):
            known = self._part(part.rstrip(".;"))
            if known is None:
                return None
            said += f"{known}{part[-1] if part[-1] in '.;' else '.'} "
        return said.rstrip()

    def _part(self, english: str) -> str | None:
        for pattern, translated in self.notes.items():
            # A reason may be several sentences; anything else ends with its part.
            shape = re.escape(pattern).replace(r"\{reason\}", "(?P<reason>.+)")
            shape = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>(?:(?!\. )[^;])+?)", shape)
            if found := re.fullmatch(shape, english):
                values = {key: (self.note(value) or self.name(value)) for key, value in found.groupdict().items()}
                return translated.format(**{key: value.removesuffix(".") for key, value in values.items()})
        return None


ENGLISH = Language("en")
KOREAN = Language("ko", ".ko", TEXTS, UNITS, NOTES)
LANGUAGES = (ENGLISH, KOREAN)
