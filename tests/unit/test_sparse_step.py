"""The sparse step against a dense one written with autograd, from no active entry to all of them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from transformer_lens.hook_points import HookPoint

from sae_lens_med.saes import sparse_step
from sae_lens_med.saes.kernels import cpu as kernels_cpu
from sae_lens_med.saes.kernels import torch as kernels_torch
from sae_lens_med.saes.kernels.active import ActiveSet, Kernels
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
from tests.tiny import tiny_trainer

ALL_KERNELS = pytest.mark.parametrize("kernels", [kernels_torch, kernels_cpu], ids=["torch", "cpu"])


def dense(x: torch.Tensor, E: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c and x̂ as the formula has them."""
    M = E / E.pow(2).sum(1, keepdim=True).sqrt()
    c = torch.relu(x @ M.T + b)
    return c, c @ M


def loss_of(c: torch.Tensor, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A loss that reads every output; not the SAE's, so that nothing fits by accident."""
    return (x_hat - x).pow(2).sum(1).mean() + 0.3 * c.sum() / len(x) + 0.01 * c.pow(2).sum()


def problem(
    n: int, d_in: int, d_sae: int, density: float, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[torch.Tensor]:
    """x, E, b such that about `density` of the entries are active; no pre-activation lies where rounding decides."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_in, generator=random, dtype=torch.float64)
    E = torch.randn(d_sae, d_in, generator=random, dtype=torch.float64) * (1 + torch.arange(d_sae) % 5)[:, None]
    pre = x @ (E / E.norm(dim=1, keepdim=True)).T
    cut = pre.quantile(1 - density).item() if 0 < density < 1 else (pre.max() + 1 if density == 0 else pre.min() - 1)
    b = torch.full((d_sae,), -float(cut), dtype=torch.float64) + 0.01 * torch.randn(
        d_sae, generator=random, dtype=torch.float64
    )
    return [t.to(dtype).requires_grad_() for t in (x, E, b)]


def to_dense(acts: ActiveSet, d_sae: int) -> torch.Tensor:
    return acts.to_coo(d_sae).to_dense()


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest value: a sum's rounding is that of its largest term. The inputs are of size 1."""
    assert got.shape == wanted.shape
    if wanted.numel():
        assert (got - wanted).abs().max().item() <= tolerance * max(wanted.abs().max().item(), 0.1)


def assert_equal_to_dense(
    x: torch.Tensor, E: torch.Tensor, b: torch.Tensor, kernels: Kernels | None, **how: Any
) -> None:
    """Values and gradients of both, in float32 against float64."""
    x64, E64, b64 = (t.detach().double().requires_grad_() for t in (x, E, b))
    c, x_hat = dense(x64, E64, b64)
    loss_of(c, x_hat, x64.detach()).backward()
    acts, sparse_x_hat = sparse_step.encode_decode(x, E, b, kernels=kernels, **how)
    loss = loss_of(acts.values, sparse_x_hat, x.detach())
    for t in (x, E, b):
        t.grad = None
    loss.backward()
    close(to_dense(acts, len(E)).double(), c)
    close(sparse_x_hat.double(), x_hat)
    for sparse, full in ((x, x64), (E, E64), (b, b64)):
        assert sparse.grad is not None and full.grad is not None
        close(sparse.grad.double(), full.grad)


@ALL_KERNELS
@pytest.mark.parametrize("density", [0.0, 0.003, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(64, 32, 256), (37, 53, 131), (1, 7, 3), (5, 2, 40)])
def test_equals_the_dense_step_at_every_density(kernels: Kernels, density: float, shape: tuple[int, int, int]) -> None:
    assert_equal_to_dense(*problem(*shape, density), kernels=kernels, bf16_filter=False)


@pytest.mark.parametrize("density", [0.0, 0.003, 0.05, 0.5, 1.0])
def test_the_bfloat16_filter_changes_no_result(density: float) -> None:
    x, E, b = problem(64, 96, 500, density)
    inv_norm = 1 / E.detach().norm(dim=1)
    M = E.detach() * inv_norm[:, None]
    plain, plain_x_hat = kernels_cpu.forward(x.detach(), M, b.detach(), bf16_filter=False)
    filtered, filtered_x_hat = kernels_cpu.forward(x.detach(), M, b.detach(), bf16_filter=True)
    assert torch.equal(plain.crow, filtered.crow) and torch.equal(plain.col, filtered.col)
    close(filtered.values, plain.values, 2e-6)
    close(filtered_x_hat, plain_x_hat, 2e-6)


@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 90), st.floats(0, 1), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_shape(n: int, d_in: int, d_sae: int, density: float, seed: int, bf16: bool) -> None:
    x, E, b = (t.detach() for t in problem(n, d_in, d_sae, density, seed=seed))
    M = E / E.norm(dim=1, keepdim=True)
    acts, x_hat = kernels_cpu.forward(x, M, b, bf16_filter=bf16)
    pre = x.double() @ M.double().T + b.double()
    got = to_dense(acts, d_sae).double()
    assert (got - pre.relu()).abs().max() <= 1e-5 * max(1.0, pre.abs().max().item())
    close(x_hat.double(), pre.relu() @ M.double(), 1e-5)
    for row in range(n):
        columns = acts.col[acts.crow[row] : acts.crow[row + 1]]
        assert (columns.diff() > 0).all()


@given(st.integers(0, 10_000), st.floats(1, 1e4))
@settings(max_examples=40, deadline=None)
def test_the_filter_misses_nothing_near_the_threshold(seed: int, size: float) -> None:
    """Rows of large norm and pre-activations that a bfloat16 product gets wrong in sign."""
    random = torch.Generator().manual_seed(seed)
    x = size * torch.randn(8, 64, generator=random) + torch.linspace(0, size, 8)[:, None]
    M = torch.nn.functional.normalize(torch.randn(200, 64, generator=random), dim=1)
    b = -(x[0].double() @ M.double().T).float() + 1e-4 * size * torch.randn(200, generator=random)
    pre = x.double() @ M.double().T + b.double()
    wrong = ((x.bfloat16() @ M.bfloat16().T + b.bfloat16()).double() > 0) != (pre > 0)
    acts, _ = kernels_cpu.forward(x, M, b, bf16_filter=True)
    sure = pre.abs() > 1e-5 * size
    assert ((to_dense(acts, 200) > 0) == (pre > 0))[sure].all()
    assert wrong.any()  # else the example shows nothing


@ALL_KERNELS
def test_empty_rows_and_features(kernels: Kernels) -> None:
    x, E, b = problem(40, 16, 100, 0.1)
    with torch.no_grad():
        x[::3] = 0
        b.clamp_(max=-0.1)  # so that a zero row has no active feature
        b[::7] = -100
    assert_equal_to_dense(x, E, b, kernels, bf16_filter=False)
    acts, _ = sparse_step.encode_decode(x, E, b, kernels=kernels)
    c = to_dense(acts.__class__(acts.crow, acts.col, acts.values.detach()), 100)
    assert (c[::3] == 0).all() and (c[:, ::7] == 0).all() and (c > 0).any()


@ALL_KERNELS
def test_input_that_is_not_contiguous(kernels: Kernels) -> None:
    x, E, b = problem(32, 24, 80, 0.1)
    strided = [
        torch.stack([x.detach(), x.detach()], dim=2)[:, :, 0].requires_grad_(),
        E.detach().T.contiguous().T.requires_grad_(),
        torch.stack([b.detach(), b.detach()], dim=1)[:, 0].requires_grad_(),
    ]
    assert not any(t.is_contiguous() for t in strided)
    assert_equal_to_dense(*strided, kernels=kernels, bf16_filter=False)


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_gradcheck_in_float64(density: float) -> None:
    x, E, b = problem(6, 5, 9, density, torch.float64)

    def both(x: torch.Tensor, E: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        acts, x_hat = sparse_step.encode_decode(x, E, b)
        return x_hat, acts.values

    assert sparse_step.kernels_for(x) is kernels_torch
    assert torch.autograd.gradcheck(both, (x, E, b))


@pytest.mark.parametrize(("kernels", "bf16"), [(kernels_cpu, False), (kernels_cpu, True), (kernels_torch, False)])
def test_nan_is_not_lost(kernels: Kernels, bf16: bool) -> None:
    """A feature or an input that has become NaN must show in the loss, whatever the sign of the NaN."""
    x, E, b = (t.detach() for t in problem(8, 32, 64, 0.05))
    M = E / E.norm(dim=1, keepdim=True)
    for sign in (1.0, -1.0):
        bad = M.clone()
        bad[5] = np.copysign(float("nan"), sign)
        acts, x_hat = kernels.forward(x, bad, b, bf16_filter=bf16)
        assert x_hat.isnan().all() and acts.values.isnan().sum() == 8


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, E, b = problem(50, 24, 300, 0.05)
    before = torch.get_num_threads()
    results, used = [], []
    each = kernels_cpu._each
    monkeypatch.setattr(kernels_cpu, "_each", lambda work, n: (used.append(n), each(work, n)))
    try:
        for threads, least in ((1, 1), (2, 1), (3, 1), (1, 1), (3, kernels_cpu.LEAST_SHARE)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(kernels_cpu, "LEAST_SHARE", least)
            used.clear()
            acts, x_hat = kernels_cpu.forward(x.detach(), E.detach(), b.detach(), bf16_filter=True)
            g_values = torch.ones_like(acts.values)
            gradients = kernels_cpu.backward(acts, x_hat, g_values, x.detach(), E.detach(), b.detach(), needs_x=True)
            results.append([acts.crow, acts.col, acts.values, x_hat, *gradients])
            # Every thread has its share where there is enough to do, and no other is woken where there is not.
            assert set(used) == {threads if least == 1 else 1}
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))  # type: ignore[arg-type]


def test_a_full_buffer_grows() -> None:
    """Every entry active: many more than the buffers first have room for."""
    x, E, b = problem(3, 8, 3000, 1.0)
    acts, _ = sparse_step.encode_decode(x, E, b, bf16_filter=False)
    assert acts.crow.tolist() == [0, 3000, 6000, 9000]


# The path that a batch takes


def test_the_path_has_hysteresis() -> None:
    low, between, high = 0.01, 0.05, 0.2
    path = [False]
    for density in (high, between, low, between, high, between, low):
        path.append(sparse_step.next_path_is_sparse(path[-1], density))
    assert path == [False, False, False, True, True, False, False, True]


def sae_at(density: float, d_in: int = 32, d_sae: int = 512, **settings: Any) -> tuple[TiedL1TrainingSAE, torch.Tensor]:
    x, E, b = (t.detach() for t in problem(128, d_in, d_sae, density))
    sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(d_in=d_in, d_sae=d_sae, device="cpu", **settings))
    with torch.no_grad():
        sae.E.copy_(E)
        sae.b_enc.copy_(b)
    return sae, x


