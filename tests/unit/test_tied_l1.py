"""`tied_l1` against a literal, separate form of its formula; folding, export, checkpoints, centring."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE, StandardSAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata, TrainCoefficientConfig, TrainingSAE, TrainStepInput, TrainStepOutput
from safetensors.torch import load_file
from torch import nn

import sae_lens_med
from sae_lens_med.errors import ConfigError
from sae_lens_med.saes.tied_l1 import (
    TiedL1TrainingSAE,
    TiedL1TrainingSAEConfig,
    l1_from_published,
    register,
)

D_IN, D_SAE = 6, 11
ALPHA = 0.7


def reference(
    E: torch.Tensor, b: torch.Tensor, x: torch.Tensor, alpha: float, m: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cunningham et al. 2023 with the squared error summed over d_in: features, reconstruction, loss."""
    norms = torch.stack([(row * row).sum().sqrt() for row in E]).clamp(min=1e-8)
    M = E / norms[:, None]
    c = torch.clamp((x - m) @ M.T + b, min=0)
    x_hat = c @ M + m
    squared = torch.stack([(row * row).sum() for row in x - x_hat]).mean()
    return c, x_hat, squared + alpha * torch.stack([row.abs().sum() for row in c]).mean()


def make(seed: int = 0, **settings: Any) -> TiedL1TrainingSAE:
    """A float64 SAE with random E (rows of different norms), b and data-like sizes."""
    config: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float64", "l1_coefficient": ALPHA}
    sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(**config | settings))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.E.copy_(torch.randn(sae.E.shape, generator=random) * torch.arange(1, sae.cfg.d_sae + 1)[:, None])
        sae.b_enc.copy_(0.3 * torch.randn(sae.cfg.d_sae, generator=random))
    return sae


def data(n: int = 8, seed: int = 1, d_in: int = D_IN) -> torch.Tensor:
    x = torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * x + torch.arange(d_in)  # off-centre, as a residual stream is


def step(sae: TiedL1TrainingSAE, x: torch.Tensor, l1: float = ALPHA) -> TrainStepOutput:
    return sae.training_forward_pass(TrainStepInput(x, {"l1": l1}, None, 0, False))


def trained(**settings: Any) -> TiedL1TrainingSAE:
    """Some steps of Adam, so that no parameter is as it was made."""
    sae = make(**settings)
    optimizer = torch.optim.Adam([sae.E, sae.b_enc], lr=0.05)
    for i in range(5):
        optimizer.zero_grad()
        step(sae, data(seed=10 + i)).loss.backward()
        optimizer.step()
    return sae


# The formula


@pytest.mark.parametrize("center", ["none", "mean"])
def test_forward_loss_and_gradient_are_those_of_the_formula(center: str) -> None:
    sae, x = make(center=center), data()
    E = sae.E.detach().clone().requires_grad_()
    b = sae.b_enc.detach().clone().requires_grad_()
    m = x.mean(0) if center == "mean" else torch.zeros(D_IN, dtype=torch.float64)

    out = step(sae, x)
    c, x_hat, loss = reference(E, b, x, ALPHA, m)
    torch.testing.assert_close(out.feature_acts, c)
    torch.testing.assert_close(out.sae_out, x_hat)
    torch.testing.assert_close(out.loss, loss)
    assert 0 < (c > 0).double().mean() < 1

    out.loss.backward()
    loss.backward()
    torch.testing.assert_close(sae.E.grad, E.grad)
    torch.testing.assert_close(sae.b_enc.grad, b.grad)
    assert sae.b_dec.grad is None
    # outside training: the same features and reconstruction
    torch.testing.assert_close(sae.encode(x), c)
    torch.testing.assert_close(sae(x), x_hat)


def test_the_losses_add_up() -> None:
    out = step(make(), data())
    assert set(out.losses) == {"mse_loss", "l1_loss"}
    torch.testing.assert_close(out.loss, out.losses["mse_loss"] + out.losses["l1_loss"])


