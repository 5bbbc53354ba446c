"""What a map asks a model about: concepts with labels or numbers, and texts with one slot for their names.

Two tables (any that `data.tables` reads), a row each:

    concepts     domain    what it belongs to: `drugs`, `age`, a name of your own; files of a run are called after it
                 concept   its name, unique in the domain
                 ko, en    what stands in the slot, at least one of the two; the row counts in those that it has
                 labels    for categories: label set -> label, `{"mechanism": "statin", "specialty": "cardiology"}`; as
                           JSON where a cell holds texts only
                 value     for what has an order: a number
                 group     which concepts are ordered together, such as the stages of one disease; empty: all
    templates    domain, language (`ko` or `en`), text with one slot `{}`, and
                 frame     `medical`, or `plain` for the same concepts where nothing is medical about them

A domain is of categories (every concept has the same label sets) or of an order (every one has a value). The packaged
tables (`data/`) were written for this package; no clinician has reviewed them.

Out of scope: what a model makes of them (`reading`, `geometry`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, get_args

from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import Record
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.parsing import ParseError, parse_json

LanguageCode = Literal["ko", "en"]
LANGUAGES: tuple[LanguageCode, ...] = get_args(LanguageCode)
Frame = Literal["medical", "plain"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
Place = tuple[str, LanguageCode]
"""Domain and language."""
SLOT = "{}"
_CONCEPT_FIELDS = ("domain", "concept", "ko", "en", "labels", "value", "group")
_TEMPLATE_FIELDS = ("domain", "frame", "language", "text")
_IN_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|]')
_DOMAIN_BYTES = 100


@dataclass(frozen=True, slots=True)
class MapConcept(Record):
    """One thing whose place in the model is looked for."""

    domain: str
    concept: str
    """Unique in its domain."""
    forms: dict[str, str]
    """Language -> what stands in the slot."""
    labels: dict[str, str] = field(default_factory=dict)
    """Label set -> label; empty where `value` is given."""
    value: float | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Template(Record):
    """One text with a slot."""

    domain: str
    frame: Frame
    language: LanguageCode
    text: str


@dataclass(frozen=True, slots=True)
class Lists:
    """Checked tables."""

    concepts: tuple[MapConcept, ...]
    templates: tuple[Template, ...]
    source: str

    def __post_init__(self) -> None:
        for domain in self.domains:
            self._require_one_kind(domain)
        for each in self.templates:
            if each.domain not in self.domains:
                raise DataError(
                    f"{self.source}: a template belongs to the domain {each.domain!r}, of which there are no concepts"
                    f"{nearest(each.domain, self.domains) or '.'}"
                )

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order of the concepts."""
        return tuple(dict.fromkeys(each.domain for each in self.concepts))

    @property
    def sha256(self) -> str:
        """Of everything that decides the prompts."""
        return json_sha256([[each.to_dict() for each in self.concepts], [each.to_dict() for each in self.templates]])

    def of(self, domain: str, language: LanguageCode) -> tuple[MapConcept, ...]:
        """The concepts of a domain that have a form in the language."""
        return tuple(each for each in self.concepts if each.domain == domain and language in each.forms)

    def templates_of(self, domain: str, language: LanguageCode, frame: Frame) -> tuple[str, ...]:
        """Their texts."""
        of = (domain, language, frame)
        return tuple(each.text for each in self.templates if (each.domain, each.language, each.frame) == of)

    def places(self, languages: Sequence[LanguageCode]) -> list[Place]:
        """Where there is something to read: the domains, each in the languages in which it has concepts and medical
        templates. Raises `DataError` where there is nothing."""
        found: list[Place] = [
            (domain, language)
            for domain in self.domains
            for language in languages
            if self.of(domain, language) and self.templates_of(domain, language, "medical")
        ]
        if not found:
            raise DataError(
                f"{self.source}: no domain has concepts and medical templates in {' or '.join(languages)}; add some, "
                "or ask in another language."
            )
        return found

    def is_ordered(self, domain: str) -> bool:
        """Whether the concepts of the domain have values, not labels."""
        return next(each for each in self.concepts if each.domain == domain).value is not None

    def label_sets(self, domain: str) -> tuple[str, ...]:
        """Names of the label sets of a domain of categories."""
        return tuple(next(each for each in self.concepts if each.domain == domain).labels)

    def only(self, domains: Sequence[str]) -> "Lists":
        """These domains alone. Raises `DataError` for one that is not there."""
        for name in domains:
            if name not in self.domains:
                known = ", ".join(self.domains)
                raise DataError(f"there is no domain {name!r}{nearest(name, self.domains) or '.'} There are: {known}.")
        return Lists(
            tuple(each for each in self.concepts if each.domain in domains),
            tuple(each for each in self.templates if each.domain in domains),
            self.source,
        )

    def _require_one_kind(self, domain: str) -> None:
        own = [each for each in self.concepts if each.domain == domain]
        kinds = {(each.value is not None, tuple(sorted(each.labels))) for each in own}
        if len(kinds) > 1:
            raise DataError(
                f"{self.source}: the concepts of the domain {domain!r} have different labels; give each of them the "
                "same label sets, or each a value."
            )
        for concept, times in Counter(each.concept for each in own).items():
            if times > 1:
                raise DataError(f"{self.source}: {concept!r} stands {times} times in {domain!r}; name it once.")


