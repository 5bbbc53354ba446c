"""Conditions on a model small enough to know the answer; interruption, other settings, the command line.

The hand-built model computes, behind the SAE's hook, nothing but its final norm and unembedding. Feature 0 of its SAE
writes the answer letter A; all others write at right angles to every letter.
"""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from sae_lens_med.commands import intervene
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.evaluation.conditions.compare import Comparison
from sae_lens_med.evaluation.conditions.run import read_comparison, run_conditions
from sae_lens_med.evaluation.conditions.spec import Conditions, parse_conditions
from sae_lens_med.models.bridge import MedBridge, bridge, residuals
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.runs.partial import read_results
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

HOOK = "blocks.1.hook_resid_post"
IRRELEVANT = 7
DEAD = 63
PUSH = 4.0


def gold_a(n: int) -> LoadedItems:
    """Sample questions whose gold answer is always A."""
    loaded = load_items("sample", limit=n)
    return replace(loaded, items=[replace(item, answer=0) for item in loaded.items])


@pytest.fixture(scope="module")
def hf_model() -> Any:
    model = tiny_hf_model("qwen3", len(tiny_tokenizer()))
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    return model


@pytest.fixture(scope="module")
def model(hf_model: Any) -> MedBridge:
    return bridge(hf_model, tiny_tokenizer(), {"name": "hand-built", "source": "local", "dtype": "float32"})


