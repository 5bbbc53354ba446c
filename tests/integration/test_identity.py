"""Whatever resumes or caches refuses results of another model or SAE: also where only a setting beside the weights was
changed, which gives other numbers under the same weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import StudyError
from sae_lens_med.evaluation.conditions.run import run_conditions
from sae_lens_med.evaluation.conditions.spec import Condition, Conditions
from sae_lens_med.evaluation.run import evaluate
from sae_lens_med.features.collect import collect
from sae_lens_med.models.bridge import MedBridge, load_model
from sae_lens_med.records import Provenance
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import LoadedSae, load_folder
from sae_lens_med.study.opened import OpenedModel
from sae_lens_med.study.run import run_study
from sae_lens_med.training import run as training
from sae_lens_med.training.activations import corpus
from sae_lens_med.training.harvest import default_folder
from sae_lens_med.training.recipe import load_recipe
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_model, tiny_sae

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def data() -> LoadedItems:
    sample = load_items("sample", limit=4)
    return replace(sample, items=sample.items, sha256=json_sha256([i.to_dict() for i in sample.items]))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", "gemma3")


@pytest.fixture
def sae_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sae"
    folder.mkdir()
    save_tiny_sae(folder, tiny_sae(tiny_model("gemma3"), d_sae=64))
    return folder


def in_json(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(known | values), encoding="utf-8")

    return change


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")


OF_A_MODEL = [
    ("model.config_sha256", in_json("config.json", rms_norm_eps=0.5)),
    ("model.config_sha256", in_json("config.json", query_pre_attn_scalar=4)),
    ("model.config_sha256", in_json("generation_config.json", eos_token_id=7)),
    ("model.tokenizer_sha256", chat_template),
    ("model.tokenizer_sha256", in_json("tokenizer_config.json", padding_side="left")),
]
OF_AN_SAE = [
    ("sae.settings.apply_b_dec_to_input: true -> false", in_json("cfg.json", apply_b_dec_to_input=False)),
    ("sae.settings.normalize_activations", in_json("cfg.json", normalize_activations="layer_norm")),
]


def study(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    run_study(model, sae, data, output, permutations=10, progress=False)


def evaluation(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    evaluate(model, data, sae=sae, output=output, permutations=10, progress=False)


def comparison(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    conditions = Conditions((Condition("plain", "plain", "plain"),), 0)
    run_conditions(model, data, conditions, output, saes=sae, resamples=10, progress=False)


def collection(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    collect(model, sae, data.items, output=output, progress=False)


@pytest.mark.parametrize("run", [study, evaluation, comparison, collection], ids=lambda run: run.__name__)
def test_a_changed_setting_of_model_or_sae_is_refused(
    run: Any, model_folder: Path, sae_folder: Path, data: LoadedItems, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    run(load_model(model_folder), load_folder(sae_folder), data, output)
    run(load_model(model_folder), load_folder(sae_folder), data, output)  # goes on, or says that it is done
    for named, change in OF_A_MODEL:
        before = shutil.copytree(model_folder, tmp_path / "kept")
        change(model_folder)
        prefix, _, key = named.partition(".")
        with pytest.raises(
            StudyError, match=rf"(settings\.|{prefix}\.){'' if prefix == 'model' else prefix}.*{key}|{named}"
        ):
            run(load_model(model_folder), load_folder(sae_folder), data, output)
        shutil.rmtree(model_folder)
        shutil.move(before, model_folder)
    for named, change in OF_AN_SAE:
        before = shutil.copytree(sae_folder, tmp_path / "kept")
        change(sae_folder)
        with pytest.raises(StudyError, match=named):
            run(load_model(model_folder), load_folder(sae_folder), data, output)
        shutil.rmtree(sae_folder)
        shutil.move(before, sae_folder)
    run(load_model(model_folder), load_folder(sae_folder), data, output)


def test_the_model_of_a_study_is_opened_again_only_as_it_was(
    model_folder: Path, sae_folder: Path, data: LoadedItems, tmp_path: Path
) -> None:
    """The door of the causal metrics."""
    study(load_model(model_folder), load_folder(sae_folder), data, tmp_path / "study")
    manifest = json.loads((tmp_path / "study" / "manifest.json").read_text(encoding="utf-8"))
    provenance = Provenance.from_dict(manifest["provenance"])

    class Side:
        shots: tuple[Any, ...] = ()

        @property
        def model(self) -> MedBridge:
            return load_model(model_folder)

        @property
        def loaded_sae(self) -> LoadedSae:
            return load_folder(sae_folder)

    opened: Any = OpenedModel(lambda _: Side(), provenance)  # type: ignore[arg-type,return-value]  # what it reads of one
    opened.fresh()
    OF_AN_SAE[0][1](sae_folder)
    with pytest.raises(StudyError, match="has other weights or another configuration"):
        opened.fresh()
    OF_A_MODEL[0][1](model_folder)
    with pytest.raises(StudyError, match="of config_sha256"):
        opened.fresh()


def test_activations_and_checkpoints_belong_to_one_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"t{i}", "text": f"환자 {i}번은 발열과 기침으로 병원에 왔다. " * 3} for i in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    recipe = load_recipe("tiny", [f"data.folder={tmp_path}", f"model.name={model_folder}"])
    step = training.SAETrainer.step

    def interrupted(self: Any, batch: torch.Tensor) -> Any:
        if self.n_training_steps == 20:
            raise KeyboardInterrupt
        return step(self, batch)

    model = load_model(model_folder)
    hook_name = recipe.runner["hook_name"]
    text = corpus(recipe, model.text_tokenizer, 42)
    cached = default_folder(model, text, hook_name)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(training.SAETrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, model, tmp_path / "out", activations=tmp_path / "acts")
    monkeypatch.undo()
    OF_A_MODEL[0][1](model_folder)
    other = load_model(model_folder)
    assert default_folder(other, text, hook_name) != cached
    with pytest.raises(StudyError, match="model.config_sha256"):
        training.train(recipe, other, tmp_path / "out", activations=tmp_path / "acts", resume=True)
    with pytest.raises(StudyError, match="model.config_sha256"):
        training.train(recipe, other, tmp_path / "out", activations=tmp_path / "others", resume=True)
