"""Named data sets, each a mapping file: `pretrained_configs/sources/NAME.yaml` says what its columns mean.

A mapping holds where the set lies on the Hub, its licence, its splits with their counts, and one or several *forms*:
the columns of one publication of the set and what each becomes. A new set is a new file; `named` reads rows by it.

    question      a column; several, joined by an empty line; or {first_of: [...]}, the first that is not empty
    options       a column with a list, or an object in the order of its keys; several columns; or {fixed: [...]}.
                  Absent in a set of open questions
    answer        {column, as: from_0 | from_1 | letter | text}; `unknown` lists values that stand for no answer, `text`
                  names a column that must hold the right option's text
    explanation, explanation_source, subject, id, language
                  columns that may be absent (the source: one of `records.EXPLANATION_SOURCES`)
    id_by_subject the id is the subject and a number within it
    own_schema    the rows are in this package's own schema (`rows`); `has` names the columns they are known by
    unused        columns that are known and left out

`subjects` joins the spellings of one subject: name of the stratum -> the names that the rows give.

A column `a.b` is the value `b` of the object `a`, or of each object in the list `a`.

Out of scope: reading rows (`named`).
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.records import EXPLANATION_SOURCES, QUESTION_LANGUAGES, McqItem
from sae_lens_med.runs.files import configs_dir
from sae_lens_med.runs.parsing import ParseError, read_yaml

AnswerKind = Literal["from_0", "from_1", "letter", "text"]
ANSWER_KINDS = ("from_0", "from_1", "letter", "text")


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """The column that says which option is right, and how."""

    column: str
    kind: AnswerKind
    unknown: tuple[Any, ...] = ()
    """Values that stand for an answer which is not published, beside an empty cell."""
    text: str | None = None
    """The column that must hold the right option's text."""


@dataclass(frozen=True, slots=True)
class Form:
    """One publication of a set: its columns, and what each becomes."""

    question: tuple[str, ...] = ()
    first_of: bool = False
    """The question is the first of the columns that is not empty, instead of all of them joined."""
    options: tuple[str, ...] = ()
    """One column with all of them, or one column each."""
    fixed_options: tuple[str, ...] = ()
    answer: AnswerColumn | None = None
    explanation: str | None = None
    explanation_source: str | None = None
    subject: str | None = None
    id: str | None = None
    language: str | None = None
    id_by_subject: bool = False
    own_schema: bool = False
    has: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def needed(self) -> frozenset[str]:
        """Columns without which a row is not of this form."""
        if self.own_schema:
            return frozenset(self.has)
        named = [] if self.first_of else [self.question[-1]]
        named += [*self.options, *([] if self.answer is None else [self.answer.column])]
        return frozenset(name.split(".")[0] for name in named)

    @property
    def known(self) -> frozenset[str]:
        """Columns that it reads or knows."""
        named = [*self.question, *self.options, *self.unused]
        named += [each for each in (self.explanation, self.subject, self.id, self.language) if each is not None]
        if self.answer is not None:
            named += [self.answer.column, *([] if self.answer.text is None else [self.answer.text])]
        return frozenset(name if name in self.unused else name.split(".")[0] for name in named)

    def fits(self, columns: frozenset[str]) -> bool:
        """Whether rows with these columns are of this form."""
        if self.first_of and not columns & {name.split(".")[0] for name in self.question}:
            return False
        return self.needed <= columns


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """How many items a split of the Hub's copy has."""

    rows: int
    subjects: Mapping[str, int] = field(default_factory=dict)
    answers: bool = True
    """Whether its answers are published."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several languages of a set."""

    config: str
    language: str


@dataclass(frozen=True, slots=True)
class KnownBy:
    """How rows of the set are known in a file that was not asked for by name."""

    columns: frozenset[str]
    id_prefix: str
    explanation_source: str


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """One mapping file."""

    name: str
    title: str
    cite: str
    licence: str
    hub: str
    splits: Mapping[str, SplitCounts]
    default_split: str
    counts_are_certain: bool
    """Whether a copy on the Hub with other counts is refused; else the difference is noted."""
    forms: tuple[Form, ...]
    configs: tuple[str | None, ...] = (None,)
    """Of the Hub's copy, joined in this order."""
    dataset: str | None = None
    """What provenance calls it; by default the Hub's name."""
    language: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)
    default_variant: str | None = None
    open_questions: bool = False
    keep_subjects: tuple[str, ...] = ()
    """The subjects that are kept; all where it is empty."""
    majority: tuple[str, float] | None = None
    """The option that is right most often, and for which share of all items: what an accuracy is compared with."""
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stratum -> the subjects, as the rows spell them, that are of it."""
    notes: tuple[str, ...] = ()
    known_by: KnownBy | None = None


def source_names() -> tuple[str, ...]:
    """Every named source, in alphabetical order."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def find_mapping(name: str) -> SourceMapping | None:
    """The mapping of a named source, or of the set with this id on the Hub; None where there is neither."""
    mappings = _mappings()
    return mappings.get(name) or next((each for each in mappings.values() if each.hub == name), None)


def known_by_columns(columns: Mapping[str, Any]) -> str | None:
    """Who wrote the explanations of rows with these columns, where a named source is known by them."""
    rules = (each.known_by for each in _mappings().values())
    return next((rule.explanation_source for rule in rules if rule and columns.keys() >= rule.columns), None)