class Loss(nn.Module):
    def __init__(self, sae: TiedL1TrainingSAE, x: torch.Tensor) -> None:
        super().__init__()
        self.sae, self.x = sae, x

    def forward(self) -> torch.Tensor:
        return step(self.sae, self.x).loss


def test_the_gradient_is_that_of_finite_differences() -> None:
    loss = Loss(make(d_in=3, d_sae=4), data(n=5, d_in=3))

    def of(E: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(loss, {"sae.E": E, "sae.b_enc": b}, ())

    E, b = (p.detach().clone().requires_grad_() for p in (loss.sae.E, loss.sae.b_enc))
    assert torch.autograd.gradcheck(of, (E, b))


def test_the_gradient_turns_rows_and_does_not_stretch_them() -> None:
    sae = make()
    step(sae, data()).loss.backward()
    assert sae.E.grad is not None
    along = (sae.E * sae.E.grad).sum(1)
    assert sae.E.grad.norm(dim=1).min() > 1e-3
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-9)


def test_the_coefficient_of_the_step_is_used_and_its_warm_up_is_passed_on() -> None:
    sae = make(l1_warm_up_steps=25)
    assert sae.get_coefficients() == {"l1": TrainCoefficientConfig(ALPHA, 25)}
    x = data()
    whole, half, none = (step(sae, x, l1).losses["l1_loss"] for l1 in (ALPHA, ALPHA / 2, 0.0))
    torch.testing.assert_close(half, whole / 2)
    assert none == 0


def test_l1_from_published_keeps_the_optimum() -> None:
    alpha = 8.577e-4
    assert l1_from_published(alpha, 512) == pytest.approx(0.4391, abs=1e-4)
    sae, x = make(), data()
    E, b = (p.detach().clone().requires_grad_() for p in (sae.E, sae.b_enc))
    c, x_hat, _ = reference(E, b, x, 0.0, 0.0)
    published = ((x - x_hat) ** 2).mean() + alpha * c.abs().sum(1).mean()
    published.backward()

    ours = step(sae, x, l1_from_published(alpha, D_IN)).loss
    ours.backward()
    torch.testing.assert_close(ours / D_IN, published)
    assert sae.E.grad is not None
    torch.testing.assert_close(sae.E.grad / D_IN, E.grad)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-4, 4))
