"""Text to train an SAE on, from local files, with some exam items left out for measuring.

    sources -> texts -> a `datasets.Dataset` with the columns text, source (file name) and id

Three shapes of row are known, each recognised by its keys: exam items, in every form that `evaluate` reads (question
and options as one text, each explanation as another), MedQuAD questions with answers, and plain text. An item is left
out, *together with its explanations*, when a stable hash of its id says so, and a text that equals one of a left-out
item is left out with it; the ids travel with the SAE (`TrainingText.left_out_ids`), so that results on trained-on and
on left-out items can be told apart. Out of scope: tokenising and packing (SAELens).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_med.data.fields import short
from sae_lens_med.data.local import require_different
from sae_lens_med.data.rows import (
    COLUMN_CHOICES,
    EXPLANATION_COLUMNS,
    KORMEDMCQA_LETTERS,
    known_columns,
    question_from_row,
    without_missing,
)
from sae_lens_med.data.tables import RawRow, read_rows, stem
from sae_lens_med.errors import DataError, listed
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.runs.files import json_sha256, told_apart

if TYPE_CHECKING:
    import datasets

DEFAULT_LEAVE_OUT = 1 / 3

_QUESTION_ANSWER = ("id", "question", "answer", "source", "focus", "cui", "qtype")
_TEXT = ("text", "id", "subject", "lang", "source")


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Texts ready for SAELens' runner, and what was left out of them."""

    dataset: "datasets.Dataset"
    """Columns `text`, `source` (one of `sources`) and `id`; an explanation's id is its item's with `/rationale`."""
    sources: tuple[str, ...]
    """The files in their order: the name of each, with as much of its path as tells it from the others."""
    left_out_ids: tuple[str, ...]
    """Ids of the exam items that are in the sources but not in the text, in the order of the sources."""
    sha256: str
    """Of the texts, in order."""
    counts: dict[str, int]
    """Texts kept by kind (`item`, `rationale`, `question_answer`, `text`), then what was dropped: `left_out_items`,
    `left_out_rationales`, `same_as_left_out`, `duplicates`, and where there are any, `bad_rows`; and `characters`, of
    the texts kept."""
    bad_rows: tuple[str, ...] = ()
    """One line for each row that was skipped."""
    ignored_columns: tuple[str, ...] = ()
    """Columns that nothing reads."""


@dataclass(frozen=True, slots=True)
class _Text:
    kind: str
    source: str
    id: str
    text: str
    left_out: bool


def is_left_out(item_id: str, fraction: float = DEFAULT_LEAVE_OUT) -> bool:
    """Whether the item is kept out of the training text: the first 64 bits of SHA-256(id), over 2^64, lie below
    `fraction` (in [0, 1]; else `DataError`). Depends on the id alone: adding items moves no other item."""
    if not 0 <= fraction <= 1:
        raise DataError(f"the fraction of items to leave out must be in [0, 1], got {fraction}.")
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8")).digest()[:8], "big") < fraction * 2**64


def training_text(
    sources: Sequence[str | Path],
    leave_out: float = DEFAULT_LEAVE_OUT,
    *,
    encoding: str | None = None,
    extra_columns: str = "refuse",
    skip_bad_rows: bool = False,
) -> TrainingText:
    """Read `sources` (local files) into one data set of texts, in the order given, without the left-out items.

    Args:
        sources: files, each named once.
        leave_out: the fraction of the exam items that stays out.
        encoding: of the files that are not UTF-8.
        extra_columns: `refuse` columns that nothing reads, or `ignore` them.
        skip_bad_rows: leave out rows without their text, and all but the first of the items that share an id.

    Raises `DataError` for a file of unknown shape (naming the keys found), a file that is named twice, rows without
    their text and items that share an id (naming all), or when nothing remains.
    """
    import datasets

    if extra_columns not in COLUMN_CHOICES:
        raise DataError(f"extra columns are one of {', '.join(COLUMN_CHOICES)}, got {extra_columns!r}.")
    paths = [Path(source) for source in sources]
    require_different(paths)
    names, prefixes = told_apart(paths), told_apart(paths, stem)
    found: list[_Text] = []
    bad_rows: list[str] = []
    ignored: dict[str, None] = {}
    for path, name, prefix in zip(paths, names, prefixes, strict=True):
        rows = read_rows(path, encoding, encoding_option="--set data.encoding=")
        ignored |= dict.fromkeys(_take_out_extra_columns(path, rows, extra_columns == "ignore"))
        found += _texts_of(path, rows, name, prefix, leave_out, bad_rows.append)
    if bad_rows and not skip_bad_rows:
        raise DataError(f"{listed(bad_rows)}; fix or remove the row, or set data.skip_bad_items of the recipe.")
    found = _without_repeated(found, bad_rows, skip_bad_rows)
    left_out_texts = {t.text for t in found if t.left_out}
    left_out_ids = tuple(t.id for t in found if t.left_out and t.kind == "item")

    counts: Counter[str] = Counter(
        dict.fromkeys(("left_out_items", "left_out_rationales", "same_as_left_out", "duplicates"), 0)
    )
    kept: dict[str, _Text] = {}
    for text in found:
        if text.left_out:
            counts[f"left_out_{text.kind}s"] += 1
        elif text.text in left_out_texts:
            counts["same_as_left_out"] += 1
        elif text.text in kept:
            counts["duplicates"] += 1
        else:
            kept[text.text] = text
            counts[text.kind] += 1
    if not kept:
        raise DataError("the sources leave no text to train on; name more files or a smaller fraction to leave out.")
    if bad_rows:
        counts["bad_rows"] = len(bad_rows)
    counts["characters"] = sum(map(len, kept))
    dataset = datasets.Dataset.from_dict(
        {
            "text": [t.text for t in kept.values()],
            "source": [t.source for t in kept.values()],
            "id": [t.id for t in kept.values()],
        }
    )
    return TrainingText(
        dataset, tuple(names), left_out_ids, json_sha256(list(kept)), dict(counts), tuple(bad_rows), tuple(ignored)
    )


