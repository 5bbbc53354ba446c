"""The bridge on tiny random models: plain transformers' numbers, and every wall around hooks and SAEs.

The oracle is a second copy of the same random model, run by plain transformers.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import SAE_HOOKS, MedBridge, residuals
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
from tests.tiny import (
    ARCHES,
    HIDDEN,
    Arch,
    tiny_hf_model,
    tiny_model,
    tiny_sae,
    tiny_tokenizer,
)

HOOK = "blocks.1.hook_resid_post"
CANONICAL = "blocks.1.hook_out"
TEXT = "환자는 발열과 기침으로 병원에 왔다. The patient has fever."
PAD, EOS = 0, 1
pytestmark = [
    pytest.mark.filterwarnings("ignore:Dataset is not tokenized"),
    pytest.mark.filterwarnings("ignore:The training dataset contains fewer samples"),
]
SEQUENCES = [[5, 6, 7], list(range(40, 80)), list(range(10, 27)), [9]]


BOOTED: dict[Arch, MedBridge] = {}


def booted(arch: Arch) -> MedBridge:
    if arch not in BOOTED:
        BOOTED[arch] = tiny_model(arch)
    return BOOTED[arch]


@functools.cache
def plain(arch: Arch) -> Any:
    return tiny_hf_model(arch, len(tiny_tokenizer(bos=arch == "gemma3")))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return booted("qwen3")


@pytest.fixture
def sae(model: MedBridge) -> StandardSAE:
    return tiny_sae(model)


@pytest.fixture(scope="module")
def tokens(model: MedBridge) -> torch.Tensor:
    return torch.tensor([model.text_tokenizer(TEXT).input_ids])


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Whatever a test did, no hook and no SAE stays on the shared models, and their hooks have their names."""
    yield
    for left in BOOTED.values():
        assert not left.acts_to_saes
        assert not left.list_hooks()
        assert left.hook_dict[HOOK] is left.hook_dict[CANONICAL]
        assert left.hook_dict[HOOK].name == CANONICAL


def sae_at(hook_name: str | None, width: int, **metadata: Any) -> StandardSAE:
    """A random SAE that is active, for `hook_name`."""
    made = StandardSAE(StandardSAEConfig(d_in=width, d_sae=16, metadata=SAEMetadata(hook_name=hook_name, **metadata)))
    with torch.no_grad():
        made.b_enc.fill_(0.1)
    return made.eval()


def count(model: MedBridge, name: str, tokens: torch.Tensor) -> int:
    calls: list[str | None] = []

    def hook_fn(activation: torch.Tensor, hook: Any) -> None:
        calls.append(hook.name)

    model.run_with_hooks(tokens, fwd_hooks=[(name, hook_fn)])
    assert set(calls) <= {model.require_hook(name)}
    return len(calls)


def assert_parity(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to 1e-6 of the largest value: a few units in float32's last place."""
    assert (got - want).abs().max() <= 1e-6 * want.abs().max()


def cached(model: MedBridge, name: str, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return model.run_with_cache(tokens, names_filter=name, **kwargs)[1][name]


# Plain transformers' numbers


@pytest.mark.parametrize("arch", ARCHES)
@torch.no_grad()
def test_logits_are_those_of_plain_transformers(arch: Arch) -> None:
    model, tokens = booted(arch), torch.tensor([range(5, 55)])
    got, want = model(tokens), plain(arch)(tokens).logits
    assert_parity(got, want)
    assert arch != "qwen3" or torch.equal(got, want)


@pytest.mark.parametrize("arch", ARCHES)
def test_hooks_fire_once_and_carry_the_residual_stream(arch: Arch) -> None:
    model, tokens = booted(arch), torch.tensor([range(5, 30)])
    fired: dict[str, int] = {}

    def hook_fn(activation: torch.Tensor, hook: Any) -> None:
        fired[hook.name] = fired.get(hook.name, 0) + 1

    runs = [n for n in model.hook_dict if model._gated_hook_reason(n) is None]
    model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name in runs, hook_fn)])
    # Gemma 3 computes its rotary embedding once for each kind of layer
    assert {n for n, times in fired.items() if times != 1} <= {n for n in fired if n.startswith("rotary_emb")}
    for layer in range(model.cfg.n_layers):
        for suffix in SAE_HOOKS:
            assert fired[model.require_hook(f"blocks.{layer}.{suffix}")] == 1, suffix

    with torch.no_grad():
        states = plain(arch)(tokens, output_hidden_states=True).hidden_states
    _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        assert_parity(cache[f"blocks.{layer}.hook_resid_pre"], states[layer])
        if layer + 1 < model.cfg.n_layers:  # transformers puts the last one through the final norm
            assert_parity(cache[f"blocks.{layer}.hook_resid_post"], states[layer + 1])


