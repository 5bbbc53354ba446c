"""A folder with a LoRA adapter opens as its base with the adapter in it. The oracle is peft's own forward pass, in
which base and adapter stay apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_med.errors import MissingExtraError, ModelError
from sae_lens_med.models import adapters
from sae_lens_med.models.bridge import load_model
from tests.tiny import Arch, save_tiny_model, tiny_tokenizer

peft = pytest.importorskip("peft", reason="the extra [peft] is not installed")

TOKENS = torch.tensor([range(5, 30)])
TARGETS: dict[str, list[str]] = {
    "qwen3": ["q_proj", "v_proj", "down_proj"],
    "gemma3": ["q_proj", "o_proj", "gate_proj"],
    "llama": ["k_proj", "up_proj"],
    "gpt2": ["c_attn"],
}


def save_adapter(base: Path, folder: Path, targets: list[str], seed: int = 0, **settings: Any) -> torch.Tensor:
    """An adapter of random numbers, and the logits of peft's forward pass with it."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    hf_model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **settings)
    wrapped = peft.get_peft_model(hf_model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at the start: the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(str(folder))
    with torch.no_grad():
        return wrapped.eval()(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base", "qwen3")


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    save_adapter(base, folder, TARGETS["qwen3"])
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    said = str(raised.value)
    assert "\n" not in said and said.endswith(".")
    return said


@pytest.mark.parametrize("arch", list(TARGETS))
def test_the_merged_model_computes_what_peft_does(arch: Arch, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", arch)
    wanted = save_adapter(base, tmp_path / "adapter", TARGETS[arch])
    model, plain = load_model(tmp_path / "adapter"), load_model(base)
    with torch.no_grad():
        found, without = model(TOKENS), plain(TOKENS)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (without - wanted).abs().max() > 0.1


def test_dora_and_saved_modules_are_merged_too(base: Path, tmp_path: Path) -> None:
    wanted = save_adapter(base, tmp_path / "adapter", ["q_proj"], use_dora=True, modules_to_save=["lm_head"])
    assert torch.allclose(load_model(tmp_path / "adapter")(TOKENS), wanted, atol=1e-4)


def test_every_hook_fires_on_an_adapted_model(folder: Path, base: Path) -> None:
    model, plain = load_model(folder), load_model(base)
    assert set(model.hook_dict) == set(plain.hook_dict)
    _, cache = model.run_with_cache(TOKENS)
    _, other = plain.run_with_cache(TOKENS)
    assert set(cache) == set(other)
    assert not torch.allclose(cache["blocks.1.hook_resid_post"], other["blocks.1.hook_resid_post"], atol=1e-3)


def test_the_identity_is_of_base_and_adapter(folder: Path, base: Path, tmp_path: Path) -> None:
    own, plain = load_model(folder).provenance, load_model(base).provenance
    assert own["base"]["sha256"] == plain["sha256"] and own["sha256"] != plain["sha256"]
    assert own["adapter"]["sha256"] == adapters.find_adapter(folder).sha256
    save_adapter(base, tmp_path / "other", TARGETS["qwen3"], seed=1)
    other = load_model(tmp_path / "other").provenance
    assert other["base"] == own["base"] and other["sha256"] != own["sha256"]
    change_config(folder, lora_alpha=16)  # the same numbers, twice as strong
    assert load_model(folder).provenance["sha256"] != own["sha256"]


def test_a_base_beside_the_adapter_is_found_by_its_relative_path(saved: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "adapter"))
    shutil.copytree(base, folder / "base")
    change_config(folder, base_model_name_or_path="base")
    assert torch.equal(load_model(folder)(TOKENS), load_model(saved)(TOKENS))


def test_the_recorded_base_is_the_only_one(folder: Path, base: Path, tmp_path: Path) -> None:
    adapters.write_base(folder, load_model(base).provenance)
    load_model(folder)
    other = save_tiny_model(tmp_path / "other", "qwen3", seed=5)
    change_config(folder, base_model_name_or_path=str(other))
    assert "not the one that the adapter" in refused(folder)


def test_a_base_of_another_kind_or_none_is_refused(folder: Path, tmp_path: Path) -> None:
    change_config(folder, base_model_name_or_path=str(save_tiny_model(tmp_path / "gpt2", "gpt2")))
    assert "does not fit its base" in refused(folder)
    change_config(folder, base_model_name_or_path="no-such-model")
    assert "'no-such-model' is not a catalogue model" in refused(folder)


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = {name: x[:, :-1].contiguous() if "lora_A" in name else x for name, x in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert "does not fit its base" in refused(folder)


def test_an_adapter_of_an_adapter_is_refused(folder: Path, saved: Path) -> None:
    change_config(folder, base_model_name_or_path=str(saved))
    assert "is itself an adapter" in refused(folder)


def test_a_pickle_is_not_opened(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "adapter_model.bin, a pickle" in refused(folder)


def test_damaged_weights_are_named(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "adapter_model.safetensors is damaged" in refused(folder)
    path.unlink()
    assert "has no adapter_model.safetensors" in refused(folder)


def test_weights_that_are_missing_or_left_over_are_named(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    gone = sorted(weights)[0]
    save_file({name: x for name, x in weights.items() if name != gone}, path, metadata={"format": "pt"})
    assert f"lacks weights: {gone}" in refused(folder)
    extra = gone.replace("layers.0", "layers.7")
    save_file({**weights, extra: weights[gone].clone()}, path, metadata={"format": "pt"})
    assert f"no place for: {extra}" in refused(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights[sorted(weights)[0]][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    assert "not finite" in refused(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "trained for SEQ_CLS"),
        ({"base_model_name_or_path": None}, "does not name the base model"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "Megatron"),
        ({"alora_invocation_tokens": [3]}, "from certain tokens on"),
        ({"r": -1}, "does not fit its base"),
    ],
)
def test_settings_that_make_no_plain_model_are_refused(values: dict[str, Any], said: str, folder: Path) -> None:
    change_config(folder, **values)
    assert said in refused(folder)


def test_a_config_that_is_no_json_object_is_refused(folder: Path) -> None:
    for text in ("{", "[]", ""):
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        assert "adapter_config.json is damaged" in refused(folder)


def test_a_folder_with_an_adapter_and_a_model_is_neither(folder: Path, base: Path) -> None:
    shutil.copytree(base, folder, dirs_exist_ok=True)
    assert "contains an adapter (adapter_config.json) and a whole model" in refused(folder)


def test_the_adapters_own_tokenizer_is_used_and_checked(folder: Path, base: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    own = load_model(folder)
    assert own.text_tokenizer.chat_template == tokenizer.chat_template
    assert own.provenance["tokenizer_sha256"] != load_model(base).provenance["tokenizer_sha256"]
    tokenizer.add_tokens(["폐렴", "결핵"])
    tokenizer.save_pretrained(folder)
    assert "2 from '폐렴' on" in refused(folder)


def test_without_peft_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"sae-lens-med\[peft\]"):
        load_model(folder)
