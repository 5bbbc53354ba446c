"""One row of a data set -> `McqItem`, in either of the two schemas that the loaders share.

KorMedMCQA   question, A to E, answer (1 to 5); `rationale_r1` (written by a model) or `cot` (by an expert)
generic      question, options (2 to 26 texts), answer (or null when not known)

Both may carry id, subject (or `specialty`), lang, explanation, explanation_source, question_spans,
explanation_spans, and the columns in `EXTRA_COLUMNS`, which go to the item's provenance. Any other column is an
error, or is left out where the caller says so: a misspelt one would otherwise be lost without a word.

An answer is the number of an option or its letter: 3, 3번, ③, C, (c). Numbers count from 1. That a file counts from 0
is a property of the file: it is refused as a whole, until the caller says from where it counts (`answers_from`).

What a row does not say, it gets by these rules:

- id: `subject-year-period-q_number` where the row has all of these, else the file's name and the row number;
- subject: `unspecified`;
- language: `ko` when more than a tenth of the question's letters are Hangul (`LEAST_HANGUL`), else `en`;
- explanation_source: `model` for `rationale_r1`, `expert` for `cot`, that of the named source whose columns the row has
  (`mappings`: CasiMedicos), else what the caller of the loader says, else None: a study then asks
  (`records.require_explanation_sources`).

Rows of a set of open questions (`named`) have neither options nor answer.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, get_args

from sae_lens_med.data.answers import answer_index, bare_number, is_counted_zero
from sae_lens_med.data.fields import FieldError, cell_text, from_json, is_blank, short, text, whole_as_text
from sae_lens_med.data.mappings import known_by_columns, provenance_of
from sae_lens_med.data.tables import RawRow
from sae_lens_med.errors import DataError, listed, nearest
from sae_lens_med.records import (
    EXPLANATION_SOURCES,
    OPTION_LETTERS,
    QUESTION_LANGUAGES,
    ExplanationSource,
    McqItem,
    Span,
)
from sae_lens_med.runs.files import json_sha256

KORMEDMCQA_LETTERS = ("A", "B", "C", "D", "E")
EXTRA_COLUMNS = ("year", "period", "q_number", "dataset", "split", "licence", "source", "block")
"""Columns that are kept in the provenance of the item, as text; items exchange within a `block`, where there is one."""
COLUMN_CHOICES = ("refuse", "ignore")
"""What is done with columns that nothing reads."""

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
EXPLANATION_COLUMNS = {"rationale_r1": "model", "cot": "expert", "explanation": None}
_MAY_BE_MISSING = frozenset(_COMMON) - {"question"} | EXPLANATION_COLUMNS.keys()
_MISSING = ("nan", "<na>", "na", "n/a", "none", "null")
"""How a table of texts writes that there is nothing, in small letters; never looked for in questions and options."""
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
LEAST_HANGUL = 0.1
"""Share of a question's letters. The questions of KorMedMCQA, foreign terms among them, have 0.18 at least; a Korean
name in an English vignette is one letter in a hundred."""


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
    """One line for each row or item that was left out: which, and why. Empty unless leaving out was asked for."""
    licence: str | None
    """As the source states it; None when it states none."""
    ignored_columns: tuple[str, ...] = ()
    """Columns that nothing reads; empty unless ignoring them was asked for."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of `load_items` beside source, split and limit, with which the same items are read again."""
    notes: tuple[str, ...] = ()
    """What a named source says of this data, and where it is not what its mapping says: one sentence each."""

    def without(self, reasons: Mapping[str, str]) -> "LoadedItems":
        """What remains when the items with these ids are left out, for these reasons. Raises `DataError` when nothing
        does."""
        rest = [item for item in self.items if item.id not in reasons]
        if not rest:
            name, why = next(iter(reasons.items()))
            raise DataError(f"{self.source}: none of the {len(self.items)} items can be used; item {name!r}: {why}.")
        lines = tuple(f"item {name!r}: {why}" for name, why in reasons.items())
        sha256 = json_sha256([item.to_dict() for item in rest])
        return replace(self, items=rest, sha256=sha256, bad_rows=(*self.bad_rows, *lines))