def test_the_tiny_qwen3_has_the_shape_of_hari(model: MedBridge) -> None:
    config: Any = model.original_model.config
    assert config.num_attention_heads * config.head_dim != config.hidden_size
    assert config.num_key_value_heads < config.num_attention_heads
    assert hasattr(plain("qwen3").model.layers[0].self_attn, "q_norm")


def test_the_model_is_frozen_and_in_eval_mode(model: MedBridge) -> None:
    assert not model.training and not model.original_model.training
    assert not any(p.requires_grad for p in model.parameters())


# W1: alias names


def test_alias_and_canonical_name_are_one_hook_in_caches(model: MedBridge, tokens: torch.Tensor) -> None:
    states = model.original_model(tokens, output_hidden_states=True).hidden_states
    for names in (HOOK, [HOOK], CANONICAL, [CANONICAL], lambda name: name in (HOOK, CANONICAL)):
        _, cache = model.run_with_cache(tokens, names_filter=names)
        assert set(cache.keys()) <= {HOOK, CANONICAL}
        for value in cache.values():
            assert torch.equal(value, states[2])
    assert HOOK in model.run_with_cache(tokens, names_filter=HOOK)[1]
    assert HOOK in model.run_with_cache(tokens, True, False, [HOOK])[1]
    _, everything = model.run_with_cache(tokens)
    assert torch.equal(everything[HOOK], everything[CANONICAL])
    assert {"blocks.0.hook_mlp_out", "blocks.0.hook_attn_out", "blocks.0.attn.hook_z"} <= set(everything.keys())


def store_for(model: MedBridge, sae: SAE[Any]) -> ActivationsStore:
    sae.cfg.metadata.prepend_bos = False
    texts = Dataset.from_dict({"text": [f"{TEXT} {i} " * 3 for i in range(8)]})
    return ActivationsStore.from_sae(
        model,  # type: ignore[arg-type]
        sae,
        texts,
        context_size=16,
        store_batch_size_prompts=4,
        n_batches_in_buffer=16,
        train_batch_size_tokens=64,
        total_tokens=64,
        sequence_separator_token=None,
    )


@pytest.mark.parametrize("name", [HOOK, CANONICAL])
def test_the_activations_store_reads_either_name(model: MedBridge, sae: StandardSAE, name: str) -> None:
    sae.cfg.metadata.hook_name = name
    store = store_for(model, sae)
    batch = store.get_batch_tokens()
    want = torch.stack(residuals(model, batch.tolist(), HOOK))
    torch.testing.assert_close(store.get_activations(batch), want)
    assert store.next_batch().shape == (64, HIDDEN)


@torch.no_grad()
def test_run_evals_measures_with_the_sae_in_place(model: MedBridge, sae: StandardSAE) -> None:
    config = EvalConfig(
        batch_size_prompts=2,
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1,
        compute_ce_loss=True,
        compute_kl=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    for cycle in range(2):
        store = store_for(model, sae)
        metrics, _ = run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=False)  # type: ignore[arg-type]
        batch = store_for(model, sae).get_batch_tokens(2)
        performance = metrics["model_performance_preservation"]
        assert performance["ce_loss_without_sae"] == pytest.approx(model(batch, return_type="loss").item(), rel=1e-5)
        with model.saes([sae]):
            spliced = model(batch, return_type="loss").item()
        assert performance["ce_loss_with_sae"] == pytest.approx(spliced, rel=1e-5)
        assert spliced != pytest.approx(performance["ce_loss_without_sae"], rel=1e-3)
        assert metrics["model_behavior_preservation"]["kl_div_with_sae"] > 0
        assert 0 < metrics["sparsity"]["l0"] < sae.cfg.d_sae, cycle


