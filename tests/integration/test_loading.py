"""Opening models, their BOS, and the two ways to run them on many texts, on tiny random models without a network.

The oracle is a second copy of the same random model, run by plain transformers.
"""

import copy
import functools
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import MedBridge, bridge, load_model, residuals
from sae_lens_med.models.engine import Engine, TokenText
from tests.tiny import ARCHES, HIDDEN, Arch, save_tiny_model, tiny_hf_model, tiny_model, tiny_tokenizer

HOOK = "blocks.1.hook_resid_post"
CANONICAL = "blocks.1.hook_out"
TEXT = "환자는 발열과 기침으로 병원에 왔다. The patient has fever."
EOS = 1
SEQUENCES = [[5, 6, 7], list(range(40, 80)), list(range(10, 27)), [9]]

booted = functools.cache(tiny_model)


@functools.cache
def plain(arch: Arch) -> Any:
    return tiny_hf_model(arch, len(tiny_tokenizer(bos=arch == "gemma3")))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return booted("qwen3")


# W5: loading


def test_a_local_folder_loads_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = save_tiny_model(tmp_path / "a name nobody knows")
    loaded = load_model(folder)
    tokens = torch.tensor([range(5, 30)])
    assert not asked
    assert torch.equal(loaded(tokens), booted("qwen3")(tokens))
    assert loaded.provenance["name"] == str(folder)
    assert loaded.provenance["source"] == "local"
    assert loaded.provenance["dtype"] == "float32"
    assert len(loaded.provenance["sha256"]) == 64
    assert loaded.text_tokenizer.bos_token is None
    half = load_model(str(folder), dtype="bfloat16")
    assert half(tokens).dtype == torch.bfloat16
    [states] = residuals(half, [[5, 6, 7]], HOOK)
    assert states.dtype == torch.bfloat16


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="'hari-q4' is not a catalogue model, a folder or a Hub id.*hari-q3"):
        load_model("hari-q4")
    with pytest.raises(ModelError, match="'zzzz' is not a catalogue model.*`sae-lens-med models` lists the catalogue"):
        load_model("zzzz")
    with pytest.raises(ModelError, match="dtype must be one of float32, bfloat16, float16, got 'float'"):
        load_model("hari-q3", dtype="float")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="model.safetensors' is a file; name the folder of a model"):
        load_model(str(tmp_path / "model.safetensors"))
    for name in (str(tmp_path / "misspelt"), "./models/mine", "../mine", "~nobody/mine", "models/mine/final"):
        with pytest.raises(ModelError, match="^there is no folder .*, and no Hub id is written so; check the path"):
            load_model(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="'nobody/nothing' could not be downloaded from the Hub; check the name"):
        load_model("nobody/nothing")


def test_damaged_folders(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"does not contain a model: it needs config.json and \*.safetensors"):
        load_model(empty)
    folder = save_tiny_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="could not be opened: its model.safetensors is damaged"):
        load_model(folder)
    weights.write_bytes(whole)
    config = folder / "config.json"
    text = config.read_text()
    config.write_text(text[:50])
    with pytest.raises(ModelError, match="could not be opened"):
        load_model(folder)
    config.write_text(json.dumps(json.loads(text) | {"model_type": "t5"}))  # no causal language model
    with pytest.raises(ModelError, match="could not be opened"):
        load_model(folder)
    config.write_text(text)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="could not be opened"):
        load_model(folder)


# W6: BOS


def test_no_bos_is_invented(model: MedBridge) -> None:
    ids = model.text_tokenizer(TEXT).input_ids
    assert ids[0] > EOS
    assert model.to_tokens(TEXT).tolist() == [ids]
    assert model.to_tokens(TEXT, prepend_bos=False).tolist() == [ids]
    generated: Any = model.generate(TEXT, max_new_tokens=2, do_sample=False, return_type="tokens", verbose=False)
    assert generated[0, : len(ids)].tolist() == ids
    torch.testing.assert_close(model(TEXT), model(torch.tensor([ids])))


def test_a_bos_of_the_tokenizer_is_kept_and_stays_one() -> None:
    model = booted("gemma3")
    ids = model.text_tokenizer(TEXT).input_ids
    assert ids[0] == model.text_tokenizer.bos_token_id and ids.count(ids[0]) == 1
    assert model.to_tokens(TEXT).tolist() == [ids]
    assert model.to_tokens(TEXT, prepend_bos=False).tolist() == [ids[1:]]


@pytest.mark.parametrize("bos", [False, True])
def test_a_tokenizer_boots_twice_and_is_left_as_it_was(bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos=bos)

    def state() -> tuple[Any, ...]:
        return tokenizer.special_tokens_map, tokenizer.padding_side, len(tokenizer), tokenizer(TEXT).input_ids

    before = copy.deepcopy(state())
    for seed in range(2):
        made = bridge(tiny_hf_model("qwen3", len(tokenizer), seed), tokenizer, {"name": f"twice-{seed}"})
        assert made.text_tokenizer is tokenizer
        assert made.tokenizer is not tokenizer
        assert made.to_tokens(TEXT).tolist() == [tokenizer(TEXT).input_ids]
        made.tokenizer.padding_side = "left"
    assert state() == before


# residuals, and log-probabilities in half precision


@pytest.mark.parametrize("arch", ARCHES)
@torch.no_grad()
def test_residuals_are_those_of_each_sequence_alone(arch: Arch) -> None:
    model, oracle = booted(arch), plain(arch)
    batch = residuals(model, SEQUENCES, HOOK)
    for ids, got in zip(SEQUENCES, batch, strict=True):
        alone = oracle(torch.tensor([ids]), output_hidden_states=True)
        assert got.shape == (len(ids), HIDDEN)
        torch.testing.assert_close(got, alone.hidden_states[2][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got, residuals(model, [ids], CANONICAL)[0], rtol=1e-5, atol=1e-5)


def test_residuals_end_the_pass_at_their_hook(model: MedBridge) -> None:
    late: list[int] = []

    def hook_fn(activation: torch.Tensor, hook: Any) -> None:
        late.append(1)

    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", hook_fn)]):
        residuals(model, SEQUENCES, HOOK)
        assert not late
        residuals(model, SEQUENCES, "blocks.2.hook_resid_post")
    assert late == [1]


@torch.no_grad()
def test_logprobs_of_a_half_precision_model_are_as_fine_as_float32(tmp_path: Path) -> None:
    """In bfloat16 the logits of options tie; what is returned is the float32 head on the model's own last state."""
    half = load_model(save_tiny_model(tmp_path / "m", "qwen3"), dtype="bfloat16")
    wanted = [list(range(3, 350))]
    [got] = Engine(half).next_token_logprobs([TokenText(tuple(SEQUENCES[1]))], wanted)
    tokens = torch.tensor([SEQUENCES[1]])
    state = half.run_with_cache(tokens, names_filter="unembed.hook_in")[1]["unembed.hook_in"][0, -1]
    logits = state.float() @ half.W_U.float()
    want = (logits[wanted[0]] - half(tokens)[0, -1].float().logsumexp(-1)).clamp(max=0)
    torch.testing.assert_close(torch.tensor(got), want, rtol=1e-5, atol=1e-5)
    coarse = half(tokens)[0, -1].float()[wanted[0]]
    assert len(coarse.unique()) < len(set(got))


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_told_before_the_model_is_read(device: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"the device '{device}' is not available here .*; use cpu, or cuda where"):
        load_model(tmp_path / "nothing", device=device)
