"""Answer extraction: the paper's cascade as lm-eval runs it, and what a person would read as the answer."""

import dataclasses
import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.errors import DataError
from sae_lens_med.prompts.answers import Extraction, paper, strict
from tests.unit import answer_turns
from tests.unit.answer_forms import FORMS, FOUR, GERMS, LUNG, NUMBERS, VITAMINS
from tests.unit.answer_turns import EN_OPTIONS, KO_OPTIONS

SHARED = Path(__file__).parents[3] / "shared" / "data" / "kormedmcqa_train_shared.jsonl"
CASES = Path(__file__).parents[3] / "shared" / "data" / "cases" / "answers.jsonl"


@pytest.mark.parametrize(
    ("text", "options", "truncated", "read"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS]
)
def test_reads_what_a_person_reads(text: str, options: tuple[str, ...], truncated: bool, read: str) -> None:
    found = strict(text, options, truncated=truncated)
    assert (found.letter or found.reason) == read
    assert (found.letter is None) == (found.reason is not None)


def test_the_table_is_large_and_its_names_are_unique() -> None:
    names = [form[0] for form in FORMS]
    assert len(names) == len(set(names))
    assert len({form[1:4] for form in FORMS}) >= 250


TURNS = [
    (f"{name}: {text!r}", text, options, read)
    for name, options in [
        (f"{kind}_{language}", options)
        for kind in ("NEXT", "TURNS", "FORMS")
        for language, options in (("KOREAN", KO_OPTIONS), ("ENGLISH", EN_OPTIONS))
    ]
    for text, read in getattr(answer_turns, name)
]


@pytest.mark.parametrize(("text", "options", "read"), [turn[1:] for turn in TURNS], ids=[turn[0] for turn in TURNS])
def test_reads_corrections_invented_questions_and_forms_of_answers(
    text: str, options: tuple[str, ...], read: str
) -> None:
    found = strict(text, options)
    assert (found.letter or found.reason) == read


def test_reads_the_cases_that_were_misread() -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    for line in CASES.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        assert strict(case["text"], case["options"]).letter == case["expected"], case["kind"]


HEADINGS = [
    "[문제]", "문제 2)", "### 문제 2", "**문제 2.**", "문제 2:", "질문:", "[질문 2]", "다음 문제", "다음 문제:",
    "2번 문제", "문항 2", "예제 2:", "연습문제", "## Question 2", "Question:", "Q2.", "Q:", "[Question]",
    "Next question:", "Problem 2.", "User:", "### Instruction:", "<문제 2>", "문제 #2", "Question 2 of 5", "[예제]",
    "Here is the next question:", "Q#2", "새로운 문제:", "**[문제 2]**",
]  # fmt: skip
ANSWERED = ["정답: {}", "{}", "**{}**", "Answer: {}", "쌕쌕거린다.\n정답은 {}입니다.", "정답: {}\n\n해설: 쌕쌕거린다."]
QUESTIONS = [
    "다음 중 옳은 것은?\nA. 가\nB. 나\nC. 다",
    "옳은 것은?\n1) 가\n2) 나",
    "Which one?\n(a) x\n(b) y",
    "옳지 않은 것은?",
]


@settings(max_examples=300, deadline=None)
@given(
    answered=st.sampled_from(ANSWERED),
    letter=st.sampled_from(LETTERS := "ABCDE"),
    heading=st.sampled_from(HEADINGS),
    question=st.sampled_from(QUESTIONS),
    final=st.sampled_from(["정답: {}", "정답： {}", "Answer: {}", "{}", "따라서 정답은 {}입니다."]),
    other=st.sampled_from(LETTERS),
    gap=st.sampled_from(["\n", "\n\n", "\n\n---\n\n"]),
    inline=st.booleans(),
)
def test_an_invented_question_and_its_answer_are_not_read(
    answered: str, letter: str, heading: str, question: str, final: str, other: str, gap: str, inline: bool
) -> None:
    own_line = heading.endswith(("[문제]", "다음 문제", "2번 문제", "문항 2", "연습문제", "of 5", "#2")) or not inline
    text = f"{answered.format(letter)}{gap}{heading}{chr(10) if own_line else ' '}{question}\n{final.format(other)}"
    assert strict(text, LUNG) == Extraction(letter, None)
    assert strict(text, LUNG, truncated=True) == Extraction(letter, None)


