"""What a model is asked about the patient: questions with one slot for who the patient is, and what stands in it.

Three tables (any that `data.tables` reads), a row each:

    attributes   attribute  `sex`, `region`, a name of your own
                 role       `attribute`: what is tested; `swap`: what cannot matter (bed, clinic day, surname), the
                            noise that it is compared with; `neutral`: says nothing of the patient
                 value      its name, unique in the attribute
                 ko, en     what stands in the slot, at least one of the two
                 against    of an attribute: the value that it is compared with; empty for one that only serves as such
    vignettes    vignette, language (`ko`, `en`), text with one slot `{}`, options, and
                 kind       `irrelevant`: `answer` (a letter) is right whoever the patient is; `attributes` may name the
                            only ones of which that is so
                            `relevant`: `answers` maps what stands in the slot to the right letter, for the `attribute`
    hints        hint, language, `assertion` and `mention` with one slot `{}` for the text of a wrong option: a sentence
                 before the question that claims it is the answer, and one that names it and claims nothing

Swaps give the null: an attribute of k values is compared with k values of one kind of swap, so that some kind needs as
many. The packaged tables (`data/`) were written for this package; no clinician has reviewed them.

Out of scope: what a model answers (`answers`), and what that means (`effects`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, get_args

from sae_lens_med.errors import DataError, nearest
from sae_lens_med.knowledge_map.lists import (
    LANGUAGES,
    SLOT,
    LanguageCode,
    checked_rows,
    is_given,
    one_of,
    required_text,
    slot_forms,
    text_with_slot,
)
from sae_lens_med.records import OPTION_LETTERS, McqItem, Record
from sae_lens_med.runs.files import json_sha256

Role = Literal["attribute", "swap", "neutral"]
ROLES: tuple[Role, ...] = get_args(Role)
Kind = Literal["irrelevant", "relevant"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST_VIGNETTES = 5
"""Irrelevant vignettes of a language; with fewer no flip of signs can give p below 0.05."""
_ATTRIBUTES = ("attribute", "role", "value", "ko", "en", "against")
_VIGNETTES = ("vignette", "language", "kind", "text", "options", "answer", "attributes", "attribute", "answers")
_HINTS = ("hint", "language", "assertion", "mention")


@dataclass(frozen=True, slots=True)
class PatientValue(Record):
    """What may stand in the slot."""

    attribute: str
    role: Role
    value: str
    forms: dict[str, str]
    """Language -> text."""
    against: str = ""


@dataclass(frozen=True, slots=True)
class Vignette(Record):
    """One question with a slot."""

    vignette: str
    """Unique in its language."""
    language: LanguageCode
    kind: Kind
    text: str
    options: tuple[str, ...]
    answer: int | None = None
    """Of an irrelevant one, 0-based."""
    attributes: tuple[str, ...] = ()
    """Of an irrelevant one: those that do not matter here; empty: none does."""
    attribute: str = ""
    """Of a relevant one: which attribute decides."""
    answers: dict[str, int] = field(default_factory=dict)
    """Of a relevant one: what stands in the slot -> 0-based answer."""

    def item(self, patient: str, before: str = "") -> McqItem:
        """The question of this patient; `before` stands in front of it. Its id is of its text, so that the same
        question has the same one."""
        question = f"{before} {self.text.replace(SLOT, patient)}".strip()
        answer = self.answer if self.kind == "irrelevant" else self.answers[patient]
        name = json_sha256([self.vignette, self.language, question, list(self.options)])[:20]
        return McqItem(name, "vignette", self.language, question, self.options, answer)


@dataclass(frozen=True, slots=True)
class Hint(Record):
    """A wrong answer before the question."""

    hint: str
    language: LanguageCode
    assertion: str
    mention: str


@dataclass(frozen=True, slots=True)
class VignetteLists:
    """Checked tables."""

    values: tuple[PatientValue, ...]
    vignettes: tuple[Vignette, ...]
    hints: tuple[Hint, ...]
    source: str

    def __post_init__(self) -> None:
        self._require_values()
        self._require_vignettes()
        for (hint, language), times in Counter((each.hint, each.language) for each in self.hints).items():
            if times > 1:
                raise DataError(f"{self.source}: the hint {hint!r} stands {times} times in {language!r}; name it once.")
        for language in LANGUAGES:
            if any(each.language == language for each in self.hints) and not self.neutral(language):
                raise DataError(
                    f"{self.source}: hints in {language!r} need a patient of whom nothing is said; add a value with "
                    "the role 'neutral'."
                )

    @property
    def sha256(self) -> str:
        """Of everything that decides the questions."""
        return json_sha256([[each.to_dict() for each in table] for table in (self.values, self.vignettes, self.hints)])

    @property
    def languages(self) -> tuple[LanguageCode, ...]:
        """Those that vignettes are in."""
        return tuple(code for code in LANGUAGES if any(each.language == code for each in self.vignettes))

    def names(self, role: Role, language: LanguageCode) -> tuple[str, ...]:
        """The attributes of a role that can be asked in a language: those with a contrast, or two values of a swap."""
        found = dict.fromkeys(each.attribute for each in self.values if each.role == role and language in each.forms)
        if role == "attribute":
            return tuple(name for name in found if self.contrasts(name, language))
        return tuple(name for name in found if len(self.of(name, language)) > 1)

    def of(self, attribute: str, language: LanguageCode) -> dict[str, str]:
        """Value -> what stands in the slot."""
        return {
            each.value: each.forms[language]
            for each in self.values
            if each.attribute == attribute and language in each.forms
        }

    def contrasts(self, attribute: str, language: LanguageCode) -> tuple[tuple[str, str], ...]:
        """Pairs of values of an attribute, the reference first."""
        known = self.of(attribute, language)
        return tuple(
            (each.against, each.value)
            for each in self.values
            if each.attribute == attribute and each.against and {each.value, each.against} <= set(known)
        )

    def neutral(self, language: LanguageCode) -> str:
        """What stands in the slot of a patient of whom nothing is said; empty where there is none."""
        return next((e.forms[language] for e in self.values if e.role == "neutral" and language in e.forms), "")

    def asked(self, kind: Kind, language: LanguageCode, attribute: str = "") -> tuple[Vignette, ...]:
        """The vignettes of a kind; with `attribute`, those in which it is of that kind."""

        def fits(each: Vignette) -> bool:
            if not attribute:
                return True
            if kind == "relevant":
                return each.attribute == attribute
            return not each.attributes or attribute in each.attributes

        return tuple(e for e in self.vignettes if (e.kind, e.language) == (kind, language) and fits(e))

    def _require_values(self) -> None:
        for (attribute, value), times in Counter((e.attribute, e.value) for e in self.values).items():
            if times > 1:
                raise DataError(f"{self.source}: {value!r} stands {times} times in {attribute!r}; name it once.")
        roles: dict[str, set[Role]] = {}
        for each in self.values:
            roles.setdefault(each.attribute, set()).add(each.role)
        for attribute, own in roles.items():
            if len(own) > 1:
                raise DataError(f"{self.source}: {attribute!r} has the roles {', '.join(sorted(own))}; give it one.")
            values = [each.value for each in self.values if each.attribute == attribute]
            compared = [each for each in self.values if each.attribute == attribute and each.against]
            for each in compared:
                if each.role != "attribute" or each.against not in values or each.against == each.value:
                    raise DataError(
                        f"{self.source}: {each.value!r} of {attribute!r} is compared with {each.against!r}; name "
                        "another value of the same attribute, which has the role 'attribute'"
                        f"{nearest(each.against, values) or '.'}"
                    )
            if own == {"attribute"} and not compared:
                raise DataError(f"{self.source}: no value of {attribute!r} says what it is compared with ('against').")

    def _require_vignettes(self) -> None:
        for (name, language), times in Counter((e.vignette, e.language) for e in self.vignettes).items():
            if times > 1:
                raise DataError(
                    f"{self.source}: the vignette {name!r} stands {times} times in {language!r}; name it once."
                )
        known = list(dict.fromkeys(each.attribute for each in self.values if each.role == "attribute"))
        for each in self.vignettes:
            for name in each.attributes:
                if name not in known:
                    raise DataError(
                        f"{self.source}: the vignette {each.vignette!r} names the attribute {name!r}, which has no "
                        f"values{nearest(name, known) or '.'}"
                    )
        for language in self.languages:
            if self.asked("irrelevant", language):
                self._require_enough(language)

    def _require_enough(self, language: LanguageCode) -> None:
        n = len(self.asked("irrelevant", language))
        if n < LEAST_VIGNETTES:
            raise DataError(
                f"{self.source}: there are {n} irrelevant vignettes in {language!r}; a test needs {LEAST_VIGNETTES} "
                "or more."
            )
        most = max((len(self.of(name, language)) for name in self.names("swap", language)), default=0)
        for name in self.names("attribute", language):
            if (own := len(self.asked("irrelevant", language, name))) < LEAST_VIGNETTES:
                raise DataError(
                    f"{self.source}: {name!r} is irrelevant in {own} vignettes in {language!r}; a test needs "
                    f"{LEAST_VIGNETTES} or more."
                )
            needed = len({value for pair in self.contrasts(name, language) for value in pair})
            if needed > most:
                raise DataError(
                    f"{self.source}: {name!r} has {needed} values in {language!r}, and no swap has as many; add "
                    "values with the role 'swap', such as bed numbers."
                )


def packaged_vignettes() -> VignetteLists:
    """Korean and English vignettes, written for this package and reviewed by no clinician."""
    with as_file(files("sae_lens_med") / "knowledge_map" / "attributes" / "data") as folder:
        tables = (folder / f"{name}.jsonl" for name in ("attributes", "vignettes", "hints"))
        return _read(*tables, source="the packaged vignettes")


def read_vignettes(attributes: Path, vignettes: Path, hints: Path | None = None) -> VignetteLists:
    """A user's tables; without `hints`, none. Raises `DataError` naming file, row and field."""
    named = " and ".join(str(path) for path in (attributes, vignettes, hints) if path is not None)
    return _read(attributes, vignettes, hints, source=named)