def _without_repeated(found: Sequence[_Text], bad_rows: list[str], skip: bool) -> list[_Text]:
    """The texts without those of items whose id an item before has. Raises `DataError` where that is not asked for."""
    item_ids = Counter(t.id for t in found if t.kind == "item")
    repeated = {name: n for name, n in item_ids.items() if n > 1}
    if not repeated:
        return list(found)
    lines = [f"the item {name!r} appears {n} times in the sources" for name, n in repeated.items()]
    if not skip:
        raise DataError(f"{listed(lines)}; keep one of each, or set data.skip_bad_items of the recipe.")
    bad_rows += lines
    kept: list[_Text] = []
    seen: set[str] = set()
    skipping = False
    for text in found:
        if text.kind == "item":
            skipping = text.id in seen
            seen.add(text.id)
        if text.kind not in ("item", "rationale") or not skipping:  # its rationales follow an item
            kept.append(text)
    return kept


def _take_out_extra_columns(path: Path, rows: Sequence[RawRow], ignore: bool) -> list[str]:
    """Take out of the rows what nothing reads, and return the names. Raises `DataError` where that is not asked for,
    and for a file of which no row has a known shape."""
    read = [row for row in rows if row.values is not None]
    if read and not any(_shape(row) for row in read):
        raise DataError(f"{path}: {_unknown(read[0])}.")
    extra: dict[str, None] = {}
    for row in read:
        values, columns = row.values or {}, _columns(row)
        own = [name for name in values if columns and name not in columns]
        extra |= dict.fromkeys(own)
        for name in own if ignore else ():
            del values[name]
    if extra and not ignore:
        raise DataError(
            f"{path}: nothing reads the columns {', '.join(extra)}; rename or delete them, or set data.extra_columns: "
            "ignore in the recipe."
        )
    return list(extra)


def _columns(row: RawRow) -> tuple[str, ...]:
    """What a row of this shape may have; nothing for one of no known shape."""
    shape = _shape(row)
    if shape == "item":
        return known_columns(row.values or {})
    return {"text": _TEXT, "question_answer": _QUESTION_ANSWER, None: ()}[shape]


def _shape(row: RawRow) -> str | None:
    keys = set(row.values or {})
    if "text" in keys and "question" not in keys:
        return "text"
    if "question" in keys and ("options" in keys or keys >= set(KORMEDMCQA_LETTERS)):
        return "item"
    return "question_answer" if keys >= {"id", "question", "answer"} else None


def _unknown(row: RawRow) -> str:
    return (
        f"row {row.number} has the keys {', '.join(row.values or {})}, which is not a known form of training text; use "
        "exam items (question, options or A to E), MedQuAD rows (id, question, answer) or rows with text"
    )


def _texts_of(
    path: Path, rows: Iterable[RawRow], source: str, prefix: str, leave_out: float, bad: Callable[[str], None]
) -> Iterator[_Text]:
    for row in rows:
        where = f"{path}: row {row.number}"
        try:
            if row.values is None:
                raise DataError(str(row.problem))
            if (shape := _shape(row)) is None:
                bad(f"{path}: {_unknown(row)}")
                continue
            yield from list(_texts(shape, row, row.values, source, prefix, leave_out))
        except DataError as error:
            bad(f"{where}: {str(error).rstrip('.')}")


def _texts(
    shape: str, row: RawRow, values: Mapping[str, Any], source: str, prefix: str, leave_out: float
) -> Iterator[_Text]:
    if shape == "text":
        name = values["id"] if values.get("id") is not None else f"{source}:{row.number}"
        yield _Text("text", source, str(name), _text(values, "text"), False)
    elif shape == "question_answer":
        text = f"{_text(values, 'question')}\n{_text(values, 'answer')}"
        yield _Text(shape, source, _text(values, "id"), text, False)
    else:
        # By the same name as `evaluate` gives it: what is left out here is looked for there.
        item = question_from_row(values, default_id=f"{prefix}-{row.number:05d}")
        left_out = is_left_out(item.id, leave_out)
        yield _Text("item", source, item.id, find_templates("letter").of(item).render(item).text, left_out)
        for key in EXPLANATION_COLUMNS:
            if without_missing(values).get(key, "") != "":
                yield _Text("rationale", source, f"{item.id}/rationale", _text(values, key), left_out)


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"field {key!r} must be a non-empty string, got {short(value)}.")
    return value
