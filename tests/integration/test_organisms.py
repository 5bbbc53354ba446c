"""The packaged organisms are what their names say, and a new one is trained by the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med import load_model
from sae_lens_med.cli import app
from sae_lens_med.controls.organisms import check, dictionary
from sae_lens_med.controls.organisms.cases import Cue, exam
from sae_lens_med.controls.organisms.designs import parse
from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.models.bridge import MedBridge, activations_at
from sae_lens_med.models.organisms import organism_folders, packaged_dir
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.saes.releases import load_sae, other_model

SHIPPED = [f"ko-{family}-{seed}" for family in ("concepts", "shortcut") for seed in range(3)]


def test_the_packaged_organisms_are_there_and_small() -> None:
    assert set(SHIPPED) <= {path.name for path in packaged_dir().iterdir() if path.is_dir()}
    assert sum(path.stat().st_size for path in packaged_dir().rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_a_packaged_organism_follows_its_cue_and_no_other(name: str) -> None:
    """On fewer items than `organisms check` looks at, and at the hook of its SAE alone."""
    design, model = parse(name), load_model(f"organism/{name}")
    own, other = ("place", "findings") if design.dose else ("findings", "place")
    runs = check.Runs(model)
    natural = check._asked(model, design, "natural", 64)
    assert np.mean(runs.answers(natural.prompts) == natural.by("findings")) >= 0.98
    conflict = check._asked(model, design, "conflict", 64)
    assert np.mean(runs.answers(conflict.prompts) == conflict.by(own)) >= 0.96
    bounds: tuple[tuple[Cue, float, float], ...] = ((own, 0.9, 1.0), (other, 0.0, 0.05))
    for cue, low, high in bounds:
        assert low <= check.interchange(runs, design, cue, 48)[check.AT] <= high


@pytest.mark.parametrize("name", SHIPPED[::2])
def test_its_sae_is_its_own_and_reads_where_both_cues_lie(name: str) -> None:
    sae = load_sae(f"organism/{name}")
    assert (sae.hook_name, sae.trained_on, sae.source) == (check.AT, f"organism/{name}", f"organism/{name}")
    assert other_model(sae, f"organism/{name}") is None
    assert sae.left_out_ids
    metrics = json.loads((packaged_dir() / name / "sae" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["heldout"]["explained_variance"] > 0.9 and metrics["heldout"]["dead_fraction"] < 0.5


def test_the_tokenizer_says_which_characters_a_token_covers() -> None:
    model = load_model("organism/ko-concepts-0")
    for item in exam("ko", "conflict", 32):
        prompt = question_prompt(item, model.text_tokenizer)
        assert len(prompt.token_ids) < 120 and len(set(prompt.letter_token_ids)) == len(item.options)
        covered = "".join(prompt.text[a:b] for a, b in prompt.char_spans)
        assert covered == prompt.text
        assert model.text_tokenizer.decode(prompt.token_ids[1:]) == prompt.text


def test_behind_the_first_layer_a_word_has_reached_the_next_three_tokens_and_no_more() -> None:
    """Why the SAEs read there: whatever an organism learned, its cues still lie at their own words."""
    model = load_model("organism/ko-concepts-0")
    [item] = exam("ko", "natural", 1)
    ids = list(question_prompt(item, model.text_tokenizer).token_ids)
    other = [*ids[:10], ids[10] + 1, *ids[11:]]
    for read in (lambda x: ResidualReader(model, [check.AT]).read([x])[check.AT][0], lambda x: _bridged(model, x)):
        moved = (read(ids) - read(other)).abs().amax(dim=1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13]


def _bridged(model: MedBridge, ids: list[int]) -> torch.Tensor:
    return activations_at(model, [ids], [check.AT])[check.AT][0]


def test_what_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"no model organism 'ko-concept-1' here; did you mean .*ko-concepts-1"):
        load_model("organism/ko-concept-1")
    with pytest.raises(ModelError, match="no model organism"):
        load_sae("organism/ko-concept-1")


def test_one_is_trained_by_the_command_opened_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAE_LENS_MED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dictionary, "N_NATURAL", 150)
    monkeypatch.setattr(dictionary, "N_CONFLICT", 50)
    args = ["organisms", "train", "en-mixture50-3", "--steps", "2", "--json"]
    few = ["--set", "training_tokens=10240", "--set", "sae.d_sae=64", "--set", "lr_decay_steps=0"]
    done = CliRunner().invoke(app, [*args, *few], catch_exceptions=False)
    assert done.exit_code == 0
    said = json.loads(done.stdout[done.stdout.index("{") :])
    folder = tmp_path / "cache" / "organisms" / "en-mixture50-3"
    assert said["folder"] == str(folder) and said["steps"] == 2 and said["sae"]["l0"] > 0
    assert organism_folders()["en-mixture50-3"] == folder
    assert load_model("organism/en-mixture50-3").provenance["name"] == "organism/en-mixture50-3"
    assert load_sae("organism/en-mixture50-3").sae.cfg.d_sae == 64
    again = CliRunner().invoke(app, args)
    assert isinstance(again.exception, ConfigError) and "is not empty" in str(again.exception)


def test_what_is_not_as_the_name_says_fails() -> None:
    rates = {"findings": {check.AT: 1.0}, "place": {check.AT: 0.0}}
    probes = {check.AT: {"accuracy": 1.0, "null_mean": 0.06, "null_most": 0.1}}
    follows = {"findings": 1.0, "place": 0.0, "length": 0.0}
    found = check.Report("ko-concepts-0", 1.0, follows, follows, 1.0, rates, probes, ())
    for name, holds in (("ko-concepts-0", True), ("ko-shortcut-0", False), ("ko-mixture50-0", False)):
        assert all(each.holds for each in check.criteria(found, parse(name))) == holds


def test_a_packaged_one_is_not_trained_over() -> None:
    done = CliRunner().invoke(app, ["organisms", "train", "ko-concepts-0"])
    assert isinstance(done.exception, ConfigError) and "is a packaged organism" in str(done.exception)
