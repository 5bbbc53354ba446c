"""Rows that say things in odd ways: answers as papers write them, texts that show nothing, names that cannot be."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_lens_med.data import load_items
from sae_lens_med.errors import DataError
from tests.unit.data_rows import GEN, one, write


@pytest.mark.parametrize(
    "answer",
    ["C", "c", "③", "❸", "➌", "3번", "(3)", "3.0", "다", "(다)", "정답 3", "정답: 3번", "정답은 ③", "답 C", "보기 3"],
)
def test_answers_as_papers_write_them(answer: str, tmp_path: Path) -> None:
    row = {"question": "무엇?", "options": ["w", "x", "y", "z"], "answer": answer}
    assert one(tmp_path, row).answer == 2
    assert one(tmp_path, row | {"answer": f"\u200b{answer} "}).answer == 2


@pytest.mark.parametrize("answer", ["마", "정답", "정답 5", "3번째", "다라", "C D", "보기 3, 4", "오답 3"])
def test_answers_that_name_no_option_are_no_answers(answer: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field 'answer'"):
        one(tmp_path, {"question": "무엇?", "options": ["w", "x", "y", "z"], "answer": answer})


@pytest.mark.parametrize("zero", ["0번", "⓪", "정답 0번", "0", "０", "정답 0"])
def test_a_file_whose_answers_begin_at_0_is_refused_however_it_writes_them(zero: str, tmp_path: Path) -> None:
    rows = [GEN | {"id": str(i), "answer": answer} for i, answer in enumerate([zero, "①"])]
    with pytest.raises(DataError, match="answers are 0"):
        load_items(write(tmp_path / "a.jsonl", *rows), skip_bad_rows=True)


@pytest.mark.parametrize("nothing", ["\u200b", " \ufeff\u2060", "\u3164"])
def test_what_shows_nothing_is_empty(nothing: str, tmp_path: Path) -> None:
    for bad in ({"question": nothing}, {"options": [nothing, "x"]}):
        with pytest.raises(DataError, match="empty"):
            one(tmp_path, GEN | bad)


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a?"]), pa.array(["b?"]), pa.array([["x", "y"]]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, ["question", "question", "options", "answer"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="question"):
        load_items(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a\0b.csv", "\ud800.csv"])
def test_a_name_that_no_file_can_have_is_no_file(name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_items(name)


VIGNETTE = (
    "A 62-year-old man, Mr. {name}, comes to the emergency department with crushing chest pain that began an hour ago. "
    "Which is the best next step?"
)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        (VIGNETTE.format(name="Kim"), "en"),
        (VIGNETTE.format(name="김철수 (金哲洙)"), "en"),  # a name
        ("What does ㄱ, the first letter of 한글, stand for in Korean phonology?", "en"),
        ("2 + 2 = ?", "en"),
        ("가장 적절한 치료는?", "ko"),
        ("① 2 + 2 = ② 4 는?", "ko"),
        (
            "Acetyl-CoA carboxylase, propionyl-CoA carboxylase, pyruvate carboxylase의 촉매 반응에 관여하는 조효소는?",
            "ko",
        ),
        ("ㄱ. AST 상승 ㄴ. ALT 상승", "ko"),
    ],
)
def test_a_question_is_korean_by_the_share_of_its_letters(question: str, language: str, tmp_path: Path) -> None:
    assert one(tmp_path, {"question": question, "options": ["w", "x"], "answer": 1}).language == language
    # What the row says holds.
    assert one(tmp_path, {"question": question, "options": ["w", "x"], "answer": 1, "lang": "es"}).language == "es"
