"""Recipe -> SAE on a tiny model: what is written loads in stock SAELens, and an interrupted run loses nothing."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.training import run
from sae_lens_med.training.frontier import frontier
from sae_lens_med.training.quality import reservations
from sae_lens_med.training.recipe import Recipe, load_recipe, parse_recipe
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("text")
    rows = [
        {
            "id": f"t{i}",
            "text": f"환자 {i}번은 발열과 기침으로 병원에 왔다. The patient has fever {i} and chest pain. " * 2,
        }
        for i in range(60)
    ]
    (folder / "text.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return load_recipe("tiny", [f"data.folder={folder}", "model.name=tiny"])


@pytest.fixture(scope="module")
def trained(model: MedBridge, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> run.TrainedSae:
    base = tmp_path_factory.mktemp("run")
    return run.train(recipe, model, base / "out", activations=base / "acts")


def test_the_folder_is_what_saelens_writes(trained: run.TrainedSae, model: MedBridge) -> None:
    names = {p.name for p in trained.folder.iterdir()}
    assert {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json", "metrics.json"} <= names
    assert "checkpoints" not in names
    cfg = json.loads((trained.folder / "cfg.json").read_text())
    assert cfg["architecture"] == "standard"
    assert cfg["metadata"]["training_architecture"] == "tied_l1"
    assert cfg["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert cfg["normalize_activations"] == "none"
    sae = SAE.load_from_disk(trained.folder)
    [x] = residuals(model, [[2, 5, 6, 7]], "blocks.1.hook_resid_post")
    assert sae(x).shape == x.shape


def test_what_is_trained_can_be_read_by_whom_the_user_lets_read(trained: run.TrainedSae, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    usual = (tmp_path / "any").stat().st_mode
    assert {p.name: p.stat().st_mode for p in trained.folder.iterdir() if p.stat().st_mode != usual} == {}


def test_a_tied_sae_leaves_strictly_tied(trained: run.TrainedSae, recipe: Recipe) -> None:
    """W_dec = W_encᵀ with unit rows, also where training scaled the activations."""
    assert recipe.sae["normalize_activations"] == "expected_average_only_in"
    sae = SAE.load_from_disk(trained.folder)
    assert torch.equal(sae.W_dec, sae.W_enc.T)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae))


def test_training_learns(trained: run.TrainedSae) -> None:
    curve = json.loads((trained.folder / "curve.json").read_text())
    assert [p["step"] for p in curve] == list(range(10, 101, 10))
    assert curve[-1]["explained_variance"] > curve[0]["explained_variance"] + 0.1
    assert 0 < trained.quality.l0 < 96
    assert trained.quality.explained_variance > 0.3


def test_a_trained_folder_is_never_overwritten(trained: run.TrainedSae, model: MedBridge, recipe: Recipe) -> None:
    with pytest.raises(StudyError, match="already contains a trained SAE"):
        run.train(recipe, model, trained.folder, resume=True)


@pytest.mark.parametrize("at", [1, 37, 50])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    at: int,
    trained: run.TrainedSae,
    model: MedBridge,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = run.SAETrainer.step

    def interrupted(self: run.SAETrainer, batch: torch.Tensor) -> object:  # type: ignore[type-arg]
        if self.n_training_steps == at:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, in the middle of a step
        return step(self, batch)

    acts = trained.folder.parent / "acts"
    monkeypatch.setattr(run.SAETrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.train(recipe, model, tmp_path / "out", activations=acts)
    monkeypatch.undo()
    with pytest.raises(StudyError, match="add --resume"):
        run.train(recipe, model, tmp_path / "out", activations=acts)
    resumed = run.train(recipe, model, tmp_path / "out", activations=acts, resume=True)
    want, got = (load_file(f / "sae_weights.safetensors") for f in (trained.folder, resumed.folder))
    assert want.keys() == got.keys()
    for name in want:
        assert torch.equal(want[name], got[name]), name
    assert (resumed.folder / "curve.json").read_text() == (trained.folder / "curve.json").read_text()


def test_every_file_of_a_resumed_run_is_that_of_an_uninterrupted_one(
    trained: run.TrainedSae, model: MedBridge, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts of dead features and of sinks among them: stopped twice, by two processes as far as memory goes."""
    step = run.SAETrainer.step
    stop_at = [30, 65]

    def interrupted(self: run.SAETrainer, batch: torch.Tensor) -> object:  # type: ignore[type-arg]
        if stop_at and self.n_training_steps == stop_at[0]:
            stop_at.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(run.SAETrainer, "step", interrupted)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run.train(recipe, model, tmp_path / "out", activations=tmp_path / "acts", resume=resume)
    run.train(recipe, model, tmp_path / "out", activations=tmp_path / "acts", resume=True)
    for path in sorted(trained.folder.iterdir()):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_training_that_fails_is_said(
    model: MedBridge, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = tmp_path / "acts"
    useless = dataclasses.replace(recipe, sae=recipe.sae | {"l1_coefficient": 1e4})
    failed = run.train(useless, model, tmp_path / "useless", activations=acts)
    assert failed.quality.explained_variance <= 0
    assert any(note.startswith("The reconstruction is no better than the mean activation") for note in failed.notes)
    metrics = json.loads((tmp_path / "useless" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["reservations"] == list(failed.notes)
    assert any("useless: The reconstruction is no better" in note for note in frontier([tmp_path / "useless"]).notes)
    silent = dataclasses.replace(failed.quality, l0=0.0, dead_fraction=1.0)
    assert reservations(silent)[0].startswith("No feature fires on the held-out text")
    mostly = dataclasses.replace(failed.quality, dead_fraction=0.97)
    assert reservations(mostly)[0].startswith("97.0% of the features never fire")
    point = run._curve_point
    monkeypatch.setattr(run, "_curve_point", lambda *a: point(*a) | {"loss": float("nan")})
    with pytest.raises(ConfigError, match="training diverged at step 10: the loss is nan; lower lr"):
        run.train(recipe, model, tmp_path / "wild", activations=acts)


def test_training_that_works_has_no_reservation(trained: run.TrainedSae) -> None:
    assert trained.notes == ()
    assert "reservations" not in json.loads((trained.folder / "metrics.json").read_text(encoding="utf-8"))


def test_an_sae_is_as_wide_as_what_its_hook_gives(model: MedBridge, recipe: Recipe, tmp_path: Path) -> None:
    for name, refused in (("mlp.hook_post", False), ("attn.hook_z", True)):
        own = dataclasses.replace(recipe, runner=recipe.runner | {"hook_name": f"blocks.1.{name}"})
        if refused:
            with pytest.raises(ConfigError, match=r"hook_z of tiny-gemma3-0 gives heads \(4 x 16\); name another hook"):
                run.train(own, model, tmp_path / name, activations=tmp_path / "acts")
            assert not (tmp_path / name).exists()
            continue
        trained = run.train(own, model, tmp_path / name, activations=tmp_path / "acts")
        assert SAE.load_from_disk(trained.folder).cfg.d_in == 48
        assert trained.quality.explained_variance > 0


def test_what_is_refused_leaves_nothing(
    trained: run.TrainedSae, model: MedBridge, recipe: Recipe, tmp_path: Path
) -> None:
    acts = trained.folder.parent / "acts"
    with pytest.raises(StudyError, match="other settings .model.name: "):
        run.train(recipe, tiny_model("gemma3", seed=1), tmp_path / "out", activations=acts)
    too_long = dataclasses.replace(recipe, runner=recipe.runner | {"context_size": 4096})
    with pytest.raises(ConfigError, match="context_size is 4096, but tiny-gemma3-0 reads at most 2048 tokens"):
        run.train(too_long, model, tmp_path / "out", activations=acts)
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown key 'l1_coeficient'; did you mean l1_coefficient"):
        load_recipe("tiny", ["sae.l1_coeficient=3"])
    with pytest.raises(ConfigError, match="unknown key 'n_batches_in_buffer'"):
        load_recipe("tiny", ["n_batches_in_buffer=3"])
    with pytest.raises(ConfigError, match="did you mean tied_l1"):
        load_recipe("tiny", ["sae.architecture=tied_l2"])
    with pytest.raises(ConfigError, match="neither as a file nor among the packaged ones: gemma-3-270m-res"):
        load_recipe("tyni")


@pytest.mark.parametrize("name", ["hari-q3-res", "hari-q3-8b-res"])
def test_the_gpu_recipes_run_on_a_tiny_qwen3(name: str, recipe: Recipe, tmp_path: Path) -> None:
    """A dry run: everything of the recipe but its sizes."""
    overrides = [
        *("model.name=tiny", "model.dtype=float32", f"data.folder={recipe.folder}", "data.sources=[text.jsonl]"),
        *("sae.d_sae=64", "hook_name=blocks.1.hook_resid_post", "device=cpu", "training_tokens=3200"),
        *("train_batch_size_tokens=64", "lr_warm_up_steps=5", "lr_decay_steps=10", "n_batches_for_norm_estimate=2"),
    ]
    trained = run.train(load_recipe(name, overrides), tiny_model("qwen3"), tmp_path / "o", activations=tmp_path / "a")
    assert SAE.load_from_disk(trained.folder).cfg.d_in == 32


@pytest.mark.parametrize("normalisation", ["none", "expected_average_only_in"])
def test_start_at_mean_starts_b_dec_at_the_mean_of_the_activations(
    normalisation: str, trained: run.TrainedSae, model: MedBridge, recipe: Recipe, tmp_path: Path
) -> None:
    values = recipe.to_dict() | {"start_at_mean": True, "lr": 1e-12, "n_batches_for_norm_estimate": 400}
    values["sae"] = {"architecture": "standard", "d_sae": 96, "normalize_activations": normalisation}
    acts = trained.folder.parent / "acts"
    folder = run.train(parse_recipe(values, "test"), model, tmp_path / "o", activations=acts).folder
    kept = torch.cat([load_file(path)["activations"] for path in sorted(acts.glob("*.safetensors"))]).float()
    torch.testing.assert_close(SAE.load_from_disk(folder).b_dec.data, kept.mean(0), rtol=0.02, atol=0.02)
    assert kept.mean(0).abs().max() > 0.2


def test_start_at_mean_needs_a_mean_that_is_the_same_for_all_rows(recipe: Recipe) -> None:
    values = recipe.to_dict() | {"start_at_mean": True}
    values["sae"] = {"architecture": "standard", "d_sae": 96, "normalize_activations": "layer_norm"}
    with pytest.raises(ConfigError, match="start_at_mean needs sae.normalize_activations to be one of none, expected"):
        parse_recipe(values, "test")


def test_the_recipe_resamples_dead_features_and_undoes_shrinkage(
    trained: run.TrainedSae, model: MedBridge, recipe: Recipe, tmp_path: Path
) -> None:
    """The same run without its gains has the same active features and explains less of the text they were fitted to."""
    settings = ["sae.l1_coefficient=5", "sae.initial_density=0.05", "resample_dead={every: 30, dead_steps: 2}"]
    acts = trained.folder.parent / "acts"
    folders = {}
    for unshrink in ("false", "true"):
        varied = load_recipe(
            "tiny", [f"data.folder={recipe.folder}", "model.name=tiny", *settings, f"unshrink={unshrink}"]
        )
        folders[unshrink] = run.train(varied, model, tmp_path / unshrink, activations=acts).folder
    revived = {
        p["step"]: p["revived"] for p in json.loads((folders["true"] / "curve.json").read_text()) if "revived" in p
    }
    assert revived and set(revived) <= {30, 60} and "resampled at step" in (folders["true"] / "curve.svg").read_text()
    metrics = {name: json.loads((folder / "metrics.json").read_text()) for name, folder in folders.items()}
    assert "unshrunk" not in metrics["false"]
    before, after = metrics["true"]["unshrunk"]["explained_variance_fitted"]
    assert after > before
    plain, gained = (SAE.load_from_disk(folders[name]) for name in ("false", "true"))
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0)) * 10
    x = x[:, : plain.cfg.d_in]
    assert torch.equal(plain.encode(x) > 0, gained.encode(x) > 0)
    assert torch.equal(plain.W_dec, gained.W_dec) and not torch.equal(plain.W_enc, gained.W_enc)