@settings(max_examples=30, deadline=None)
def test_rows_are_unit_vectors_and_features_the_same_whatever_the_length_of_E(seed: int, exponent: float) -> None:
    sae, x = make(seed), data()
    before = sae.encode(x)
    with torch.no_grad():
        sae.E.mul_(10.0 ** (exponent * torch.linspace(-1, 1, D_SAE, dtype=torch.float64))[:, None])
    torch.testing.assert_close(sae.M.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(sae.encode(x), before)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_without_bias_features_and_reconstruction_scale_with_the_input(scale: float, seed: int) -> None:
    sae, x = make(seed), data()
    nn.init.zeros_(sae.b_enc)
    torch.testing.assert_close(sae.encode(scale * x), scale * sae.encode(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sae(scale * x), scale * sae(x), rtol=1e-9, atol=1e-9)


def test_a_row_of_zeros_gives_no_nan() -> None:
    sae = make()
    with torch.no_grad():
        sae.E[3] = 0
    step(sae, data()).loss.backward()
    assert sae.E.grad is not None and sae.E.grad.isfinite().all()


# The configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"center": "median"}, "center must be 'none' or 'mean', got 'median'"),
        ({"center_batches": 0}, "center_batches must be at least 1, got 0"),
        ({"l1_coefficient": -1.0}, "l1_coefficient must not be negative, got -1.0"),
        (
            {"normalize_activations": "layer_norm"},
            "cannot be trained with normalize_activations='layer_norm'.*use 'none' or 'expected_average_only_in'",
        ),
        (
            {"center": "mean", "apply_b_dec_to_input": False},
            "center='mean' subtracts the mean from the input; leave apply_b_dec_to_input at True",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TiedL1TrainingSAEConfig(d_in=4, d_sae=8, **settings)


def test_it_is_registered_once_and_only_for_training() -> None:
    register()
    register()
    assert sae_lens_med.TiedL1TrainingSAE is TiedL1TrainingSAE
    assert SAE_TRAINING_CLASS_REGISTRY["tied_l1"] == (TiedL1TrainingSAE, TiedL1TrainingSAEConfig)
    assert "tied_l1" not in SAE_CLASS_REGISTRY


def test_the_config_comes_back_from_its_dict() -> None:
    config = TiedL1TrainingSAEConfig(d_in=4, d_sae=8, center="mean", center_batches=3, l1_warm_up_steps=5)
    again = TiedL1TrainingSAEConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    sae = TrainingSAE.from_dict(config.to_dict())
    assert isinstance(sae, TiedL1TrainingSAE)


# Weights


@pytest.mark.parametrize(("init_norm", "want"), [(0.1, 0.1), (1.0, 1.0), (None, 1.0)])
def test_initial_weights(init_norm: float | None, want: float) -> None:
    sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(d_in=5, d_sae=40, decoder_init_norm=init_norm))
    torch.testing.assert_close(sae.E.norm(dim=1), torch.full((40,), want))
    assert {n: tuple(p.shape) for n, p in sae.named_parameters()} == {"E": (40, 5), "b_enc": (40,), "b_dec": (5,)}
    assert {n for n, p in sae.named_parameters() if p.requires_grad} == {"E", "b_enc"}
    assert not sae.b_enc.any() and not sae.b_dec.any()


def test_encoder_and_decoder_are_one_matrix() -> None:
    sae = make()
    assert sae.W_enc.shape == (D_IN, D_SAE) and sae.W_dec.shape == (D_SAE, D_IN)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    assert set(sae.log_histograms()) == {"weights/W_dec_norms"}


@pytest.mark.parametrize("center", ["none", "mean"])
def test_a_checkpoint_comes_back_and_shares_no_storage(center: str, tmp_path: Path) -> None:
    sae = trained(center=center, center_batches=3, normalize_activations="expected_average_only_in")
    state = sae.state_dict()
    assert set(state) == {"E", "b_enc", "b_dec", "act_scale", "centered_batches", "takes_sparse_path"}
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == len(state)
    sae.save_model(tmp_path)
    again = TrainingSAE.load_from_disk(tmp_path)
    assert isinstance(again, TiedL1TrainingSAE)
    assert again.cfg == sae.cfg
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name
    assert again.centered_batches == (3 if center == "mean" else 0)
    assert not again.b_dec.requires_grad
    torch.testing.assert_close(step(again, data()).loss, step(sae, data()).loss, rtol=0, atol=0)


# Centring


def test_the_centre_is_the_mean_of_the_first_batches_and_then_stays() -> None:
    sae = make(center="mean", center_batches=3)
    batches = [data(seed=s) for s in range(20, 26)]
    for i, batch in enumerate(batches):
        sae(data(seed=99))  # only training steps count
        step(sae, batch)
        seen = torch.cat(batches[: min(i + 1, 3)])
        torch.testing.assert_close(sae.b_dec.detach(), seen.mean(0))
    assert sae.centered_batches == 3


def test_without_centring_nothing_is_subtracted() -> None:
    sae = make()
    step(sae, data())
    assert not sae.b_dec.any() and sae.centered_batches == 0


def test_centring_goes_on_where_a_checkpoint_stopped(tmp_path: Path) -> None:
    batches = [data(seed=s) for s in range(30, 35)]
    whole, first = make(center="mean", center_batches=4), make(center="mean", center_batches=4)
    for batch in batches:
        step(whole, batch)
    for batch in batches[:2]:
        step(first, batch)
    first.save_model(tmp_path)
    second = make(seed=5, center="mean", center_batches=4)  # the stock runner loads into a new SAE
    second.load_weights_from_checkpoint(tmp_path)
    for batch in batches[2:]:
        step(second, batch)
    assert torch.equal(second.b_dec, whole.b_dec)
    assert torch.equal(second.centered_batches, whole.centered_batches)


# Folding and export

FORMS = [
    {"center": center, "normalize_activations": normalize}
    for center in ("none", "mean")
    for normalize in ("none", "expected_average_only_in")
]
SCALE = 0.037


def finished(form: dict[str, str]) -> TiedL1TrainingSAE:
    """Trained, and folded as SAELens' trainer does at the end."""
    sae = trained(**form)
    if form["normalize_activations"] != "none":
        sae.fold_activation_norm_scaling_factor(SCALE)
    return sae


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", ["none", "mean"])
def test_folding_the_activation_scaling_keeps_features_and_reconstruction(center: str) -> None:
    sae = trained(center=center, normalize_activations="expected_average_only_in")
    raw = data(seed=3) / SCALE
    features, reconstruction = sae.encode(raw * SCALE), sae(raw * SCALE) / SCALE
    assert features.any()
    sae.fold_activation_norm_scaling_factor(SCALE)
    assert sae.cfg.normalize_activations == "none"
    torch.testing.assert_close(sae.encode(raw), features)
    torch.testing.assert_close(sae(raw), reconstruction)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f.values()))
