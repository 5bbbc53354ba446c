"""The option-letter method on tiny random models, against plain transformers on the unpadded prompt."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_lens_med as slm
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, ModelError, StudyError, UnfitItemsError
from sae_lens_med.evaluation.methods import best_option
from sae_lens_med.evaluation.report import REPORTS
from sae_lens_med.evaluation.run import evaluate, read_evaluation
from sae_lens_med.models.bridge import MedBridge, bridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.saes.releases import load_folder
from tests.tiny import ARCHES, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

ITEMS = load_items("sample", limit=9).items


def oracle(arch: Any, model: MedBridge, item: McqItem, shots: Sequence[McqItem] = ()) -> torch.Tensor:
    """log_softmax of an independent transformers copy at the end of the unpadded prompt, for the item's letters."""
    hf_model = tiny_hf_model(arch, len(model.text_tokenizer))
    prompt = question_prompt(item, model.text_tokenizer, shots=shots)
    with torch.no_grad():
        logits = hf_model(torch.tensor([prompt.token_ids])).logits[0, -1]
    return logits.float().log_softmax(-1)[list(prompt.letter_token_ids)]


def numbers(results: Sequence[ItemResult]) -> torch.Tensor:
    return torch.tensor([r.option_logprobs for r in results])


@pytest.mark.parametrize("arch", ARCHES)
def test_logprobs_are_those_of_transformers(arch: Any) -> None:
    model = tiny_model(arch)
    results = evaluate(model, ITEMS, batch_tokens=3000, progress=False).results
    assert [r.id for r in results] == [i.id for i in ITEMS]
    for item, result in zip(ITEMS, results, strict=True):
        expected = oracle(arch, model, item)
        torch.testing.assert_close(torch.tensor(result.option_logprobs), expected, atol=2e-5, rtol=1e-5)
        assert result.prediction == "ABCDE"[int(expected.argmax())]
        assert result.correct == (result.prediction == item.gold_letter)


