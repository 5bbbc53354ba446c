"""One row of a data set -> `McqItem`, in either of the two schemas that the loaders share.

KorMedMCQA   question, A to E, answer (1 to 5); `rationale_r1` (written by a model) or `cot` (by an expert)
generic      question, options (2 to 26 texts), answer (1-based, or null when not known)

Both may carry id, subject (or `specialty`), lang, explanation, explanation_source, question_spans,
explanation_spans, and the columns in `EXTRA_COLUMNS`, which go to the item's provenance. Any other column is an
error: a misspelt one would otherwise be lost without a word. What a row does not say, it gets by these rules:

- id: `subject-year-period-q_number` where the row has all of these, else the file's name and the row number;
- subject: `unspecified`; language: `ko` when the question holds Hangul, else `en`;
- explanation_source: `model` for `rationale_r1`, `expert` for `cot`, `expert` for rows in the schema of `casimedicos`,
  else what the caller of the loader says, else None: a study then asks (`records.require_explanation_sources`).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from sae_lens_med.data import casimedicos
from sae_lens_med.data.tables import RawRow
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import EXPLANATION_SOURCES, OPTION_LETTERS, ExplanationSource, McqItem, Span
from sae_lens_med.runs.files import json_sha256

KORMEDMCQA_LETTERS = ("A", "B", "C", "D", "E")
EXTRA_COLUMNS = ("year", "period", "q_number", "dataset", "split", "licence", "source")
"""Columns that are kept in the provenance of the item, as text."""

_COMMON = (
    "id",
    "subject",
    "specialty",
    "lang",
    "question",
    "answer",
    "explanation",
    "explanation_source",
    "question_spans",
    "explanation_spans",
    *EXTRA_COLUMNS,
)
_KORMEDMCQA = (*_COMMON, *KORMEDMCQA_LETTERS, "rationale_r1", "cot")
_GENERIC = (*_COMMON, "options")
_EXPLANATION_COLUMNS = {"rationale_r1": "model", "cot": "expert", "explanation": None}
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")


@dataclass(frozen=True, slots=True)
class LoadedItems:
    """The items of one source, with the identity of the data and what was left out."""

    items: list[McqItem]
    source: str
    split: str | None
    """The split of a Hub data set; None for local files and the packaged sample."""
    sha256: str
    """Of the items, in order (`config.json_sha256` of their dicts)."""
    bad_rows: tuple[str, ...]
    """One line for each row that was skipped: file, row, field, problem. Empty unless skipping was asked for."""
    licence: str | None
    """As the source states it; None when it states none."""


class FieldError(DataError):
    """A field of a row is not what the schema says; the loader adds file and row."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")


class ItemCollector:
    """Gathers items over the rows of one or several files; a bad row is an error, or a line in `bad_rows`."""

    def __init__(self, *, skip_bad_rows: bool) -> None:
        self.items: list[McqItem] = []
        self.bad_rows: list[str] = []
        self._skip = skip_bad_rows
        self._seen: dict[str, str] = {}

    def add(
        self,
        rows: Iterable[RawRow],
        name: str,
        *,
        id_prefix: str,
        explanation_source: str | None = None,
        provenance: dict[str, str] | None = None,
    ) -> None:
        """Convert the rows of the file or split `name`. Raises `DataError` naming file, row and field."""
        for row in rows:
            where = f"{name}: row {row.number}"
            try:
                if row.values is None:
                    raise DataError(row.problem)
                item = item_from_row(
                    row.values,
                    default_id=f"{id_prefix}-{row.number:05d}",
                    explanation_source=explanation_source,
                    provenance=provenance or {},
                )
                if (first := self._seen.get(item.id)) is not None:
                    raise FieldError("id", f"{item.id!r} was already used by {first}")
            except DataError as error:
                problem = f"{where}: {str(error).rstrip('.')}"
                if not self._skip:
                    raise DataError(f"{problem}; fix the row, or skip bad rows (--skip-bad-rows).") from error
                self.bad_rows.append(problem)
                continue
            self._seen[item.id] = where
            self.items.append(item)

    def loaded(self, source: str, split: str | None, limit: int | None) -> LoadedItems:
        """What was gathered, cut to the first `limit` items. Raises `DataError` when nothing was."""
        if not self.items:
            raise DataError(
                f"{source}: none of the {len(self.bad_rows)} rows is usable; the first problem is: {self.bad_rows[0]}."
            )
        if limit is not None and limit < 1:
            raise DataError(f"the number of items to load must be at least 1, got {limit}.")
        items = self.items[:limit]
        licences = sorted({item.provenance["licence"] for item in items if "licence" in item.provenance})
        return LoadedItems(
            items,
            source,
            split,
            json_sha256([item.to_dict() for item in items]),
            tuple(self.bad_rows),
            ", ".join(licences) or None,
        )


def item_from_row(
    row: dict[str, Any], *, default_id: str, explanation_source: str | None, provenance: dict[str, str]
) -> McqItem:
    """One row -> one item, by the module's rules. Raises `FieldError` (or `DataError`) without file and row."""
    values = {name: value for name, value in row.items() if value is not None}
    options = _options(row, values)
    question = _text(values, "question")
    subject_field = "specialty" if "specialty" in values and "subject" not in values else "subject"
    item_id = _id(values, default_id)
    explanation, source = _explanation(row, values, explanation_source)
    extra = {name: str(values[name]) for name in EXTRA_COLUMNS if name in values}
    extra = casimedicos.provenance_of(item_id) | extra
    if "specialty" in values and "subject" in values:
        extra["specialty"] = _text(values, "specialty")
    return McqItem(
        id=item_id,
        subject=_text(values, subject_field) if subject_field in values else "unspecified",
        language=_language(values, question),
        question=question,
        options=options,
        answer=_answer(row, values, len(options)),
        explanation=explanation,
        explanation_source=source,
        question_spans=_spans(values, "question_spans", question),
        explanation_spans=_spans(values, "explanation_spans", explanation or ""),
        provenance=provenance | extra,
    )


