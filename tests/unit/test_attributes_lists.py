"""Vignettes, at the door."""

import json
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.attributes.vignettes import VignetteLists, packaged_vignettes, read_vignettes

VALUES: list[dict[str, Any]] = [
    {"attribute": "sex", "role": "attribute", "value": "man", "en": "A man"},
    {"attribute": "sex", "role": "attribute", "value": "woman", "en": "A woman", "against": "man"},
    {"attribute": "bed", "role": "swap", "value": "1", "en": "A patient in bed 1"},
    {"attribute": "bed", "role": "swap", "value": "2", "en": "A patient in bed 2"},
    {"attribute": "nobody", "role": "neutral", "value": "patient", "en": "A patient"},
]
QUESTIONS: list[dict[str, Any]] = [
    {"vignette": f"v{i}", "language": "en", "kind": "irrelevant", "text": f"{{}} has {i} stones.",
     "options": ["x", "y"], "answer": "AB"[i % 2]}
    for i in range(5)
]  # fmt: skip
RELEVANT: dict[str, Any] = {
    "vignette": "r", "language": "en", "kind": "relevant", "attribute": "sex", "text": "{} bleeds.",
    "options": ["x", "y"], "answers": {"A man": "A", "A woman": "B"},
}  # fmt: skip
HINT: dict[str, Any] = {"hint": "user", "language": "en", "assertion": "It is {}.", "mention": "He read of {}."}


def read(
    tmp_path: Path, values: Any = VALUES, questions: Any = (*QUESTIONS, RELEVANT), hints: Any = (HINT,)
) -> VignetteLists:
    paths = []
    for name, rows in (("values", values), ("questions", questions), ("hints", hints)):
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_vignettes(*paths)


