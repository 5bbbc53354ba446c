"""Concept sets: what the concepts are called, in Korean and English, and where the set comes from.

Sources: the lexicon of this package (`lexicon.jsonl`), a user's file, MedQuAD's file of disease concepts. A set is the
unit of provenance: its `sha256` covers every id, category, form and code.

The lexicon was written for this package, for questions of Korean licensing exams; no clinician has reviewed it. A
concept counts its usual subtypes as itself (acute pancreatitis is pancreatitis) unless they have an entry. Names that
everyday Korean uses otherwise are left out, organs of one syllable above all (간, 위, 폐, 눈); they are not found.

A user's file (.jsonl, .jsonl.gz, .csv or .parquet) has a row per concept: `concept` (its name, unique), `category` (any
text), `ko` and `en` (surface forms: a list in JSON, texts separated by "|" in CSV), at least one form in all. Unknown
fields, a concept or form given twice, and empty forms are errors that name row and field.

MedQuAD's file of disease concepts (`medquad_concepts.jsonl.gz`; English) is told by its fields: name, CUIs, semantic
types and groups, synonyms. The id is the name, the category the first semantic group. Synonyms that read alike are kept
once; one that several concepts share stays with each of them, as the source has it.

Out of scope: relations between concepts, and translating forms.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NoReturn

from sae_lens_med.concepts.folding import fold
from sae_lens_med.data.tables import RawRow, read_rows
from sae_lens_med.errors import ConfigError, DataError, nearest
from sae_lens_med.records import Record
from sae_lens_med.runs.files import json_sha256

CATEGORIES = ("age_sex", "symptom", "sign", "disease", "drug", "test", "anatomy", "procedure")
"""The categories of the packaged lexicon; a user's file may name others."""

_USER_FIELDS = ("concept", "category", "ko", "en")
_LEXICON_FIELDS = ("id", "category", "en", "ko")
_MEDQUAD_FIELDS = ("name", "cui", "semantic_types", "semantic_groups", "synonyms")


@dataclass(frozen=True, slots=True)
class Concept(Record):
    """One thing that texts name, with the forms that name it."""

    id: str
    """Unique in its set: a slug in the lexicon, the name in other sources."""
    category: str
    forms: tuple[str, ...]
    """Surface forms in any language, at least one, in the order of the source; no two that read alike."""
    codes: tuple[str, ...] = ()
    """Identifiers elsewhere: UMLS CUIs for MedQuAD."""

    def __post_init__(self) -> None:
        for name in ("id", "category"):
            if not getattr(self, name).strip():
                raise DataError(f"concept {self.id!r}: the {name} is empty; fill it in.")
        if not self.forms:
            raise DataError(f"concept {self.id!r}: it has no forms; add at least one text that names it.")
        for form in self.forms:
            if not any(c.isalnum() for c in form):
                raise DataError(f"concept {self.id!r}: the form {form!r} contains no letter or digit; leave it out.")
        twice = _first_twice(form_key(form) for form in self.forms)
        if twice is not None:
            raise DataError(f"concept {self.id!r}: two forms read {twice[0]!r}; keep one of them.")