@pytest.mark.parametrize("n_before", [0, 2])
def test_a_question_that_is_asked_again_before_the_answer_is_no_next_question(n_before: int) -> None:
    again = "[문제]\n35세 남자가 쌕쌕거린다.\n[선택지]\nA. 폐렴\nB. 천식\n[풀이]\n쌕쌕거린다.\n"
    assert strict("살펴보겠습니다.\n\n" * n_before + again + "정답: B", LUNG).letter == "B"
    assert strict(f"{again}정답: B\n\n{again}정답: C", LUNG).letter == "B"


# --- properties of the strict reading -------------------------------------------------------------------------------

PIECES = [
    "정답", "답은", ": ", "：", "은 ", "입니다", "이다.", "가 ", "따라서 ", "가장 적절한 것은 ", "번", "아니라 ",
    "\n", "\n\n", " ", ". ", ", ", "The answer is ", "Answer: ", "not ", "a ", "I ", "Option ", " is correct",
    "therefore ", "\\boxed{", "}", "(", ")", "**", "<think>", "</think>", "<|im_end|>", "A", "B", "C", "Ｄ", "e", "F",
    "1", "3", "②", "⑨", "폐렴", "천식", "비타민 ", "E. coli", "질문: ", "죄송합니다",
]  # fmt: skip
PIECES += [
    " 대신 ",
    "(수정: ",
    "[문제]",
    "\n문제 2)",
    "이 아닌 ",
    "지만 ",
    "보기 3번",
    " 번",
    "로 하겠습니다",
    "not A but ",
]
written = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


@settings(max_examples=400, deadline=None)
@given(
    text=written, options=st.sampled_from([LUNG, FOUR, VITAMINS, NUMBERS, GERMS, ("예", "아니오")]), cut=st.booleans()
)
def test_any_text_is_read_and_a_letter_lies_within_the_options(text: str, options: tuple[str, ...], cut: bool) -> None:
    found = strict(text, options, truncated=cut)
    if found.letter is None:
        assert found.reason in ("no_answer", "truncated", "ambiguous", "refused")
        assert cut or found.reason != "truncated" or "<think>" in text
    else:
        assert found.reason is None and found.letter in LETTERS[: len(options)]


@settings(max_examples=50, deadline=None)
@given(text=st.text(), options=st.lists(st.text(), min_size=4, max_size=5))
def test_any_options_can_be_looked_for(text: str, options: list[str]) -> None:
    strict(f"{text}\n정답: {options[-1]}", options)


REASONS = st.lists(
    st.sampled_from(
        [
            "이 환자는 35세 남자로 쌕쌕거림을 보인다.",
            "폐렴은 발열이 있고 폐결핵은 만성이다.",
            "비타민 A 결핍은 관련이 없다.",
            "A는 정답이 아니다.",
            "B형 간염 바이러스 검사는 음성이다.",
            "A. 폐렴: 맞지 않다.\nC. 폐결핵: 맞지 않다.",
            "The patient has a cough and a fever.",
        ]
    ),
    max_size=4,
)
CLAIMS = [
    "정답은 {}입니다.",
    "따라서 {}가 정답이다.",
    "{}가 가장 적절하다.",
    "The answer is {}.",
    "정답: {}",
    "**{}**",
    "{}",
    "",
]
FINAL = [
    "정답: {}",
    "**정답: {}**",
    "정답：{}",
    "최종 정답은 {}입니다.",
    "Final answer: {}",
    "\\boxed{{{}}}",
    "따라서 {}이다.",
]


