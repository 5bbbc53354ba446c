"""Prompt templates: lm-eval's bytes, nothing in a question is read as code, mistakes are one sentence."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.prompts.templates import SHIPPED, find_templates, shipped, shipped_names
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import McqItem
from tests.tiny import tiny_tokenizer

SAMPLE = load_items("sample").items
TOKENIZER = tiny_tokenizer()


def item(item_id: str = "x", question: str = "열이 난다.\n진단은?", **kwargs: Any) -> McqItem:
    values: dict[str, Any] = {"id": item_id, "subject": "doctor", "language": "ko", "question": question}
    values |= {"options": ("폐렴", "천식", "위암"), "answer": 1}
    return McqItem(**(values | kwargs))


def shot(**kwargs: Any) -> McqItem:
    given_: dict[str, Any] = {"explanation": "기침 때문이다.", "explanation_source": "expert"}
    return item("s", "앞의 질문?", **(given_ | kwargs))


GOLDEN = {
    "letter.ko": (
        "앞의 질문?\nA. 폐렴\nB. 천식\nC. 위암\n정답： B\n\n열이 난다.\n진단은?\nA. 폐렴\nB. 천식\nC. 위암\n정답："
    ),
    "letter.en": (
        "앞의 질문?\nA. 폐렴\nB. 천식\nC. 위암\nAnswer: B\n\n열이 난다.\n진단은?\nA. 폐렴\nB. 천식\nC. 위암\nAnswer:"
    ),
    "option-text.ko": "앞의 질문?\n정답： 천식\n\n열이 난다.\n진단은?\n정답：",
    "option-text.en": "앞의 질문?\nAnswer: 천식\n\n열이 난다.\n진단은?\nAnswer:",
    "option-text-listed.ko": (
        "앞의 질문?\nA. 폐렴\nB. 천식\nC. 위암\n정답： 천식\n\n열이 난다.\n진단은?\nA. 폐렴\nB. 천식\nC. 위암\n정답："
    ),
    "option-text-listed.en": (
        "앞의 질문?\nA. 폐렴\nB. 천식\nC. 위암\nAnswer: 천식\n\n열이 난다.\n진단은?\nA. 폐렴\nB. 천식\nC. 위암\nAnswer:"
    ),
    "cot.ko": (
        "다음 의료 자격시험 문제를 읽고 단계별로 추론하십시오. 추론을 마치면 마지막 줄에 "
        '"정답: X" 형식으로만 답하십시오. X는 A부터 C 중 하나입니다.\n\n'
        "[문제]\n앞의 질문?\n\n[선택지]\nA. 폐렴\nB. 천식\nC. 위암\n\n[풀이]\n기침 때문이다.\n정답: B\n\n"
        "[문제]\n열이 난다.\n진단은?\n\n[선택지]\nA. 폐렴\nB. 천식\nC. 위암\n\n[풀이]"
    ),
    "cot.en": (
        "Read the following question of a medical licensing examination and reason step by step. When you have "
        'finished, answer on the last line in exactly the form "Answer: X", where X is one of A to C.\n\n'
        "[Question]\n앞의 질문?\n\n[Options]\nA. 폐렴\nB. 천식\nC. 위암\n\n[Reasoning]\n기침 때문이다.\nAnswer: B\n\n"
        "[Question]\n열이 난다.\n진단은?\n\n[Options]\nA. 폐렴\nB. 천식\nC. 위암\n\n[Reasoning]"
    ),
}
GOLDEN |= {f"generate.{language}": GOLDEN[f"letter.{language}"] for language in ("ko", "en")}


@pytest.mark.parametrize("name", shipped_names())
def test_the_text_of_each_shipped_template(name: str) -> None:
    template = find_templates(name).of(item())
    rendered = template.render(item(), [shot()])
    assert rendered.text == GOLDEN[name]
    found = {span.label: rendered.text[span.start : span.end] for span in rendered.spans}
    options = {"option:A": "폐렴", "option:B": "천식", "option:C": "위암"}
    assert found == {"stem": "열이 난다.\n진단은?"} | ({} if name.startswith("option-text.") else options)
    assert rendered.spans[0].start > rendered.text.index("앞의 질문?")  # the shots' parts are not marked
    assert template.sha256 == hashlib.sha256(shipped(name)).hexdigest()
    assert template.render(item()).text.endswith(GOLDEN[name][-5:])


def test_stop_strings() -> None:
    stops = {name: find_templates(name).of(item()).stop for name in shipped_names()}
    assert stops["letter.ko"] == stops["option-text.ko"] == ()
    # lm_eval 0.4.13, tasks/kormedmcqa/_template_yaml
    assert stops["generate.ko"] == stops["generate.en"] == ("Q:", "</s>", "<|im_end|>", ".", "\n\n")
    assert stops["cot.ko"] == ("\n\n[문제]", "</s>", "<|im_end|>")


def by_hand(it: McqItem, shots: list[McqItem]) -> tuple[str, list[tuple[int, int]]]:
    """The text of lm-evaluation-harness' task, and where stem and options of the last question stand in it."""
    cue = {"ko": "정답：", "en": "Answer:"}[it.language]
    text, places = "", []
    for i in [*shots, it]:
        places = [(len(text), len(text) + len(i.question.strip()))]
        text += i.question.strip()
        for letter, option in zip("ABCDE", i.options, strict=False):
            text += f"\n{letter}. {option}"
            places.append((len(text) - len(option), len(text)))
        text += f"\n{cue}" if i is it else f"\n{cue} {i.gold_letter}\n\n"
    return text, places