@pytest.fixture(scope="module")
def sae(model: MedBridge, hf_model: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    letters = list(question_prompt(gold_a(1).items[0], model.text_tokenizer).letter_token_ids)
    unembed = hf_model.lm_head.weight.detach()[letters] * hf_model.model.norm.weight.detach()
    built = tiny_sae(model, HOOK)
    _, _, basis = torch.linalg.svd(unembed, full_matrices=True)
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(64, 32 - len(letters), generator=random) @ basis[len(letters) :]
    rows[0] = unembed[0] - unembed[1:].mean(0)
    rows /= rows.norm(dim=1, keepdim=True)
    with torch.no_grad():
        built.W_dec.copy_(rows)
        built.W_enc.copy_(rows.T)
        built.b_enc.fill_(PUSH)  # most features fire at most tokens, about equally
        built.b_enc[DEAD] = -1e3
        built.b_dec.zero_()
    folder = tmp_path_factory.mktemp("sae")
    save_tiny_sae(folder, built)
    return load_folder(folder)


CONDITIONS = parse_conditions(
    {
        "conditions": [
            {"kind": "splice"},
            {"kind": "splice", "error_term": True},
            {"name": "answer", "kind": "ablate", "features": [0]},
            {"name": "other", "kind": "ablate", "features": [IRRELEVANT]},
            {"name": "steer", "kind": "steer", "features": {0: 1.0}, "unit": "max", "strengths": [-1, 1]},
        ],
        "matched_random": 20,
    }
)


@pytest.fixture(scope="module")
def whole(model: MedBridge, sae: LoadedSae, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_conditions(model, gold_a(6), CONDITIONS, folder, saes=sae, progress=False)
    return folder


def named(comparison: Comparison) -> dict[str, Any]:
    return {result.condition.name: result for result in comparison.results}


def margin_of_a(hf_model: Any, x: torch.Tensor, letters: list[int]) -> float:
    """ln P(A) - the best other, from the activation at the hook."""
    with torch.no_grad():
        logits = hf_model.lm_head(hf_model.model.norm(x))[letters]
    return float(logits[0] - logits[1:].max())


def test_ablation_is_what_arithmetic_says(model: MedBridge, hf_model: Any, sae: LoadedSae, whole: Path) -> None:
    """Each item's margin after taking feature 0 away, by hand from the activation at the answer slot."""
    found = named(read_comparison(whole))
    weights = {name: value.detach() for name, value in sae.sae.state_dict().items()}
    changes, steered = [], []
    maximum = 0.0
    rows = []
    for item in gold_a(6).items:
        prompt = question_prompt(item, model.text_tokenizer)
        [x] = residuals(model, [prompt.token_ids], HOOK)
        rows.append((x[-1], list(prompt.letter_token_ids)))
        maximum = max(maximum, float((x @ weights["W_enc"][:, 0] + weights["b_enc"][0]).max()))
    for x, letters in rows:
        act = torch.relu(x @ weights["W_enc"][:, 0] + weights["b_enc"][0])
        base = margin_of_a(hf_model, x, letters)
        changes.append(margin_of_a(hf_model, x - act * weights["W_dec"][0], letters) - base)
        steered.append(margin_of_a(hf_model, x + maximum * weights["W_dec"][0], letters) - base)
    assert found["answer"].margin_change == pytest.approx(np.mean(changes), abs=1e-4)
    assert found["steer@1"].margin_change == pytest.approx(np.mean(steered), abs=1e-4)


def test_the_feature_that_carries_the_answer_leaves_the_random_band_and_the_irrelevant_one_does_not(
    whole: Path,
) -> None:
    found = named(read_comparison(whole))
    answer, other = found["answer"], found["other"]
    low, high = answer.random.margin_change.interval
    assert answer.margin_change < low - (high - low)
    assert answer.random.margin_change.p == pytest.approx(1 / 21)
    assert answer.random.margin_change.z < -5
    assert answer.margin_change_interval[1] < 0
    low, high = other.random.margin_change.interval
    assert low <= other.margin_change <= high
    assert other.random.margin_change.p > 0.1
    assert found["steer@1"].margin_change > 0 > found["steer@-1"].margin_change
    assert found["steer@1"].accuracy == 1.0
    assert found["steer@1"].random.margin_change.p == pytest.approx(1 / 21)


def test_splice_with_the_error_term_changes_nothing(whole: Path) -> None:
    found = named(read_comparison(whole))
    assert found["splice-with-error"].margin_change == pytest.approx(0, abs=1e-5)
    assert found["splice-with-error"].flips == 0
    assert found["splice"].margin_change != pytest.approx(0, abs=1e-3)
    assert found["splice"].random is None


def test_random_sets_never_hold_the_features_and_are_shared_by_strengths(whole: Path) -> None:
    found = named(read_comparison(whole))
    for name in ("answer", "steer@-1", "steer@1"):
        sets = found[name].random.sets
        assert len(set(sets)) == 20
        assert not {0, DEAD} & {feature for each in sets for feature in each}
        assert sets == found["answer"].random.sets
    assert found["other"].random.sets != found["answer"].random.sets


def test_the_folder_holds_everything(whole: Path) -> None:
    names = [c.name for c in CONDITIONS.conditions]
    assert sorted(p.name for p in (whole / "conditions").iterdir()) == sorted(names)
    files = sorted(p.name for p in (whole / "conditions" / "answer").iterdir())
    assert files == ["items.jsonl", *(f"random-{k:02d}.jsonl" for k in range(20))]
    for name in ("comparison.json", "comparison.csv", "comparison.md", "flips.csv", "steering.svg", "manifest.json"):
        assert (whole / name).stat().st_size > 0
    results = read_results(whole / "conditions" / "answer" / "items.jsonl")
    assert [r.id for r in results] == [item.id for item in gold_a(6).items]


SMALL = parse_conditions({"conditions": [{"name": "answer", "kind": "ablate", "features": [0]}], "matched_random": 2})


def small(model: MedBridge, sae: Any, output: Path, **settings: Any) -> Comparison:
    given: dict[str, Any] = {"conditions": SMALL, "data": gold_a(4), **settings}
    return run_conditions(model, given.pop("data"), given.pop("conditions"), output, saes=sae, progress=False, **given)


def numbers(comparison: Comparison) -> str:
    """All but the clock."""
    values = comparison.to_dict()
    values["provenance"].pop("created")
    return json.dumps(values)


def test_the_seed_decides(model: MedBridge, sae: LoadedSae, tmp_path: Path) -> None:
    first = small(model, sae, tmp_path / "a", seed=1)
    assert numbers(small(model, sae, tmp_path / "b", seed=1)) == numbers(first)
    other = small(model, sae, tmp_path / "c", seed=2)
    assert named(other)["answer"].random.sets != named(first)["answer"].random.sets
    assert named(other)["answer"].margin_change == named(first)["answer"].margin_change


def test_running_again_reads_and_other_settings_are_refused(model: MedBridge, sae: LoadedSae, tmp_path: Path) -> None:
    first = small(model, sae, tmp_path / "a")
    assert small(model, sae, tmp_path / "a") == first
    assert small(model, sae, tmp_path / "a", batch_tokens=10) == first  # not part of the result
    with pytest.raises(StudyError, match="other settings .*matched_random: 2 -> 3"):
        small(model, sae, tmp_path / "a", conditions=replace(SMALL, matched_random=3))
    with pytest.raises(StudyError, match="seed: 0 -> 5"):
        small(model, sae, tmp_path / "a", seed=5)
    with pytest.raises(StudyError, match=r"data.n_items: 4 -> 5"):
        small(model, sae, tmp_path / "a", data=gold_a(5))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(StudyError, match="is not empty and holds no comparison"):
        small(model, sae, tmp_path / "full")
    with pytest.raises(StudyError, match="is not a finished comparison"):
        read_comparison(tmp_path / "full")


def test_what_cannot_be_run_is_said_before_anything_runs(model: MedBridge, sae: LoadedSae, tmp_path: Path) -> None:
    def refused(entry: dict[str, Any], message: str, **settings: Any) -> None:
        conditions = parse_conditions({"conditions": [entry], "matched_random": 2})
        with pytest.raises(ConfigError, match=message):
            small(model, settings.pop("saes", sae), tmp_path / "a", conditions=conditions, **settings)
        assert {p.name for p in (tmp_path / "a").glob("*")} <= {"statistics.safetensors"}

    refused({"name": "x", "kind": "ablate", "features": [64]}, "condition 'x': feature 64 does not exist.* 0 to 63")
    refused(
        {"name": "x", "kind": "steer", "features": {DEAD: 1.0}, "unit": "max"},
        f"condition 'x': feature {DEAD} never fires on the .* so its maximum cannot be a unit",
    )
    refused({"kind": "splice"}, "interventions need an SAE", saes=None)
    refused({"kind": "splice"}, "the method 'generate' does not give; use letter or option-text", method="generate")
    refused({"kind": "splice", "sae": "other"}, "names the SAE 'other'")
    assert (tmp_path / "a" / "statistics.safetensors").is_file()
    small(model, sae, tmp_path / "a")  # the mended file goes into the same folder


def test_several_saes_with_statistics_and_random_features_each_of_its_own(
    model: MedBridge, sae: LoadedSae, tmp_path: Path
) -> None:
    save_tiny_sae(tmp_path / "sae", tiny_sae(model, "blocks.0.hook_resid_post", d_sae=128, seed=3))
    second = load_folder(tmp_path / "sae")
    both = [
        {"kind": "ablate", "features": [0], "sae": "one"},
        {"kind": "steer", "features": {5: 2.0}, "unit": "max", "sae": "two"},
    ]
    conditions = parse_conditions({"conditions": [{"name": "both", "interventions": both}], "matched_random": 3})
    found = small(model, {"one": sae, "two": second}, tmp_path / "a", conditions=conditions)
    result = named(found)["both"]
    assert result.condition.features == (("one", 0), ("two", 5))
    assert len(result.random.sets) == 3 and all(a < 64 and b < 128 for a, b in result.random.sets)
    assert set(found.statistics) == {"one", "two"}
    assert (tmp_path / "a" / "statistics-2.safetensors").is_file()
    alone = named(small(model, sae, tmp_path / "b"))["answer"]
    assert result.margin_change != alone.margin_change


def test_statistics_over_other_items_and_option_texts(model: MedBridge, sae: LoadedSae, tmp_path: Path) -> None:
    mine = small(model, sae, tmp_path / "a")
    others = load_items("sample", limit=20).items[10:]
    theirs = small(model, sae, tmp_path / "b", statistics_items=others, method="option-text")
    assert theirs.statistics[""]["texts_sha256"] != mine.statistics[""]["texts_sha256"]
    assert theirs.provenance.settings["method"] == "option-text"


_JOB = """
import os, signal, sys
from pathlib import Path
from sae_lens_med.data import load_items
from sae_lens_med.evaluation.conditions import run as conditions_run
from sae_lens_med.evaluation.conditions.spec import load_conditions
from sae_lens_med.models.bridge import load_model
from sae_lens_med.saes.releases import load_folder

folder, batches = Path(sys.argv[1]), int(sys.argv[2])
append, done = conditions_run.PartialResults.append, 0

def counted(self, results):
    global done
    if done == batches:
        os.kill(os.getpid(), signal.SIGKILL)  # a batch that is run and not written
    append(self, results)
    done += 1

conditions_run.PartialResults.append = counted
conditions_run.run_conditions(
    load_model(folder / "model"), load_items("sample", limit=6), load_conditions(folder / "conditions.yaml"),
    folder / "run", saes=load_folder(folder / "sae"), batch_tokens=1, progress=False,
)
"""


def test_a_killed_run_loses_one_batch_at_most_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_model(tmp_path / "model")
    save_tiny_sae(tmp_path / "sae", tiny_sae(tiny_model()))
    values = {"conditions": [{"name": "x", "kind": "ablate", "features": [3, 4]}], "matched_random": 2}
    (tmp_path / "conditions.yaml").write_text(yaml.safe_dump(values))
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _JOB, str(tmp_path), "15"], capture_output=True, text=True, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "run"
    whole_files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jsonl") if "partial" not in p.name)
    assert whole_files == ["conditions/plain/items.jsonl", "conditions/x/items.jsonl"]
    [partial] = folder.rglob("*.partial.jsonl")
    assert len(partial.read_text().splitlines()) == 1 + 3  # identity, and 15 - 2 * 6 batches of one item

    from sae_lens_med.evaluation.conditions import run as conditions_run
    from sae_lens_med.models.bridge import load_model

    written: list[int] = []
    append = conditions_run.PartialResults.append

    def counted(self: Any, results: Any) -> None:
        written.append(len(results))
        append(self, results)

    monkeypatch.setattr(conditions_run.PartialResults, "append", counted)
    model, loaded = load_model(tmp_path / "model"), load_folder(tmp_path / "sae")
    data, conditions = load_items("sample", limit=6), parse_conditions(values)
    resumed = run_conditions(model, data, conditions, folder, saes=loaded, batch_tokens=1, progress=False)
    assert sum(written) == 4 * 6 - 15
    assert not list(folder.rglob("*.partial*"))
    other = run_conditions(model, data, conditions, tmp_path / "b", saes=loaded, batch_tokens=1, progress=False)
    assert numbers(resumed) == numbers(other)
    for path in folder.rglob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(folder)).read_bytes()