@settings(max_examples=300, deadline=None)
@given(
    reasons=REASONS,
    claim=st.sampled_from(CLAIMS),
    claimed=st.sampled_from(LETTERS),
    final=st.sampled_from(FINAL),
    letter=st.sampled_from(LETTERS),
    gap=st.sampled_from(["\n", "\n\n"]),
)
def test_a_final_line_decides_over_one_claim_before_it(
    reasons: list[str], claim: str, claimed: str, final: str, letter: str, gap: str
) -> None:
    text = gap.join([*reasons, claim.format(claimed), final.format(letter)])
    assert strict(text, LUNG) == Extraction(letter, None)
    assert strict(text, LUNG, truncated=True) == Extraction(letter, None)


ENDED = ("think-unclosed", "think-answer-before-unclosed", "label-end-of-turn", "label-end-of-sequence",
         "label-gemma-end-of-turn", "bare-next-question", "bare-next-prompt", "cot-next-prompt", "several-label-lines",
         "cut-think")  # fmt: skip


@pytest.mark.parametrize("letter", "AD")
def test_a_final_line_decides_after_every_form(letter: str) -> None:
    for name, text, options, _, read in FORMS:
        if name not in ENDED:
            found = strict(f"{text}\n\n최종 정답: {letter}", options)
            assert found.letter == letter, (name, read)


def test_width_and_composition_of_what_is_written_change_nothing() -> None:
    wide = {ord(c): ord(c) + 0xFEE0 for c in LETTERS + "0123456789:"}
    for name, text, options, truncated, read in FORMS:
        for form in (text.translate(wide), unicodedata.normalize("NFD", text)):
            if "<" not in text:  # tags are marks of the software that ran the model, not of the model
                found = strict(form, options, truncated=truncated)
                assert (found.letter or found.reason) == read, name


