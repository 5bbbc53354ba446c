"""Prompts: the text of lm-evaluation-harness byte for byte, and spans and parts that never break a syllable."""

import unicodedata
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import BaseLoader, Environment, StrictUndefined
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sae_lens_med.data import mask_leakage
from sae_lens_med.errors import DataError, ModelError
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
from sae_lens_med.records import PARTS, McqItem, Prompt

# Copied from lm_eval 0.4.13, tasks/kormedmcqa/_template_yaml (task version 3.0), as YAML reads the two strings.
LM_EVAL_TEXT = "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\nE. {{E}}\n정답："
LM_EVAL_SHOT = LM_EVAL_TEXT + " {{['A', 'B', 'C', 'D', 'E'][answer-1]}}\n\n"

# Qwen's own split, from its tokenizer.json.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "정답： A\n\n정답： B\n\n정답： C\n\n정답： D\n\n정답： E\n\nA. B. C. D. E.\nAnswer: A B C D E환자는 발열로 왔다."
] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def tokenizer(kind: str, corpus: list[str] = CORPUS) -> PreTrainedTokenizerFast:
    """Byte-level BPE: `gpt2` (trims offsets), `qwen` (its split, NFC), `bos` (adds BOS and EOS)."""
    core: Any = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "qwen")
    split = [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")] if kind == "qwen" else []
    core.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    if kind == "qwen":
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=["<bos>", "<eos>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.ByteLevel(trim_offsets=kind == "gpt2")
    if kind == "bos":
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


TOKENIZERS = {kind: tokenizer(kind) for kind in ("gpt2", "qwen", "bos")}


def item(item_id: str = "x", question: str = "뷁 환자가 열이 난다.\n진단은?", **kwargs: Any) -> McqItem:
    options = ("폐렴(pneumonia)", "천식", "위암", "결핵", "이석증")
    values: dict[str, Any] = {"id": item_id, "subject": "doctor", "language": "ko", "question": question}
    values |= {
        "options": options,
        "answer": 1,
        "explanation": "폐렴이 아니라 기침이다. 정답: B",
        "explanation_source": "model",
    }
    return McqItem(**(values | kwargs))


def lm_eval(template: str, it: McqItem) -> str:
    environment = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    doc = {"question": it.question, "answer": (it.answer or 0) + 1} | dict(zip("ABCDE", it.options, strict=True))
    return environment.from_string(template).render(**doc)


def check(prompt: Prompt, text: str) -> None:
    """What holds for every prompt: the spans cover the text in order, and cut no written character."""
    assert prompt.text == text
    spans = [s for s in prompt.char_spans if s != (0, 0)]
    covered = {i for s, e in spans for i in range(s, e)}
    assert covered == set(range(len(text)))
    assert [s for s, _ in spans] == sorted(s for s, _ in spans)
    for start, end in spans:
        for edge in {start, end} - {len(text)}:
            assert not (unicodedata.combining(text[edge]) or "\u1160" <= text[edge] <= "\u11ff")


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_is_that_of_lm_eval(kind: str) -> None:
    shots = [item("s1", "  첫 질문?\n", answer=4), item("s2", "둘째 {{ x }} 질문?")]
    it = item(question="\n 문제 본문? ")
    prompt = question_prompt(it, TOKENIZERS[kind], shots=shots)
    expected = "".join(lm_eval(LM_EVAL_SHOT, s) for s in shots) + lm_eval(LM_EVAL_TEXT, it)
    assert prompt.text.encode() == expected.encode()
    check(prompt, expected)
    labelled = {s.label: prompt.text[s.start : s.end] for s in prompt.part_spans}
    assert labelled == {"stem": "문제 본문?"} | {f"option:{c}": o for c, o in zip("ABCDE", it.options, strict=True)}
    first = min(i for i, part in enumerate(prompt.token_parts) if part != PARTS.index("other"))
    assert prompt.char_spans[first][0] == expected.rindex("문제 본문")  # shots are scaffold


def test_english_items_have_the_same_layout() -> None:
    it = item(question="Which one?", language="en", options=("a b", "c d", "e f", "g h"))
    assert question_prompt(it, TOKENIZERS["qwen"]).text == "Which one?\nA. a b\nB. c d\nC. e f\nD. g h\nAnswer:"


def test_a_language_without_layout() -> None:
    with pytest.raises(DataError, match="in the language 'de', for which letter has no template; use one of ko, en"):
        question_prompt(item(language="de"), TOKENIZERS["qwen"])


def test_shots_need_an_answer_and_are_other_items() -> None:
    with pytest.raises(DataError, match="item 's' cannot be a shot: its gold answer is not known"):
        question_prompt(item(), TOKENIZERS["qwen"], shots=[item("s", "q", answer=None)])
    with pytest.raises(DataError, match=r"item 'x' is among its own shots \(as 'fewshot-1'\)"):
        question_prompt(item(), TOKENIZERS["qwen"], shots=[item("fewshot-1")])


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "special"), [("gpt2", 0), ("qwen", 0), ("bos", 1)])
def test_bos_exactly_as_the_tokenizer_and_never_eos(kind: str, special: int) -> None:
    tok = TOKENIZERS[kind]
    prompt = question_prompt(item(), tok)
    ids = tok(prompt.text).input_ids
    assert list(prompt.token_ids) == (ids[:-1] if kind == "bos" else ids)
    assert prompt.char_spans.count((0, 0)) == special
    assert (prompt.token_ids[0] == tok.bos_token_id) == bool(special)
    explained, _ = explanation_prompt(item(), tok)
    assert (explained.token_ids[0] == tok.bos_token_id) == bool(special)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_letters_are_what_follows_the_slot(kind: str) -> None:
    tok = TOKENIZERS[kind]
    prompt = question_prompt(item(), tok)
    for letter, token in zip("ABCDE", prompt.letter_token_ids, strict=True):
        assert str(tok.decode([*prompt.token_ids, token])).endswith(f"정답： {letter}")
        whole = [i for i in tok(f"{prompt.text} {letter}").input_ids if not (kind == "bos" and i == 1)]
        assert whole == [*prompt.token_ids, token]


