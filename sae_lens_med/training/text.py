"""Text to train an SAE on, from local files, with some exam items left out for measuring.

    sources -> texts -> a `datasets.Dataset` with the columns text, source (file name) and id

Four shapes of row are known, each recognised by its keys: KorMedMCQA items (question and options as one text, the
model-written rationale as another), model-written reasoning over exam items, MedQuAD questions with answers, and
plain text. An item is left out, *together with its rationale*, when a stable hash of its id says so, and a text
that equals one of a left-out item is left out with it; the ids travel with the SAE (`TrainingText.left_out_ids`), so
that results on trained-on and on left-out items can be told apart. Out of scope: tokenising and packing (SAELens).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_med.data.tables import RawRow, read_rows
from sae_lens_med.errors import DataError
from sae_lens_med.prompts.layout import render_question
from sae_lens_med.runs.files import json_sha256

if TYPE_CHECKING:
    import datasets

DEFAULT_LEAVE_OUT = 1 / 3

_LETTERS = ("A", "B", "C", "D", "E")
# Shape -> (keys that every row has, keys that a row may have).
_SHAPES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "item": (
        frozenset({"id", "question", "answer", *_LETTERS}),
        frozenset({"subject", "rationale_r1", "cot", "year", "period", "q_number"}),
    ),
    "question_answer": (
        frozenset({"id", "question", "answer"}),
        frozenset({"source", "focus", "cui", "qtype"}),
    ),
    "text": (frozenset({"text"}), frozenset({"id", "subject", "lang", "source"})),
}


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Texts ready for SAELens' runner, and what was left out of them."""

    dataset: "datasets.Dataset"
    """Columns `text`, `source` (the file's name) and `id`; a rationale's id is its item's with `/rationale`."""
    left_out_ids: tuple[str, ...]
    """Ids of the exam items that are in the sources but not in the text, in the order of the sources."""
    sha256: str
    """Of the texts, in order."""
    counts: dict[str, int]
    """Texts kept by kind (`item`, `rationale`, `question_answer`, `text`), then what was dropped: `left_out_items`,
    `left_out_rationales`, `same_as_left_out`, `duplicates`; and `characters`, of the texts kept."""


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


def training_text(sources: Sequence[str | Path], leave_out: float = DEFAULT_LEAVE_OUT) -> TrainingText:
    """Read `sources` (local files) into one data set of texts, in the order given, without the left-out items.

    Raises `DataError` for a file of unknown shape (naming the keys found), a row without its text, an id that two
    items share, or when nothing remains.
    """
    import datasets

    found = [text for source in sources for text in _texts_of(Path(source), leave_out)]
    left_out_texts = {t.text for t in found if t.left_out}
    left_out_ids = tuple(t.id for t in found if t.left_out and t.kind == "item")
    item_ids = Counter(t.id for t in found if t.kind == "item")
    if item_ids and (most := item_ids.most_common(1)[0])[1] > 1:
        raise DataError(f"the item {most[0]!r} appears {most[1]} times in the sources; name each file once.")

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
    counts["characters"] = sum(map(len, kept))
    dataset = datasets.Dataset.from_dict(
        {
            "text": [t.text for t in kept.values()],
            "source": [t.source for t in kept.values()],
            "id": [t.id for t in kept.values()],
        }
    )
    return TrainingText(dataset, left_out_ids, json_sha256(list(kept)), dict(counts))


def _texts_of(path: Path, leave_out: float) -> Iterator[_Text]:
    for row in read_rows(path):
        if row.values is None:
            raise DataError(f"{path}: row {row.number}: {row.problem}; fix or remove the row.")
        kind = _shape(path, row, row.values)
        where = f"{path}: row {row.number}"
        values = row.values
        if kind == "text":
            name = values["id"] if values.get("id") is not None else f"{path.name}:{row.number}"
            yield _Text("text", path.name, str(name), _text(values, "text", where), False)
        elif kind == "question_answer":
            text = f"{_text(values, 'question', where)}\n{_text(values, 'answer', where)}"
            yield _Text(kind, path.name, _text(values, "id", where), text, False)
        else:
            yield from _item_texts(values, path.name, where, leave_out)


def _item_texts(values: dict[str, Any], source: str, where: str, leave_out: float) -> Iterator[_Text]:
    item_id = _text(values, "id", where)
    left_out = is_left_out(item_id, leave_out)
    options = [_text(values, letter, where) for letter in _LETTERS]
    question = render_question(_text(values, "question", where), options, "ko")
    yield _Text("item", source, item_id, question, left_out)
    for key in ("rationale_r1", "cot"):
        if values.get(key) not in (None, ""):
            yield _Text("rationale", source, f"{item_id}/rationale", _text(values, key, where), left_out)


def _shape(path: Path, row: RawRow, values: dict[str, Any]) -> str:
    keys = set(values)
    for name, (required, optional) in _SHAPES.items():
        if required <= keys <= required | optional:
            return name
    raise DataError(
        f"{path}: row {row.number} has the keys {', '.join(values)}, which is not a known form of training text; give "
        "KorMedMCQA items (id, question, A to E, answer), MedQuAD rows (id, question, answer) or rows with text."
    )


def _text(values: dict[str, Any], key: str, where: str) -> str:
    value = values[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {key!r} must be a non-empty string, got {value!r}.")
    return value
