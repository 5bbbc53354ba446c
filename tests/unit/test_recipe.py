"""What a recipe may hold, and what is said of one that may not; where its run may be written."""

import dataclasses
import math
import typing
from pathlib import Path

import pytest
import yaml
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, DataError, SaeLensMedError, StudyError
from sae_lens_med.runs.files import configs_dir
from sae_lens_med.saes import tied_l1
from sae_lens_med.training.outputs import open_run, require_activations, require_texts
from sae_lens_med.training.recipe import RUNNER_KEYS, Resampling, load_recipe, parse_recipe, sae_fields
from sae_lens_med.training.recipe_values import ABOVE_0, LEAST

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
        ("lr=-1", "lr must be above 0, got -1"),
        ("lr=0", "lr must be above 0, got 0"),
        ("lr=.nan", "lr must be a number, got nan"),
        ("model.name=''", "model.name is empty"),
        ("model.name=' '", "model.name is empty"),
        ("model.dtype=float61", "there is no model.dtype 'float61'; did you mean float16"),
        ("data.folder=''", "data.folder is empty"),
        ("data.sources=['']", "data.sources: path is empty"),
        ("data.encoding=''", "data.encoding is empty"),
        ("data.encoding=cp94", "there is no text encoding 'cp94'; did you mean cp949"),
        ("hook_name=''", "hook_name is empty"),
        ("device=' '", "device is empty"),
        ("sae.architecture=''", "sae.architecture is empty"),
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
        ("data.sink_multiple=0.5", "sink_multiple must be a number of at least 1 and below .*, got 0.5"),
        ("data.sink_multiple=1", "data.sink_multiple must exceed 1, got 1"),
        ("data.buffer_tokens=1.5", "data.buffer_tokens must be a whole number of at least 1, got 1.5"),
        ("data.harvest_batch_tokens=0", "data.harvest_batch_tokens must be a whole number of at least 1, got 0"),
        ("model.name=[1]", "model.name must be a string, got"),
        ("unshrink=maybe", "unshrink is true or false, got 'maybe'"),
        ("start_at_mean=true", "start_at_mean is not for tied_l1; set sae.center: mean instead"),
    ],
)
def test_a_wrong_value_is_told_when_the_recipe_is_read(override: str, message: str) -> None:
    with pytest.raises(SaeLensMedError, match=message):
        load_recipe("tiny", [override])


def numbers_of_sections() -> list[tuple[str, str]]:
    """(architecture, key) of every number that a recipe may hold, by the types of SAELens' own configs."""
    tied_l1.register()
    configs: list[tuple[str, str, type]] = [("tied_l1", "", LanguageModelSAERunnerConfig)]
    configs += [(name, "sae.", classes[1]) for name, classes in SAE_TRAINING_CLASS_REGISTRY.items()]
    found = [("tied_l1", f"data.{key}") for key in ("leave_out", "heldout", "sink_multiple", "buffer_tokens")]
    found += [("tied_l1", "data.harvest_batch_tokens")]
    found += [("tied_l1", f"resample_dead.{field.name}") for field in dataclasses.fields(Resampling)]
    for name, section, config_class in configs:
        hints = typing.get_type_hints(config_class)
        keys = sae_fields(name, "")[1:] if section else RUNNER_KEYS
        for key in keys:
            kinds = typing.get_args(hints[key]) or (hints[key],)
            if {int, float} & set(kinds):
                found.append((name, f"{section}{key}"))
    return found


def test_every_number_of_a_recipe_has_a_range() -> None:
    of_data = ("data", "resample_dead")
    keys = {key.split(".")[-1] for _, key in numbers_of_sections() if key.split(".")[0] not in of_data}
    assert {"lr", "k", "matryoshka_widths", "jumprelu_bandwidth"} < keys
    assert keys == {*LEAST, *ABOVE_0} and not set(LEAST) & set(ABOVE_0)


REQUIRED_OF = {"matryoshka_batchtopk": {"matryoshka_widths": [8, 16]}}


@pytest.mark.parametrize(("architecture", "key"), numbers_of_sections())
def test_no_number_out_of_its_range_is_taken(architecture: str, key: str) -> None:
    values = load_recipe("tiny").to_dict()
    values["resample_dead"] = {"every": 5, "dead_steps": 5}
    if architecture != "tied_l1":
        del values["resample_dead"]
        values["sae"] = {"architecture": architecture, "d_sae": 16, **REQUIRED_OF.get(architecture, {})}
    parse_recipe(values, "r")  # sound so far
    *section, name = key.split(".")
    target = values[section[0]] if section else values
    least = 0 if name in ABOVE_0 else LEAST.get(name, 1) - 1 if LEAST.get(name, 1) else -1e-9
    wrong = [math.nan, math.inf, -math.inf, -1, least, 10**400, True, "x", [[1]]]
    for value in wrong:
        target[name] = [value] if name == "matryoshka_widths" and value != [[1]] else value
        if key in ("data.leave_out", "data.sink_multiple") and value == 0 and name == "leave_out":
            continue  # nothing is left out
        with pytest.raises(ConfigError, match=rf"\b{name}\b") as error:
            parse_recipe(values, "r")
        assert "\n" not in str(error.value) and str(error.value).endswith(".") and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: 4294967296", "seed must be at most 4,294,967,295, got 4294967296"),
        ("seed: -1", "seed must be at least 0, got -1"),
        ("seed: 2024-01-01", "seed must be a whole number.*, got '2024-01-01'"),
        (f"seed: {'9' * 90}", "seed must be at most"),
        (f"training_tokens: {'9' * 90}", "training_tokens must be at most"),
        ("n_checkpoints: 1000000000000", "n_checkpoints must be at most 10,000"),
        ("lr: 1e40", "lr must be at most"),
        ("lr: .inf", "lr must be a number"),
        ("1: 2", "unknown key 1"),
        ("seed: 1\nseed: 2", r"is not YAML that a recipe can be: the key 'seed' is given twice at line \d+, column 1"),
    ],
)
def test_a_line_that_no_recipe_can_have(tmp_path: Path, line: str, message: str) -> None:
    text = (configs_dir() / "recipes" / "tiny.yaml").read_text(encoding="utf-8")
    own = [each for each in text.splitlines() if not each.startswith(line.split(":")[0])]
    (tmp_path / "r.yaml").write_text("\n".join([*own, line]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(tmp_path / "r.yaml"))


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


def test_a_cache_that_cannot_be_made_and_a_text_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAE_LENS_MED_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StudyError, match="cannot be made: .*file is a file"):
        require_activations(None)
    require_activations(tmp_path / "own")
    (tmp_path / "text.jsonl").touch()
    recipe = load_recipe("tiny", [f"data.folder={tmp_path}"])
    assert require_texts(recipe) == [tmp_path / "text.jsonl"]
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(DataError, match="you may not read the recipe's text .*text.jsonl"):
        require_texts(recipe)