def forward(sae: TiedL1TrainingSAE, x: torch.Tensor) -> TrainStepOutput:
    return sae.training_forward_pass(TrainStepInput(x, {"l1": 0.7}, None, 0, False))


@pytest.mark.parametrize("settings", [{}, {"center": "mean"}, {"center": "mean", "center_batches": 1}])
def test_both_paths_of_the_sae_agree(settings: dict[str, Any]) -> None:
    sae, x = sae_at(0.02, **settings)
    if "center_batches" not in settings:
        sae.act_scale.fill_(1.7)
    sae.training_forward_pass(TrainStepInput(x, {"l1": 0.7}, None, 0, False))
    x = x + 0.1
    results = []
    for sparse in (False, True):
        sae.takes_sparse_path.fill_(sparse)
        sae.centered_batches.fill_(10)
        sae.zero_grad()
        out = forward(sae, x)
        out.loss.backward()
        assert out.feature_acts.is_sparse is sparse
        assert sae.E.grad is not None and sae.b_enc.grad is not None
        acts = out.feature_acts.to_dense() if sparse else out.feature_acts
        results.append([out.loss, *out.losses.values(), out.sae_out, acts, sae.E.grad.clone(), sae.b_enc.grad.clone()])
    for a, b in zip(*results, strict=True):
        close(b, a)