@pytest.mark.parametrize("n_shots", [0, 3])
def test_the_default_against_the_layout_by_hand(n_shots: int) -> None:
    shots = SAMPLE[:n_shots]
    for it in [*SAMPLE[n_shots:], item(question="  Which?\n", language="en", options=("a", "b{{ c }}"))]:
        expected, places = by_hand(it, shots)
        prompt = question_prompt(it, TOKENIZER, shots=shots)
        assert prompt.text.encode() == expected.encode()
        assert [(span.start, span.end) for span in prompt.part_spans] == places
        for family in ("letter", "generate"):
            rendered = find_templates(family).of(it).render(it, shots)
            assert (rendered.text, rendered.spans) == (prompt.text, prompt.part_spans)


def test_the_default_against_the_layout_by_hand_on_real_items(shared_data: Path) -> None:
    items = load_items(str(shared_data / "kormedmcqa_train_shared.jsonl"), skip_bad_rows=True).items
    assert len(items) > 1000
    for it in items[5:]:
        rendered = find_templates("letter").of(it).render(it, items[:5])
        assert (rendered.text, [(span.start, span.end) for span in rendered.spans]) == by_hand(it, items[:5])


TEXT = st.text(max_size=40).filter(lambda text: text.strip())


@settings(max_examples=150, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=2, max_size=5), st.sampled_from(sorted(GOLDEN)))
def test_any_text_passes_unchanged(question: str, options: list[str], name: str) -> None:
    it = item(question=question, options=tuple(options))
    rendered = find_templates(name).of(it).render(it)
    assert question.strip() in rendered.text
    stems = [rendered.text[s.start : s.end] for s in rendered.spans if s.label == "stem"]
    assert stems == [question.strip()]
    if not name.startswith("option-text."):
        shown = [rendered.text[s.start : s.end] for s in rendered.spans if s.label != "stem"]
        assert shown == options


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{# x #}", "<b>&amp;</b>", "a\r\nb", "\U00100000"])
def test_nothing_in_a_value_is_code(text: str) -> None:
    rendered = find_templates("cot").of(item()).render(item(question=text, options=(text, "b")))
    assert rendered.text.count(text) == 2
    assert [rendered.text[span.start : span.end] for span in rendered.spans] == [text, text, "b"]


def own(tmp_path: Path, content: str) -> str:
    path = tmp_path / "mine.j2"
    path.write_bytes(content.encode())
    return str(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        '\ufeff{% set stop = ["끝"] %}\r\n{{ language }} {{ subject }} {{ letters | join("") }}\r\n{{ question }}\r\n',
    )
    templates = find_templates(path)
    for language in ("ko", "en"):
        it = item(language=language)
        assert templates.of(it).stop == ("끝",)
        assert templates.of(it).render(it).text == f"{language} doctor ABC\n열이 난다.\n진단은?"
    sha = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert templates.sha256(["ko", "ko"]) == {"ko": sha}
    shortened = find_templates(own(tmp_path, "{{ question }} {{ question | upper }} {{ question | length }}"))
    assert shortened.of(item()).render(item()).spans == ()  # a filter sees the text itself, so its place is not known


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{{ qestion }}", "'qestion' is undefined"),
        ("{{ question }}{{ answer }}", "'answer' is undefined"),
        ("{{ question }}{{ explanation }}", "'explanation' is undefined"),
        ("{{ question.__class__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ question }}{{ ''.__class__.__mro__[1].__subclasses__() }}", "is unsafe"),
        ("{{ question }}{{ shots.append(1) }}", "is unsafe"),
        ("{{ question }}{% include '/etc/passwd' %}", "no loader"),
        ("{{ question }}{% for x in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ question }}{{ 1 / 0 }}", "division by zero"),
        ("{{ question }}\n{% if %}", "fails in line 2"),
        ("no variable", "does not print the question"),
        ("{% set stop = 'x' %}{{ question }}", "it must be a list of non-empty strings"),
        ("{% set stop = ['x', ''] %}{{ question }}", "it must be a list of non-empty strings"),
    ],
)
def test_a_broken_template_is_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_templates(own(tmp_path, content))
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"the template {tmp_path / 'mine.j2'}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_bytes("정답".encode("cp949"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        find_templates(str(tmp_path / "x.j2"))


@pytest.mark.parametrize(
    ("wanted", "language", "said"),
    [
        ("lettr", None, "neither as a file nor among the packaged ones; did you mean letter"),
        ("cot.kr", None, "did you mean cot.ko"),
        ("/nowhere/x", None, "`sae-lens-med templates` lists"),
        ("cot", "fr", "there are no instructions in the language 'fr'; use one of ko, en"),
        ("cot.ko", "en", "has its own language"),
    ],
)
def test_unknown_names(wanted: str, language: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_templates(wanted, language)


def test_the_language_of_instructions() -> None:
    assert find_templates("cot", "en").of(item()).name == "cot.en"
    assert find_templates("cot").of(item(language="en")).name == "cot.en"
    assert find_templates("cot.ko.j2").of(item(language="en")).name == "cot.ko"
    with pytest.raises(DataError, match="item 'x' is in the language 'de', for which cot has no template"):
        find_templates("cot").of(item(language="de"))


def test_shots_that_do_not_fit() -> None:
    template = find_templates("cot").of(item())
    with pytest.raises(DataError, match="the shot 's' has none; use data whose few-shot examples are explained"):
        template.render(item(), [shot(explanation=None, explanation_source=None)])
    with pytest.raises(DataError, match="item 'x' is among its own shots"):
        template.render(item(), [item("other")])
    with pytest.raises(DataError, match="its gold answer is not known"):
        template.render(item(), [shot(answer=None)])


def test_every_family_ships_in_every_language() -> None:
    assert len(shipped_names()) == 2 * len(SHIPPED) == 10
    with pytest.raises(ConfigError, match="there is no packaged template 'letter.kor'; did you mean letter.ko"):
        shipped("letter.kor")
