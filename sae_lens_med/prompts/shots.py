"""Few-shot examples: which, and what must then stay out of the evaluation.

KorMedMCQA brings its own: the first N rows of its `fewshot` split, in their order, as lm-evaluation-harness takes them.
These rows repeat rows of the dev split, so a question that equals a shot is left out. Any other data gives its own
first N items as shots, which are then left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_sha256


def split_shots(items: Sequence[McqItem], n: int) -> tuple[tuple[McqItem, ...], list[McqItem]]:
    """The first `n` items as shots, and the rest. Raises `ConfigError` when n < 0 or nothing would remain,
    `DataError` when a shot has no gold answer."""
    if n < 0:
        raise ConfigError(f"the number of shots must be 0 or more, got {n}.")
    if n and n >= len(items):
        raise ConfigError(f"{n} shots leave nothing to evaluate: the data has {len(items)} items.")
    return _answered(items[:n]), list(items[n:])


def choose_shots(
    data: LoadedItems, n: int, *, load: Callable[[str, str], LoadedItems] = load_items
) -> tuple[tuple[McqItem, ...], LoadedItems]:
    """`n` shots for `data`, and `data` without the items that the shots would give away.

    `load(source, split)` fetches the few-shot split of KorMedMCQA. Raises `ConfigError` for more shots than there are
    and for `kormedmcqa:all`, whose professions have shots of their own.
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
    given_away = {(shot.question, shot.options) for shot in shots}
    rest = [item for item in data.items if (item.question, item.options) not in given_away]
    if not rest:
        raise ConfigError(f"{n} shots leave nothing to evaluate: the data has no other items.")
    return shots, _without(data, rest)


def require_other_items(item: McqItem, shots: Sequence[McqItem]) -> None:
    """Raise `DataError` for a shot without a gold answer, and when `item` is among its own shots."""
    for shot in shots:
        if shot.gold_letter is None:
            raise DataError(f"item {shot.id!r} cannot be a shot: its gold answer is not known.")
        if shot.id == item.id or (shot.question, shot.options) == (item.question, item.options):
            raise DataError(
                f"item {item.id!r} is among its own shots (as {shot.id!r}), which would show it the answer."
            )


def _without(data: LoadedItems, rest: list[McqItem]) -> LoadedItems:
    if len(rest) == len(data.items):
        return data
    return replace(data, items=rest, sha256=json_sha256([item.to_dict() for item in rest]))


def _answered(shots: Sequence[McqItem]) -> tuple[McqItem, ...]:
    for shot in shots:
        if shot.answer is None:
            raise DataError(f"item {shot.id!r} cannot be a few-shot example: its gold answer is not known.")
    return tuple(shots)
