"""What a recipe may hold, and what is said of one that may not; where its run may be written."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, DataError, SaeLensMedError, StudyError
from sae_lens_med.runs.files import configs_dir
from sae_lens_med.training.outputs import open_run, require_texts
from sae_lens_med.training.recipe import load_recipe

RECIPES = sorted((configs_dir() / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_recipes_that_ship_are_read_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path.stem)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("foo", "--set needs key=value, got 'foo'"),
        ("lr=[1", "--set lr=\\[1: what follows the = is not a YAML value"),
        ("lr.x=1", "'lr' is a value, not a section"),
        ("lr=abc", "tiny.yaml: lr must be a number, got 'abc'"),
        ("lr=.inf", "lr must be a number, got inf"),
        ("lr=-1", "lr must be at least 0, got -1"),
        ("lr_end=x", "lr_end must be a number or null, got 'x'"),
        ("training_tokens=1e6", "training_tokens must be a whole number, got 1000000.0"),
        ("train_batch_size_tokens=10000", "training_tokens \\(6400\\) must be train_batch_size_tokens \\(10000\\)"),
        ("context_size=1", "context_size must be at least 2, got 1"),
        ("seed=abc", "seed must be a whole number, got 'abc'"),
        ("seed=true", "seed must be a whole number, got True"),
        ("adam_beta1=1", "adam_beta1 must be below 1, got 1"),
        ("n_checkpoints=-1", "n_checkpoints must be at least 0, got -1"),
        ("n_batches_for_norm_estimate=0", "n_batches_for_norm_estimate must be at least 1, got 0"),
        ("feature_sampling_window=0", "feature_sampling_window must be at least 1, got 0"),
        ("autocast=maybe", "autocast must be true or false, got 'maybe'"),
        ("hook_name=3", "hook_name must be a string, got 3"),
        ("lr_scheduler_name=cosin", "SAELens has no lr_scheduler_name 'cosin'; did you mean cosineannealing?"),
        ("lr_scheduler_name=x", "no lr_scheduler_name 'x'; there are constant, cosineannealing"),
        ("sae.d_sae=abc", "tiny.yaml: sae: d_sae must be a whole number, got 'abc'"),
        ("sae.d_sae=-3", "sae: d_sae must be at least 1, got -3"),
        ("sae.dtype=float13", "SAELens has no dtype 'float13'; did you mean float32"),
        ("sae.center=medium", "sae: center must be one of none, mean, got 'medium'"),
        ("sae.initial_density=2", "initial_density must be between 0 and 1, got 2"),
        ("sae.architecture=[1]", "sae.architecture must be a string"),
        ("sae.reshape_activations=hook_z", "unknown key 'reshape_activations'"),
        (
            "sae={architecture: matryoshka_batchtopk, d_sae: 8, matryoshka_widths: [x]}",
            "a list whose entries are each a whole",
        ),
        ("data.sources=text.jsonl", "data.sources must be a list of at least one file, got 'text.jsonl'"),
        ("data.sources=[]", "data.sources must be a list of at least one file"),
        ("data.sources=[3]", "a source is a path, or {path, max_rows}; got 3"),
        ("data.sources=[{path: 3}]", "data.sources: path must be a string, got 3"),
        ("data.sources=[{path: a, max_rows: 0}]", "data.sources: max_rows must be a whole number of at least 1, got 0"),
        ("data.folder=3", "data.folder must be a string, got 3"),
        ("data.leave_out=1", "data.leave_out must be a number of at least 0 and below 1, got 1"),
        ("data.heldout=abc", "data.heldout must be a number of at least 0 and below 1, got 'abc'"),
        ("data.heldout=0", "data.heldout must be between 0 and 1, got 0"),
        ("data.sink_multiple=0.5", "data.sink_multiple must be a number of at least 1, got 0.5"),
        ("data.sink_multiple=1", "data.sink_multiple must exceed 1, got 1"),
        ("data.buffer_tokens=1.5", "data.buffer_tokens must be a whole number of at least 1, got 1.5"),
        ("data.harvest_batch_tokens=0", "data.harvest_batch_tokens must be a whole number of at least 1, got 0"),
        ("model.name=[1]", "model.name must be a string, got"),
        ("unshrink=maybe", "unshrink is true or false, got 'maybe'"),
        ("start_at_mean=true", "start_at_mean is not for tied_l1; set sae.center: mean instead"),
    ],
)
def test_a_wrong_value_is_told_when_the_recipe_is_read(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("tiny", [override])


def test_a_training_run_is_begun_resumed_and_never_overwritten(tmp_path: Path) -> None:
    recipe, run = load_recipe("tiny"), tmp_path / "run"
    open_run(recipe, run, resume=False).begin()
    assert load_recipe(str(run / "recipe.yaml")).to_dict() == recipe.to_dict()
    other = load_recipe("tiny", ["lr=0.5", "seed=8"])
    # Nothing has been trained yet, so the folder is bound to no settings.
    assert not open_run(other, run, resume=False).begun
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "checkpoints" / "step-1" / "curve.json").write_text("[]", encoding="utf-8")
    with pytest.raises(StudyError, match="contains an unfinished training run; add --resume"):
        open_run(recipe, run, resume=False)
    assert open_run(recipe, run, resume=True).begun
    with pytest.raises(StudyError, match=r"other settings \(lr: 0\.\d+ -> 0.5; seed: \d+ -> 8\)"):
        open_run(other, run, resume=True)
    (run / "cfg.json").touch()
    with pytest.raises(StudyError, match="already contains a trained SAE"):
        open_run(recipe, run, resume=True)


def test_texts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text.jsonl does not exist; say where it is with --set data.folder=PATH"):
        require_texts(load_recipe("tiny", [f"data.folder={tmp_path}"]))


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("train", ["nope"], "there is no recipe 'nope'"),
        ("train", ["tiny", "-o", "FULL"], "is not empty and contains no training run"),
        ("train", ["tiny", "-o", "NEW"], "text.jsonl does not exist"),
        ("train", ["tiny", "-o", "NEW", "--set=data.folder=FULL", "--activations", "FULL/text.jsonl"], "is a file"),
        ("sweep", ["nope"], "there is no recipe 'nope'"),
        ("sweep", ["tiny", "-o", "FULL"], "is not empty and contains no sweep"),
        ("sweep", ["tiny", "-o", "NEW"], "text.jsonl does not exist"),
        ("sweep", ["tiny", "-o", "NEW", "--over=data.folder=FULL,NEW"], "NEW/text.jsonl does not exist"),
        ("sweep", ["tiny", "-o", "NEW", "--set=data.folder=FULL", "--activations", "FULL/text.jsonl"], "is a file"),
    ],
)
def test_what_can_be_told_before_the_model_is_loaded_is(
    command: str, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sae_lens_med.models.bridge.load_model", loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "text.jsonl").touch()
    output = [] if "-o" in options else ["-o", "NEW"]
    done = CliRunner().invoke(app, [command, *options, *output])
    assert isinstance(done.exception, SaeLensMedError) and message in str(done.exception)
    assert not (tmp_path / "NEW").exists()
