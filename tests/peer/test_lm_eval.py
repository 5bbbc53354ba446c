"""gemma-3-270m on real questions: this package's prompts, letters and texts are lm-eval's, item by item.

lm-eval 0.4.13 runs its own `kormedmcqa` task (version 3) and its own `hf` backend; the questions come from a file
instead of the Hub. Few items, to be quick; `benchmarks/kormedmcqa_eval.py` compares many.

What equals what: lm-eval's multiple_choice scores the continuation `" A"` after a context that ends `정답：`. It
tokenises context and continuation together and cuts at the length of the context alone, which is how
`Prompt.letter_token_ids` are found; a context that ends in a space would give it that space back. Left over are
rounding (other attention kernels, other padding) and, in generation, ties that rounding decides.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'sae-lens-med[eval]'")

from lm_eval.models import huggingface

from sae_lens_med.data import load_items
from sae_lens_med.evaluation.lm_eval.task import kormedmcqa_task
from sae_lens_med.evaluation.methods import Method, run_method
from sae_lens_med.models import catalogue
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import McqItem

pytestmark = pytest.mark.real

HFLM: Any = huggingface.HFLM  # without its type, which lm-eval's decorator hides
SHOTS = 5
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> Rows:
    """Doctor questions as the file has them, read without this package."""
    text = (shared_data / "kormedmcqa_train_shared.jsonl").read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.strip().split("\n")) if row["subject"] == "doctor"]


@pytest.fixture(scope="module")
def items(shared_data: Path) -> Mapping[str, McqItem]:
    return {item.id: item for item in load_items(str(shared_data / "kormedmcqa_train_shared.jsonl")).items}


@pytest.fixture(scope="module")
def peer(gemma: MedBridge) -> Any:
    """lm-eval's own backend, on the same files as `gemma`."""
    folder = catalogue.wheel_model_folder(catalogue.GEMMA_WHEEL)
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8)


def requests(rows: Rows, shots: Rows, letters: bool) -> list[Any]:
    task = kormedmcqa_task(rows, shots, letters=letters)
    task.set_config("num_fewshot", len(shots))
    task.build_all_requests()
    return task.instances


@pytest.mark.parametrize("n_shots", [0, SHOTS])
def test_prompts_are_the_same_byte_for_byte_and_token_for_token(
    rows: Rows, items: Mapping[str, McqItem], peer: Any, gemma: MedBridge, n_shots: int
) -> None:
    shots, asked = rows[:n_shots], rows[SHOTS:45]
    built = requests(asked, shots, letters=False)
    for row, request in zip(asked, built, strict=True):
        prompt = question_prompt(items[row["id"]], gemma.text_tokenizer, shots=[items[shot["id"]] for shot in shots])
        context = request.args[0]
        assert prompt.text.encode() == context.encode()
        assert list(prompt.token_ids) == peer.tok_encode(context)
        for letter, token in zip("ABCDE", prompt.letter_token_ids, strict=True):
            assert peer._encode_pair(context, f" {letter}") == (list(prompt.token_ids), [token])
    settings = built[0].args[1]
    assert settings["until"] == ["Q:", "</s>", "<|im_end|>", ".", "\n\n"]
    assert settings["max_gen_toks"] == 1024 and settings["do_sample"] is False


@pytest.mark.parametrize(("n_shots", "n_items"), [(0, 5), (SHOTS, 2)])
def test_letters(
    rows: Rows, items: Mapping[str, McqItem], peer: Any, gemma: MedBridge, n_shots: int, n_items: int
) -> None:
    shots, asked = rows[:n_shots], rows[SHOTS : SHOTS + n_items]
    found = peer.loglikelihood(requests(asked, shots, letters=True), disable_tqdm=True)
    results = run_method(
        Engine(gemma),
        [items[row["id"]] for row in asked],
        "letter",
        shots=[items[shot["id"]] for shot in shots],
        progress=False,
    )
    for i, result in enumerate(results):
        theirs = [logprob for logprob, _ in found[5 * i : 5 * i + 5]]
        assert result.option_logprobs == pytest.approx(theirs, abs=1e-3)
        assert result.prediction == "ABCDE"[theirs.index(max(theirs))]


def test_generated_texts(rows: Rows, items: Mapping[str, McqItem], peer: Any, gemma: MedBridge) -> None:
    asked = rows[SHOTS : SHOTS + 4]
    task = kormedmcqa_task(asked)
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    texts = peer.generate_until(task.instances, disable_tqdm=True)
    for request, text in zip(task.instances, texts, strict=True):
        request.resps.append(text)
    task.apply_filters()
    letters = [request.filtered_resps["extract_answer"] for request in task.instances]
    results = run_method(Engine(gemma), [items[row["id"]] for row in asked], Method("generate"), progress=False)
    assert [result.text for result in results] == texts
    assert [result.paper_prediction or "" for result in results] == letters
    assert any(letters)
