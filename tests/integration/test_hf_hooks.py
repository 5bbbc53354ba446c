"""TransformerLens hooks on a plain transformers model do what they do on the bridge."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.hf_hooks import decoder_layers, hf_hooks, hook_places
from tests.tiny import ARCHES, LAYERS, Arch, tiny_hf_model, tiny_model

TOKENS = torch.arange(3, 27).view(2, 12)
POINTS = (
    "hook_resid_pre",
    "hook_in",
    "hook_resid_post",
    "hook_out",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_out",
    "attn.hook_z",
    "attn.o.hook_in",
    "mlp.hook_in",
    "mlp.hook_out",
    "mlp.hook_post",
    "mlp.out.hook_in",
)


@pytest.fixture(scope="module", params=ARCHES)
def model(request: pytest.FixtureRequest) -> MedBridge:
    arch: Arch = request.param
    return tiny_model(arch)


def _double_the_third(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    changed = activation.clone()
    changed[:, 2] *= 2
    return changed


@torch.no_grad()
def test_every_name_has_the_bridges_value_and_a_change_has_its_effect(model: MedBridge) -> None:
    names = [n for n in hook_places(model.plain) if n.startswith("blocks.1.") or not n.startswith("blocks.")]
    assert {f"blocks.1.{point}" for point in POINTS} <= set(names)
    plain_logits = model.plain(TOKENS).logits
    for name in names:
        seen: dict[str, torch.Tensor] = {}

        def keep(activation: torch.Tensor, hook: Any, into: dict[str, torch.Tensor] = seen) -> None:
            into[hook.name] = activation.detach().clone()

        with hf_hooks(model.plain, [(name, keep)]):
            assert torch.equal(model.plain(TOKENS).logits, plain_logits)
        assert set(seen) == {name}
        _, cache = model.run_with_cache(TOKENS, names_filter=name)
        torch.testing.assert_close(seen[name], cache[name].reshape(seen[name].shape), atol=1e-5, rtol=1e-5)
        with hf_hooks(model.plain, [(name, _double_the_third)]):
            changed = model.plain(TOKENS).logits
        expected = model.run_with_hooks(TOKENS, fwd_hooks=[(name, _double_the_third)])
        torch.testing.assert_close(changed, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(changed, plain_logits)


@torch.no_grad()
def test_pairs_of_one_point_run_in_order_and_several_points_together(model: MedBridge) -> None:
    def plus(value: float) -> Callable[..., torch.Tensor]:
        return lambda activation, hook: activation + value

    pairs: list[Any] = [
        ("blocks.0.hook_resid_post", plus(1.0)),
        ("blocks.0.hook_out", lambda activation, hook: activation * 3),
        ("blocks.1.hook_mlp_out", lambda activation, hook: activation * 0),
        ("blocks.2.hook_resid_pre", plus(-0.5)),
    ]
    with hf_hooks(model.plain, pairs):
        found = model.plain(TOKENS).logits
    torch.testing.assert_close(found, model.run_with_hooks(TOKENS, fwd_hooks=pairs), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hooks_are_gone_after_the_block_and_after_an_exception(model: MedBridge) -> None:
    plain = model.plain(TOKENS).logits

    def fail(activation: torch.Tensor, hook: Any) -> None:
        raise RuntimeError(f"at {hook.name}, layer {hook.layer()}")

    with (
        pytest.raises(RuntimeError, match="at blocks.1.hook_mlp_out, layer 1"),
        hf_hooks(model.plain, [("blocks.0.hook_resid_pre", _double_the_third), ("blocks.1.hook_mlp_out", fail)]),
    ):
        model.plain(TOKENS)
    assert torch.equal(model.plain(TOKENS).logits, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.plain.modules())


def test_a_name_that_cannot_be_hooked_is_an_error_that_names_near_ones() -> None:
    plain = tiny_hf_model("qwen3", 50)
    for name, near in (
        ("blocks.1.hook_resid_pots", "did you mean blocks.1.hook_resid_post"),
        ("blocks.1.hook_resid_mid", "Available: blocks.0 to blocks.2 with"),
        (f"blocks.{LAYERS}.hook_resid_post", "blocks.0 to blocks.2"),
        ("zzz", "has no hook 'zzz'. Available:"),
    ):
        with (
            pytest.raises(ModelError, match=near),
            hf_hooks(plain, [("blocks.0.hook_in", _double_the_third), (name, fail)]),
        ):
            raise AssertionError
        assert not any(m._forward_pre_hooks for m in plain.modules())


def fail(activation: torch.Tensor, hook: Any) -> None:
    raise AssertionError


def test_a_model_without_a_decoders_layers_is_an_error() -> None:
    with pytest.raises(ModelError, match="layers were not found in Linear"):
        decoder_layers(nn.Linear(2, 2))