def test_a_batch_with_many_active_features_is_dense_and_the_next_ones_follow_the_density() -> None:
    sae, x = sae_at(0.02)
    assert not forward(sae, x).feature_acts.is_sparse
    assert forward(sae, x).feature_acts.is_sparse
    with torch.no_grad():
        sae.b_enc.add_(10)
    assert forward(sae, x).feature_acts.is_sparse  # it is not known before
    assert not forward(sae, x).feature_acts.is_sparse


def test_a_hook_on_the_sae_sees_the_whole_batch() -> None:
    sae, x = sae_at(0.02)
    forward(sae, x)
    seen: list[torch.Size] = []

    def look(tensor: torch.Tensor, *, hook: HookPoint) -> None:
        seen.append(tensor.shape)

    sae.hook_sae_acts_post.add_hook(look)
    assert not forward(sae, x).feature_acts.is_sparse
    sae.reset_hooks()
    assert seen == [(128, 512)] and forward(sae, x).feature_acts.is_sparse


def test_half_precision_stays_dense_and_autocast_does_not_round_the_values() -> None:
    sae, x = sae_at(0.02, dtype="bfloat16")
    forward(sae, x)
    assert bool(sae.takes_sparse_path) and not forward(sae, x).feature_acts.is_sparse
    sae, x = sae_at(0.02)
    sae.takes_sparse_path.fill_(True)
    plain = forward(sae, x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = forward(sae, x)
    assert torch.equal(plain.feature_acts.to_dense(), cast.feature_acts.to_dense())


def use(tensor: torch.Tensor, *, hook: HookPoint) -> None:
    """A hook that looks at nothing."""


def train(x: torch.Tensor, steps: int, *, dense_path: bool) -> tuple[float, float]:
    """L0 and explained variance on `x` after training on it with SAELens' trainer."""
    torch.manual_seed(0)
    sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(d_in=48, d_sae=256, l1_coefficient=1.0, device="cpu"))
    if dense_path:
        sae.hook_sae_acts_post.add_hook(use)
    trainer = tiny_trainer(sae, 256)
    order = torch.Generator().manual_seed(1)
    sparse_steps = 0
    for _ in range(steps):
        out = trainer.step(x[torch.randint(len(x), (256,), generator=order)])
        trainer.n_training_steps += 1
        sparse_steps += out.feature_acts.is_sparse
    assert sparse_steps == 0 if dense_path else sparse_steps > steps / 2
    sae.reset_hooks()
    with torch.no_grad():
        acts = sae.encode(x)
        error = x - sae.decode(acts)
    variance = (x - x.mean(0)).pow(2).sum()
    return (acts > 0).float().sum(1).mean().item(), 1 - (error.pow(2).sum() / variance).item()