def test_resampling_depends_on_no_interruption(model: MedBridge, sae: LoadedSae, tmp_path: Path) -> None:
    entry = {"name": "x", "kind": "ablate", "features": [0], "mode": "resample"}
    conditions = parse_conditions({"conditions": [entry], "matched_random": 0})
    first = small(model, sae, tmp_path / "a", conditions=conditions, batch_tokens=1)
    folder = tmp_path / "a"
    results = read_results(folder / "conditions/x/items.jsonl")
    (folder / "conditions/x/items.jsonl").unlink()
    (folder / "comparison.json").unlink()
    identity = json.loads((folder / "manifest.json").read_text())["identity"]
    lines = [json.dumps(identity), json.dumps([results[0].to_dict()])]
    (folder / "conditions/x/items.partial.jsonl").write_text("\n".join(lines) + "\n")
    again = small(model, sae, folder, conditions=conditions, batch_tokens=1)
    assert numbers(again) == numbers(first)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    intervene.register(made)
    return made


def test_the_command(app: typer.Typer, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    save_tiny_sae(tmp_path / "sae", tiny_sae(tiny_model()))
    values = {
        "conditions": [{"name": "x", "kind": "steer", "features": {3: 1.0}, "unit": "max", "strengths": [-2, 2]}],
        "matched_random": 2,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    arguments = ["-m", str(tmp_path / "model"), "-s", str(tmp_path / "sae"), "-d", "sample", "--limit", "4"]
    arguments += ["-c", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "x@-2" in done.output and f"Report: {tmp_path / 'out' / 'comparison.md'}" in done.output
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    printed = json.loads(again.stdout)
    assert printed["n_items"] == 4
    assert [r["condition"]["name"] for r in printed["results"]] == ["plain", "x@-2", "x@2"]


def test_the_example_is_printed(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["--example"])
    assert done.stdout == intervene.EXAMPLE
    assert isinstance(parse_conditions(yaml.safe_load(done.stdout)), Conditions)
