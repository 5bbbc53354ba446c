"""Leakage masks: option texts, answer marks and quotes go; words that only look like them stay."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sae_lens_med.data import load_items, mask_leakage
from sae_lens_med.errors import DataError
from sae_lens_med.records import McqItem, Span

SHARED = Path(__file__).parents[3] / "shared" / "data"
KO = ("딜티아젬(diltiazem)", "위내시경 검사", "비타민 B12", "관찰", "3")
EN = ("Intestinal biopsy.", "Colonoscopy.", "ACE", "Type 2 diabetes", "A")


def item(explanation: str, options: tuple[str, ...] = KO, question: str = "질문은?") -> McqItem:
    return McqItem("x", "doctor", "ko", question, options, 1, explanation, "model")


def masked(explanation: str, options: tuple[str, ...] = KO) -> str:
    return mask_leakage(item(explanation, options)).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # option texts: particles, spacing, case, width, end punctuation, halves of parentheses
        ("위내시경 검사를 한다", "…를 한다"),
        ("위 내시경검사가 먼저다", "…가 먼저다"),
        ("딜티아젬은 칼슘통로차단제다", "…은 칼슘통로차단제다"),
        ("DILTIAZEM 투여", "… 투여"),
        ("딜티아젬（diltiazem）을 준다", "…을 준다"),
        ("딜티아젬 (Diltiazem)을 준다", "…을 준다"),
        ("비타민 Ｂ１２ 결핍", "… 결핍"),
        ("비타민 B123 결핍", "비타민 B123 결핍"),
        # short options: only as a word, a particle may follow
        ("관찰이 원칙이다. 관찰한다면", "…이 원칙이다. 관찰한다면"),
        ("경과관찰", "경과관찰"),
        ("관찰자 효과", "관찰자 효과"),
        ("값은 3이다", "값은 …이다"),
        ("값은 13, 3.5, 0.3, 30이다", "값은 13, 3.5, 0.3, 30이다"),
        ("T3 수치", "T3 수치"),
        # answer marks, Korean
        ("정답: C", "정답: …"),
        ("정답：Ｃ", "정답：…"),
        ("정답은 B입니다.", "정답은 …입니다."),
        ("그러므로 답은 (D)이다", "그러므로 답은 …이다"),
        ("정답은 ④이다", "정답은 …이다"),
        ("보기 2번과 4번은 틀리다", "보기 …과 …은 틀리다"),
        ("선택지 A는 아니다", "선택지 …는 아니다"),
        ("따라서 E가 정답이다", "따라서 …가 정답이다"),
        ("A, C는 옳다", "…, …는 옳다"),
        ("A. 설명\nB) 설명", "…. 설명\n…) 설명"),
        ("첫 번째 보기는", "… 보기는"),
        # what only looks like an answer
        ("비타민 C를 하루 2번 복용", "비타민 C를 하루 2번 복용"),
        ("2번째 방문에서 12번", "2번째 방문에서 12번"),
        ("B형간염과 제2형 당뇨병", "B형간염과 제2형 당뇨병"),
        ("IgA 신병증 2 mg", "IgA 신병증 2 mg"),
        ("정답: F", "정답: F"),
        ("이미 … 생략", "이미 … 생략"),
    ],
)
def test_korean(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("An intestinal  biopsy is needed", "An … is needed"),
        ("Colonoscopies, colonoscopy", "Colonoscopies, …"),
        ("peace and ACEs and a certain", "peace and …s and a certain"),
        ("Has type 2 diabetes mellitus", "Has … mellitus"),
        ("So answer is D.\n정답: D", "So answer is ….\n정답: …"),
        ("the answer that will give us the diagnosis is 4 (intestinal biopsy).", None),
        ("options 1, 2 and 5 would be discarded", "options …, … and … would be discarded"),
        ("(incorrect option 2), and", "(incorrect option …), and"),
        ("Answer 3: no", "Answer …: no"),
        ("C is correct", "… is correct"),
        ("can be excluded 2,3,4 because", "can be excluded …,…,… because"),
        ("The best answer to this question is number 5", "The best answer to this question is number …"),
        ("I choose (B).", "I choose …."),
        ("\\boxed{C}", "\\boxed…"),
        ("the third option", "the … option"),
        ("option b", "option …"),
        ("2", "…"),
        ("Therefore, D.", "Therefore, …."),
        ("the answer is a matter of taste", "the answer is a matter of taste"),
        ("hepatitis B, grade 3 and factor 5", "hepatitis B, grade 3 and factor 5"),
        ("Give 2 mg for 3 days; pO2 60, 45 %.", "Give 2 mg for 3 days; pO2 60, 45 %."),
    ],
)
def test_english(text: str, expected: str | None) -> None:
    got = masked(text, EN)
    if expected is None:
        assert "4" not in got and "biopsy" not in got
    else:
        assert got == expected


def test_counts_and_placeholders() -> None:
    result = mask_leakage(item("이미 … 있다. 위내시경 검사는 (B), 정답: B"))
    assert result.text == "이미 … 있다. …는 …, 정답: …"
    assert (result.n_option_chars, result.n_stem_chars, result.n_answer_marks) == (7, 0, 2)
    assert [result.text[s.start : s.end] for s in result.placeholders] == ["…"] * 3
    assert result.placeholders[0] == Span(9, 10)  # the author's own … (at 3) is text


def test_a_long_quote_of_the_stem_goes_and_a_short_one_stays() -> None:
    stem = "65세 여자가 혀의 통증으로 내원하였다. 혈색소 수치가 낮고 평균적혈구용적이 증가하였다. 검사 항목은?"
    quote = stem[5:45]
    result = mask_leakage(item(f"문제: {quote} 끝. 혀의 통증으로", question=stem))
    assert result.text == "문제: … 끝. 혀의 통증으로"
    assert result.n_stem_chars == len(quote)


def test_decomposed_text_is_found_and_not_cut() -> None:
    text = unicodedata.normalize("NFD", "딜티아젬을 준다")
    assert masked(text) == "…" + unicodedata.normalize("NFD", "을 준다")


def test_no_explanation() -> None:
    with pytest.raises(DataError, match="item 'y' has no explanation to mask"):
        mask_leakage(McqItem("y", "doctor", "ko", "q", ("a", "b"), 0))


LONG = st.text(alphabet=st.sampled_from("가나다라환자검사ABab ()"), min_size=5, max_size=14).filter(
    lambda s: len(re.sub(r"[\s()]", "", s)) >= 5
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LONG, min_size=2, max_size=5), st.lists(st.text(alphabet="가나 환자.A정답:B…", max_size=12)), st.data())
def test_no_option_text_survives(options: list[str], fillers: list[str], data: st.DataObject) -> None:
    used = [data.draw(st.sampled_from(options)) for _ in fillers]
    text = " ".join(f"{f}{o}" for f, o in zip(fillers, used, strict=True)) + "."
    result = mask_leakage(item(text, tuple(options)))

    def bare(s: str) -> str:
        return re.sub(r"\s", "", s).casefold()

    assert not [o for o in options if bare(o) in bare(result.text)]
    # What is left is the text without pieces: the parts between placeholders stand in it, in order.
    pieces, at = [], 0
    for span in result.placeholders:
        assert result.text[span.start : span.end] == "…"
        pieces.append(result.text[at : span.start])
        at = span.end
    pieces.append(result.text[at:])
    position = 0
    for piece in pieces:
        assert (position := text.find(piece, position)) >= 0
        position += len(piece)
    assert text.startswith(pieces[0]) and text.endswith(pieces[-1])


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_any_text_is_accepted_and_masking_twice_changes_nothing_more(text: str) -> None:
    assume(text.strip())
    once = mask_leakage(item(text))
    assert once.n_option_chars + once.n_stem_chars <= len(text)
    if once.text.strip():
        twice = mask_leakage(item(once.text))
        assert twice.n_option_chars == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data ../shared/data is not here")
def test_real_rationales_do_not_name_their_answer() -> None:
    """The rationales of the train set all end in `정답: X`; none may after masking."""
    items = load_items(str(SHARED / "kormedmcqa_train_shared.jsonl"), limit=300).items
    cue = re.compile(r"(?:정답|[Aa]nswer)\s*(?:is|:|은|:)?\s*[(*]*[A-E]\b")
    with_cue = [i for i in items if cue.search(str(i.explanation))]
    assert len(with_cue) > 250
    assert [i.id for i in with_cue if cue.search(mask_leakage(i).text)] == []
    first = json.loads((SHARED / "kormedmcqa_train_shared.jsonl").open(encoding="utf-8").readline())
    assert items[0].explanation == first["rationale_r1"] and items[0].explanation_source == "model"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("La respuesta correcta es la 3.", "La respuesta correcta es la …."),
        ("La opción 2 es falsa; respuesta: 3", "La opción … es falsa; respuesta: …"),
        ("La correcta es la 4, la 1 es incorrecta.", "La correcta es la …, la … es incorrecta."),
        ("La bonne réponse est la 3.", "La bonne réponse est la …."),
        (
            "La réponse correcte est le numéro 2, et la 1 est fausse.",
            "La réponse correcte est le numéro …, et la … est fausse.",
        ),
        ("La risposta corretta è la 3; la 2 è errata.", "La risposta corretta è la …; la … è errata."),
        ("L'opzione 4 è da scartare.", "L'opzione … è da scartare."),
        ("Diabetes tipo 2, durante 3 días; 2 es el número de riñones.", None),
        ("Un patient de 4 ans a pris 3 comprimés.", None),
        ("Il paziente ha 5 figli; la vitamina C è utile.", None),
    ],
)
def test_marks_in_spanish_french_and_italian(text: str, masked: str | None) -> None:
    item = McqItem("x", "s", "es", "Q?", ("w1w1w", "w2w2w", "w3w3w", "w4w4w", "w5w5w"), 2, text, "expert")
    assert mask_leakage(item).text == (text if masked is None else masked)
