"""Interventions do the arithmetic that they promise, on every kind of model, and leave nothing behind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE, HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.temporal_sae import TemporalSAE, TemporalSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import SkipTranscoder, SkipTranscoderConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.interventions import Recording, ablate, attached, clamp, record, splice, steer
from sae_lens_med.interventions.positions import GENERATED, LAST, from_token
from sae_lens_med.saes.releases import LoadedSae
from tests.tiny import HIDDEN, tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

HOOK = "blocks.1.hook_resid_post"
TOKENS = torch.arange(3, 27).view(2, 12)
VOCABULARY = 60
MAXIMUM = np.linspace(0.5, 2.0, 64, dtype=np.float32)


def _sae(
    cls: Any = StandardSAE, config: Any = StandardSAEConfig, hook: str = HOOK, d_in: int = HIDDEN, **more: Any
) -> Any:
    """A random SAE with every parameter away from its default."""
    metadata = SAEMetadata(model_name="tiny", hook_name=hook, hook_name_out=more.pop("hook_name_out", None))
    sae = cls(config(d_in=d_in, d_sae=64, metadata=metadata, **more))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            scale = parameter.shape[0] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
        if hasattr(sae, "threshold"):
            sae.threshold.copy_(0.1 + sae.threshold.abs())
    return sae.eval().requires_grad_(False)


@dataclass
class Kind:
    """A kind of model, and how it is run."""

    model: Any
    logits: Callable[[torch.Tensor], torch.Tensor]
    generate: Callable[[torch.Tensor, bool], torch.Tensor]


def _lens(model: Any) -> Kind:
    def generate(tokens: torch.Tensor, cache: bool) -> torch.Tensor:
        return model.generate(
            tokens,
            max_new_tokens=6,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=cache,
            return_type="tokens",
            verbose=False,
        )

    return Kind(model, model, generate)


def _hooked(cls: Any) -> Kind:
    config = HookedTransformerConfig(
        n_layers=3, d_model=HIDDEN, n_ctx=64, d_head=8, n_heads=4, d_vocab=400, act_fn="gelu", d_mlp=48, seed=1,
        initializer_range=0.3, device="cpu", default_prepend_bos=False,
        # Upstream's generate gives cached tokens the positions of others when these are learned.
        positional_embedding_type="rotary", rotary_dim=8,
    )  # fmt: skip
    return _lens(cls(config).eval().requires_grad_(False))


def _plain() -> Kind:
    model = tiny_hf_model("llama", 400)

    def generate(tokens: torch.Tensor, cache: bool) -> torch.Tensor:
        return model.generate(
            tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=cache, attention_mask=None
        )

    return Kind(model, lambda tokens: model(tokens).logits, generate)


def _booted(cls: Any) -> Kind:
    tokenizer = tiny_tokenizer()
    model = tiny_hf_model("llama", len(tokenizer))
    return _lens(cls.boot_transformers("tiny", hf_model=model, tokenizer=tokenizer))


KINDS: dict[str, Callable[[], Kind]] = {
    "MedBridge": lambda: _lens(tiny_model("qwen3")),
    "gemma": lambda: _lens(tiny_model("gemma3")),
    "TransformerBridge": lambda: _booted(TransformerBridge),
    "SAETransformerBridge": lambda: _booted(SAETransformerBridge),
    "HookedTransformer": lambda: _hooked(HookedTransformer),
    "HookedSAETransformer": lambda: _hooked(HookedSAETransformer),
    "transformers": _plain,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def _run(kind: Kind, pairs: Any) -> torch.Tensor:
    with attached(kind.model, pairs):
        return kind.logits(TOKENS)


# --- on every kind of model -----------------------------------------------------------------------------------------


def test_an_empty_intervention_changes_nothing_bit_for_bit(kind: Kind) -> None:
    sae, plain = _sae(), kind.logits(TOKENS)
    nowhere = from_token(100)
    for pairs in (
        [],
        steer(sae, {}),
        clamp(sae, {}),
        ablate(sae, []),
        splice([]),
        splice(sae, positions=nowhere),
        steer(sae, {3: 100.0}, positions=nowhere),
        record(sae, Recording()),
    ):
        assert torch.equal(_run(kind, pairs), plain)


def test_splicing_with_the_error_term_is_the_plain_run(kind: Kind) -> None:
    plain = kind.logits(TOKENS)
    torch.testing.assert_close(_run(kind, splice(_sae(), error_term=True)), plain, atol=1e-5, rtol=1e-5)
    assert (_run(kind, splice(_sae())) - plain).abs().max() > 0.05


def test_steering_adds_exactly_c_times_d_at_the_filtered_positions(kind: Kind) -> None:
    sae, before, after = _sae(), [], []
    pairs = [
        (HOOK, lambda activation, hook: before.append(activation.clone())),
        *steer(sae, {3: 5.0, 40: -2.0}, positions=from_token(4)),
        (HOOK, lambda activation, hook: after.append(activation.clone())),
    ]
    changed = _run(kind, pairs)
    expected = before[0].clone()
    expected[:, 4:] += 5.0 * sae.W_dec[3] - 2.0 * sae.W_dec[40]
    torch.testing.assert_close(after[0], expected, atol=2e-6, rtol=1e-6)
    assert torch.equal(after[0][:, :4], before[0][:, :4])
    plain = kind.logits(TOKENS)
    assert torch.equal(changed[:, :4], plain[:, :4])  # causal
    assert (changed[:, 4:] - plain[:, 4:]).abs().amax(-1).min() > 1e-3


def test_generation_with_a_cache_equals_generation_without(kind: Kind) -> None:
    sae = _sae()
    values = 3 * MAXIMUM[None, :].repeat(5, 0)
    for pairs in (
        steer(sae, {3: 20.0}),
        clamp(sae, {1: 4.0, 2: 0.0}, positions=from_token(14)),
        ablate(sae, range(20), mode="resample", values=values, positions=~from_token(5)),
    ):
        with attached(kind.model, pairs):
            cached = kind.generate(TOKENS, True)
        with attached(kind.model, pairs):
            assert torch.equal(kind.generate(TOKENS, False), cached)
    with attached(kind.model, steer(sae, {3: 40.0}, positions=GENERATED)):
        cached = kind.generate(TOKENS, True)
    with attached(kind.model, steer(sae, {3: 40.0}, positions=from_token(12))):
        expected = kind.generate(TOKENS, False)
    assert torch.equal(cached, expected)
    assert cached.shape[1] == 18
    assert not torch.equal(cached, kind.generate(TOKENS, True))


def test_hooks_are_gone_after_an_exception_inside_the_model(kind: Kind) -> None:
    plain = kind.logits(TOKENS)

    def fail(activation: torch.Tensor, hook: Any) -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), attached(kind.model, [*steer(_sae(), {3: 9.0}), (HOOK, fail)]):
        kind.logits(TOKENS)
    assert torch.equal(kind.logits(TOKENS), plain)
    with attached(kind.model, steer(_sae(), {3: 9.0})), pytest.raises(KeyError):
        raise KeyError
    assert torch.equal(kind.logits(TOKENS), plain)


def test_both_names_of_a_hook_work_and_others_are_errors_that_name_near_ones(kind: Kind) -> None:
    old = _run(kind, steer(_sae(), {3: 9.0}))
    assert torch.equal(_run(kind, steer(_sae(hook="blocks.1.hook_out"), {3: 9.0})), old)
    for wrong in ("blocks.1.hook_resid_pots", "blocks.7.hook_resid_post"):
        with pytest.raises(ModelError, match=r"has no hook .* did you mean blocks\."):
            _run(kind, steer(_sae(hook=wrong), {3: 9.0}))


def test_run_with_hooks_takes_the_pairs(kind: Kind) -> None:
    if not hasattr(kind.model, "run_with_hooks"):
        pytest.skip("a plain transformers model has no run_with_hooks")
    hook = "blocks.1.hook_out" if type(kind.model) is SAETransformerBridge else HOOK  # upstream ignores the alias
    pairs: list[Any] = steer(_sae(hook=hook), {3: 9.0})  # TransformerLens' own type is invariant
    found = kind.model.run_with_hooks(TOKENS, fwd_hooks=pairs)
    assert torch.equal(found, _run(kind, pairs))
    assert not torch.equal(found, kind.logits(TOKENS))


def test_a_plain_model_and_the_bridge_agree() -> None:
    model = tiny_model("gemma3")
    pairs = [*splice(tiny_sae(model)), *clamp(tiny_sae(model, "blocks.0.hook_mlp_out"), {3: 2.0}, positions=LAST)]
    with attached(model.plain, pairs):
        found = model.plain(TOKENS).logits
    torch.testing.assert_close(found, model.run_with_hooks(TOKENS, fwd_hooks=pairs), atol=1e-5, rtol=1e-5)


def test_a_bridge_on_which_upstream_lost_the_hook_is_an_error() -> None:
    kind = _booted(SAETransformerBridge)
    sae = _sae(hook="blocks.1.hook_out")
    kind.model.add_sae(sae)
    kind.model.reset_saes()
    with pytest.raises(ModelError, match="would not run"):
        _run(kind, steer(sae, {3: 9.0}))


# --- the arithmetic -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "standard": _sae,
    "bias not subtracted": lambda: _sae(apply_b_dec_to_input=False),
    "layer_norm": lambda: _sae(normalize_activations="layer_norm"),
    "constant_norm_rescale": lambda: _sae(normalize_activations="constant_norm_rescale"),
    "expected_average_only_in": lambda: _sae(normalize_activations="expected_average_only_in"),
    "jumprelu": lambda: _sae(JumpReLUSAE, JumpReLUSAEConfig),
    "jumprelu, layer_norm": lambda: _sae(JumpReLUSAE, JumpReLUSAEConfig, normalize_activations="layer_norm"),
    "gated": lambda: _sae(GatedSAE, GatedSAEConfig),
    "topk": lambda: _sae(TopKSAE, TopKSAEConfig, k=12),
    "topk, decoder norms": lambda: _sae(TopKSAE, TopKSAEConfig, k=12, rescale_acts_by_decoder_norm=True),
    "hook_z": lambda: _sae(hook="blocks.1.attn.hook_z", reshape_activations="hook_z"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edits_are_what_saelens_own_encode_and_decode_say(architecture: str, model: Any) -> None:
    sae = ARCHITECTURES[architecture]()
    hook = sae.cfg.metadata.hook_name
    _, cache = model.run_with_cache(TOKENS, names_filter=hook)
    x = cache[hook]
    acts = sae.encode(x)
    reconstruction = sae.decode(acts)
    often = (acts > 0).flatten(0, 1).sum(0).argsort(descending=True)[:3].tolist()
    assert (acts[..., often] > 0).any()
    rare = (acts > 0).flatten(0, 1).sum(0).argmin().item()

    def expected(change: Callable[[torch.Tensor], torch.Tensor], error_term: bool) -> torch.Tensor:
        new = sae.encode(x)
        changed = sae.decode(change(new.clone()))
        return changed + (x - reconstruction) if error_term else changed

    def put(values: dict[int, float]) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(c: torch.Tensor) -> torch.Tensor:
            for feature, value in values.items():
                c[..., feature] = value
            return c

        return change

    def add(values: dict[int, float]) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(c: torch.Tensor) -> torch.Tensor:
            for feature, value in values.items():
                c[..., feature] += value
            return c

        return change

    values = {often[0]: 0.7, rare: 1.5}
    of_maximum = {f: v * float(MAXIMUM[f]) for f, v in values.items()}
    means = {f: float(MAXIMUM[f]) for f in often}
    for pairs, change, error_term in (
        (splice(sae), lambda c: c, False),
        (splice(sae, error_term=True), lambda c: c, True),
        (clamp(sae, values), put(values), True),
        (clamp(sae, values, error_term=False), put(values), False),
        (clamp(sae, values, unit="max", maximum=MAXIMUM), put(of_maximum), True),
        (ablate(sae, often), put(dict.fromkeys(often, 0.0)), True),
        (ablate(sae, often, error_term=False), put(dict.fromkeys(often, 0.0)), False),
        (ablate(sae, often, mode="mean", mean=MAXIMUM), put(means), True),
        (steer(sae, values), add(values), True),
        (steer(sae, values, unit="max", maximum=torch.from_numpy(MAXIMUM)), add(of_maximum), True),
    ):
        seen: list[torch.Tensor] = []
        keep = (hook, lambda activation, hook, seen=seen: seen.append(activation))
        found = model.run_with_hooks(TOKENS, fwd_hooks=[*pairs, keep])
        want = expected(change, error_term)
        torch.testing.assert_close(seen[0], want, atol=1e-5, rtol=1e-5)
        literally = model.run_with_hooks(TOKENS, fwd_hooks=[(hook, lambda activation, hook, want=want: want)])
        torch.testing.assert_close(found, literally, atol=2e-5, rtol=1e-5)
    assert sae.encode(x).equal(acts)  # nothing was left in the SAE
    for flat in (x, x.flatten(2)):  # by head, and as a transformers model gives it
        _, fn = steer(sae, values)[0]
        point = type("Point", (), {"name": hook})
        result = fn(flat, hook=point)
        assert result is not None
        torch.testing.assert_close(result.view_as(x), expected(add(values), True), atol=1e-5, rtol=1e-5)


def test_clamp_and_ablate_agree_with_saelens_own_machinery(model: Any) -> None:
    sae = tiny_sae(model)
    acts = sae.encode(model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK])
    often = (acts > 0).flatten(0, 1).sum(0).argsort(descending=True)[:3].tolist()
    for error_term in (False, True):
        for value, pairs in (
            (0.0, ablate(sae, often, error_term=error_term)),
            (2.5, clamp(sae, dict.fromkeys(often, 2.5), error_term=error_term)),
        ):

            def put(c: torch.Tensor, hook: Any, value: float = value) -> torch.Tensor:
                c[..., often] = value
                return c

            with model.saes([sae], use_error_term=error_term):
                expected = model.run_with_hooks(TOKENS, fwd_hooks=[(model.get_sae_hook_name(sae), put)])
            found = model.run_with_hooks(TOKENS, fwd_hooks=pairs)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        with model.saes([sae], use_error_term=error_term):
            expected = model(TOKENS)
        found = model.run_with_hooks(TOKENS, fwd_hooks=splice(sae, error_term=error_term))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_steering_by_the_norm_makes_a_step_of_that_length(model: Any) -> None:
    sae, seen = _sae(), []
    x = model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK]
    pairs = [*steer(sae, {3: -0.5}, unit="norm"), (HOOK, lambda activation, hook: seen.append(activation))]
    model.run_with_hooks(TOKENS, fwd_hooks=pairs)
    direction = sae.W_dec[3] / sae.W_dec[3].norm()
    torch.testing.assert_close(seen[0], x - 0.5 * x.norm(dim=-1, keepdim=True) * direction, atol=1e-5, rtol=1e-5)


def test_steering_along_a_tokens_unembedding_raises_its_logit_by_the_known_amount() -> None:
    # No norms and nothing after the hook: the logits are the residual times W_U.
    config = HookedTransformerConfig(
        n_layers=1, d_model=8, n_ctx=16, d_head=4, n_heads=2, d_vocab=20, attn_only=True, normalization_type=None,
        seed=0,
    )  # fmt: skip
    model = HookedTransformer(config)
    sae = _sae(hook="blocks.0.hook_resid_post", d_in=8)
    sae.W_dec[5] = model.W_U[:, 7]
    tokens = torch.arange(6)[None]
    pairs: list[Any] = steer(sae, {5: 3.0}, positions=LAST)
    rise = model.run_with_hooks(tokens, fwd_hooks=pairs) - model(tokens)
    torch.testing.assert_close(rise[0, -1], 3.0 * model.W_U[:, 7] @ model.W_U, atol=1e-6, rtol=1e-5)
    assert rise[0, -1, 7] == pytest.approx(3.0 * float(model.W_U[:, 7].square().sum()), rel=1e-4)
    assert rise[0, -1, 7] > 0
    assert rise[0, :-1].count_nonzero() == 0


def test_resample_takes_whole_rows_by_place_in_the_text_or_permutes_the_pass(model: Any) -> None:
    sae = _sae()
    x = model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK]
    acts = sae.encode(x)
    chosen = [1, 5, 9]
    table = torch.rand(50, 64, generator=torch.Generator().manual_seed(0))

    def new_acts(**settings: Any) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        pairs = [*ablate(sae, chosen, mode="resample", **settings), (HOOK, lambda a, hook: seen.append(a))]
        model.run_with_hooks(TOKENS, fwd_hooks=pairs)
        # d is not orthogonal: solve for what was added
        step = (seen[0] - x).flatten(0, 1)
        added = torch.linalg.lstsq(sae.W_dec[chosen].T, step.T).solution.T
        return acts[..., chosen] + added.view(2, 12, 3)

    given = new_acts(values=table, seed=1)
    torch.testing.assert_close(given[0], given[1], atol=1e-5, rtol=1e-5)  # place alone decides
    distance = torch.cdist(given[0], table[:, chosen])
    assert distance.amin(1).max() < 1e-3  # each is a row of the table
    assert len(distance.argmin(1).unique()) > 3
    torch.testing.assert_close(new_acts(values=table[:, chosen], seed=1), given)
    assert not torch.allclose(new_acts(values=table, seed=2), given)

    permuted = new_acts(seed=3).flatten(0, 1)
    own = acts[..., chosen].flatten(0, 1)
    torch.testing.assert_close(permuted.sum(0), own.sum(0), atol=1e-4, rtol=1e-4)
    assert torch.cdist(permuted, own).amin(1).max() < 1e-3
    assert not torch.allclose(permuted, own, atol=1e-3)
    with pytest.raises(ModelError, match="single position; pass values="):
        model.run_with_hooks(TOKENS[:1, :1], fwd_hooks=ablate(sae, chosen, mode="resample"))


def test_record_writes_the_activations_of_each_pass(model: Any) -> None:
    sae, seen, two = _sae(), Recording(), Recording()
    x = model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK]
    with pytest.raises(ConfigError, match="nothing has been recorded"):
        seen.text(0)
    model.run_with_hooks(
        TOKENS, fwd_hooks=[*record(sae, seen), *record(sae, two, features=[7, 3], positions=from_token(10))]
    )
    torch.testing.assert_close(seen.text(1), sae.encode(x)[1])
    torch.testing.assert_close(two.text(1), sae.encode(x)[1, 10:][:, [7, 3]])
    assert two.passes[0].row.tolist() == [0, 0, 1, 1]
    assert two.passes[0].position.tolist() == [10, 11, 10, 11]


def test_several_interventions_run_in_order_at_one_hook_and_together_at_several(model: Any) -> None:
    first, second = _sae(), _sae(hook="blocks.0.hook_mlp_out")
    both = steer(first, {1: 2.0, 2: -1.0})
    one_by_one = [*steer(first, {1: 2.0}), *steer(first, {2: -1.0})]
    torch.testing.assert_close(
        model.run_with_hooks(TOKENS, fwd_hooks=both), model.run_with_hooks(TOKENS, fwd_hooks=one_by_one)
    )

    def at_both(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return (first if hook.name in (HOOK, "blocks.1.hook_out") else second)(activation)

    expected = model.run_with_hooks(TOKENS, fwd_hooks=[(HOOK, at_both), ("blocks.0.hook_mlp_out", at_both)])
    torch.testing.assert_close(model.run_with_hooks(TOKENS, fwd_hooks=splice([first, second])), expected)


def test_a_transcoder_reads_at_its_input_and_acts_at_its_output(model: Any) -> None:
    where: dict[str, Any] = {"hook": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    transcoder = _sae(SkipTranscoder, SkipTranscoderConfig, d_out=HIDDEN, apply_b_dec_to_input=False, **where)
    _, cache = model.run_with_cache(TOKENS, names_filter=list(where.values()))
    x, out = cache[where["hook"]], cache[where["hook_name_out"]]
    acts = transcoder.encode(x)
    feature = int((acts > 0).flatten(0, 1).sum(0).argmax())
    for pairs, want in (
        (splice(transcoder), transcoder(x)),
        (splice(transcoder, error_term=True), out),
        (ablate(transcoder, [feature]), out - acts[..., [feature]] * transcoder.W_dec[feature]),
        (steer(transcoder, {feature: 3.0}), out + 3.0 * transcoder.W_dec[feature]),
    ):
        for m, run in ((model, model), (model.plain, lambda tokens: model.plain(tokens).logits)):
            seen: list[torch.Tensor] = []
            keep = (where["hook_name_out"], lambda a, hook, seen=seen: seen.append(a))
            with attached(m, [*pairs, keep]):
                run(TOKENS)
            torch.testing.assert_close(seen[0], want, atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="add both pairs"):
        model.run_with_hooks(TOKENS, fwd_hooks=splice(transcoder)[1:])


def test_a_bfloat16_model_gets_bfloat16_back_computed_in_float32() -> None:
    model = tiny_hf_model("gemma3", VOCABULARY).to(torch.bfloat16)
    sae, seen = _sae(), []
    x: list[torch.Tensor] = []
    pairs = [
        (HOOK, lambda activation, hook: x.append(activation.clone())),
        *clamp(sae, {3: 1.0}, positions=from_token(3)),
        (HOOK, lambda activation, hook: seen.append(activation)),
    ]
    with attached(model, pairs):
        model(TOKENS)
    assert seen[0].dtype == torch.bfloat16
    assert torch.equal(seen[0][:, :3], x[0][:, :3])
    wide = x[0].float()
    expected = (wide + (1.0 - sae.encode(wide)[..., [3]]) * sae.W_dec[3]).bfloat16()
    torch.testing.assert_close(seen[0][:, 3:], expected[:, 3:], atol=0, rtol=2**-7)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_when_the_pairs_are_made() -> None:
    sae = _sae()
    for make, match in (
        (lambda: steer(sae, {64: 1.0}), "feature 64 does not exist: .* d_sae 64, so its features are 0 to 63"),
        (lambda: ablate(sae, [-1]), "feature -1 does not exist"),
        (lambda: ablate(sae, [1.5]), "must be a whole-number index, got 1.5"),  # type: ignore[list-item]
        (lambda: ablate(sae, [1, 1]), "given twice"),
        (lambda: steer(sae, [3]), "features must be"),  # type: ignore[arg-type]
        (lambda: steer(sae, {3: float("nan")}), "feature 3 must be a finite number"),
        (lambda: steer(sae, {3: 1.0}, unit="mac"), "unit must be one of raw, max, norm, got 'mac'; did you mean max"),  # type: ignore[arg-type]
        (lambda: steer(sae, {3: 1.0}, unit="max"), r"unit 'max' needs maximum=.*feature_statistics.*\.maximum"),
        (lambda: clamp(sae, {3: 1.0}, unit="max", maximum=MAXIMUM[:5]), "maximum must have d_sae = 64 values, got"),
        (lambda: ablate(sae, [3], mode="mean"), r"mode 'mean' needs mean="),
        (lambda: ablate(sae, [3], mode="resample", values=np.ones((4, 2))), "resample needs values"),
        (lambda: steer(sae, {3: 1.0}, positions="genrated"), "did you mean generated"),
    ):
        with pytest.raises(ConfigError, match=match):
            make()
    for broken, match in (
        (_sae(hook=""), "does not name a hook"),
        ("sae", "got str"),
        (
            TemporalSAE(TemporalSAEConfig(d_in=HIDDEN, d_sae=64, n_heads=1, metadata=SAEMetadata(hook_name=HOOK))),
            "depend on other tokens",
        ),
    ):
        with pytest.raises(ModelError, match=match):
            splice(broken)  # type: ignore[arg-type]  # what is tested


def test_a_decoder_that_does_not_add_its_rows_is_refused() -> None:
    class Squared(StandardSAE):
        def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
            return super().decode(2 * feature_acts)

    with pytest.raises(ModelError, match="does not add W_dec's rows"):
        steer(_sae(Squared), {3: 1.0})


def test_an_sae_of_another_width_is_an_error_that_names_the_hook(model: Any) -> None:
    with pytest.raises(ModelError, match=r"activation at blocks.1.hook_out is \[2, 12, 32\].* \[batch, n, 16\]"):
        model.run_with_hooks(TOKENS, fwd_hooks=splice(_sae(d_in=16)))
    with pytest.raises(ModelError, match="cannot be attached to a int"), attached(3, []):
        raise AssertionError


def test_a_loaded_sae_stands_for_its_sae(model: Any) -> None:
    sae: SAE[Any] = _sae()
    loaded = LoadedSae(sae=sae, source="here", sae_id="x", sha256="", hook_name=HOOK, left_out_ids=None)
    assert torch.equal(
        model.run_with_hooks(TOKENS, fwd_hooks=steer(loaded, {3: 5.0})),
        model.run_with_hooks(TOKENS, fwd_hooks=steer(sae, {3: 5.0})),
    )
