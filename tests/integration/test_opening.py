"""Opening a checkpoint that is not whole is an error that names what is wrong, and what decides a model's numbers is in
its identity. The oracle of the first is the untouched checkpoint, of the second the logits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import load_model
from tests.tiny import ARCHES, Arch, save_tiny_model, tiny_hf_model, tiny_tokenizer

TOKENS = torch.tensor([range(5, 30)])


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose LM head is a weight of its own."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "untied", "llama")


@pytest.fixture
def folder(untied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untied, tmp_path / "model"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def without(*names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [key for key in weights if key.startswith(names)]:
            del weights[name]

    return change


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    said = str(raised.value)
    assert "\n" not in said and said.endswith(".")
    return said


@pytest.mark.parametrize("arch", ARCHES)
def test_a_whole_checkpoint_opens_tied_or_not(arch: Arch, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", arch)
    plain = tiny_hf_model(arch, len(tiny_tokenizer(bos=arch == "gemma3")))
    torch.testing.assert_close(load_model(folder)(TOKENS), plain(TOKENS).logits)


@pytest.mark.parametrize(
    "missing",
    ["lm_head.weight", "model.layers.1.mlp.", "model.layers.2.", "model.norm.weight", "model.embed_tokens.weight"],
)
def test_missing_weights_are_named_and_never_made_up(missing: str, folder: Path) -> None:
    change_weights(folder, without(missing))
    said = refused(folder)
    assert missing in said and "would become random numbers" in said


def test_a_model_saved_without_its_head_is_refused(tmp_path: Path) -> None:
    """`model.model.save_pretrained`: no head, and the names of the inner model."""
    hf_model = tiny_hf_model("llama", len(tiny_tokenizer()))
    folder = tmp_path / "inner"
    hf_model.model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert "lm_head.weight" in refused(folder)


def test_a_sharded_checkpoint_with_a_shard_missing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    tiny_hf_model("llama", len(tiny_tokenizer())).save_pretrained(folder, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(folder)
    assert load_model(folder)(TOKENS).isfinite().all()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    refused(folder)


def test_weights_beside_those_of_the_model_are_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}))
    assert "model.layers.9.mlp.up_proj.weight" in refused(folder)


@pytest.mark.parametrize("key, value", [("vocab_size", 999), ("intermediate_size", 40), ("num_hidden_layers", 4)])
def test_a_configuration_of_another_model_is_refused(key: str, value: int, folder: Path) -> None:
    change_json(folder / "config.json", **{key: value})
    said = refused(folder)
    assert "is not the model that its config.json describes" in said and "model." in said


@pytest.mark.parametrize(
    "key, value",
    [("num_attention_heads", 7), ("num_attention_heads", 0), ("rms_norm_eps", "x"), ("hidden_act", "foo")],
)
def test_a_configuration_that_no_model_can_have_is_refused(key: str, value: Any, folder: Path) -> None:
    change_json(folder / "config.json", **{key: value})
    assert "damaged" in refused(folder)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [cut, lambda _: b"", lambda _: b"\xff\xfe\x00", lambda _: b"[1, 2]"])
def test_a_damaged_file_is_named_with_what_is_wrong_in_it(
    name: str, damage: Callable[[bytes], bytes], folder: Path
) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    said = refused(folder)
    assert f"could not be opened: its {name} is damaged (" in said
    assert said.endswith("; copy or download it again.") and "()" not in said


def test_files_that_are_sound_by_themselves_and_no_model_together(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "its config, tokenizer or weights are damaged (" in refused(folder)


def test_a_folder_in_the_place_of_the_weights_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "does not contain a model" in refused(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "awq", "gptq", "fp8"])
def test_quantised_checkpoints_are_refused_in_one_sentence(method: str, folder: Path) -> None:
    settings: dict[str, Any] = {"quant_method": method, "bits": 4, "load_in_4bit": True, "group_size": 128}
    change_json(folder / "config.json", quantization_config=settings)
    assert f"are quantised ({method})" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, folder: Path) -> None:
    def break_one(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value

    change_weights(folder, break_one)
    assert "not finite: model.layers.1.mlp.up_proj.weight" in refused(folder)


def test_no_tokenizer_is_said_on_opening(folder: Path) -> None:
    for path in [p for p in folder.iterdir() if "token" in p.name]:
        path.unlink()
    assert "tokenizer" in refused(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_said_on_opening(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["폐렴", "결핵"])
    tokenizer.save_pretrained(folder)
    said = refused(folder)
    assert "2 from '폐렴' on" in said and "embeddings for" in said


def test_a_special_token_of_another_kind_of_input_is_no_fault(folder: Path) -> None:
    """Gemma 3's tokenizer has one for images, which its text models have no row for."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    assert load_model(folder)(TOKENS).isfinite().all()


def identity(folder: Path) -> dict[str, Any]:
    return load_model(folder).provenance


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key for key in before if before[key] != after.get(key)}


def test_what_decides_the_numbers_is_in_the_identity(folder: Path) -> None:
    before = identity(folder)
    change_json(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert changed_keys(before, second := identity(folder)) == {"config_sha256"}
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}', encoding="utf-8")
    assert changed_keys(second, third := identity(folder)) == {"config_sha256"}
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert changed_keys(third, fourth := identity(folder)) == {"tokenizer_sha256"}
    change_json(folder / "tokenizer_config.json", add_bos_token=True)
    assert changed_keys(fourth, fifth := identity(folder)) == {"tokenizer_sha256"}
    change_weights(folder, lambda weights: weights["lm_head.weight"].mul_(2))
    assert changed_keys(fifth, identity(folder)) == {"sha256"}


def test_what_only_labels_a_model_is_not_in_its_identity(folder: Path) -> None:
    before = identity(folder)
    change_json(folder / "config.json", transformers_version="4.0.0", dtype="bfloat16", _name_or_path="elsewhere")
    (folder / "README.md").write_text("a card", encoding="utf-8")
    assert identity(folder) == before
    moved = folder.rename(folder.with_name("moved"))
    assert changed_keys(before, identity(moved)) == {"name"}