def changed(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {key: value for key, value in (row | values).items() if value is not None}


def test_what_is_read_is_what_is_asked(tmp_path: Path) -> None:
    lists = read(tmp_path)
    assert (
        lists.languages == ("en",)
        and lists.names("attribute", "en") == ("sex",)
        and lists.names("swap", "en") == ("bed",)
    )
    assert lists.contrasts("sex", "en") == (("man", "woman"),)
    assert lists.neutral("en") == "A patient"
    item = lists.asked("irrelevant", "en")[1].item("A man", "It is y.")
    assert (item.question, item.options, item.answer) == ("It is y. A man has 1 stones.", ("x", "y"), 1)
    [relevant] = lists.asked("relevant", "en", "sex")
    assert [relevant.item(patient).answer for patient in relevant.answers] == [0, 1]


def test_a_vignette_may_name_the_only_attributes_that_do_not_matter_in_it(tmp_path: Path) -> None:
    age = [changed(row, attribute="age", value=row["value"] + "!") for row in VALUES[:2]]
    age[1]["against"] = "man!"
    sixth = changed(QUESTIONS[0], vignette="v5", attributes=["age"])
    lists = read(tmp_path, [*VALUES, *age], [*QUESTIONS, sixth])
    assert [len(lists.asked("irrelevant", "en", name)) for name in ("sex", "age", "")] == [5, 6, 6]
    with pytest.raises(DataError, match="'sex' is irrelevant in 4 vignettes in 'en'; a test needs 5"):
        read(tmp_path, [*VALUES, *age], [*QUESTIONS[1:], sixth])


def test_the_same_question_has_the_same_id_and_another_one_another() -> None:
    one, other = packaged_vignettes().asked("irrelevant", "en")[:2]
    assert one.item("A man").id == one.item("A man").id
    assert len({one.item("A man").id, one.item("A woman").id, other.item("A man").id, one.item("A man", "So.").id}) == 4


@pytest.mark.parametrize(
    ("table", "row", "values", "sentence"),
    [
        ("values", 0, {"role": "swop"}, "values.jsonl: row 1: field 'role' must be one of attribute, swap, neutral"),
        ("values", 0, {"colour": "x"}, "row 1: there is no field 'colour'"),
        ("values", 0, {"en": None}, "row 1: neither 'ko' nor 'en'"),
        ("values", 1, {"against": "boy"}, "'woman' of 'sex' is compared with 'boy'; name another value"),
        ("values", 1, {"against": None}, "no value of 'sex' says what it is compared with"),
        ("values", 1, {"value": "man"}, "'man' stands 2 times in 'sex'"),
        ("values", 3, {"role": "attribute", "against": "1"}, "'bed' has the roles attribute, swap; give it one"),
        ("values", 3, {"attribute": "day"}, "'sex' has 2 values in 'en', and no swap has as many"),
        ("values", 4, {"role": "swap"}, "hints in 'en' need a patient of whom nothing is said"),
        ("questions", 0, {"text": "No slot."}, "row 1: field 'text' must have one slot {}, it has 0"),
        ("questions", 0, {"answer": "C"}, "row 1: field 'answer' must be a letter from A to B, got 'C'"),
        ("questions", 0, {"options": ["x", "x"]}, "row 1: field 'options' must have 2 to 26 different texts"),
        ("questions", 0, {"answers": {"A man": "A"}}, "field 'answers' does not go with kind 'irrelevant'"),
        ("questions", 0, {"attributes": ["sax"]}, "names the attribute 'sax', which has no values; did you mean sex?"),
        ("questions", 1, {"vignette": "v0"}, "the vignette 'v0' stands 2 times in 'en'"),
        ("questions", 4, None, "there are 4 irrelevant vignettes in 'en'; a test needs 5"),
        ("questions", 5, {"answers": {"A man": "A", "A woman": "A"}}, "must hold two different letters"),
        ("questions", 5, {"answer": "A"}, "field 'answer' does not go with kind 'relevant'"),
        ("hints", 0, {"mention": "nobody"}, "hints.jsonl: row 1: field 'mention' must have one slot"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(
    tmp_path: Path, table: str, row: int, values: dict[str, Any] | None, sentence: str
) -> None:
    tables: dict[str, list[dict[str, Any]]] = {
        "values": list(VALUES),
        "questions": [*QUESTIONS, RELEVANT],
        "hints": [HINT],
    }
    if values is None:
        del tables[table][row]
    else:
        tables[table][row] = changed(tables[table][row], **values)
    with pytest.raises(DataError) as error:
        read(tmp_path, **tables)
    assert sentence in str(error.value)


class TestPackaged:
    def test_both_languages_ask_the_same(self) -> None:
        lists = packaged_vignettes()
        assert lists.languages == ("ko", "en")
        for kind in ("irrelevant", "relevant"):
            ko, en = (lists.asked(kind, code) for code in lists.languages)
            assert [(e.vignette, e.answer, e.attribute, len(e.options)) for e in ko] == [
                (e.vignette, e.answer, e.attribute, len(e.options)) for e in en
            ]
            assert [list(e.answers.values()) for e in ko] == [list(e.answers.values()) for e in en]
        assert lists.names("attribute", "ko") == lists.names("attribute", "en")
        assert {h.hint for h in lists.hints if h.language == "ko"} == {
            h.hint for h in lists.hints if h.language == "en"
        }

    def test_has_the_attributes_of_the_issue_and_ages_around_18_and_65(self) -> None:
        lists = packaged_vignettes()
        names = set(lists.names("attribute", "en"))
        assert {"sex", "age", "region", "nationality", "insurance", "disability", "occupation"} <= names
        assert lists.contrasts("age_18", "ko") == (("17", "18"), ("18", "19"))
        assert lists.contrasts("age_65", "ko") == (("64", "65"), ("65", "66"))

    def test_no_letter_is_right_more_often_than_others(self) -> None:
        lists = packaged_vignettes()
        irrelevant = [each.answer for each in lists.asked("irrelevant", "en")]
        relevant = [a for each in lists.asked("relevant", "en") for a in each.answers.values()]
        assert {irrelevant.count(k) for k in range(4)} == {3}
        assert {relevant.count(k) for k in range(4)} <= {5, 6, 7}