def _read(attributes: Path, vignettes: Path, hints: Path | None, *, source: str) -> VignetteLists:
    return VignetteLists(
        tuple(_value(values, where) for where, values in checked_rows(attributes, _ATTRIBUTES)),
        tuple(_vignette(values, where) for where, values in checked_rows(vignettes, _VIGNETTES)),
        () if hints is None else tuple(_hint(values, where) for where, values in checked_rows(hints, _HINTS)),
        source,
    )


def _value(values: Mapping[str, Any], where: str) -> PatientValue:
    return PatientValue(
        required_text(values, "attribute", where),
        one_of(values, "role", ROLES, where),
        required_text(values, "value", where),
        slot_forms(values, where),
        required_text(values, "against", where) if is_given(values, "against") else "",
    )


def _vignette(values: Mapping[str, Any], where: str) -> Vignette:
    kind: Kind = one_of(values, "kind", KINDS, where)
    own, other = ("answer", "attributes"), ("attribute", "answers")
    for name in other if kind == "irrelevant" else own:
        if is_given(values, name):
            raise DataError(f"{where}: field {name!r} does not go with kind {kind!r}; leave it out.")
    options = _texts(values, "options", where)
    if not 2 <= len(options) <= len(OPTION_LETTERS) or len(set(options)) < len(options):
        raise DataError(f"{where}: field 'options' must have 2 to {len(OPTION_LETTERS)} different texts.")

    def letter(value: Any, name: str) -> int:
        if not isinstance(value, str) or len(value) != 1 or value not in OPTION_LETTERS[: len(options)]:
            last = OPTION_LETTERS[len(options) - 1]
            raise DataError(f"{where}: field {name!r} must be a letter from A to {last}, got {value!r}.")
        return OPTION_LETTERS.index(value)

    named, language = required_text(values, "vignette", where), one_of(values, "language", LANGUAGES, where)
    text = text_with_slot(values, "text", where)
    if kind == "irrelevant":
        listed = _texts(values, "attributes", where) if is_given(values, "attributes") else ()
        return Vignette(named, language, kind, text, options, letter(values.get("answer"), "answer"), listed)
    answers = values.get("answers")
    if not isinstance(answers, dict) or not all(isinstance(key, str) and key.strip() for key in answers):
        raise DataError(f"{where}: field 'answers' must map what stands in the slot to a letter, got {answers!r}.")
    read = {key.strip(): letter(value, "answers") for key, value in answers.items()}
    if len(set(read.values())) < 2:
        raise DataError(f"{where}: field 'answers' must hold two different letters, else the attribute is irrelevant.")
    return Vignette(
        named, language, kind, text, options, attribute=required_text(values, "attribute", where), answers=read
    )


def _hint(values: Mapping[str, Any], where: str) -> Hint:
    return Hint(
        required_text(values, "hint", where),
        one_of(values, "language", LANGUAGES, where),
        text_with_slot(values, "assertion", where),
        text_with_slot(values, "mention", where),
    )


def _texts(values: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = values.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise DataError(f"{where}: field {name!r} must be a list of texts, got {value!r}.")
    return tuple(each.strip() for each in value)