LONG = [
    "A, ", "A와 ", "①", "폐렴(", "정답: ", "정답은 A", "따라서 ", "가장 ", "(", " ", "\n", "<think>", "A\n", "\\text{",
    "the answer ", "most likely ", "A 대신 ", "A, no, ", "\n문제 2) ", "B라고 생각할 수 있으나 ",
    "A에서 B로 ", "1. 가?\n1) ", "A. x\nB. y\n", "B 폐렴 ", "정답은 A가 아니라 ", "의료 진단 ",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_a_hundred_thousand_characters_are_read_in_linear_time(piece: str) -> None:
    strict("정답: A", LUNG)  # compiles the patterns
    start = time.process_time()
    strict((piece * 100_000)[:100_000], LUNG)
    paper((piece * 100_000)[:100_000])
    assert time.process_time() - start < 3


@pytest.mark.parametrize("n", [0, 1, 27])
def test_options_must_be_two_to_twenty_six(n: int) -> None:
    with pytest.raises(DataError, match=f"2 to 26 options, got {n}"):
        strict("B", [f"option {i}" for i in range(n)])


def test_letters_past_e_are_read_where_there_are_so_many_options() -> None:
    options = [f"option text {i}" for i in range(26)]
    assert strict("정답: Z", options).letter == "Z"
    assert strict("정답: H", options[:8]).letter == "H"
    assert strict("정답: 12번", options).letter == "L"
    assert strict("The answer is option text 25.", options).letter == "Z"


def test_options_with_the_same_text_name_no_letter() -> None:
    assert strict("정답: 폐렴", ("폐렴", "폐렴 ", "천식")).reason == "no_answer"
    assert strict("정답: B. 폐렴", ("폐렴", "폐렴 ", "천식")).letter == "B"


def test_an_extraction_is_a_letter_or_a_reason_and_stays_so() -> None:
    for letter, reason in ((None, None), ("A", "no_answer")):
        with pytest.raises(DataError, match="a letter or a reason"):
            Extraction(letter, reason)  # type: ignore[arg-type]  # the wrong values are the point
    with pytest.raises(dataclasses.FrozenInstanceError):
        Extraction("A", None).letter = "B"  # type: ignore[misc]  # assigning is the point


def test_real_reasoning_with_and_without_its_last_line() -> None:
    """Korean and English rationales by DeepSeek-R1, all of which end with `정답: X`; X is the gold answer."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    rows = [json.loads(line) for line in SHARED.read_text(encoding="utf-8").splitlines()][::4]
    right, wrong = 0, []
    for row in rows:
        options, gold, text = [row[k] for k in LETTERS], LETTERS[row["answer"] - 1], row["rationale_r1"].strip()
        assert strict(text, options).letter == gold, row["id"]
        found = strict(text.rpartition("\n")[0], options)
        right += found.letter == gold
        wrong += [row["id"]] if found.letter not in (gold, None) else []
    assert right / len(rows) >= 0.95
    assert wrong == []


# --- the paper's cascade --------------------------------------------------------------------------------------------


def extract_choice(output: str) -> str:
    """The filter of lm-evaluation-harness 0.4.13, lm_eval/tasks/kormedmcqa/utils.py, written out."""
    matches = re.findall("정답[:\\s]*([ABCDE])", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("정답은\\s*([ABCDE])\\s*입니다", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("\\b([ABCDE])\\.", output, re.IGNORECASE)
    if not matches:
        matches = re.findall("\\b([ABCDE])\\b", output, re.IGNORECASE)
    return matches[-1].upper() if matches else ""


@settings(max_examples=500, deadline=None)
@given(written)
def test_paper_is_lm_evals_cascade(text: str) -> None:
    assert paper(text) == (extract_choice(text) or None)


def test_paper_is_lm_evals_own_filter_on_every_form() -> None:
    theirs = pytest.importorskip("lm_eval.tasks.kormedmcqa.utils", reason="lm-eval (the extra eval) is not installed")
    for _, text, *_ in FORMS:
        assert paper(text) == (theirs.extract_choice(text) or None) == (extract_choice(text) or None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("정답: B", "B"),
        ("정답: A ... 정답: c", "C"),
        ("정답은 B입니다", "B"),
        ("A. 폐렴 B. 천식", "B"),
        ("(d)", "D"),
        ("B", "B"),
        ("", None),
        # its known faults, kept
        ("정답：B입니다", None),
        ("정답：B\n\n오답: A. 폐렴", "A"),
        ("답은 B이다", None),
        ("B번", None),
        ("This is a patient", "A"),
        ("정답: E. coli 감염", "E"),
        ("정답: because of fever", "B"),
        ("F", None),
    ],
)
def test_paper_is_kept_with_its_faults(text: str, letter: str | None) -> None:
    assert paper(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "정답은 B가 될 수 없다.",
        "정답은 B가 되지 않는다.",
        "B가 정답일 리 없다.",
        "정답은 B인가요?",
        "정답은 B인지 불확실",
        "정답을 B로 고르면 틀린다.",
        "B를 고르면 안 된다.",
        "B를 선택하지 마세요.",
        "정답은 B라는 주장은 틀렸다.",
        "B라고 답하면 오답이다.",
        "B는 정답에서 제외된다.",
        "정답: B(X)",
        "정답: B ❌",
        "정답: B 제외",
        "정답은 B 이외의 것",
        "정답: B~D",
        "Wrong answer: B",
        "The wrong answer is B.",
        "I don't think the answer is B.",
        "No one would say the answer is B.",
        "It would be wrong to say that the answer is B.",
    ],
)
def test_what_is_denied_asked_or_excluded_claims_nothing(text: str) -> None:
    assert strict(text, LUNG).letter is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("정답은 B입니다. C가 정답이 되려면 객혈이 있어야 합니다.", "B"),
        ("앞의 답 B는 잘못되었습니다. 올바른 답은 C입니다.", "C"),
        ("B가 정답이 될 수는 없다. 정답은 C.", "C"),
        ("If the patient had fever the answer would be A, but here it is B.", "B"),
        ("If I had to choose, the answer would be B.", "B"),
        ("B를 선택하면 됩니다.", "B"),
        ("C만 맞다.", "C"),
        ("D이(가) 정답입니다", "D"),
        ("My answer: B", "B"),
        ("The most likely answer is B.", "B"),
        ("I think the answer is B.", "B"),
    ],
)
def test_what_stays_is_the_answer(text: str, letter: str) -> None:
    assert strict(text, LUNG).letter == letter