class ItemCollector:
    """Gathers items over the rows of one or several files; bad rows are one error at the end, or lines in `bad_rows`.

    Args:
        skip_bad_rows: leave bad rows out.
        answers_from: the number of the first option, 0 or 1. None: 1, and a file that seems to count from 0 is refused.
        extra_columns: one of `COLUMN_CHOICES`.
        exclude: ids of items that are left out, whatever is in their rows.
    """

    def __init__(
        self,
        *,
        skip_bad_rows: bool,
        answers_from: int | None = None,
        extra_columns: str = "refuse",
        exclude: Collection[str] = (),
    ) -> None:
        if answers_from not in (None, 0, 1):
            raise DataError(f"answers are counted from 0 or from 1, got {answers_from}.")
        if extra_columns not in COLUMN_CHOICES:
            raise DataError(f"extra columns are one of {', '.join(COLUMN_CHOICES)}, got {extra_columns!r}.")
        self.items: list[McqItem] = []
        self.bad_rows: list[str] = []
        self._skip, self._answers_from = skip_bad_rows, answers_from
        self._ignore = extra_columns == "ignore"
        self._ignored: dict[str, None] = {}
        self._exclude = dict.fromkeys(exclude, 0)
        self._left_out: list[str] = []
        self._seen: dict[str, str] = {}

    def add(
        self,
        rows: Iterable[RawRow],
        name: str,
        *,
        id_prefix: str,
        explanation_source: str | None = None,
        provenance: dict[str, str] | None = None,
        open_questions: bool = False,
    ) -> None:
        """Convert the rows of the file or split `name`. Raises `DataError` for what is wrong with it as a whole: its
        columns, or from where it counts its answers."""
        rows = list(rows)
        read = [row.values for row in rows if row.values is not None]
        if not open_questions:
            _require_columns(read, name)
        self._take_out_extra_columns(read, name)
        first = _first_option(read, name, self._answers_from)
        for row in rows:
            where, default_id = f"{name}: row {row.number}", f"{id_prefix}-{row.number:05d}"
            try:
                if row.values is None:
                    raise DataError(str(row.problem))
                if self._exclude and (own := _id(without_missing(row.values), default_id)) in self._exclude:
                    self._exclude[own] += 1
                    self._left_out.append(f"{where}: item {own!r}: excluded")
                    continue
                item = item_from_row(
                    row.values,
                    default_id=default_id,
                    explanation_source=explanation_source,
                    provenance=provenance or {},
                    answers_from=first,
                    open_question=open_questions,
                )
                if (before := self._seen.get(item.id)) is not None:
                    raise FieldError("id", f"{item.id!r} was already used by {before}")
            except DataError as error:
                self.bad_rows.append(f"{where}: {str(error).rstrip('.')}")
                continue
            self._seen[item.id] = where
            self.items.append(item)

    @property
    def n_rows(self) -> int:
        """Rows so far, those that are left out among them."""
        return len(self.items) + len(self.bad_rows) + len(self._left_out)

    def loaded(self, source: str, split: str | None, limit: int | None) -> LoadedItems:
        """What was gathered, cut to the first `limit` items. Raises `DataError` when nothing was, for bad rows that
        are not to be skipped, naming all of them, and for excluded items that are not there."""
        if limit is not None and limit < 1:
            raise DataError(f"the number of items to load must be at least 1, got {limit}.")
        if absent := [name for name, n in self._exclude.items() if not n]:
            hint = nearest(absent[0], self._seen) or "; the ids are those of the items, such as " + ", ".join(
                map(repr, list(self._seen)[:3])
            )
            raise DataError(f"{source}: there is no item {absent[0]!r} to exclude{hint.rstrip('?')}.")
        if len(self.bad_rows) > 1 and not self.items:
            n = len(self.bad_rows)
            raise DataError(f"{source}: none of the {n} rows is usable; the first problem is: {self.bad_rows[0]}.")
        if self.bad_rows and not self._skip:
            which = "the row, or leave it" if len(self.bad_rows) == 1 else "the rows, or leave them"
            n = f"{source}: {len(self.bad_rows)} rows cannot be used: " if len(self.bad_rows) > 1 else ""
            raise DataError(f"{n}{listed(self.bad_rows)}; fix {which} out with --skip-bad-items.")
        if not self.items:
            lines = [*self.bad_rows, *self._left_out]
            why = f"; the first problem is: {lines[0]}" if lines else ""
            raise DataError(f"{source}: none of the {len(lines)} rows is usable{why}.")
        items = self.items[:limit]
        licences = sorted({item.provenance["licence"] for item in items if "licence" in item.provenance})
        return LoadedItems(
            items,
            source,
            split,
            json_sha256([item.to_dict() for item in items]),
            (*self.bad_rows, *self._left_out),
            ", ".join(licences) or None,
            tuple(self._ignored),
        )

    def _take_out_extra_columns(self, read: Sequence[dict[str, Any]], name: str) -> None:
        extra = [[column for column in values if column not in known_columns(values)] for values in read]
        counts = Counter(column for columns in extra for column in columns)
        # A column of every row is the file's; one of some rows is told of these rows.
        of_file = [column for column, n in counts.items() if n == len(read)]
        if of_file and not self._ignore:
            known = known_columns(read[0])
            near = [get_close_matches(column, known, 1, 0.8) for column in of_file]
            shown = ", ".join(
                f"{column} (do you mean {each[0]}?)" if each else column
                for column, each in zip(of_file, near, strict=True)
            )
            raise DataError(
                f"{name}: nothing reads the columns {shown}; rename or delete them, or leave them out with "
                "--extra-columns ignore."
            )
        if self._ignore:
            self._ignored |= dict.fromkeys(counts)
            for values, columns in zip(read, extra, strict=True):
                for column in columns:
                    del values[column]


