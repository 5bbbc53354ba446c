"""The reader's residuals are those of the bridge and of plain transformers, several layers in one pass."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import MedBridge, activations_at, bridge, residuals
from sae_lens_med.models.residuals import QUERY_BLOCK, ResidualReader, causal_attention
from tests.tiny import ARCHES, LAYERS, Arch, tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

PRE, POST = "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"


def sequences(longest: int = 90) -> list[list[int]]:
    """Unequal lengths (so there is padding), more than one block of queries, more than Gemma's window of 16."""
    random = torch.Generator().manual_seed(0)
    return [torch.randint(3, 380, (n,), generator=random).tolist() for n in (longest, longest - 20, 17, 16, 5, 1)]


def assert_equal(got: list[torch.Tensor], want: list[torch.Tensor], relative: float) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert (a - b).float().norm() <= relative * b.float().norm()


@pytest.mark.parametrize("arch", ARCHES)
def test_residuals_are_the_bridges(arch: Arch) -> None:
    model = tiny_model(arch)
    names = ["blocks.0.hook_resid_pre", PRE, "blocks.1.hook_out", POST, "blocks.1.hook_resid_post"]
    reader = ResidualReader(model, names)
    assert reader.fast
    found = reader.read(sequences())
    assert list(found) == names
    for name in names:
        assert_equal(found[name], residuals(model, sequences(), name), 1e-5)


@pytest.mark.parametrize("arch", ARCHES)
def test_residuals_are_those_of_plain_transformers_without_padding(arch: Arch) -> None:
    model = tiny_model(arch)
    plain = tiny_hf_model(arch, len(model.text_tokenizer))
    found = ResidualReader(model, [PRE, "blocks.1.hook_resid_post"]).read(sequences())
    for i, ids in enumerate(sequences()):
        states = plain(torch.tensor([ids]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(found[PRE][i], states[1][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["blocks.1.hook_resid_post"][i], states[2][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHES)
def test_bfloat16_is_as_near_to_float32_as_the_bridge(arch: Arch) -> None:
    want = residuals(tiny_model(arch), sequences(), POST)
    tokenizer = tiny_tokenizer(bos=arch == "gemma3")
    half = bridge(tiny_hf_model(arch, len(tokenizer)).bfloat16(), tokenizer, {"name": "tiny", "source": "local"})
    error = [
        torch.cat([(a.float() - b).norm(dim=-1) / b.norm(dim=-1) for a, b in zip(got, want, strict=True)]).mean()
        for got in (ResidualReader(half, [POST]).read(sequences())[POST], residuals(half, sequences(), POST))
    ]
    assert error[0] < 1.25 * error[1] < 0.1


@pytest.mark.parametrize("arch", ARCHES)
def test_the_weights_are_there_once_and_the_bridge_is_as_it_was(arch: Arch) -> None:
    model = tiny_model(arch)
    tokens = torch.tensor(sequences()[:1])
    before = model(tokens)
    ResidualReader(model, [POST]).read(sequences())
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)
    assert {id(p) for p in model.plain.parameters()} <= {id(p) for p in model.parameters()}
    assert len(model.state_dict()) == len(tiny_model(arch).state_dict())
    assert not [m for m in model.plain.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_other_hooks_are_read_from_the_bridge() -> None:
    model = tiny_model("qwen3")
    reader = ResidualReader(model, ["blocks.1.attn.hook_z", POST])
    assert not reader.fast
    found = reader.read(sequences())
    assert_equal(found["blocks.1.attn.hook_z"], residuals(model, sequences(), "blocks.1.attn.hook_z"), 0)
    assert_equal(found[POST], residuals(model, sequences(), POST), 0)


def test_a_bridge_whose_weights_were_replaced_is_read_itself() -> None:
    model = tiny_model("llama")
    linear = model.blocks[0].mlp.out.original_component
    linear.weight = torch.nn.Parameter(linear.weight * 2, requires_grad=False)
    reader = ResidualReader(model, [POST])
    assert not reader.fast
    assert_equal(reader.read(sequences())[POST], residuals(model, sequences(), POST), 0)


def test_a_weight_changed_in_place_is_seen() -> None:
    model = tiny_model("llama")
    model.blocks[0].mlp.out.original_component.weight.mul_(2)
    assert_equal(ResidualReader(model, [POST]).read(sequences())[POST], residuals(model, sequences(), POST), 1e-5)


def test_hooks_and_saes_of_the_bridge_are_not_seen() -> None:
    model = tiny_model("gemma3")
    want = ResidualReader(model, [POST]).read(sequences())[POST]
    with model.saes(tiny_sae(model)):
        assert_equal(ResidualReader(model, [POST]).read(sequences())[POST], want, 0)


def test_an_unknown_hook_is_refused() -> None:
    with pytest.raises(ModelError, match=r"has no hook 'blocks\.1\.hook_resid_pots'; did you mean"):
        ResidualReader(tiny_model(), ["blocks.1.hook_resid_pots"])
    with pytest.raises(ModelError, match="has no hook"):
        ResidualReader(tiny_model(), [f"blocks.{LAYERS}.hook_resid_post"])


def test_several_hooks_of_the_bridge_in_one_pass() -> None:
    model = tiny_model("gpt2")
    names = ["blocks.0.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.hook_attn_out"]
    found = activations_at(model, sequences(), names)
    for name in names:
        assert_equal(found[name], residuals(model, sequences(), name), 0)


@pytest.mark.parametrize("window", [None, 1, 16, 40, 64, 65, 200])
@pytest.mark.parametrize("n", [1, QUERY_BLOCK, 2 * QUERY_BLOCK + 3])
def test_attention_is_softmax_of_the_scores_that_are_seen(n: int, window: int | None) -> None:
    random = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, heads, n, 8, generator=random, dtype=torch.float64) for heads in (4, 2, 2))
    got, _ = causal_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, sliding_window=window)
    for head in range(4):
        scores = 0.3 * q[:, head] @ k[:, head // 2].transpose(1, 2)
        for at in range(n):
            first = 0 if window is None else max(0, at - window + 1)
            weights = scores[:, at, first : at + 1].softmax(-1)
            want = (weights[:, None] @ v[:, head // 2, first : at + 1])[:, 0]
            torch.testing.assert_close(got[:, at, head], want)


def test_attention_with_a_mask_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ModelError, match="does not take an attention mask"):
        causal_attention(torch.nn.Identity(), x, x, x, torch.ones(2, 2))


def test_a_saved_model_is_the_plain_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `load_model` opens has a plain twin as well."""
    from sae_lens_med.models.bridge import load_model
    from tests.tiny import save_tiny_model

    folder = save_tiny_model(tmp_path_factory.mktemp("saved"), "qwen3")
    model: MedBridge = load_model(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    [got] = ResidualReader(model, ["blocks.0.hook_resid_post"]).read([[5, 6, 7]])["blocks.0.hook_resid_post"]
    want = plain(torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states[1][0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