@dataclass(frozen=True, slots=True)
class ConceptSet:
    """Concepts with unique ids, in the order of their source."""

    concepts: tuple[Concept, ...]
    source: str
    """`lexicon`, or the path of the file; `SOURCE (N of M)` for a subset."""

    def __post_init__(self) -> None:
        if not self.concepts:
            raise DataError(f"{self.source}: it has no concepts; add at least one.")
        twice = _first_twice(concept.id for concept in self.concepts)
        if twice is not None:
            raise DataError(f"{self.source}: the concept {twice!r} appears twice; ids must be unique within a set.")

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(concept.id for concept in self.concepts)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the concepts, in order: the identity of the set, wherever its file lies."""
        return json_sha256([concept.to_dict() for concept in self.concepts])

    def counts(self) -> dict[str, int]:
        """Concepts in each category, by the order in which the categories appear."""
        return dict(Counter(concept.category for concept in self.concepts))

    def subset(self, *, ids: Collection[str] | None = None, categories: Collection[str] | None = None) -> "ConceptSet":
        """The concepts with one of `ids` and of one of `categories` (None: any), in order.

        Raises `ConfigError` for an id or category that the set does not have.
        """
        for name, asked, known in (
            ("id", ids, self.ids),
            ("category", categories, [concept.category for concept in self.concepts]),
        ):
            for value in sorted(set(asked or ()) - set(known)):
                hint = nearest(value, known) or f"; it has {len(self)} concepts in {', '.join(self.counts())}."
                raise ConfigError(f"{self.source}: there is no concept with the {name} {value!r}{hint}")
        kept = tuple(
            concept
            for concept in self.concepts
            if (ids is None or concept.id in ids) and (categories is None or concept.category in categories)
        )
        return ConceptSet(kept, f"{self.source} ({len(kept)} of {len(self)})")


def load_lexicon() -> ConceptSet:
    """The Korean-English medical lexicon of this package, sorted by category, then id."""
    with as_file(files("sae_lens_med") / "concepts" / "lexicon.jsonl") as path:
        return ConceptSet(tuple(_concepts(path, "lexicon", _LEXICON_FIELDS, _lexicon_concept)), "lexicon")


def load_concepts(path: str | Path) -> ConceptSet:
    """A file of concepts, a user's or MedQuAD's; the module says their forms. Raises `DataError` naming row and
    field."""
    path = Path(path).expanduser()
    if _is_medquad(read_rows(path)[0]):
        return ConceptSet(tuple(_concepts(path, str(path), _MEDQUAD_FIELDS, _medquad_concept)), str(path))
    concepts: list[Concept] = []
    names: dict[str, int] = {}
    forms: dict[tuple[str, bytes], str] = {}
    for number, values in _values(path, str(path), _USER_FIELDS):
        where = f"{path}: row {number}"
        concept = _user_concept(values, where)
        if concept.id in names:
            _bad(where, "concept", f"{concept.id!r} is already in row {names[concept.id]}; name each concept once")
        names[concept.id] = number
        for form in concept.forms:
            other = forms.setdefault(form_key(form), concept.id)
            if other != concept.id:
                field = "ko" if form in _user_forms(values, "ko", where) else "en"
                _bad(where, field, f"the form {form!r} already names {other!r}; a form names one concept")
        concepts.append(concept)
    return ConceptSet(tuple(concepts), str(path))


def form_key(form: str) -> tuple[str, bytes]:
    """What makes two forms read alike: their folded characters and the gaps between these."""
    folded = fold(form)
    return folded.key, folded.gap


def _is_medquad(first: RawRow) -> bool:
    return first.values is not None and first.values.keys() >= {"name", "semantic_groups"}


def _concepts(
    path: Path, source: str, fields: tuple[str, ...], make: Callable[[dict[str, Any], str], Concept]
) -> Iterator[Concept]:
    for number, values in _values(path, source, fields):
        yield make(values, f"{source}: row {number}")


def _values(path: Path, source: str, fields: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and values of every row. Raises `DataError` for one that cannot be read or has a field too many."""
    for row in read_rows(path):
        if row.values is None:
            raise DataError(f"{source}: row {row.number}: {row.problem}; fix the row.")
        for name in row.values:
            if name not in fields:
                hint = nearest(name, fields) or f"; the fields are {', '.join(fields)}."
                raise DataError(f"{source}: row {row.number}: there is no field {name!r}{hint}")
        yield row.number, row.values


def _lexicon_concept(values: dict[str, Any], where: str) -> Concept:
    return Concept(
        _text(values, "id", where),
        _text(values, "category", where),
        (*_texts(values, "en", where), *_texts(values, "ko", where)),
    )


def _user_concept(values: dict[str, Any], where: str) -> Concept:
    ko, en = (_user_forms(values, field, where) for field in ("ko", "en"))
    if not ko and not en:
        _bad(where, "ko", "there is no form here or in 'en'; add at least one text that names the concept")
    seen: set[tuple[str, bytes]] = set()
    for field, forms in (("ko", ko), ("en", en)):
        for form in forms:
            if form_key(form) in seen:
                _bad(where, field, f"the form {form!r} is given twice; keep one")
            seen.add(form_key(form))
    return Concept(_text(values, "concept", where), _text(values, "category", where), (*ko, *en))


def _medquad_concept(values: dict[str, Any], where: str) -> Concept:
    name = _text(values, "name", where)
    forms: dict[tuple[str, bytes], str] = {}
    for form in (name, *_texts(values, "synonyms", where)):
        forms.setdefault(form_key(form), form)
    groups = _texts(values, "semantic_groups", where)
    return Concept(name, groups[0] if groups else "unspecified", tuple(forms.values()), _texts(values, "cui", where))


def _user_forms(values: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    value = values.get(field)
    if value is None:
        return ()
    return _texts({field: value.split("|") if isinstance(value, str) else value}, field, where)


def _text(values: dict[str, Any], field: str, where: str) -> str:
    value = values.get(field)
    if not isinstance(value, str) or not value.strip():
        _bad(where, field, f"must be a non-empty string, got {value!r}")
    return value.strip()


def _texts(values: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    value = values.get(field)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        _bad(where, field, f"must be a list of strings, got {value!r}")
    for text in value:
        if not any(c.isalnum() for c in text):
            _bad(where, field, f"the form {text!r} contains no letter or digit; leave it out")
    return tuple(text.strip() for text in value)


def _bad(where: str, field: str, problem: str) -> NoReturn:
    raise DataError(f"{where}: field {field!r}: {problem}.")


def _first_twice(values: Iterator[Any]) -> Any:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