def provenance_of(item_id: str) -> dict[str, str]:
    """Data set and licence of an item with this id, where a named source is known by it; else empty."""
    for each in _mappings().values():
        if each.known_by is not None and item_id.startswith(each.known_by.id_prefix):
            return {"dataset": each.dataset or each.hub, "licence": each.licence}
    return {}


def subject_stratum(item: McqItem) -> str:
    """The subject as strata read it: folded, and under one name where the item's data set spells it in several ways."""
    folded = _folded(item.subject)
    return _strata().get((item.provenance.get("dataset", ""), folded), folded)


def _folded(subject: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", subject).casefold().split())


@lru_cache(maxsize=1)
def _strata() -> dict[tuple[str, str], str]:
    return {
        (each.dataset or each.hub, _folded(subject)): stratum
        for each in _mappings().values()
        for stratum, subjects in each.subjects.items()
        for subject in subjects
    }


def _folder() -> Path:
    return configs_dir() / "sources"


@lru_cache(maxsize=1)
def _mappings() -> dict[str, SourceMapping]:
    return {path.stem: read_mapping(path) for path in sorted(_folder().glob("*.yaml"))}


def read_mapping(path: Path) -> SourceMapping:
    """A mapping from its file. Raises `ConfigError` naming the file and the key that is wrong."""
    try:
        values = read_yaml(path)
    except ParseError as error:
        raise ConfigError(f"{path} is not a readable mapping ({error}); install again.") from error
    try:
        return _mapping(
            path.stem, _only(values, set(SourceMapping.__dataclass_fields__) - {"name", "configs"} | {"config"})
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is no mapping of a data set: {reason}; correct it.") from error


def _mapping(name: str, values: dict[str, Any]) -> SourceMapping:
    config = values.pop("config", None)
    majority, known_by = values.pop("majority", None), values.pop("known_by", None)
    splits = {
        split: SplitCounts(**_only(counts, set(SplitCounts.__dataclass_fields__)))
        for split, counts in values.pop("splits").items()
    }
    variants = {
        key: Variant(**_only(each, set(Variant.__dataclass_fields__)))
        for key, each in values.pop("variants", {}).items()
    }
    found = SourceMapping(
        name=name,
        splits=splits,
        variants=variants,
        configs=tuple(config) if isinstance(config, list) else (config,),
        forms=tuple(_form(each) for each in values.pop("forms")),
        keep_subjects=tuple(values.pop("keep_subjects", ())),
        notes=tuple(values.pop("notes", ())),
        subjects={str(stratum): _names(spelt) for stratum, spelt in values.pop("subjects", {}).items()},
        majority=None if majority is None else (majority["option"], majority["share"]),
        known_by=None if known_by is None else KnownBy(**(known_by | {"columns": frozenset(known_by["columns"])})),
        **values,
    )
    spelt = [_folded(subject) for subjects in found.subjects.values() for subject in subjects]
    if twice := [subject for subject in spelt if spelt.count(subject) > 1]:
        raise ValueError(f"the subject {twice[0]!r} is of two strata")
    for form in found.forms:
        if not found.open_questions and not form.own_schema and (form.answer is None or not _has_options(form)):
            raise ValueError("a form without options or answer is one of open questions; set open_questions")
    if found.default_split not in splits:
        raise ValueError(f"default_split is {found.default_split!r}, which is no split")
    if found.default_variant is not None and found.default_variant not in variants:
        raise ValueError(f"default_variant is {found.default_variant!r}, which is no variant")
    for language in [found.language, *(each.language for each in variants.values())]:
        if language is not None and language not in QUESTION_LANGUAGES:
            raise ValueError(f"the language {language!r} is none of {', '.join(QUESTION_LANGUAGES)}")
    return found


def _has_options(form: Form) -> bool:
    return bool(form.options or form.fixed_options)


def _form(values: dict[str, Any]) -> Form:
    values = dict(_only(values, set(Form.__dataclass_fields__) - {"first_of", "fixed_options"}))
    question, options, answer = values.pop("question", None), values.pop("options", ()), values.pop("answer", None)
    first_of = isinstance(question, dict)
    fixed = options["fixed"] if isinstance(options, dict) else ()
    if (source := values.get("explanation_source")) is not None and source not in EXPLANATION_SOURCES:
        raise ValueError(f"explanation_source is {source!r}, which is none of {', '.join(EXPLANATION_SOURCES)}")
    if answer is not None and answer["as"] not in ANSWER_KINDS:
        raise ValueError(f"answer is read as {answer['as']!r}, which is none of {', '.join(ANSWER_KINDS)}")
    if question is None and not values.get("own_schema"):
        raise ValueError("a form needs the column of the question")
    return Form(
        question=_names(question["first_of"] if isinstance(question, dict) else question),
        first_of=first_of,
        options=() if fixed else _names(options),
        fixed_options=tuple(fixed),
        answer=None
        if answer is None
        else AnswerColumn(answer["column"], answer["as"], tuple(answer.get("unknown", ())), answer.get("text")),
        has=tuple(values.pop("has", ())),
        unused=tuple(values.pop("unused", ())),
        **values,
    )


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _only(values: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is not an object of keys and values")
    for key in values:
        if key not in known:
            raise ValueError(f"there is no key {key!r}{nearest(str(key), known).rstrip('?')}")
    return dict(values)