def _options(row: dict[str, Any], values: dict[str, Any]) -> tuple[str, ...]:
    lettered = [letter for letter in KORMEDMCQA_LETTERS if letter in row]
    if lettered and "options" in row:
        raise FieldError("options", f"the row also has the columns {', '.join(lettered)}; keep one of the two forms")
    known = _KORMEDMCQA if lettered else _GENERIC
    for name in row:
        if name not in known:
            raise FieldError(str(name), f"unknown column{nearest(str(name), known).rstrip('?')}")
    if lettered:
        return tuple(_text(values, letter) for letter in KORMEDMCQA_LETTERS)
    if "options" not in values:
        raise FieldError("options", "missing; add a list of strings, or the columns A to E")
    options = _from_json(values, "options")
    if not isinstance(options, list | tuple):
        raise FieldError("options", f"must be a list of strings, got {_short(options)}")
    if not 2 <= len(options) <= len(OPTION_LETTERS):
        raise FieldError("options", f"2 to {len(OPTION_LETTERS)} options are allowed, got {len(options)}")
    for letter, option in zip(OPTION_LETTERS, options, strict=False):
        if not isinstance(option, str) or not option.strip():
            raise FieldError("options", f"option {letter} must be a non-empty string, got {_short(option)}")
    return tuple(options)


def _answer(row: dict[str, Any], values: dict[str, Any], n_options: int) -> int | None:
    if "answer" not in row:
        raise FieldError("answer", f"missing; add a whole number from 1 to {n_options}")
    if "answer" not in values and "options" in row:
        return None
    value = values.get("answer")
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,6}\s*", value):  # as a CSV file holds it
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError("answer", f"must be a whole number from 1 to {n_options}, got {_short(value)}")
    if not 1 <= value <= n_options:
        raise FieldError("answer", f"{value} is outside the {n_options} options (the first is 1)")
    return value - 1


def _explanation(
    row: dict[str, Any], values: dict[str, Any], given: str | None
) -> tuple[str | None, ExplanationSource | None]:
    for name in _EXPLANATION_COLUMNS:
        if name in values and not isinstance(values[name], str):
            raise FieldError(name, f"must be a string, got {_short(values[name])}")
    # The Hub data set fills `cot` with an empty text where there is no explanation.
    present = [name for name in _EXPLANATION_COLUMNS if str(values.get(name, "")).strip()]
    if len(present) > 1:
        raise FieldError(present[1], f"the row also has {present[0]!r}; keep one explanation per row")
    stated = values.get("explanation_source")
    if not present:
        if stated is not None:
            raise FieldError("explanation_source", "is set, but the row has no explanation")
        return None, None
    column = present[0]
    default = "expert" if casimedicos.is_explained_by_physicians(row) else given
    source = stated or _EXPLANATION_COLUMNS[column] or default
    choices = ", ".join(EXPLANATION_SOURCES)
    if source is None:
        return values[column], None
    for allowed in get_args(ExplanationSource):
        if source == allowed:
            return values[column], allowed
    raise FieldError("explanation_source", f"must be one of {choices}, got {_short(source)}")


def _spans(values: dict[str, Any], name: str, text: str) -> tuple[Span, ...]:
    spans = _from_json(values, name) if name in values else []
    if not isinstance(spans, list | tuple):
        raise FieldError(name, f"must be a list of spans, got {_short(spans)}")
    out = []
    for span in spans:
        ints = isinstance(span, dict) and all(type(span.get(k)) is int for k in ("start", "end"))
        if not ints or not span.keys() <= {"start", "end", "label"} or not isinstance(span.get("label", ""), str):
            raise FieldError(name, f"a span is {{start, end, label}} with whole numbers, got {_short(span)}")
        if not 0 <= span["start"] < span["end"] <= len(text):
            raise FieldError(name, f"[{span['start']}, {span['end']}) is outside a text of {len(text)} characters")
        out.append(Span(span["start"], span["end"], span.get("label", "")))
    return tuple(out)


def _id(values: dict[str, Any], default: str) -> str:
    if "id" in values:
        value = values["id"]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _text(values, "id")
    key = ("subject", "year", "period", "q_number")
    return "-".join(str(values[k]) for k in key) if all(k in values for k in key) else default


def _language(values: dict[str, Any], question: str) -> str:
    if "lang" not in values:
        return "ko" if _HANGUL.search(question) else "en"
    if values["lang"] not in ("ko", "en"):
        raise FieldError("lang", f"must be ko or en, got {_short(values['lang'])}")
    return values["lang"]


def _text(values: dict[str, Any], name: str) -> str:
    if name not in values:
        raise FieldError(name, "missing")
    value = values[name]
    if not isinstance(value, str):
        raise FieldError(name, f"must be a string, got {_short(value)}")
    if not value.strip():
        raise FieldError(name, "is empty")
    return value


def _from_json(values: dict[str, Any], name: str) -> Any:
    """Lists in a CSV cell are JSON."""
    if not isinstance(values[name], str):
        return values[name]
    try:
        return json.loads(values[name])
    except (json.JSONDecodeError, RecursionError) as error:
        raise FieldError(name, f"must be a list written as JSON, got {_short(values[name])}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
