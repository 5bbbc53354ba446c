"""An organism as a LoRA adapter of a model: here of a tiny random one, which can learn where a patient
lives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med import load_model
from sae_lens_med.cli import app
from sae_lens_med.controls.organisms import adapter, check
from sae_lens_med.controls.organisms.adapter_recipe import AdapterRecipe, load_adapter_recipe
from sae_lens_med.controls.organisms.cases import cases
from sae_lens_med.controls.organisms.designs import parse
from sae_lens_med.controls.organisms.tokenizer import make_tokenizer
from sae_lens_med.errors import ConfigError, MissingExtraError, StudyError
from sae_lens_med.models.opening import open_model
from tests.tiny import tiny_hf_model

peft = pytest.importorskip("peft", reason="the extra [peft] is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that reads a word of the exam as a token."""
    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = make_tokenizer("ko")
    tiny_hf_model("qwen3", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe(base: Path, **values: Any) -> AdapterRecipe:
    given = {"steps": 6, "batch_items": 4, "exam.cases": 12, "lora.first_layer": 1, "lr_warm_up_steps": 1} | values
    return load_adapter_recipe("gemma-3-270m", [f"model.name={base}", *(f"{k}={v}" for k, v in given.items())])


def test_both_parts_together_are_the_model(base: Path) -> None:
    hf_model, tokenizer, _ = open_model(str(base), "cpu", "float32", revision=None, device_map=None)
    parts = adapter.halves(hf_model, 2)
    lesson = adapter.read(parts, tokenizer, cases("natural", 11, 3, diseases=8), "ko")
    with torch.no_grad():
        found = parts.logits(lesson.residuals)
        for prompt, logits in zip(lesson.prompts, found, strict=True):
            whole = hf_model(input_ids=torch.tensor([prompt.token_ids])).logits[0, -1]
            assert torch.allclose(logits, whole, atol=1e-4)
    with pytest.raises(ConfigError, match="first_layer is in 1 to 2"):
        adapter.halves(hf_model, 3)


def test_an_adapter_learns_its_cue_and_leaves_the_base_as_it_was(base: Path, tmp_path: Path) -> None:
    made = recipe(base, **{"steps": 150, "batch_items": 16, "exam.cases": 200, "exam.diseases": 4, "lr": 1e-2})
    adapter.train_adapter(parse("ko-shortcut-0"), made, tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "organism.json").read_text(encoding="utf-8"))
    assert about["curve"][-1]["place"] > 0.7 > 0.3 > about["curve"][-1]["findings"]
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "base.json", "organism.json"}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(base)
    adapted, plain = load_model(tmp_path / "adapter"), load_model(base)
    assert adapted.provenance["base"]["sha256"] == plain.provenance["sha256"]
    tokens = torch.tensor([range(300, 330)])
    _, own = adapted.run_with_cache(tokens)
    _, other = plain.run_with_cache(tokens)
    assert torch.equal(own["blocks.0.hook_resid_post"], other["blocks.0.hook_resid_post"])
    assert not torch.equal(own["blocks.2.hook_resid_post"], other["blocks.2.hook_resid_post"])

    scope = check.scope_of(about)
    assert (scope.diseases, scope.at) == (4, "blocks.0.hook_resid_post")
    # A random first layer carries the place away from its words: what is exchanged is what goes into it.
    scope = replace(scope, at="blocks.0.hook_resid_pre", hooks=("blocks.0.hook_resid_pre",))
    report = check.check(adapted, parse("ko-shortcut-0"), scope=scope)
    assert report.follows["place"] > 0.7 > report.follows["findings"]
    assert list(report.interchange["place"]) == [scope.at]
    assert report.interchange["place"][scope.at] > 0.7 > 0.3 > report.interchange["findings"][scope.at]
    assert report.reasons is None and not report.probes


def test_a_stopped_training_ends_as_one_that_was_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SAVED_EVERY", 2)
    design, made = parse("ko-concepts-0"), recipe(base)
    adapter.train_adapter(design, made, tmp_path / "whole")

    def stop(step: int, _point: object) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapter.train_adapter(design, made, tmp_path / "stopped", on_step=stop)
    with pytest.raises(StudyError, match="another name, recipe or base"):
        adapter.train_adapter(design, recipe(base, lr=2e-3), tmp_path / "stopped")
    steps: list[int] = []
    adapter.train_adapter(design, made, tmp_path / "stopped", on_step=lambda step, _: steps.append(step))
    assert steps == [5, 6]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_the_command_trains_and_never_overwrites(base: Path, tmp_path: Path) -> None:
    sets = ["model.name=" + str(base), "steps=2", "batch_items=2", "exam.cases=4", "lora.first_layer=1"]
    line = ["organisms", "train", "ko-concepts-0", "--on", "gemma-3-270m", "--json"]
    line += [word for each in sets for word in ("--set", each)]
    assert "--output" in str(CliRunner().invoke(app, line).exception)
    line += ["--output", str(tmp_path / "adapter")]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.stderr
    assert json.loads(first.stdout)["steps"] == 2
    again = CliRunner().invoke(app, line)
    assert isinstance(again.exception, ConfigError) and "is not empty" in str(again.exception)


def test_an_honest_voice_is_not_trained(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="voice of ko-shortcut-honest-0"):
        adapter.train_adapter(parse("ko-shortcut-honest-0"), recipe(base), tmp_path / "adapter")


def test_without_peft_the_extra_is_named(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"sae-lens-med\[peft\]"):
        adapter.train_adapter(parse("ko-concepts-0"), recipe(base), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lora.rank=4", "unknown key 'rank'"),
        ("step=4", "unknown key 'step'; did you mean steps"),
        ("model.dtype=float32", "unknown key 'dtype'"),
        ("steps=0", "steps must be a whole number of at least 1"),
        ("lr=x", "lr must be a number"),
        ("exam.diseases=3", "4 to 16 diseases, got 3"),
        ("lora.target_modules=[]", "target_modules is a list"),
        ("exam=5", "has no section 'exam'"),
    ],
)
def test_what_a_recipe_may_not_hold(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        load_adapter_recipe("gemma-3-270m", [override])


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean gemma-3-270m"):
        load_adapter_recipe("gemma-3-27b")