def test_the_export_is_saelens_standard_with_the_same_values(form: dict[str, str], tmp_path: Path) -> None:
    sae, x = finished(form), data(seed=4)
    sae.cfg.metadata = SAEMetadata(model_name="tiny", hook_name="blocks.1.hook_resid_post")
    sae.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    assert type(exported) is StandardSAE
    assert exported.cfg.normalize_activations == "none"
    assert exported.cfg.apply_b_dec_to_input
    for name, value in exported.state_dict().items():
        assert torch.equal(value, getattr(sae, name)), name
    assert set(load_file(tmp_path / "sae_weights.safetensors")) == {"W_enc", "W_dec", "b_enc", "b_dec"}
    same(exported.encode(x), sae.encode(x))
    same(exported(x), sae(x))
    assert bool(exported.b_dec.any()) == (form["center"] == "mean")
    metadata: Any = exported.cfg.metadata.to_dict()
    assert metadata["training_architecture"] == "tied_l1"
    assert metadata["training_architecture_details"]["center"] == form["center"]
    assert metadata["training_architecture_details"]["l1_coefficient"] == ALPHA
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f.values()))
def test_folding_the_decoder_norm_changes_no_reconstruction(form: dict[str, str], tmp_path: Path) -> None:
    sae, x = finished(form), data(seed=6)
    sae.save_inference_model(tmp_path)
    scale = SCALE if form["normalize_activations"] != "none" else 1.0
    features, reconstruction = sae.encode(x), sae(x)

    norms = sae.fold_and_get_W_dec_norm()
    torch.testing.assert_close(norms, torch.full((D_SAE,), 1 / scale, dtype=torch.float64))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(sae(x), reconstruction)
    torch.testing.assert_close(sae.encode(x), features / scale)
    sae.fold_W_dec_norm()  # a second time: nothing
    torch.testing.assert_close(sae(x), reconstruction)

    exported = SAE.load_from_disk(tmp_path, fold_W_dec_norm=True)
    torch.testing.assert_close(exported.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(exported(x), reconstruction)
    torch.testing.assert_close(exported.encode(x), sae.encode(x))


def test_folding_the_decoder_norm_before_the_scaling_changes_nothing() -> None:
    form = {"center": "mean", "normalize_activations": "expected_average_only_in"}
    plain, folded, x = trained(**form), trained(**form), data(seed=7)
    folded.fold_W_dec_norm()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, folded.state_dict()[name]), name
    for sae in (plain, folded):
        sae.fold_activation_norm_scaling_factor(SCALE)
    assert torch.equal(plain(x), folded(x))
