"""Few-shot examples: never the question itself, however it is written, and never the end of the run."""

import json
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.prompts.shots import asked, choose_shots, require_other_items, same_shots, split_shots
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_sha256

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases" / "shots.jsonl"


def item(item_id: str, question: str = "폐렴의 흔한 원인균은?", **kwargs: Any) -> McqItem:
    values: dict[str, Any] = {"id": item_id, "subject": "doctor", "language": "ko", "question": question}
    values |= {"options": ("폐렴구균 (S. pneumoniae)", "대장균", "결핵균", "칸디다"), "answer": 0}
    return McqItem(**(values | kwargs))


def loaded(items: list[McqItem], source: str = "t.jsonl") -> LoadedItems:
    return LoadedItems(items, source, None, json_sha256([i.to_dict() for i in items]), (), None)


FIRST = item("s")
CHANGES: dict[str, Callable[[str], str]] = {
    "exact": lambda text: text,
    "spaces": lambda text: f"  {text.replace(' ', '   ')}\n",
    "no spaces": lambda text: text.replace(" ", ""),
    "line breaks": lambda text: text.replace(" ", "\n"),
    "width": lambda text: text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),
    "case": str.upper,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "invisible": lambda text: "\u200b".join(text) + "\ufeff",
    "no full stop": lambda text: text.rstrip("?"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_the_same_question_is_known_however_it_is_written(change: str, order: tuple[int, ...]) -> None:
    options = tuple(CHANGES[change](FIRST.options[i]) for i in order)
    again = item("t", CHANGES[change](FIRST.question), options=options, answer=order.index(0))
    assert asked(again) == asked(FIRST)
    with pytest.raises(DataError, match=r"item 't' is among its own shots \(as 's'\)"):
        require_other_items(again, [FIRST])


@pytest.mark.parametrize(
    "other",
    [
        item("t", "폐렴의 드문 원인균은?"),
        item("t", options=(*FIRST.options[:3], "효모")),
        item("t", options=FIRST.options[:3]),
        item("t", "Na+ > 140?"),
    ],
)
def test_another_question_is_another_one(other: McqItem) -> None:
    require_other_items(other, [FIRST, item("u", "Na+ < 140?")])


def test_an_item_that_is_asked_again_is_passed_over_and_that_is_said() -> None:
    permuted = item("t1", options=FIRST.options[::-1], answer=3)
    spaced = item("t2", "폐렴의 흔한  원인균은? ")
    others = [item(f"o{n}", f"질문 {n}?") for n in range(3)]
    data = loaded([FIRST, permuted, others[0], spaced, *others[1:]])
    with pytest.warns(UserWarning, match=r"^s, t1 are asked more than once .*; o0 used instead\.$"):
        shots, rest = choose_shots(data, 1)
    assert [shot.id for shot in shots] == ["o0"]
    assert [each.id for each in rest.items] == ["s", "t1", "t2", "o1", "o2"]
    for each in rest.items:
        require_other_items(each, shots)


def test_copies_of_a_shot_are_left_out_where_nothing_else_is_there_and_that_is_said() -> None:
    data = loaded([item("a"), item("a2"), item("b", "둘째?"), item("b2", "둘째?")])
    with pytest.warns(UserWarning, match="a2 is left out: a shot asks the same question"):
        shots, rest = choose_shots(data, 1)
    assert [shot.id for shot in shots] == ["a"]
    assert [each.id for each in rest.items] == ["b", "b2"]
    with pytest.raises(ConfigError, match="2 shots leave nothing to evaluate: the data asks 2 different questions"):
        choose_shots(data, 2)


def test_nothing_is_said_where_no_question_is_asked_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shots, rest = split_shots([item(f"o{n}", f"질문 {n}?") for n in range(4)], 2)
    assert [[each.id for each in part] for part in (shots, rest)] == [["o0", "o1"], ["o2", "o3"]]


def test_the_few_shot_rows_of_kormedmcqa_take_their_repeats_along_however_these_are_written() -> None:
    dev = [item("d0", "  폐렴의 흔한 원인균은?", options=FIRST.options[::-1], answer=3), item("d1", "둘째?")]
    data = replace(loaded(dev), source="kormedmcqa:doctor")
    shots, rest = choose_shots(data, 1, load=lambda source, split: loaded([FIRST]))
    assert (shots, [each.id for each in rest.items]) == ((FIRST,), ["d1"])


def test_the_shots_of_an_earlier_run() -> None:
    data = loaded([item("a"), item("a2"), item("b", "둘째?"), item("c", "셋째?")])
    limited = replace(data, items=[data.items[0], *data.items[2:]])
    shots, _ = choose_shots(limited, 1)
    assert [shot.id for shot in shots] == ["a"]
    assert same_shots(data, ["a"]) == shots  # of all the data, `choose_shots` takes another
    served = replace(data, source="kormedmcqa:doctor")
    assert same_shots(served, ["f"], load=lambda source, split: loaded([item("f")])) == (item("f"),)
    with pytest.raises(DataError, match=r"the example 'x', which .* is not in t.jsonl now"):
        same_shots(data, ["a", "x"])


def test_the_cases_with_the_item_among_its_shots() -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    with pytest.warns(UserWarning, match="t3 used instead"):
        shots, rest = choose_shots(load_items(str(CASES)), 1)
    assert [shot.id for shot in shots] == ["t3"]
    assert [each.id for each in rest.items] == [row["id"] for row in rows if row["id"] != "t3"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(1, 4))
def test_no_item_is_shown_its_own_question(questions: list[int], n: int) -> None:
    items = [
        item(f"i{k}", f"질문{' ' * (k % 3)} {q}?", options=("가", "나", "다")[:: 1 if k % 2 else -1])
        for k, q in enumerate(questions)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if n >= len(items) or n >= len(set(questions)):
            with pytest.raises(ConfigError, match="leave nothing to evaluate"):
                split_shots(items, n)
            return
        shots, rest = split_shots(items, n)
    assert len({asked(shot) for shot in shots}) == n
    for each in rest:
        require_other_items(each, shots)
    left_out = [each for each in items if each not in rest and each not in shots]
    assert {asked(each) for each in left_out} <= {asked(shot) for shot in shots}
    once = [q for q in set(questions) if questions.count(q) == 1]
    assert not left_out or len(once) < n