# W2: hooks before, while and after SAEs are attached


def test_hooks_fire_once_before_during_and_after_saes(model: MedBridge, sae: StandardSAE, tokens: torch.Tensor) -> None:
    of_the_user: list[str | None] = []

    def user_hook(activation: torch.Tensor, hook: Any) -> None:
        of_the_user.append(hook.name)

    passes = 0
    clean = cached(model, HOOK, tokens)
    model.add_hook(HOOK, user_hook)
    try:
        for _ in range(2):
            for name in (HOOK, CANONICAL):
                assert count(model, name, tokens) == 1
                with model.saes([sae]):
                    assert count(model, name, tokens) == 1
                    torch.testing.assert_close(cached(model, name, tokens), sae(clean))
                assert count(model, name, tokens) == 1
                assert torch.equal(cached(model, name, tokens), clean)
                passes += 5
            model.add_sae(sae)
            assert count(model, HOOK, tokens) == 1
            model.reset_saes(CANONICAL)
            passes += 1
        assert of_the_user == [CANONICAL] * passes
    finally:
        model.reset_hooks()
    assert count(model, HOOK, tokens) == 1
    assert len(of_the_user) == passes


@pytest.mark.parametrize("name", [HOOK, CANONICAL])
def test_a_hook_at_an_attached_sae_changes_what_flows_on(
    model: MedBridge, sae: StandardSAE, tokens: torch.Tensor, name: str
) -> None:
    def shift(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation + 1

    with model.saes([sae]):
        got = model.run_with_hooks(tokens, fwd_hooks=[(name, shift)])
        model.add_hook(name, shift)
        assert torch.equal(model(tokens), got)
        model.reset_hooks()
        unshifted = model(tokens)
    want = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, lambda a, hook: sae(a) + 1)])
    torch.testing.assert_close(got, want)
    assert not torch.allclose(unshifted, got)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[(HOOK, lambda a, hook: sae(a))]), unshifted)


def test_gradients_reach_a_hook_at_an_attached_sae(model: MedBridge, sae: StandardSAE, tokens: torch.Tensor) -> None:
    gradients: dict[str, torch.Tensor] = {}

    def keep(gradient: torch.Tensor, hook: Any) -> None:
        gradients[hook.name] = gradient.detach().clone()

    inner = model.get_sae_hook_name(sae)
    with model.saes([sae]), model.hooks(bwd_hooks=[(HOOK, keep), (inner, keep)]):
        model(tokens, return_type="loss").backward()
    assert set(gradients) == {CANONICAL, inner}
    assert gradients[CANONICAL].abs().sum() > 0
    want = gradients[CANONICAL] @ sae.W_dec.T
    torch.testing.assert_close(gradients[inner], want)
    sae.zero_grad()


def test_nested_saes_come_back_with_their_settings(model: MedBridge, sae: StandardSAE) -> None:
    other, tokens = tiny_sae(model, seed=1), torch.tensor([[PAD, EOS, 5, 6]])
    with model.saes([sae], use_error_term=False, exclude_special_tokens=True):
        outer = cached(model, HOOK, tokens)
        with model.saes([other]):
            assert model.acts_to_saes == {HOOK: other}
            inner = cached(model, HOOK, tokens)
        assert model.acts_to_saes == {HOOK: sae}
        assert torch.equal(cached(model, HOOK, tokens), outer)
    assert not torch.allclose(inner, outer)


def test_an_sae_keeps_its_own_hook_names(model: MedBridge, sae: StandardSAE, tokens: torch.Tensor) -> None:
    clean = cached(model, HOOK, tokens)
    model.run_with_saes(tokens, saes=[sae])
    _, cache = sae.run_with_cache(clean)
    assert torch.equal(cache["hook_sae_acts_post"], sae.encode(clean))


