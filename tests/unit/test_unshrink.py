"""Gains that undo a known shrinkage, against the normal equations solved densely; what must not change."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from typing_extensions import override

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.training.unshrink import CEILING, FLOOR, unshrink

D_IN, D_SAE = 20, 32


def random_unit_rows(n: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def tied(dictionary: torch.Tensor, bias: float) -> StandardSAE:
    """A `standard` SAE that reads with `dictionary` what it writes with it, shifted by `bias`."""
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=len(dictionary), apply_b_dec_to_input=True))
    with torch.no_grad():
        sae.W_dec.copy_(dictionary)
        sae.W_enc.copy_(dictionary.T)
        sae.b_enc.fill_(bias)
        sae.b_dec.fill_(0.3)
    return sae


def inputs(n: int = 4000, seed: int = 1) -> torch.Tensor:
    return 1.5 * torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))


def explained(sae: StandardSAE, x: torch.Tensor, acts: torch.Tensor | None = None) -> float:
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(x) if acts is None else acts)
    return 1 - ((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()


class Shrinking(StandardSAE):
    """Reads every value smaller than it is: by a factor of its own a feature."""

    shrinkage: torch.Tensor

    @override
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x) * self.shrinkage


def test_the_true_gains_are_found() -> None:
    """An orthogonal dictionary and nonnegative codes: unshrunk, the reconstruction would be exact."""
    basis = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(0)))[0]
    sae = Shrinking(tied(basis, 0.0).cfg)
    sae.load_state_dict(tied(basis, 0.0).state_dict())
    random = torch.Generator().manual_seed(1)
    sae.shrinkage = 0.3 + 0.6 * torch.rand(D_IN, generator=random)
    codes = (torch.rand(3000, D_IN, generator=random) < 0.2) * (1 + torch.rand(3000, D_IN, generator=random))
    x = codes @ basis + 0.3
    found = unshrink(sae, [x], ridges=[1e-2], tolerance=1e-6)
    torch.testing.assert_close(found.gains, 1 / sae.shrinkage, rtol=1e-3, atol=1e-3)
    assert found.fitted[0] < 0.95 and min(found.fitted[1], found.held_back[1]) > 0.9999
    assert explained(sae, x) > 0.9999


@pytest.mark.parametrize("ridge", [0.1, 100.0])
def test_the_gains_solve_the_normal_equations(ridge: float) -> None:
    sae, x = tied(random_unit_rows(D_SAE, 0), -1.0), inputs()
    fitting = torch.cat([chunk for i, chunk in enumerate(x.split(len(x) // 5)) if i % 5 != 4])
    with torch.no_grad():
        c, d = sae.encode(fitting).double(), sae.W_dec.double()
        target = fitting.double() - sae.b_dec.double()
    gram = (c.T @ c) * (d @ d.T)
    penalty = ridge * gram.diagonal() / (c > 0).sum(0)
    # gram @ s - right + penalty * (s - 1) = 0
    right = ((c.T @ target) * d).sum(1)
    want = torch.linalg.solve(gram + torch.diag(penalty), right + penalty)
    assert (want > FLOOR).all() and (want - 1).abs().max() > 0.2
    found = unshrink(sae, x.split(len(x) // 5 * 5), ridges=[ridge], tolerance=1e-7)
    torch.testing.assert_close(found.gains.double(), want, rtol=2e-4, atol=2e-4)
    assert found.n_rows == len(fitting) and found.ridge == ridge


def test_explained_variance_never_falls_and_the_active_set_stays() -> None:
    for seed in range(5):
        sae, x = tied(random_unit_rows(D_SAE, seed), -1.5), inputs(seed=seed + 10)
        before = sae.encode(x).detach()
        W_dec, b_dec, ev = sae.W_dec.clone(), sae.b_dec.clone(), explained(sae, x)
        found = unshrink(sae, x.split(500))
        assert found.fitted[1] >= found.fitted[0] and found.held_back[1] >= found.held_back[0]
        assert explained(sae, x) >= ev
        after = sae.encode(x).detach()
        same = (after > 0) == (before > 0)
        assert same[(before > 1e-5) | (before == 0)].float().mean() > 0.99999
        torch.testing.assert_close(after, before * found.gains, rtol=1e-4, atol=1e-4)
        assert torch.equal(sae.W_dec, W_dec) and torch.equal(sae.b_dec, b_dec)


def test_explained_variance_is_that_of_the_rows_around_their_mean() -> None:
    sae, x = tied(random_unit_rows(D_SAE, 0), -1.0), inputs() + 1
    fitting = torch.cat([chunk for i, chunk in enumerate(x.split(len(x) // 5)) if i % 5 != 4])
    before = explained(sae, fitting)
    found = unshrink(sae, [x], ridges=[10.0])
    assert found.fitted[0] == pytest.approx(before, abs=1e-4)
    assert found.fitted[1] == pytest.approx(explained(sae, fitting), abs=1e-4)
    assert found.held_back[1] == pytest.approx(explained(sae, x[-len(x) // 5 :]), abs=1e-4)


def test_the_ridge_that_is_best_on_rows_held_back_is_chosen_wherever_it_stands() -> None:
    x = inputs()
    alone = {}
    for ridge in (1.0, 1e6):  # one that hardly holds back, one that allows hardly a change
        alone[ridge] = unshrink(tied(random_unit_rows(D_SAE, 0), -1.0), [x], ridges=[ridge]).held_back[1]
    assert alone[1.0] > alone[1e6] + 0.01
    for ridges in ([1.0, 1e6], [1e6, 1.0]):
        found = unshrink(tied(random_unit_rows(D_SAE, 0), -1.0), [x], ridges=ridges)
        assert found.ridge == 1.0
        assert found.held_back[1] == pytest.approx(alone[1.0], rel=1e-4)


def test_limits_that_would_raise_the_error_are_not_gone_to() -> None:
    """Two features that write along one direction; the best gains are -3 and 9, and both limits together are worse
    than no gain at all."""
    random = torch.Generator().manual_seed(0)
    c = 1 + torch.rand(4000, generator=random)
    other = c * (1 + 0.1 * torch.randn(4000, generator=random))
    x = torch.stack([c, other, -6 * c + 9 * other], dim=1)
    sae = StandardSAE(StandardSAEConfig(d_in=3, d_sae=2))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        sae.W_dec.copy_(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 1.0]]))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    found = unshrink(sae, [x], ridges=[1e-3], tolerance=1e-6)
    assert found.ridge is not None
    assert found.n_at_limit == 2
    assert found.fitted[1] > found.fitted[0] and found.held_back[1] > found.held_back[0]
    assert FLOOR < found.gains[0] < 1 < found.gains[1] < CEILING


def test_a_feature_that_should_vanish_stays_at_the_floor_and_the_error_still_falls() -> None:
    rows = random_unit_rows(D_SAE, 3)
    rows[1] = rows[0]  # writes twice what is there once
    sae, x = tied(rows, -1.0), inputs()
    with torch.no_grad():
        sae.W_dec[2] *= -1  # writes the opposite of what it reads: the best gain is negative
    found = unshrink(sae, [x], ridges=[0.1])
    assert found.n_at_limit >= 1
    assert found.gains.min() >= FLOOR - 1e-6 and found.gains[2] < 0.5
    assert found.fitted[1] > found.fitted[0]


def test_features_that_never_fire_keep_their_gain_and_rare_ones_nearly() -> None:
    sae, x = tied(random_unit_rows(D_SAE, 0), -1.0), inputs()
    with torch.no_grad():
        sae.b_enc[5] = -1000
        values = (x - sae.b_dec) @ sae.W_enc[:, 6]
        sae.b_enc[6] = -values.sort().values[-4]  # three firings
    alone = tied(random_unit_rows(D_SAE, 0), -1.0)
    alone.load_state_dict(sae.state_dict())
    freely = unshrink(alone, [x], ridges=[1e-3])
    found = unshrink(sae, [x], ridges=[30.0])
    assert found.gains[5] == 1 and found.n_never_active == 1
    assert sae.b_enc[5] == -1000
    assert freely.gains[6] == pytest.approx(CEILING)  # values just above the threshold: chance rules
    assert freely.n_at_limit == 1
    assert abs(found.gains[6] - 1) < 0.15 * abs(freely.gains[6] - 1)


def test_where_gains_make_other_text_worse_nothing_changes() -> None:
    sae, random = tied(random_unit_rows(D_SAE, 0), -3.0), torch.Generator().manual_seed(4)
    # A handful of rows of noise at the threshold: whatever is fitted to them is chance.
    x = torch.randn(20, D_IN, generator=random)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    found = unshrink(sae, [x], ridges=[1e-6])
    assert found.held_back[1] >= found.held_back[0]
    if found.ridge is None:
        assert found.gains.eq(1).all()
        for name, value in sae.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_it_is_saved_as_standard_and_comes_back(tmp_path: Path) -> None:
    sae, x = tied(random_unit_rows(D_SAE, 0), -1.0), inputs()
    found = unshrink(sae, x.split(500))
    assert found.ridge is not None
    sae.save_model(tmp_path)
    again = SAE.load_from_disk(tmp_path)
    assert type(again) is StandardSAE
    torch.testing.assert_close(again(x), sae(x))
    assert set(found.to_dict()) >= {"explained_variance_held_back", "gain_quantiles_05_50_95", "ridge"}


def test_other_forms_are_refused() -> None:
    topk = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=8, k=2))
    with pytest.raises(ConfigError, match="SAELens' 'standard' only; this SAE is 'topk'"):
        unshrink(topk, [inputs()])
    scaled = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=8, normalize_activations="expected_average_only_in"))
    with pytest.raises(ConfigError, match="the SAE scales its input .*; fold that in first"):
        unshrink(scaled, [inputs()])
    with pytest.raises(DataError, match="cannot be fitted to 3 activations"):
        unshrink(tied(random_unit_rows(D_SAE, 0), -1.0), [inputs(3)])