def packaged_lists() -> Lists:
    """Six domains in Korean and English, written for this package and reviewed by no clinician."""
    with as_file(files("sae_lens_med") / "knowledge_map" / "data") as folder:
        return _read(folder / "concepts.jsonl", folder / "templates.jsonl", "the packaged lists")


def read_lists(concepts: Path, templates: Path) -> Lists:
    """A user's two tables. Raises `DataError` naming file, row and field."""
    return _read(concepts, templates, f"{concepts} and {templates}")


def _read(concepts: Path, templates: Path, source: str) -> Lists:
    return Lists(
        tuple(_concept(values, where) for where, values in checked_rows(concepts, _CONCEPT_FIELDS)),
        tuple(_template(values, where) for where, values in checked_rows(templates, _TEMPLATE_FIELDS)),
        source,
    )


def checked_rows(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row of a table stands, for sentences, and its values. Raises `DataError` for a field not among
    `fields`."""
    for row in read_rows(path):
        where = f"{path}: row {row.number}"
        if row.values is None:
            raise DataError(f"{where}: {row.problem}; fix the row.")
        for name in row.values:
            if name not in fields:
                hint = nearest(name, fields) or f"; the fields are {', '.join(fields)}."
                raise DataError(f"{where}: there is no field {name!r}{hint}")
        yield where, row.values


def _concept(values: Mapping[str, Any], where: str) -> MapConcept:
    labels, value = _labels(values, where), _number(values, where)
    if bool(labels) == (value is not None):
        raise DataError(f"{where}: give either 'labels' or a 'value', which says how the concepts are ordered.")
    return MapConcept(
        domain=domain_name(values, where),
        concept=required_text(values, "concept", where),
        forms=slot_forms(values, where),
        labels=labels,
        value=value,
        group=required_text(values, "group", where) if is_given(values, "group") else "",
    )


def _labels(values: Mapping[str, Any], where: str) -> dict[str, str]:
    labels = values["labels"] if is_given(values, "labels") else {}
    if isinstance(labels, str):
        try:
            labels = parse_json(labels)
        except ParseError:
            labels = None
    if not isinstance(labels, dict) or not all(isinstance(text, str) and text.strip() for text in labels.values()):
        raise DataError(f"{where}: field 'labels' must map names of label sets to labels, got {values['labels']!r}.")
    return labels


def _number(values: Mapping[str, Any], where: str) -> float | None:
    if not is_given(values, "value"):
        return None
    value = values["value"]
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: field 'value' must be a number, got {value!r}.")
    return found


def _template(values: Mapping[str, Any], where: str) -> Template:
    return Template(
        domain_name(values, where),
        one_of(values, "frame", FRAMES, where),
        one_of(values, "language", LANGUAGES, where),
        text_with_slot(values, "text", where),
    )


# --- fields of a row, for every table of these commands ---------------------------------------------------------------


def is_given(values: Mapping[str, Any], name: str) -> bool:
    """Whether a field holds something; an empty cell of a table holds nothing."""
    value = values.get(name)
    return bool(value.strip()) if isinstance(value, str) else value is not None


def required_text(values: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a text, without white space at its ends; a whole number, which a spreadsheet makes of `17`,
    is its digits. Raises `DataError`."""
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {name!r} must be a text that is not empty, got {value!r}.")
    return value.strip()


def domain_name(values: Mapping[str, Any], where: str) -> str:
    """The field `domain`, which names files of a run. Raises `DataError` for what no file may be called."""
    name = required_text(values, "domain", where)
    if not name.isprintable() or name.startswith(".") or _IN_NO_FILE_NAME.search(name):
        raise DataError(
            f"{where}: field 'domain' names files, so that it may neither begin with a dot nor hold any of "
            f'/ \\ : * ? " < > | or what cannot be printed, got {name!r}.'
        )
    if len(name.encode()) > _DOMAIN_BYTES:
        raise DataError(
            f"{where}: field 'domain' names files and may have {_DOMAIN_BYTES} bytes; choose a shorter one."
        )
    return name


def slot_forms(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """Language -> what stands in the slot. Raises `DataError` where neither language has anything."""
    forms = {code: required_text(values, code, where) for code in LANGUAGES if is_given(values, code)}
    if not forms:
        raise DataError(f"{where}: neither 'ko' nor 'en' says what stands in the slot; fill in one.")
    return forms  # type: ignore[return-value]  # language codes are texts


def text_with_slot(values: Mapping[str, Any], name: str, where: str) -> str:
    """A text with one slot. Raises `DataError`."""
    text = required_text(values, name, where)
    if text.count(SLOT) != 1:
        raise DataError(f"{where}: field {name!r} must have one slot {SLOT}, it has {text.count(SLOT)}.")
    return text


def one_of(values: Mapping[str, Any], name: str, known: tuple[Any, ...], where: str) -> Any:
    """One of the words `known`. Raises `DataError`."""
    value = required_text(values, name, where)
    if value not in known:
        raise DataError(f"{where}: field {name!r} must be one of {', '.join(known)}, got {value!r}.")
    return value
