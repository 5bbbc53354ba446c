"""Few-shot examples: which, and what must then stay out of the evaluation.

KorMedMCQA brings its own: the first N rows of its `fewshot` split, in their order, as lm-evaluation-harness takes them.
These rows repeat rows of the dev split, so a question that equals a shot is left out. Any other data gives its own
first N items as shots, which are then left out; an item that the data asks again elsewhere is passed over, so that
every copy of it is evaluated and none is shown its answer.

Two items are the same question when stem and options read alike, whatever their order, white space, letter case, width
(full or half) and the punctuation at their ends.
"""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_sha256

_EDGE = " .,;:!?。·…\"'“”‘’`*_"
_SHOWN = 3

Question = tuple[str, tuple[str, ...]]
"""What a question asks, folded: its stem, and its options in the order of their texts."""


def asked(item: McqItem) -> Question:
    """The question of an item, equal for all items that ask the same."""
    return _folded(item.question), tuple(sorted(map(_folded, item.options)))


def split_shots(items: Sequence[McqItem], n: int) -> tuple[tuple[McqItem, ...], list[McqItem]]:
    """`n` items as shots, and the rest: the first that are asked once alone; where there are too few of these, the
    first of those that are asked again too, whose copies are then in neither part. A warning says which were passed
    over and which were left out.

    Raises `ConfigError` when n < 0 or nothing would remain, `DataError` when a shot has no gold answer."""
    if n < 0:
        raise ConfigError(f"the number of shots must be 0 or more, got {n}.")
    if n == 0:
        return (), list(items)
    if n >= len(items):
        raise ConfigError(f"{n} shots leave nothing to evaluate: the data has {len(items)} items.")
    questions = [asked(item) for item in items]
    times = Counter(questions)
    once = [i for i, question in enumerate(questions) if times[question] == 1]
    chosen, taken = once[:n], {questions[i] for i in once[:n]}
    for i, question in enumerate(questions):
        if len(chosen) == n:
            break
        if question not in taken:
            chosen.append(i)
            taken.add(question)
    if len(chosen) < n or len(taken) == len(times):
        raise ConfigError(f"{n} shots leave nothing to evaluate: the data asks {len(times)} different questions.")
    chosen.sort()
    passed = [i for i in range(chosen[-1]) if i not in set(chosen)]
    rest = [i for i, question in enumerate(questions) if question not in taken]
    copies = [i for i, question in enumerate(questions) if question in taken and i not in set(chosen)]
    if passed := [i for i in passed if i not in set(copies)]:
        warnings.warn(
            f"{_named(items, passed)} asked more than once in the data, so not used as a shot, which would show the "
            f"answer; {', '.join(items[i].id for i in chosen)} used instead.",
            stacklevel=2,
        )
    if copies:
        warnings.warn(f"{_named(items, copies)} left out: a shot asks the same question.", stacklevel=2)
    return _answered([items[i] for i in chosen]), [items[i] for i in rest]


def choose_shots(
    data: LoadedItems, n: int, *, load: Callable[[str, str], LoadedItems] = load_items
) -> tuple[tuple[McqItem, ...], LoadedItems]:
    """`n` shots for `data`, and `data` without the items that the shots would give away.

    `load(source, split)` fetches the few-shot split of KorMedMCQA. Raises `ConfigError` for more shots than there are
    and for `kormedmcqa:all`, whose professions have shots of their own; what `split_shots` raises.
    """
    prefix, _, config = data.source.partition(":")
    if n == 0 or prefix != "kormedmcqa":
        shots, rest = split_shots(data.items, n)
        return shots, _without(data, rest)
    if config == "all":
        raise ConfigError("each profession of KorMedMCQA has its own shots; evaluate the four one by one with --shots.")
    found = load(data.source, "fewshot").items
    if not 0 <= n <= len(found):
        raise ConfigError(f"{data.source} has {len(found)} few-shot examples, got {n} shots.")
    shots = _answered(found[:n])
    given_away = {asked(shot) for shot in shots}
    rest = [item for item in data.items if asked(item) not in given_away]
    if not rest:
        raise ConfigError(f"{n} shots leave nothing to evaluate: the data has no other items.")
    return shots, _without(data, rest)


def same_shots(ids: Sequence[str], items: Sequence[McqItem]) -> tuple[McqItem, ...]:
    """The shots of an earlier run, by the ids that it kept. Raises `DataError` for an id that is not among `items`."""
    by_id = {item.id: item for item in items}
    if missing := [each for each in ids if each not in by_id]:
        raise DataError(
            f"the example {missing[0]!r}, which stood before every question of the run, is not in its data now; use "
            "the data that the run names."
        )
    return _answered([by_id[each] for each in ids])


def require_other_items(item: McqItem, shots: Sequence[McqItem]) -> None:
    """Raise `DataError` for a shot without a gold answer, and when `item` is among its own shots."""
    question = asked(item) if shots else None
    for shot in shots:
        if shot.gold_letter is None:
            raise DataError(f"item {shot.id!r} cannot be a shot: its gold answer is not known.")
        if shot.id == item.id or asked(shot) == question:
            raise DataError(
                f"item {item.id!r} is among its own shots (as {shot.id!r}), which would show it the answer."
            )


@lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    """One form for width, composition, letter case and white space, without invisible characters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf")
    return bare.strip(_EDGE) or bare


def _named(items: Sequence[McqItem], found: Sequence[int]) -> str:
    shown = ", ".join(items[i].id for i in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(found) == 1 else 'are'}"


def _without(data: LoadedItems, rest: list[McqItem]) -> LoadedItems:
    if len(rest) == len(data.items):
        return data
    return replace(data, items=rest, sha256=json_sha256([item.to_dict() for item in rest]))


def _answered(shots: Sequence[McqItem]) -> tuple[McqItem, ...]:
    for shot in shots:
        if shot.answer is None:
            raise DataError(f"item {shot.id!r} cannot be a few-shot example: its gold answer is not known.")
    return tuple(shots)