# W3: where SAEs can stand


@pytest.mark.parametrize("suffix", SAE_HOOKS)
def test_an_sae_runs_once_at_each_supported_hook(model: MedBridge, tokens: torch.Tensor, suffix: str) -> None:
    name = f"blocks.1.{suffix}"
    for hook_name in (name, model.require_hook(name)):
        sae = sae_at(hook_name, cached(model, name, tokens).flatten(2).shape[-1])
        clean = model(tokens)
        with model.saes([sae], use_error_term=True):
            assert count(model, model.get_sae_hook_name(sae), tokens) == 1
            assert_parity(model(tokens), clean)
        assert not torch.allclose(model.run_with_saes(tokens, saes=[sae], use_error_term=False), clean)
        assert torch.equal(model(tokens), clean)


@pytest.mark.parametrize("name", ["blocks.1.ln2.hook_normalized", "hook_embed", "blocks.1.hook_in.hook_z"])
def test_an_sae_elsewhere_is_refused(model: MedBridge, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be attached at .* followed by one of hook_resid_pre|has no hook"):
        model.add_sae(sae_at(name, HIDDEN))


def test_an_sae_without_a_hook_or_at_an_unknown_one_is_refused(model: MedBridge) -> None:
    with pytest.raises(ModelError, match="does not name a hook; set sae.cfg.metadata.hook_name"):
        model.add_sae(sae_at(None, HIDDEN))
    with pytest.raises(ModelError, match=r"no hook 'blocks.1.hook_resid_pots'; did you mean blocks.1.hook_resid_post"):
        model.add_sae(sae_at("blocks.1.hook_resid_pots", HIDDEN))
    with pytest.raises(ModelError, match="has no hook 'blocks.7.hook_resid_post'"):
        model.add_sae(sae_at("blocks.7.hook_resid_post", HIDDEN))


@pytest.mark.parametrize(("name", "width"), [(HOOK, 32), (CANONICAL, 32), ("blocks.0.attn.hook_z", 64)])
def test_an_sae_of_another_width_is_refused(model: MedBridge, name: str, width: int) -> None:
    message = f"d_in 24, but {name} of tiny-qwen3-0 has width {width}; it was trained on 'other/model'"
    with pytest.raises(ModelError, match=message):
        model.add_sae(sae_at(name, 24, model_name="other/model"))


def test_two_saes_at_one_point_under_two_names_are_refused(model: MedBridge, sae: StandardSAE) -> None:
    with model.saes([sae]):
        with pytest.raises(ModelError, match=f"already attached at '{HOOK}', the same point as '{CANONICAL}'"):
            model.add_sae(sae_at(CANONICAL, HIDDEN))
        with pytest.raises(ModelError, match="already attached"), model.saes([sae_at(CANONICAL, HIDDEN)]):
            pass
        assert model.acts_to_saes == {HOOK: sae}
    with pytest.raises(ModelError, match=f"no SAE is attached at '{HOOK}'"):
        model.reset_saes(HOOK)


# W4: names of the SAE's own hooks


@pytest.mark.parametrize("attached_as", [HOOK, CANONICAL])
def test_inner_hooks_of_an_sae_go_by_either_name(model: MedBridge, tokens: torch.Tensor, attached_as: str) -> None:
    sae = sae_at(attached_as, HIDDEN)
    with model.saes([sae]):
        for name in (f"{HOOK}.hook_sae_acts_post", f"{CANONICAL}.hook_sae_acts_post", model.get_sae_hook_name(sae)):
            assert count(model, name, tokens) == 1
            assert cached(model, name, tokens).shape == (1, tokens.shape[1], sae.cfg.d_sae)
    with pytest.raises(ModelError, match="has no hook 'blocks.1.hook_resid_post.hook_sae_acts_post'"):
        count(model, f"{HOOK}.hook_sae_acts_post", tokens)


# W6: BOS


def test_the_activations_store_invents_no_special_token(model: MedBridge, sae: StandardSAE) -> None:
    batch = store_for(model, sae).get_batch_tokens(4)
    texts = [f"{TEXT} {i} " * 3 for i in range(8)]
    running = [t for text in texts for t in model.text_tokenizer(text).input_ids]
    assert batch.flatten().tolist() == running[: batch.numel()]


# W16: special tokens and training SAEs


@pytest.mark.parametrize(("exclude", "left"), [(True, [0, 1]), ([7], [4]), ([PAD, 6], [0, 3]), ([], [])])
def test_excluded_tokens_pass_by_the_sae(
    model: MedBridge, sae: StandardSAE, exclude: bool | list[int], left: list[int]
) -> None:
    tokens = torch.tensor([[PAD, EOS, 5, 6, 7, 8]])
    clean = cached(model, HOOK, tokens)
    want = sae(clean)
    want[:, left] = clean[:, left]
    with model.saes([sae], exclude_special_tokens=exclude):
        torch.testing.assert_close(cached(model, HOOK, tokens), want)
        assert torch.equal(cached(model, HOOK, tokens[0]), cached(model, HOOK, tokens))
    got = model.run_with_cache_with_saes(tokens, names_filter=HOOK, saes=sae, exclude_special_tokens=exclude)
    torch.testing.assert_close(got[1][HOOK], want)
    logits = model.run_with_saes(tokens, saes=[sae], exclude_special_tokens=exclude)
    assert torch.equal(got[0], logits)
    hooked = model.run_with_hooks_with_saes(tokens, saes=[sae], exclude_special_tokens=exclude, fwd_hooks=[])
    assert torch.equal(hooked, logits)


def test_excluded_tokens_of_padded_text(model: MedBridge, sae: StandardSAE) -> None:
    texts = ["기침", TEXT]
    want = [model.run_with_saes(t, saes=[sae])[0, -1] for t in texts]
    with model.saes([sae], exclude_special_tokens=True):
        got = model(texts, padding_side="left")[:, -1]
        single = model("x", prepend_bos=True)
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-5)
    assert single.shape[1] == 2
    with (
        model.saes([sae], exclude_special_tokens=True),
        pytest.raises(ModelError, match="needs tokens or text as the model's input, not embeddings"),
    ):
        model(torch.randn(1, 3, HIDDEN))


