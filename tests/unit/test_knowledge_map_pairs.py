"""Statements that pair: what differs, which answers are compared, what is left out and why."""

from collections import Counter
from pathlib import Path

import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.lists import packaged_lists
from sae_lens_med.knowledge_map.pairs import (
    Statement,
    Statements,
    made_pairs,
    packaged_statements,
    read_statements,
)
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer(bos=True)


def of(*facts: tuple[str, str], text: str = "{}: x") -> Statements:
    return Statements(tuple(Statement("made", "medical", "en", text, *fact) for fact in facts), "a test")


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text).input_ids)


def test_a_pair_differs_in_the_concept_alone_and_its_donors_are_others() -> None:
    found = made_pairs(of(("q", "k"), ("w", "v"), ("j", "z"), ("g", "b")), ("made", "en", "medical"), TOKENIZER)
    assert not found.left_out and len(found.pairs) == 4
    pair = found.pairs[0]
    assert pair.concepts == ("q", "w")
    assert [i for i, (a, b) in enumerate(zip(pair.clean, pair.corrupted, strict=True)) if a != b] == list(pair.at)
    # " k" and " v" begin with the same token here, the space, which both prompts then end with.
    assert ids("x k")[-2:] == (ids(" ")[-1], ids("k")[-1])
    assert pair.clean == ids("q: x ") and pair.corrupted == ids("w: x ")
    assert pair.answers == (ids("k")[-1], ids("v")[-1])
    assert pair.donors == (ids("j: x "), ids("g: x "))


def test_what_has_no_partner_is_counted_with_the_reason() -> None:
    table = of(("q", "k"), ("w", "k"), ("long name", "v"))
    found = made_pairs(table, ("made", "en", "medical"), TOKENIZER)
    assert not found.pairs
    assert found.left_out == {
        "no other answer among those of as many tokens": 2,
        "no other statement of as many tokens": 1,
    }


def test_an_answer_that_another_begins_with_is_no_other_answer() -> None:
    found = made_pairs(of(("q", "k"), ("w", "kv")), ("made", "en", "medical"), TOKENIZER)
    assert not found.pairs and sum(found.left_out.values()) == 2


def test_a_donor_has_neither_of_the_two_answers() -> None:
    table = of(("q", "k"), ("w", "v"), ("j", "k"), ("g", "v"), ("h", "z"))
    pairs = made_pairs(table, ("made", "en", "medical"), TOKENIZER).pairs
    first = next(pair for pair in pairs if pair.concepts == ("q", "w"))
    assert first.donors == (ids("h: x "),)


def test_the_most_pairs_are_taken_from_each_text_alike() -> None:
    facts = (("q", "k"), ("w", "v"), ("j", "z"), ("g", "b"))
    table = Statements(of(*facts).rows + of(*facts, text="y {} x").rows, "a test")
    found = made_pairs(table, ("made", "en", "medical"), TOKENIZER, most=5)
    assert Counter(pair.text for pair in found.pairs) == {"{}: x": 3, "y {} x": 2}


class TestPackaged:
    def test_covers_the_six_domains_in_both_languages_and_frames_in_the_same_texts(self) -> None:
        table = packaged_statements()
        assert set(table.places) == {(d, la) for d in packaged_lists().domains for la in ("ko", "en")}
        for domain, language in table.places:
            texts = [
                Counter(r.text for r in table.rows if (r.domain, r.language, r.frame) == (domain, language, frame))
                for frame in ("medical", "plain")
            ]
            assert set(texts[0]) == set(texts[1]) and len(texts[0]) >= 2
            assert min(*texts[0].values(), *texts[1].values()) >= 10

    def test_medical_and_plain_concepts_are_different_ones(self) -> None:
        held: dict[str, set[str]] = {"medical": set(), "plain": set()}
        for row in packaged_statements().rows:
            held[row.frame].add(f"{row.domain} {row.language} {row.concept}")
        assert not held["medical"] & held["plain"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"domain": "d", "frame": "medical", "language": "en", "text": "no slot", "concept": "a", "answer": "b"}',
         "row 1: field 'text' must have one slot"),
        ('{"domain": "d", "frame": "clinical", "language": "en", "text": "{}", "concept": "a", "answer": "b"}',
         "field 'frame' must be one of medical, plain, got 'clinical'"),
        ('{"domain": "d", "frame": "plain", "language": "en", "text": "{}", "concept": "a"}', "field 'answer'"),
        ('{"domain": "d", "frame": "plain", "language": "en", "text": "{}", "concept": "a", "anwser": "b"}',
         "no field 'anwser'; did you mean answer?"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_named(tmp_path: Path, row: str, sentence: str) -> None:
    (tmp_path / "own.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match="own.jsonl") as error:
        read_statements(tmp_path / "own.jsonl")
    assert sentence in str(error.value)


def test_a_statement_stands_once() -> None:
    with pytest.raises(DataError, match="'q' stands 2 times"):
        of(("q", "k"), ("q", "v"))
