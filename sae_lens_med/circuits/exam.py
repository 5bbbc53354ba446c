"""Exam questions -> pairs of three kinds, each of which isolates something else.

    relabel   the same question under other letters (F ... instead of A ...): how a text is bound to its letter
    swap      the text of the right option and that of a wrong one change places: where the right text stands
    fact      one fact of the question is another, so that another option is right: the knowledge

`relabel` and `swap` are made from the question; `fact` needs an edited question and its answer from whoever knows, in a
table with `id`, `question` and `answer` (a letter). **Only what a circuit of `fact` pairs has beyond that of `relabel`
pairs may be called medical.**

A pair whose texts have different numbers of tokens is left out, and counted. Out of scope: making facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sae_lens_med.circuits.pairs import Pair, PairKind
from sae_lens_med.circuits.parts import question_parts
from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.prompts.tokens import question_prompt, text_prompt
from sae_lens_med.records import OPTION_LETTERS, McqItem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MadeKind = Literal["relabel", "swap"]
_FIELDS = ("id", "question", "answer")


@dataclass(frozen=True, slots=True)
class Fact:
    """An edited question of an item, and the option that is right then."""

    question: str
    answer: int


@dataclass(frozen=True, slots=True)
class Made:
    """Pairs, and the ids of the items that have none."""

    pairs: tuple[Pair, ...]
    unequal: tuple[str, ...]
    """Their two texts have different numbers of tokens."""
    unanswered: tuple[str, ...]
    """No answer is known, or none was edited."""


def made_pairs(items: Sequence[McqItem], tokenizer: "PreTrainedTokenizerBase", kind: MadeKind, seed: int = 0) -> Made:
    """`relabel` or `swap` pairs. Raises `ModelError` where letters are not single tokens of the tokenizer."""
    rng = np.random.default_rng(seed)
    sides: list[tuple[McqItem, tuple[Pair | None, bool]]] = []
    for item in items:
        if item.answer is None or item.is_open:
            sides.append((item, (None, False)))
        elif kind == "relabel":
            sides.append((item, _relabelled(item, tokenizer)))
        else:
            others = [k for k in range(len(item.options)) if k != item.answer]
            swapped = list(item.options)
            place = int(rng.choice(others))
            swapped[item.answer], swapped[place] = swapped[place], swapped[item.answer]
            edited = replace(item, options=tuple(swapped), answer=place, question_spans=(), explanation_spans=())
            sides.append((item, _pair(item, edited, tokenizer, "swap")))
    return _collected(sides)


def fact_pairs(items: Sequence[McqItem], facts: dict[str, Fact], tokenizer: "PreTrainedTokenizerBase") -> Made:
    """`fact` pairs of the items that have a fact. Raises `DataError` for a fact of no item, for one whose answer is not
    among the options, or is the item's own."""
    by_id = {item.id: item for item in items}
    for name in facts:
        if name not in by_id:
            raise DataError(f"an edited question belongs to {name!r}, which is no item{nearest(name, by_id) or '.'}")
    sides: list[tuple[McqItem, tuple[Pair | None, bool]]] = []
    for item in items:
        fact = facts.get(item.id)
        if fact is None or item.answer is None:
            sides.append((item, (None, False)))
            continue
        if not 0 <= fact.answer < len(item.options) or fact.answer == item.answer:
            raise DataError(
                f"item {item.id!r}: the edited question's answer must be one of its other options, got "
                f"{OPTION_LETTERS[fact.answer]}."
            )
        edited = replace(item, question=fact.question, answer=fact.answer, question_spans=(), explanation_spans=())
        sides.append((item, _pair(item, edited, tokenizer, "fact")))
    return _collected(sides)


def read_facts(path: Path) -> dict[str, Fact]:
    """A table of edited questions. Raises `DataError` naming file, row and field."""
    found: dict[str, Fact] = {}
    for row in read_rows(path):
        where = f"{path}: row {row.number}"
        if row.values is None:
            raise DataError(f"{where}: {row.problem}; fix the row.")
        for name in row.values:
            if name not in _FIELDS:
                raise DataError(f"{where}: there is no field {name!r}; the fields are {', '.join(_FIELDS)}.")
        texts = {name: row.values.get(name) for name in _FIELDS}
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where}: field {name!r} must be a text that is not empty, got {text!r}.")
        letter = str(texts["answer"]).strip().upper()
        if letter not in OPTION_LETTERS:
            raise DataError(f"{where}: field 'answer' must be a letter, got {letter!r}.")
        if texts["id"] in found:
            raise DataError(f"{where}: a second edited question of {texts['id']!r}; keep one.")
        found[str(texts["id"])] = Fact(str(texts["question"]), OPTION_LETTERS.index(letter))
    return found


def _pair(
    item: McqItem, edited: McqItem, tokenizer: "PreTrainedTokenizerBase", kind: PairKind
) -> tuple[Pair | None, bool]:
    """The pair, and whether its texts have unequal numbers of tokens."""
    assert item.answer is not None and edited.answer is not None, "both have an answer"
    clean, other = question_prompt(item, tokenizer), question_prompt(edited, tokenizer)
    letters = clean.letter_token_ids
    if len(clean.token_ids) != len(other.token_ids):
        return None, True
    return (
        Pair(
            item.id, kind, clean.token_ids, other.token_ids, letters[item.answer], letters[edited.answer], letters,
            other.letter_token_ids, question_parts(clean, other.token_ids, item.answer, edited.answer),
        ),
        False,
    )  # fmt: skip


def _relabelled(item: McqItem, tokenizer: "PreTrainedTokenizerBase") -> tuple[Pair | None, bool]:
    """The letters after those of the options stand in their place."""
    assert item.answer is not None, "it has an answer"
    n = len(item.options)
    if 2 * n > len(OPTION_LETTERS):
        raise DataError(f"item {item.id!r} has {n} options, and there are no {n} letters beside theirs; leave it out.")
    rendered = find_templates("letter").of(item).render(item)
    text = list(rendered.text)
    for span in rendered.spans:
        letter = span.label.removeprefix("option:")
        if letter == span.label:
            continue
        at = rendered.text.rfind(letter, 0, span.start)
        text[at] = OPTION_LETTERS[OPTION_LETTERS.index(letter) + n]
    clean = question_prompt(item, tokenizer)
    other = text_prompt(item.id, "".join(text), tokenizer, spans=rendered.spans, n_letters=2 * n)
    if len(clean.token_ids) != len(other.token_ids):
        return None, True
    answer = clean.letter_token_ids[item.answer]
    theirs = other.letter_token_ids[n:]
    return (
        Pair(
            item.id, "relabel", clean.token_ids, other.token_ids, answer, theirs[item.answer], clean.letter_token_ids,
            theirs, question_parts(clean, other.token_ids, item.answer, item.answer),
        ),
        False,
    )  # fmt: skip


def _collected(sides: Sequence[tuple[McqItem, tuple[Pair | None, bool]]]) -> Made:
    return Made(
        tuple(pair for _, (pair, _) in sides if pair is not None),
        tuple(item.id for item, (_, unequal) in sides if unequal),
        tuple(item.id for item, (pair, unequal) in sides if pair is None and not unequal),
    )
