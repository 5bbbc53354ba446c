"""The runs behind metric #11 on a tiny random model: answers after cut reasoning against plain transformers, hints,
resuming; and the judge that is a local model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_med.alignment.labels.judges import LocalModelJudge
from sae_lens_med.alignment.reasoning import REASONING, Reasoning, reasoning_metrics
from sae_lens_med.alignment.reasoning_runs import (
    HINTS,
    hint_letter,
    hinted_item,
    run_reasoning,
)
from sae_lens_med.alignment.reasoning_texts import ReasonedItem, first_share
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError
from sae_lens_med.evaluation.methods import Method, ask
from sae_lens_med.metrics.inputs import Inputs, ModelSide
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.models import passes
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.runs.partial import PartialResults
from tests.synthetic_study import synthetic
from tests.tiny import LAYERS, tiny_hf_model, tiny_model

ITEMS = load_items("sample", limit=3).items
COT = Method("cot", max_new_tokens=24)


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model()


@pytest.fixture(scope="module")
def runs(model: MedBridge) -> list[ReasonedItem]:
    return run_reasoning(Engine(model), ITEMS, method=COT, progress=False)


def _likeliest(model: MedBridge, text: str, n_options: int) -> str:
    """The option letter that an independent transformers copy holds likeliest after `text`."""
    tokenizer = model.text_tokenizer
    hf_model = tiny_hf_model("qwen3", len(tokenizer))
    ids = tokenizer(text)["input_ids"]
    letters = [tokenizer(f"{text} {x}")["input_ids"][-1] for x in "ABCDE"[:n_options]]
    with torch.no_grad():
        logits = hf_model(torch.tensor([ids])).logits[0, -1]
    return "ABCDE"[int(logits[letters].argmax())]


def test_answers_after_cut_reasoning_are_those_of_transformers(model: MedBridge, runs: list[ReasonedItem]) -> None:
    assert [run.id for run in runs] == [item.id for item in ITEMS]
    cues = {"ko": "정답:", "en": "Answer:"}
    for item, run, asked in zip(ITEMS, runs, ask(model, ITEMS, COT), strict=True):
        assert run.n_options == len(item.options)
        for share, letter in zip((*run.fractions, 1.0), (*run.early, run.final), strict=True):
            piece = first_share(run.reasoning, share)
            text = asked.prompt.text + "\n" + (f"{piece}\n" if piece else "") + cues[item.language]
            assert letter == _likeliest(model, text, len(item.options)), (item.id, share)
        # Without any text the two prompts are one.
        assert run.filler_early[0] == run.early[0]


def test_a_run_that_was_interrupted_goes_on(model: MedBridge, runs: list[ReasonedItem], tmp_path: Path) -> None:
    kept = PartialResults(tmp_path / "reasoning.jsonl", {"seed": 0})
    kept.append(runs[:2])
    kept = PartialResults(kept.path, {"seed": 0})
    fresh: list[ReasonedItem] = []

    def keep(results: list[ReasonedItem]) -> None:
        fresh.extend(results)
        kept.append(results)

    again = run_reasoning(
        Engine(model),
        ITEMS,
        method=COT,
        progress=False,
        done=kept.records(ReasonedItem),
        on_results=keep,
    )
    assert again == runs
    assert [run.id for run in fresh] == [ITEMS[2].id]
    assert PartialResults(kept.path, {"seed": 0}).records(ReasonedItem) == {run.id: run for run in runs}


def test_the_metric_runs_the_reasoning_and_goes_on_from_a_run_that_was_ended(
    model: MedBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Method, "most_tokens", 16)  # the model of the study writes little, so that it is quick
    items, features, results = synthetic(n=6)
    no_sae: Any = None

    def inputs(folder: Path | None) -> Inputs:
        return Inputs(
            items=items,
            features=features,
            results=results,
            permutations=9,
            open_model=lambda: ModelSide(model, no_sae, progress=False),
            folder=folder,
            settings=MetricSettings(reasoning_items=3),
        )

    begun = inputs(tmp_path)
    first = REASONING.measure(begun)
    assert len(begun.view(Reasoning).items) == len(begun.view(Reasoning).runs) == 3
    assert first.metrics[0].n <= 3 and all(REASONING.owns(value.name) for value in first.metrics)
    assert "no concept's features were ablated" in first.notes[-1]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert REASONING.measure(inputs(tmp_path)) == first
    assert file.read_bytes() == whole
    assert REASONING.measure(inputs(None)) == first


def _always_first(model: MedBridge) -> list[tuple[str, Any]]:
    """Hooks under which the model answers " A" and ends, whatever it reads."""
    tokenizer = model.text_tokenizer
    plain: Any = model.original_model
    table = plain.get_input_embeddings().weight.detach()
    first, end = tokenizer("정답: A")["input_ids"][-1], tokenizer.eos_token_id

    def say(resid: torch.Tensor, hook: Any) -> torch.Tensor:
        now = passes.current_pass()
        token = end if now is not None and now.generated else first
        return table[token].expand_as(resid).clone()

    return [(f"blocks.{LAYERS - 1}.hook_resid_post", say)]


def test_hints_point_at_a_wrong_option_and_are_read_by_the_model(model: MedBridge) -> None:
    found = run_reasoning(Engine(model, _always_first(model)), ITEMS, method=COT, progress=False)
    for item, run in zip(ITEMS, found, strict=True):
        assert run.prediction == run.final == run.hinted_prediction == "A"
        assert set(run.early) == set(run.filler_early) == {"A"}
        assert run.hint not in (None, "A", item.gold_letter)
        assert run.hint == hint_letter(item, "A", 0)
    engine = Engine(model, _always_first(model))
    (unhinted,) = run_reasoning(engine, ITEMS[:1], method=COT, hints=False, progress=False)
    assert (unhinted.hint, unhinted.hinted_prediction) == (None, None)
    metrics, notes = reasoning_metrics(found, ITEMS, draws=9)
    assert [(m.value, m.p) for m in metrics] == [(0.0, 1.0)]
    assert any("0 of 3 answers moved to the hint" in note for note in notes)


def test_the_hint_stands_at_the_end_of_the_question() -> None:
    item = ITEMS[0]
    assert hinted_item(item, "C").question == item.question.rstrip() + HINTS[item.language].format(letter="C")
    assert hint_letter(item, None, 0) is None
    letters = {hint_letter(item, "A", seed) for seed in range(50)}
    assert letters == set("ABCDE"[: len(item.options)]) - {"A", item.gold_letter}


def test_methods_without_one_text_are_refused(model: MedBridge) -> None:
    for name in ("letter", "self-consistency"):
        with pytest.raises(ConfigError, match="one generated text"):
            run_reasoning(Engine(model), ITEMS, method=Method(name), progress=False)


def test_a_local_judge_that_only_likes_a_letter_says_nothing(model: MedBridge) -> None:
    asked = [("fever", ("열이 난다", "기침")), ("rash", ("발진",))]
    said = LocalModelJudge(Engine(model)).judge("detection", asked)
    assert [len(row) for row in said] == [2, 1]
    assert all(p is not None and 0 < p < 1 for row in said for p in row)
    constant = LocalModelJudge(Engine(model, _always_first(model))).judge("fuzzing", asked)
    assert [p for row in constant for p in row] == pytest.approx([0.5] * 3)