def test_two_thousand_steps_by_either_path_end_alike() -> None:
    """On data that one dictionary explains best. Where many do, training is chaotic: a dense run ends 1.5 % away from
    itself when its input is multiplied by 1 + 1e-7; here 0.1 %."""
    random = torch.Generator().manual_seed(3)
    truth = torch.nn.functional.normalize(torch.randn(64, 48, generator=random), dim=1)
    codes = (torch.rand(8192, 64, generator=random) < 0.05) * torch.rand(8192, 64, generator=random) * 6
    x = codes @ truth + 0.05 * torch.randn(8192, 48, generator=random)
    dense_l0, dense_ev = train(x, 2000, dense_path=True)
    sparse_l0, sparse_ev = train(x, 2000, dense_path=False)
    assert sparse_l0 == pytest.approx(dense_l0, rel=5e-3)
    assert sparse_ev == pytest.approx(dense_ev, rel=5e-3)


def test_with_an_initial_density_training_is_sparse_from_the_first_step() -> None:
    x, _, _ = (t.detach() for t in problem(400, 32, 300, 0.1))
    sae = TiedL1TrainingSAE(TiedL1TrainingSAEConfig(d_in=32, d_sae=300, initial_density=0.02, device="cpu"))
    first = forward(sae, x + 5)
    assert first.feature_acts.is_sparse
    assert (first.feature_acts.to_dense() > 0).sum(0).tolist() == [8] * 300
    bias = sae.b_enc.detach().clone()
    sae.training_forward_pass(TrainStepInput(x, {"l1": 0.7}, None, 1, False))
    assert torch.equal(sae.b_enc, bias)  # at the first step only