def test_shots_are_in_the_prompt() -> None:
    model = tiny_model()
    result = evaluate(model, ITEMS[2:3], shots=ITEMS[:2], progress=False).results[0]
    expected = oracle("qwen3", model, ITEMS[2], ITEMS[:2])
    torch.testing.assert_close(torch.tensor(result.option_logprobs), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
@pytest.mark.parametrize("with_sae", [False, True])
def test_batch_size_does_not_change_the_result(arch: Any, with_sae: bool, tmp_path: Path) -> None:
    model = tiny_model(arch)
    sae = None
    if with_sae:
        save_tiny_sae(tmp_path / "sae", tiny_sae(model))
        sae = load_folder(tmp_path / "sae")
    alone = evaluate(model, ITEMS, batch_tokens=1, progress=False, sae=sae).results
    for batch_tokens in (1200, 100_000):
        together = evaluate(model, ITEMS, batch_tokens=batch_tokens, progress=False, sae=sae).results
        torch.testing.assert_close(numbers(together), numbers(alone), atol=2e-5, rtol=1e-5)
        assert [r.prediction for r in together] == [r.prediction for r in alone]


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_the_reconstruction_replaces_the_activation(arch: Any, tmp_path: Path) -> None:
    """Against transformers with a forward hook that puts the SAE's formula in place, BOS left alone."""
    model = tiny_model(arch)
    save_tiny_sae(tmp_path / "sae", tiny_sae(model))
    loaded = load_folder(tmp_path / "sae")
    weights = {name: value.detach() for name, value in loaded.sae.state_dict().items()}
    item = ITEMS[0]
    prompt = question_prompt(item, model.text_tokenizer)
    hf_model = tiny_hf_model(arch, len(model.text_tokenizer))
    special = torch.isin(torch.tensor(prompt.token_ids), torch.tensor(model.text_tokenizer.all_special_ids))
    assert bool(special.any()) == (arch == "gemma3")

    def splice(_module: Any, _inputs: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        code = torch.relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
        rebuilt = torch.where(special[None, :, None], x, code @ weights["W_dec"] + weights["b_dec"])
        return (rebuilt, *output[1:]) if isinstance(output, tuple) else rebuilt

    with torch.no_grad():
        handle = hf_model.model.layers[1].register_forward_hook(splice)
        logits = hf_model(torch.tensor([prompt.token_ids])).logits[0, -1]
        handle.remove()
    expected = logits.log_softmax(-1)[list(prompt.letter_token_ids)]
    spliced = evaluate(model, [item], progress=False, sae=loaded).results
    torch.testing.assert_close(numbers(spliced)[0], expected, atol=2e-5, rtol=1e-5)
    plain = evaluate(model, [item], progress=False).results
    assert not torch.allclose(numbers(plain), numbers(spliced), atol=1e-3)
    torch.testing.assert_close(numbers(plain)[0], oracle(arch, model, item), atol=2e-5, rtol=1e-5)


def test_a_float32_sae_in_a_bfloat16_model(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    half = bridge(
        tiny_hf_model("qwen3", len(tokenizer)).to(torch.bfloat16),
        tokenizer,
        {"name": "tiny-bf16", "source": "local", "dtype": "bfloat16"},
    )
    full = tiny_model()
    save_tiny_sae(tmp_path / "sae", tiny_sae(full))
    sae = load_folder(tmp_path / "sae")
    in_half = evaluate(half, ITEMS[:2], progress=False, sae=sae).results
    in_full = evaluate(full, ITEMS[:2], progress=False, sae=sae).results
    torch.testing.assert_close(numbers(in_half), numbers(in_full), atol=0.5, rtol=0.05)
    assert not half.acts_to_saes  # nothing stays attached


def test_ties_have_no_answer_and_no_gold_is_not_scored() -> None:
    item = ITEMS[0]
    tied = best_option(item, [-2.0, -1.0, -1.0, -3.0, -4.0])
    assert (tied.prediction, tied.reason, tied.correct) == (None, "ambiguous", False)
    won = best_option(replace(item, answer=None), [-2.0, -1.0, -1.0000001, -3.0, -4.0])
    assert (won.prediction, won.reason, won.correct, won.gold) == ("B", None, None, None)
    with pytest.raises(ModelError, match="float16 overflows"):
        best_option(item, [float("nan"), -1.0, -1.0, -3.0, -4.0])
    with pytest.raises(ModelError, match="5 options but 2 scores"):
        best_option(item, [-1.0, -2.0])


def test_bad_arguments_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        evaluate(model, ITEMS, batch_tokens=0, progress=False)
    with pytest.raises(DataError, match="appears twice"):
        evaluate(model, [ITEMS[0], ITEMS[0]], progress=False)
    long = replace(ITEMS[0], question=ITEMS[0].question * 60)
    with pytest.raises(UnfitItemsError, match="more than the 2048 that tiny-qwen3-0 takes"):
        evaluate(model, [long], progress=False)


def test_evaluate_writes_resumes_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, output = tiny_model(), load_items("sample", limit=6), tmp_path / "evaluation"
    ran: list[int] = []
    forward = Engine.next_token_logprobs

    def count_and_stop(engine: Any, prompts: Any, wanted: Any) -> Any:
        if sum(ran) >= 3:
            raise KeyboardInterrupt
        ran.append(len(prompts))
        return forward(engine, prompts, wanted)

    monkeypatch.setattr(Engine, "next_token_logprobs", count_and_stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, output=output, batch_tokens=1, progress=False)
    assert not (output / "summary.json").exists()
    monkeypatch.setattr(Engine, "next_token_logprobs", lambda *args: (ran.append(len(args[1])), forward(*args))[1])
    with pytest.raises(StudyError, match="settings.permutations: 2000 -> 50"):
        evaluate(model, data, output=output, batch_tokens=1, progress=False, permutations=50)
    done = evaluate(model, data, output=output, batch_tokens=5000, progress=False)
    assert sum(ran) == 6  # the three of the first run were not run again
    assert sorted(p.name for p in output.iterdir()) == sorted(["items.jsonl", "summary.json", *REPORTS])
    assert [r.id for r in done.results] == [i.id for i in data.items]
    assert read_evaluation(output) == done
    assert evaluate(model, data, output=output, progress=False).metrics == done.metrics
    assert sum(ran) == 6
    with pytest.raises(StudyError, match=r'other settings \(model.name: "tiny-qwen3-0" -> "tiny-qwen3-1"\)'):
        evaluate(tiny_model(seed=1), data, output=output, progress=False)
    torch.testing.assert_close(
        numbers(done.results), numbers(evaluate(model, data.items, progress=False).results), atol=2e-5, rtol=1e-5
    )
    assert done.provenance.settings["method"] == "letter"
    in_memory = evaluate(model, data, progress=False)
    assert in_memory.folder is None
    assert in_memory.metrics == done.metrics
    assert in_memory.provenance.data == done.provenance.data
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StudyError, match="is not empty and contains no evaluation"):
        evaluate(model, data, output=foreign, progress=False)
    assert (foreign / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_items_and_hooks_of_ones_own_need_no_folder() -> None:
    model, zeroed = tiny_model(), [("blocks.1.hook_resid_post", lambda x, hook: x * 0)]
    hooked = evaluate(model, ITEMS[:3], hooks=zeroed, permutations=20, progress=False)
    logprobs = numbers(hooked.results)
    torch.testing.assert_close(logprobs, logprobs[:1].expand_as(logprobs))  # whatever the question
    assert hooked.provenance.settings["hooks"] == ["blocks.1.hook_resid_post"]
    assert {metric.variant for metric in hooked.metrics} == {"sae"}
    assert not torch.allclose(numbers(evaluate(model, ITEMS[:3], progress=False).results), logprobs, atol=1e-3)
    unknown = evaluate(model, [replace(ITEMS[0], answer=None)], progress=False)
    assert (unknown.metrics, unknown.results[0].correct) == ((), None)
    with pytest.raises(ConfigError, match=r"a method is a Method or a name \(letter, .*\), got PosixPath"):
        evaluate(model, ITEMS, Path("folder"), progress=False)  # pyright: ignore[reportArgumentType]


def test_evaluate_letters_of_0_1_0_gives_the_same_answers() -> None:
    model = tiny_model()
    with pytest.warns(DeprecationWarning, match="use sae_lens_med.evaluate"):
        evaluate_letters = slm.evaluate_letters
    assert evaluate_letters(model, ITEMS[:3], progress=False) == list(
        evaluate(model, ITEMS[:3], progress=False).results
    )