def _require_columns(read: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raise `DataError` for a column that no row has."""
    columns = dict.fromkeys(column for values in read for column in values)
    if not columns:
        return
    has = f"{name}: its columns are {', '.join(list(columns)[:20])}"
    for wanted in ("question", "answer"):
        if wanted not in columns:
            near = get_close_matches(wanted, [name for name in columns if name not in (*_GENERIC, *_KORMEDMCQA)], 1)
            raise DataError(f"{has}, but none is {wanted!r}; {f'rename {near[0]}' if near else 'add it'}.")
    if "options" not in columns and not any(letter in columns for letter in KORMEDMCQA_LETTERS):
        raise DataError(f"{has}, but no options; add the column options (a list of texts), or the columns A to E.")
    if "options" not in columns and (absent := [letter for letter in KORMEDMCQA_LETTERS if letter not in columns]):
        raise DataError(
            f"{has}, but {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing; for another number of "
            "options than five write them as a list into the column options."
        )


def _first_option(read: Sequence[Mapping[str, Any]], name: str, given: int | None) -> int:
    """The number that the file gives to the first option. Raises `DataError` where it is not as given, or where it may
    be 0 and nothing is given: skipping the rows with 0 would shift the others by one."""
    zeros = highest = 0
    if n := sum(is_counted_zero(values.get("answer")) for values in read):
        raise DataError(
            f"{name}: {n} of its {len(read)} answers are 0번 or ⓪, so that its 1번 is not the first option; write the "
            "answers as letters."
        )
    for values in read:
        number, n_options = bare_number(values.get("answer")), _n_options(values)
        zeros += number == 0
        highest += n_options is not None and number == n_options
    if given is None and zeros and zeros >= highest:
        raise DataError(
            f"{name}: {zeros} of its {len(read)} answers are 0, as in a file that counts the options from 0; say that "
            "it does with --answers-from 0, or that 0 is a mistake with --answers-from 1."
        )
    if given == 0 and highest and not zeros:
        raise DataError(
            f"{name}: no answer is 0, and {highest} are as high as there are options, so the file counts from 1; leave "
            "out --answers-from 0."
        )
    return 1 if given is None else given


def _n_options(values: Mapping[str, Any]) -> int | None:
    if any(letter in values for letter in KORMEDMCQA_LETTERS):
        return len(KORMEDMCQA_LETTERS)
    try:
        options = from_json(values, "options") if "options" in values else None
    except FieldError:
        return None
    return len(options) if isinstance(options, list | tuple) else None


def known_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that a row of this schema may have."""
    return _KORMEDMCQA if any(letter in row for letter in KORMEDMCQA_LETTERS) else _GENERIC


def without_missing(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold something."""
    return {name: value for name, value in row.items() if not (value is None or _says_missing(name, value))}


def _says_missing(name: str, value: Any) -> bool:
    if name not in _MAY_BE_MISSING or not isinstance(value, str):
        return False
    said = value.strip().casefold()
    return said in _MISSING or (name in ("answer", "explanation_source") and not said)


def question_from_row(row: Mapping[str, Any], *, default_id: str, open_question: bool = False) -> McqItem:
    """One row -> the question alone, without answer, explanation and spans: all that text to train on is made of.
    Raises `FieldError` (or `DataError`) without file and row."""
    values = without_missing(row)
    options = () if open_question else _options(row, values)
    question = text(values, "question")
    subject_field = "specialty" if "specialty" in values and "subject" not in values else "subject"
    item_id = _id(values, default_id)
    extra = {name: whole_as_text(values[name]) for name in EXTRA_COLUMNS if name in values}
    extra = provenance_of(item_id) | extra
    if "specialty" in values and "subject" in values:
        extra["specialty"] = text(values, "specialty")
    return McqItem(
        id=item_id,
        subject=text(values, subject_field) if subject_field in values else "unspecified",
        language=_language(values, question),
        question=question,
        options=options,
        answer=None,
        provenance=extra,
    )


def item_from_row(
    row: dict[str, Any],
    *,
    default_id: str,
    explanation_source: str | None,
    provenance: dict[str, str],
    answers_from: int = 1,
    open_question: bool = False,
) -> McqItem:
    """One row -> one item, by the module's rules. `answers_from` is the number of the first option. Raises `FieldError`
    (or `DataError`) without file and row."""
    item = question_from_row(row, default_id=default_id, open_question=open_question)
    values = without_missing(row)
    explanation, source = _explanation(row, values, explanation_source)
    return replace(
        item,
        answer=None if open_question else answer_index(row, values, item.options, answers_from),
        explanation=explanation,
        explanation_source=source,
        question_spans=_spans(values, "question_spans", item.question),
        explanation_spans=_spans(values, "explanation_spans", explanation or ""),
        provenance=provenance | item.provenance,
    )


def _options(row: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, ...]:
    lettered = [letter for letter in KORMEDMCQA_LETTERS if letter in row]
    if lettered and "options" in row:
        raise FieldError("options", f"the row also has the columns {', '.join(lettered)}; keep one of the two forms")
    known = known_columns(row)
    for name in row:
        if name not in known:
            raise FieldError(str(name), f"unknown column{nearest(str(name), known).rstrip('?')}")
    if lettered:
        return tuple(cell_text(values, letter) for letter in KORMEDMCQA_LETTERS)
    if "options" not in values:
        raise FieldError("options", "missing; add a list of strings, or the columns A to E")
    options = from_json(values, "options")
    if not isinstance(options, list | tuple):
        raise FieldError("options", f"must be a list of strings, got {short(options)}")
    if not 2 <= len(options) <= len(OPTION_LETTERS):
        raise FieldError("options", f"2 to {len(OPTION_LETTERS)} options are allowed, got {len(options)}")
    for letter, option in zip(OPTION_LETTERS, options, strict=False):
        if not isinstance(option, str) or is_blank(option):
            raise FieldError("options", f"option {letter} must be a non-empty string, got {short(option)}")
    return tuple(options)


def _explanation(
    row: dict[str, Any], values: dict[str, Any], given: str | None
) -> tuple[str | None, ExplanationSource | None]:
    for name in EXPLANATION_COLUMNS:
        if name in values and not isinstance(values[name], str):
            raise FieldError(name, f"must be a string, got {short(values[name])}")
    # The Hub data set fills `cot` with an empty text where there is no explanation.
    present = [name for name in EXPLANATION_COLUMNS if str(values.get(name, "")).strip()]
    if len(present) > 1:
        raise FieldError(present[1], f"the row also has {present[0]!r}; keep one explanation per row")
    stated = values.get("explanation_source")
    if not present:
        if stated is not None:
            raise FieldError("explanation_source", "is set, but the row has no explanation")
        return None, None
    column = present[0]
    default = known_by_columns(row) or given
    source = stated or EXPLANATION_COLUMNS[column] or default
    choices = ", ".join(EXPLANATION_SOURCES)
    if source is None:
        return values[column], None
    for allowed in get_args(ExplanationSource):
        if source == allowed:
            return values[column], allowed
    raise FieldError("explanation_source", f"must be one of {choices}, got {short(source)}")


def _spans(values: dict[str, Any], name: str, text: str) -> tuple[Span, ...]:
    spans = from_json(values, name) if name in values else []
    if not isinstance(spans, list | tuple):
        raise FieldError(name, f"must be a list of spans, got {short(spans)}")
    out = []
    for span in spans:
        ints = isinstance(span, dict) and all(type(span.get(k)) is int for k in ("start", "end"))
        if not ints or not span.keys() <= {"start", "end", "label"} or not isinstance(span.get("label", ""), str):
            raise FieldError(name, f"a span is {{start, end, label}} with whole numbers, got {short(span)}")
        if not 0 <= span["start"] < span["end"] <= len(text):
            raise FieldError(name, f"[{span['start']}, {span['end']}) is outside a text of {len(text)} characters")
        out.append(Span(span["start"], span["end"], span.get("label", "")))
    return tuple(out)


def _id(values: dict[str, Any], default: str) -> str:
    if "id" in values:
        value = values["id"]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return text(values, "id")
    key = ("subject", "year", "period", "q_number")
    return "-".join(whole_as_text(values[k]) for k in key) if all(k in values for k in key) else default


def _language(values: dict[str, Any], question: str) -> str:
    if "lang" not in values:
        n_letters = sum(map(str.isalpha, question))
        return "ko" if len(_HANGUL.findall(question)) > LEAST_HANGUL * n_letters else "en"
    if values["lang"] not in QUESTION_LANGUAGES:
        raise FieldError("lang", f"must be one of {', '.join(QUESTION_LANGUAGES)}, got {short(values['lang'])}")
    return values["lang"]