def test_use_error_term_is_obeyed_by_every_way_to_run(model: MedBridge, sae: StandardSAE, tokens: torch.Tensor) -> None:
    clean = model(tokens)
    for error_term, same in ((True, True), (False, False)):
        settings: dict[str, Any] = {"saes": [sae], "use_error_term": error_term}
        runs = [
            model.run_with_saes(tokens, **settings),
            model.run_with_cache_with_saes(tokens, **settings)[0],
            model.run_with_hooks_with_saes(tokens, fwd_hooks=[], **settings),
        ]
        for got in runs:
            assert ((got - clean).abs().max() <= 1e-6 * clean.abs().max()) == same


@pytest.mark.parametrize("name", [HOOK, "blocks.1.attn.hook_z"])
def test_a_training_sae_runs_as_its_export_does(
    model: MedBridge, tokens: torch.Tensor, name: str, tmp_path: Path
) -> None:
    width = cached(model, name, tokens).flatten(2).shape[-1]
    reshape: Any = "hook_z" if name.endswith("_z") else "none"
    config = TiedL1TrainingSAEConfig(
        d_in=width, d_sae=48, reshape_activations=reshape, metadata=SAEMetadata(hook_name=name)
    )
    torch.manual_seed(0)
    training = TiedL1TrainingSAE(config)
    training.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    want = model.run_with_saes(tokens, saes=[exported])
    for _ in range(2):
        torch.testing.assert_close(model.run_with_saes(tokens, saes=[training]), want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(want, model(tokens), atol=1e-3)


# Error term, names, exceptions


def test_with_the_error_term_the_model_is_unchanged(model: MedBridge, tokens: torch.Tensor) -> None:
    saes: list[SAE[Any]] = [tiny_sae(model, f"blocks.{layer}.hook_resid_post") for layer in range(3)]
    with model.saes(saes, use_error_term=True):
        assert_parity(model(tokens), plain("qwen3")(tokens).logits)


def test_unknown_hook_names_are_errors_that_name_near_ones(model: MedBridge, tokens: torch.Tensor) -> None:
    message = r"tiny-qwen3-0 has no hook 'blocks.1.hook_resid_pots'; did you mean blocks.1.hook_resid_post"
    hooks = [("blocks.1.hook_resid_pots", lambda a, hook: None)]
    with pytest.raises(ModelError, match=message):
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    with pytest.raises(ModelError, match=message):
        model.run_with_hooks(tokens, bwd_hooks=hooks)
    with pytest.raises(ModelError, match=message), model.hooks(fwd_hooks=hooks):
        pass
    with pytest.raises(ModelError, match=message):
        model.run_with_cache(tokens, names_filter=[HOOK, "blocks.1.hook_resid_pots"])
    with pytest.raises(ModelError, match=message):
        model.add_hook(*hooks[0])
    with pytest.raises(ModelError, match=message):
        residuals(model, [[5]], "blocks.1.hook_resid_pots")
    assert model.require_hook(HOOK) == CANONICAL


def test_hooks_and_saes_are_undone_after_an_exception(model: MedBridge, sae: StandardSAE, tokens: torch.Tensor) -> None:
    clean = model(tokens)

    def fail(activation: torch.Tensor, hook: Any) -> None:
        raise RuntimeError("inside the model")

    shift = ("blocks.0.hook_resid_post", lambda a, hook: a + 1)
    with pytest.raises(RuntimeError, match="inside the model"):
        model.run_with_hooks(tokens, fwd_hooks=[shift, (HOOK, fail)])
    with pytest.raises(RuntimeError, match="inside the model"), model.hooks(fwd_hooks=[shift, (HOOK, fail)]):
        model(tokens)
    with (
        pytest.raises(RuntimeError, match="inside the model"),
        model.saes([sae], exclude_special_tokens=True),
        model.hooks(fwd_hooks=[(model.get_sae_hook_name(sae), fail)]),
    ):
        model.generate(tokens, max_new_tokens=2, verbose=False)
    assert torch.equal(model(tokens), clean)


# Generation


def greedy(model: MedBridge, tokens: torch.Tensor, cache: bool = True) -> list[int]:
    made: Any = model.generate(
        tokens,
        max_new_tokens=4,
        do_sample=False,
        stop_at_eos=False,
        use_past_kv_cache=cache,
        return_type="tokens",
        verbose=False,
    )
    return made[0].tolist()


def test_generation_with_a_cache_runs_saes_and_hooks_at_each_step(model: MedBridge, sae: StandardSAE) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    clean = greedy(model, tokens)
    shapes: list[tuple[int, ...]] = []

    def look(acts: torch.Tensor, hook: Any) -> None:
        shapes.append(tuple(acts.shape))

    def steer(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation + 20 * sae.W_dec[3]

    acts = model.get_sae_hook_name(sae)
    with model.saes([sae], use_error_term=True), model.hooks(fwd_hooks=[(acts, look), (HOOK, look)]):
        assert greedy(model, tokens) == clean
    assert shapes == [(1, 5, 64), (1, 5, HIDDEN)] + [(1, 1, 64), (1, 1, HIDDEN)] * 3
    with model.saes([sae], use_error_term=True), model.hooks(fwd_hooks=[(HOOK, steer)]):
        steered = greedy(model, tokens)
        assert steered == greedy(model, tokens, cache=False)
    with model.hooks(fwd_hooks=[(HOOK, steer)]):
        assert greedy(model, tokens) == steered
    assert steered[:5] == clean[:5] and steered != clean
    with model.saes([sae], exclude_special_tokens=True):
        masked = greedy(model, torch.tensor([[PAD, 5, 6, 7]]))
        assert masked == greedy(model, torch.tensor([[PAD, 5, 6, 7]]), cache=False)