def test_letters_without_a_space_where_that_is_no_token_and_an_error_where_they_are_not_single() -> None:
    bytes_only = tokenizer("gpt2", corpus=["x"])
    prompt = question_prompt(item(), bytes_only)
    assert [bytes_only.decode([t]) for t in prompt.letter_token_ids] == list("ABCDE")
    core: Any = Tokenizer(models.WordLevel({"[UNK]": 0, "<bos>": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    unknown = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    with pytest.raises(
        ModelError, match="the option letters A to E are not single tokens of their own after '.*정답：'"
    ):
        question_prompt(item(), unknown)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="a fast tokenizer is needed"):
        question_prompt(item(), Slow())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_parts_are_those_of_the_characters(kind: str) -> None:
    it = item()
    prompt = question_prompt(it, TOKENIZERS[kind])
    stem_end = len(it.question)
    for (start, end), part in zip(prompt.char_spans, prompt.token_parts, strict=True):
        token = prompt.text[start:end].strip()
        line_start = prompt.text.rfind("\n", 0, start + 1) + 1
        if start == end or token in ("A", "B", "C", "D", "E", ".", "정답", "：", ""):
            continue
        if end <= stem_end:
            assert PARTS[part] == "stem"
        elif prompt.text[line_start : line_start + 2] in ("A.", "B.", "C.", "D.", "E.") and start >= line_start + 2:
            assert PARTS[part] == "option", token
    other = {
        prompt.text[s:e].strip()
        for (s, e), p in zip(prompt.char_spans, prompt.token_parts, strict=True)
        if PARTS[p] == "other"
    }
    assert {"A", "."} <= other or "A." in other


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_split_syllables_carry_the_whole_syllable(kind: str, form: Literal["NFC", "NFD"]) -> None:
    question = unicodedata.normalize(form, "뷁뚫 é 환자")
    prompt = question_prompt(item(question=question), TOKENIZERS[kind])
    check(prompt, prompt.text)
    first = len(unicodedata.normalize(form, "뷁"))
    touching = [s for s in prompt.char_spans if s != (0, 0) and s[0] < first]
    assert len(touching) >= 3 and all(s[0] == 0 and s[1] >= first for s in touching)


WRITTEN = st.text(
    alphabet=st.one_of(
        st.sampled_from("환자가뷁뚫 \n\t.:A1…"),
        st.sampled_from("\u1112\u1161\u11abe\u0301\U0001f600\U00020bb7"),
        st.characters(exclude_categories=["Cs", "Cc"]),
    ),
    min_size=1,
    max_size=40,
).filter(lambda s: s.strip() != "")


@settings(max_examples=150, deadline=None)
@given(WRITTEN, st.sampled_from(sorted(TOKENIZERS)))
def test_any_stem_is_covered_and_no_character_cut(question: str, kind: str) -> None:
    prompt = question_prompt(item(question=question), TOKENIZERS[kind])
    spans = [s for s in prompt.char_spans if s != (0, 0)]
    assert {i for s, e in spans for i in range(s, e)} == set(range(len(prompt.text)))
    for start, end in spans:
        for edge in {start, end} - {0, len(prompt.text)}:
            assert not (unicodedata.combining(prompt.text[edge]) or "\u1160" <= prompt.text[edge] <= "\u11ff")


# --- explanation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_explanation_is_masked_and_alone(kind: str) -> None:
    it = item()
    prompt, masked = explanation_prompt(it, TOKENIZERS[kind])
    assert masked == mask_leakage(it) and prompt.text == masked.text == "…이 아니라 기침이다. 정답: …"
    check(prompt, masked.text)
    assert prompt.letter_token_ids == () and it.question not in prompt.text
    for (start, end), part in zip(prompt.char_spans, prompt.token_parts, strict=True):
        touches = start == end or any(s.start < end and start < s.end for s in masked.placeholders)
        assert PARTS[part] == ("other" if touches else "explanation")


def test_no_explanation() -> None:
    bare = item(explanation=None, explanation_source=None)
    with pytest.raises(DataError, match="item 'x' has no explanation"):
        explanation_prompt(bare, TOKENIZERS["qwen"])


# --- chat ---------------------------------------------------------------------------------------------------------


def chat_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    tok = tokenizer("qwen")
    tok.chat_template = template
    return tok


@pytest.mark.parametrize("thinking", [False, True])
def test_chat_with_and_without_thinking(thinking: bool) -> None:
    tok = chat_tokenizer()
    shots = [item("s1", "다른 질문?")]
    prompt = question_prompt(item(), tok, shots=shots, chat=True, enable_thinking=thinking)
    user = lm_eval(LM_EVAL_SHOT, shots[0]) + lm_eval(LM_EVAL_TEXT, item())
    tail = "" if thinking else "<think>\n\n</think>\n\n"
    expected = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{tail}"
    check(prompt, expected)
    assert tok.decode(list(prompt.token_ids)) == expected
    assert [tok.decode([t]) for t in prompt.letter_token_ids] == list("ABCDE")
    stem = prompt.part_spans[0]
    assert prompt.text[stem.start : stem.end] == item().question
    markup = prompt.token_ids.index(tok.convert_tokens_to_ids("<|im_start|>"))  # type: ignore[arg-type]
    assert prompt.char_spans[markup] == (0, 12) and PARTS[prompt.token_parts[markup]] == "other"


def test_chat_that_cannot_be() -> None:
    with pytest.raises(ModelError, match="this tokenizer has no chat template; leave chat out"):
        question_prompt(item(), TOKENIZERS["qwen"], chat=True)
    plain = chat_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ModelError, match="does not support enable_thinking"):
        question_prompt(item(), plain, chat=True, enable_thinking=True)
    with pytest.raises(ModelError, match="use it together with chat"):
        question_prompt(item(), plain, enable_thinking=True)
    upper = chat_tokenizer("{% for m in messages %}{{ m['content'] | lower }}{% endfor %}")
    with pytest.raises(ModelError, match="changes the text of the user's turn"):
        question_prompt(item(), upper, chat=True)
