"""Sweeps on a tiny model: the plan, what is trained, failures, interrupts, one harvest for several hooks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, ModelError, StudyError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.training import run
from sae_lens_med.training import sweep as sweeping
from sae_lens_med.training.outputs import open_sweep
from sae_lens_med.training.plan import Variant, plan
from sae_lens_med.training.recipe import load_recipe
from sae_lens_med.training.sweep import sweep
from tests.tiny import save_tiny_model, tiny_model

TOPK = """
model: {name: tiny}
data: {folder: ., sources: [text.jsonl], heldout: 0.1}
hook_name: blocks.1.hook_resid_post
context_size: 64
sae: {architecture: topk, d_sae: 96, k: 8}
training_tokens: 1280
train_batch_size_tokens: 64
lr: 1e-3
seed: 7
"""


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rows = [
        {"id": f"t{i}", "text": f"환자 {i}번은 발열과 기침으로 병원에 왔다. The patient has fever {i} and pain. " * 2}
        for i in range(40)
    ]
    (folder / "text.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return folder


@pytest.fixture
def short(texts: Path) -> list[str]:
    """Overrides that make the recipe `tiny` a run of 20 steps."""
    return [f"data.folder={texts}", "model.name=tiny", "training_tokens=1280", "lr_decay_steps=5"]


@pytest.fixture
def topk(tmp_path: Path, texts: Path) -> str:
    (tmp_path / "topk.yaml").write_text(TOPK.replace("folder: .", f"folder: {texts}"), encoding="utf-8")
    return str(tmp_path / "topk.yaml")


# The plan


def names(variants: list[Variant]) -> list[str]:
    return [variant.name for variant in variants]


def test_every_combination_is_a_variant_and_the_recipe_of_a_train_with_set(short: list[str]) -> None:
    variants = plan(["tiny"], ["sae.l1_coefficient=1e-1,0.2", "hook_name=blocks.0.hook_resid_post,ln_final"], short)
    assert names(variants) == [
        "l1_coefficient-0.1_hook_name-blocks.0.hook_resid_post",
        "l1_coefficient-0.1_hook_name-ln_final",
        "l1_coefficient-0.2_hook_name-blocks.0.hook_resid_post",
        "l1_coefficient-0.2_hook_name-ln_final",
    ]
    assert variants[3].varied == {"sae.l1_coefficient": 0.2, "hook_name": "ln_final"}
    assert variants[3].recipe == load_recipe("tiny", [*short, "sae.l1_coefficient=0.2", "hook_name=ln_final"])


def test_a_field_is_varied_where_the_architecture_has_it(short: list[str], topk: str) -> None:
    variants = plan(["tiny", topk], ["sae.l1_coefficient=0.1,0.2", "sae.k=4,8", "sae.d_sae=64"], short[:2])
    assert names(variants) == [
        "tiny_l1_coefficient-0.1_d_sae-64",
        "tiny_l1_coefficient-0.2_d_sae-64",
        "topk_k-4_d_sae-64",
        "topk_k-8_d_sae-64",
    ]
    assert "k" not in variants[0].recipe.sae and "l1_coefficient" not in variants[2].recipe.sae


def test_names_are_safe_and_told_apart(short: list[str]) -> None:
    variants = plan(["tiny"], ["data.sources=[a/b.jsonl],[a b.jsonl]", "sae.center=none,mean"], short)
    found = names(variants)
    assert len(set(found)) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.") for name in found)
    assert names(plan(["tiny"], [], short)) == ["tiny"]
    korean = names(plan(["tiny"], [f"data.sources=[{'열' * 90}.jsonl],[{'통' * 90}.jsonl]"], short))
    assert len(set(korean)) == 2 and all(len(name.encode()) <= 220 for name in korean)  # letters have three bytes


@pytest.mark.parametrize(
    ("overs", "message"),
    [
        (["sae.l1_coeficient=1,2"], "tied_l1 has no such field; did you mean sae.l1_coefficient"),
        (["sae.k=1,2"], "--over sae.k: tied_l1 has no such field"),
        (["lrr=1,2"], "unknown key 'lrr'"),
        (["lr=1,2", "lr=3"], "names one key twice"),
        (["lr=1,1.0,1"], "a value is given twice"),
        (["lr"], "--over needs key=value,value, got 'lr'"),
        (["lr="], "--over needs key=value,value"),
        (["lr=[1"], "--over lr=\\[1 is not a list of YAML values"),
        (["model.name=a,b"], "one model on one device"),
        (["device=cpu,cuda"], "one model on one device"),
        (["sae.architecture=topk,tied_l1"], "name a recipe for each"),
    ],
)
def test_a_wrong_plan_is_refused(overs: list[str], message: str, short: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(["tiny"], overs, short)


def test_recipes_of_different_models_or_given_twice_are_refused(short: list[str], topk: str) -> None:
    with pytest.raises(ConfigError, match="a sweep runs one model.*others have gemma-3-270m float32 cpu"):
        plan(["tiny", topk])
    with pytest.raises(ConfigError, match="two variants are the same run"):
        plan(["tiny", "tiny"], [], short)


# Training


def test_a_sweep_trains_each_variant_as_train_does(
    model: MedBridge, short: list[str], topk: str, tmp_path: Path
) -> None:
    variants = plan(["tiny", topk], ["sae.l1_coefficient=0.05,0.2", "sae.k=4"], [*short])
    result = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    assert not result.failed and result.frontier is not None
    assert len(result.frontier.points) == 3
    assert {p.curve for p in result.frontier.points} == {"tied_l1", "topk"}
    alone = run.train(variants[1].recipe, model, tmp_path / "alone", activations=tmp_path / "acts-alone")
    want, got = (load_file(f / "sae_weights.safetensors") for f in (alone.folder, tmp_path / "out" / variants[1].name))
    for name in want:
        assert torch.equal(want[name], got[name]), name
    assert len(list((tmp_path / "acts").iterdir())) == 1  # one hook, one text: one harvest
    assert {"sweep.json", "frontier.json", "frontier.md", "frontier.svg"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    low, high = (p for p in result.frontier.points if p.architecture == "tied_l1")
    assert low.l0 < high.l0  # sorted by L0; the smaller coefficient has the larger one
    assert high.coefficient == "l1_coefficient 0.05"


def test_several_hooks_are_harvested_in_one_pass(
    model: MedBridge, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, ...]] = []
    plain = ResidualReader.__init__

    def counted(self: ResidualReader, bridge: MedBridge, hooks: list[str]) -> None:
        read.append(tuple(sorted(hooks)))
        plain(self, bridge, hooks)

    monkeypatch.setattr(ResidualReader, "__init__", counted)
    hooks = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
    variants = plan(["tiny"], [f"hook_name={hooks[0]},{hooks[1]}", "sae.l1_coefficient=0.1,0.2"], short)
    result = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    assert not result.failed
    # The harvest reads both at once, and measuring reads one each; nothing was harvested for one hook alone.
    shards = sorted(p.relative_to(tmp_path / "acts").as_posix() for p in (tmp_path / "acts").rglob("*.safetensors"))
    assert len(shards) == 2
    assert read.count(hooks) == 1
    assert result.frontier is not None and {p.hook_name for p in result.frontier.points} == set(hooks)


def test_a_variant_that_fails_does_not_lose_the_others(model: MedBridge, short: list[str], tmp_path: Path) -> None:
    # 6,400 rows are more than the text has
    variants = plan(["tiny"], ["train_batch_size_tokens=64,6400,32"], [*short, "training_tokens=6400"])
    result = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    [(name, error)] = result.failed
    assert name == "train_batch_size_tokens-6400"
    assert result.frontier is not None and len(result.frontier.points) == 2
    listed = json.loads((tmp_path / "out/frontier.json").read_text())["failed"]
    assert listed == [{"name": name, "error": error}]
    assert f"- {name}: " in (tmp_path / "out/frontier.md").read_text()
    # it can be tried again, and what is finished stays
    again = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts", resume=True)
    assert [n for n, _ in again.failed] == [name]


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    model: MedBridge, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = plan(["tiny"], ["sae.l1_coefficient=0.05,0.1,0.2"], short)
    whole = sweep(variants, model, tmp_path / "whole", activations=tmp_path / "acts")
    step, steps = run.SAETrainer.step, []

    def interrupted(self: run.SAETrainer, batch: torch.Tensor) -> object:  # type: ignore[type-arg]
        steps.append(1)
        if len(steps) == 33:  # in the second variant
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(run.SAETrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    assert (tmp_path / "out" / variants[1].name / "checkpoints").is_dir()
    assert not (tmp_path / "out" / variants[2].name).exists()
    with pytest.raises(StudyError, match="contains an unfinished sweep; add --resume"):
        sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    result = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts", resume=True)
    assert len(steps) == 60  # every step once
    assert not result.failed
    assert whole.frontier is not None and result.frontier is not None
    assert [p.l0 for p in result.frontier.points] == [p.l0 for p in whole.frontier.points]
    for variant in variants:
        want, got = (load_file(tmp_path / f / variant.name / "sae_weights.safetensors") for f in ("whole", "out"))
        for name in want:
            assert torch.equal(want[name], got[name]), (variant.name, name)


def test_seeds_and_contexts_are_texts_of_their_own(model: MedBridge, short: list[str], tmp_path: Path) -> None:
    variants = plan(["tiny"], ["seed=7,8", "context_size=32,64"], [*short, "training_tokens=640"])
    result = sweep(variants, model, tmp_path / "out", activations=tmp_path / "acts")
    assert not result.failed
    assert len(list((tmp_path / "acts").iterdir())) == 4


def test_an_error_that_nobody_foresaw_is_kept_with_its_traceback(
    model: MedBridge, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the roof fell in")

    monkeypatch.setattr(sweeping, "train", broken)
    result = sweep(plan(["tiny"], [], short), model, tmp_path / "out", activations=tmp_path / "acts")
    assert result.failed == (("tiny", "RuntimeError: the roof fell in"),) and result.frontier is None
    text = (tmp_path / "out/errors/tiny.txt").read_text(encoding="utf-8")
    assert text.startswith("Traceback") and "in broken" in text


def test_a_changed_plan_is_not_resumed(short: list[str], tmp_path: Path) -> None:
    overs = ["sae.l1_coefficient=0.1,0.2"]
    open_sweep(plan(["tiny"], overs, short), tmp_path / "out", resume=False).begin()
    assert open_sweep(plan(["tiny"], overs, short), tmp_path / "out", resume=True).begun
    one, two, three = (f"l1_coefficient-0.{n}" for n in (1, 2, 3))
    for changed, said in (
        (plan(["tiny"], overs, [*short, "lr=0.5"]), rf"recipes.{one}.lr: 0.001 -> 0.5; recipes.{two}.lr: 0.001 -> 0.5"),
        (plan(["tiny"], ["sae.l1_coefficient=0.2,0.1"], short), rf'variants: \["{one}", .* -> \["{two}", .*'),
        (
            plan(["tiny"], ["sae.l1_coefficient=0.1,0.3"], short),
            rf"recipes.{two}: {{.* -> \(absent\); recipes.{three}: \(absent\) -> {{.*; variants: .*",
        ),
    ):
        with pytest.raises(StudyError, match=rf"started with other settings \({said}\); choose"):
            open_sweep(changed, tmp_path / "out", resume=True)


def test_a_folder_of_something_else_is_left_alone(model: MedBridge, short: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StudyError, match="is not empty and contains no sweep"):
        sweep(plan(["tiny"], ["lr=0.1,0.2"], short), model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_hook_that_does_not_exist_ends_the_sweep_before_it_begins(
    model: MedBridge, short: list[str], tmp_path: Path
) -> None:
    variants = plan(["tiny"], ["hook_name=blocks.0.hook_resid_post,blocks.0.hook_resid_pots"], short)
    with pytest.raises(ModelError, match="hook_resid_pots"):
        sweep(variants, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command


def test_the_command_lists_trains_and_resumes(short: list[str], tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "gemma3")
    sets = [f"--set={s}" for s in short if not s.startswith("model")] + [f"--set=model.name={tmp_path / 'model'}"]
    given = ["sweep", "tiny", "--over", "sae.l1_coefficient=0.1,0.2", *sets, "-o", str(tmp_path / "out")]
    given += ["--activations", str(tmp_path / "acts")]
    listed = CliRunner().invoke(app, [*given, "--dry-run"])
    assert listed.exit_code == 0, listed.output
    assert "l1_coefficient-0.2  (tied_l1, blocks.1.hook_resid_post)" in listed.stdout
    assert "2 variants" in listed.stdout and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*given, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["points"]) == 2
    again = CliRunner().invoke(app, [*given, "--resume"])
    assert again.exit_code == 0, again.output
    assert "l1_coefficient-0.1: L0 " in again.stdout


def test_the_command_ends_with_a_status_when_a_variant_fails(short: list[str], tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "gemma3")
    sets = [f"--set={s}" for s in short if not s.startswith("model")] + [f"--set=model.name={tmp_path / 'model'}"]
    sets.append("--set=training_tokens=6400")
    given = ["sweep", "tiny", "--over", "train_batch_size_tokens=64,6400", *sets, "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*given, "--activations", str(tmp_path / "acts")])
    assert done.exit_code == 1
    assert "failed: train_batch_size_tokens-6400: " in done.stderr
    assert "1 of 2 variants failed; the same command with --resume tries them again." in done.stderr
    assert "train_batch_size_tokens-64: L0 " in done.stdout
