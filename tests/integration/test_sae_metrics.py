"""The quality of SAEs whose quality is known: one that loses nothing, one that gives the mean, one in between."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

from sae_lens_med.errors import DataError
from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.training import quality as quality_module
from sae_lens_med.training.quality import cross_entropy_and_kl, measure, spliced_losses
from tests.tiny import ARCHES, HIDDEN, Arch, tiny_model, tiny_sae

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[2, *rng.integers(3, 300, size=n).tolist()] for n in rng.integers(5, 40, size=12)]


@pytest.fixture(scope="module")
def x(model: MedBridge, sequences: list[list[int]]) -> torch.Tensor:
    """The residuals, one sequence at a time, without BOS."""
    return torch.cat([residuals(model, [ids], HOOK)[0][1:] for ids in sequences])


def _sae(W_enc: torch.Tensor, W_dec: torch.Tensor, b_dec: torch.Tensor) -> StandardSAE:
    cfg = StandardSAEConfig(d_in=HIDDEN, d_sae=len(W_dec), metadata=SAEMetadata(hook_name=HOOK, model_name="tiny"))
    sae = StandardSAE(cfg)
    sae.load_state_dict({"W_enc": W_enc, "W_dec": W_dec, "b_enc": torch.zeros(len(W_dec)), "b_dec": b_dec})
    return sae.eval()


def test_an_sae_that_loses_nothing(model: MedBridge, sequences: list[list[int]], x: torch.Tensor) -> None:
    both = torch.cat([torch.eye(HIDDEN), -torch.eye(HIDDEN)])  # ReLU(x) - ReLU(-x) = x
    quality = measure(model, _sae(both.T.contiguous(), both, torch.zeros(HIDDEN)), sequences, sink_multiple=100.0)
    assert quality.n_tokens == len(x)
    assert quality.l0 == pytest.approx(HIDDEN)
    assert quality.explained_variance == pytest.approx(1, abs=1e-5)
    assert quality.ce_loss_score == pytest.approx(1, abs=1e-4)
    assert quality.kl_score == pytest.approx(1, abs=1e-4)


def test_an_sae_that_gives_the_mean_explains_nothing(
    model: MedBridge, sequences: list[list[int]], x: torch.Tensor
) -> None:
    nothing = torch.zeros(4, HIDDEN)
    quality = measure(model, _sae(nothing.T.contiguous(), nothing, x.mean(0)), sequences, sink_multiple=100.0)
    assert quality.l0 == 0
    assert quality.dead_fraction == 1
    assert quality.explained_variance == pytest.approx(0, abs=1e-5)
    assert quality.ce_loss_score == pytest.approx(0, abs=1e-4)
    assert quality.kl_score == pytest.approx(0, abs=1e-4)


def test_every_number_against_its_formula(model: MedBridge, sequences: list[list[int]], x: torch.Tensor) -> None:
    sae = tiny_sae(model, HOOK)
    quality = measure(model, sae, sequences, sink_multiple=1.2)
    norm = x.norm(dim=-1)
    threshold = 1.2 * norm.median()
    kept = x[norm <= threshold]
    assert (quality.n_tokens, quality.n_sinks) == (len(kept), len(x) - len(kept))
    assert quality.n_sinks > 0
    acts = sae.encode(kept)
    error = kept - sae.decode(acts)
    centred = kept - kept.mean(0)
    assert quality.l0 == pytest.approx((acts > 0).sum(1).float().mean().item())
    assert quality.dead_fraction == pytest.approx(((acts > 0).sum(0) == 0).float().mean().item())
    assert quality.explained_variance == pytest.approx(1 - (error**2).sum().item() / (centred**2).sum().item())
    u, s, vh = torch.linalg.svd(centred, full_matrices=False)
    assert quality.first_direction_share == pytest.approx((s[0] ** 2 / (s**2).sum()).item(), rel=1e-4)
    off = torch.eye(HIDDEN) - torch.outer(vh[0], vh[0])
    expected = 1 - ((error @ off) ** 2).sum().item() / ((centred @ off) ** 2).sum().item()
    assert quality.explained_variance_without_first_direction == pytest.approx(expected, rel=1e-3)
    loss = 0.0
    for ids in sequences:
        logits = model.original_model(torch.tensor([ids])).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
    n = sum(len(ids) - 1 for ids in sequences)
    assert quality.n_ce_tokens == n
    assert quality.ce_loss == pytest.approx(loss / n, rel=1e-5)

    # BOS and sinks keep their activation in the spliced runs.
    def spliced_loss(new: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def splice(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = activation.clone()
            for t in range(1, activation.shape[1]):
                if activation[0, t].norm() <= threshold:
                    changed[0, t] = new(activation[0, t])
            return changed

        total = 0.0
        for ids in sequences:
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(HOOK, splice)])[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        return total / n

    assert quality.ce_loss_spliced == pytest.approx(spliced_loss(sae), rel=1e-4)
    assert quality.ce_loss_mean_ablated == pytest.approx(spliced_loss(lambda _: kept.mean(0)), rel=1e-4)


def literal_losses(
    model: MedBridge, sae: Any, sequences: list[list[int]], mean: torch.Tensor, threshold: float
) -> dict[str, float]:
    """Three passes of the bridge a sequence, whole logits, float64."""
    special = torch.tensor(model.text_tokenizer.all_special_ids)
    losses: dict[str, list[torch.Tensor]] = {}
    for ids in sequences:

        def splice(x: torch.Tensor, hook: Any, by: str, ids: list[int] = ids) -> torch.Tensor:
            stays = torch.isin(torch.tensor(ids), special) | (x[0].norm(dim=-1) > threshold)
            return torch.where(stays[None, :, None], x, sae(x) if by == "spliced" else mean.expand_as(x))

        runs = {}
        for by in ("clean", "spliced", "mean_ablated"):
            hooks = [] if by == "clean" else [(sae.cfg.metadata.hook_name, functools.partial(splice, by=by))]
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0, :-1]
            runs[by] = logits.double().log_softmax(-1)
        targets = torch.tensor(ids[1:])
        for by, logp in runs.items():
            losses.setdefault(f"ce {by}", []).append(torch.nn.functional.nll_loss(logp, targets, reduction="none"))
            kl = torch.nn.functional.kl_div(logp, runs["clean"], log_target=True, reduction="none").sum(1)
            losses.setdefault(f"kl {by}", []).append(kl)
    return {key: torch.cat(found).mean().item() for key, found in losses.items()}


def assert_losses(got: dict[str, Any], want: dict[str, float]) -> None:
    assert got["ce_loss"] == pytest.approx(want["ce clean"], rel=1e-5)
    for by in ("spliced", "mean_ablated"):
        assert got[f"ce_loss_{by}"] == pytest.approx(want[f"ce {by}"], rel=1e-5)
        assert got[f"kl_{by}"] == pytest.approx(want[f"kl {by}"], rel=1e-4, abs=1e-6)
    assert got["kl_score"] == pytest.approx(1 - want["kl spliced"] / want["kl mean_ablated"], rel=1e-3)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["hook_resid_post", "hook_resid_pre", "hook_mlp_out", "mlp.hook_in", "hook_resid_mid"])
def test_three_runs_at_once_are_three_runs(
    arch: Arch, name: str, sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the bridge has the hook (hook_resid_mid)."""
    model = tiny_model(arch)
    sae = tiny_sae(model, f"blocks.1.{name}")
    mean = 0.3 * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    rows = residuals(model, [sequences[0]], f"blocks.1.{name}")[0]
    threshold = rows.norm(dim=-1).median().item() * 1.1
    monkeypatch.setattr(quality_module, "BLOCK_VALUES", 3 * 30 * 50)  # several parts of the vocabulary
    assert_losses(
        spliced_losses(model, sae, [[5], *sequences[:5]], mean, threshold),
        literal_losses(model, sae, sequences[:5], mean, threshold),
    )


def test_a_head_that_is_not_linear(sequences: list[list[int]], x: torch.Tensor) -> None:
    model = tiny_model("gemma3")
    sae = tiny_sae(model, HOOK)
    before = spliced_losses(model, sae, sequences[:3], x.mean(0), 100.0)
    models: list[Any] = [model.original_model, model.plain]
    for each in models:
        each.config.final_logit_softcapping = 0.5
    got = spliced_losses(model, sae, sequences[:3], x.mean(0), 100.0)
    assert_losses(got, literal_losses(model, sae, sequences[:3], x.mean(0), 100.0))
    assert got["ce_loss"] != pytest.approx(before["ce_loss"], rel=1e-3)


@pytest.mark.parametrize("width", [1, 7, 64, 300])
def test_logits_in_parts_are_compared_as_whole_ones(width: int) -> None:
    random = torch.Generator().manual_seed(width)
    logits = 10 * torch.randn(3, 9, 300, generator=random) + 30 * torch.randn(3, 9, 1, generator=random)
    logits[2] = logits[0] + 1e-3 * torch.randn(9, 300, generator=random)  # nearly no difference
    targets = torch.tensor([0, 299, 7, 6, 150, 63, 64, 1, 298])
    logp = logits.double().log_softmax(-1)
    ce, kl = cross_entropy_and_kl(iter(logits.clone().split(width, dim=-1)), targets)
    want = -logp[:, torch.arange(9), targets].sum(1)
    torch.testing.assert_close(ce, want, rtol=1e-6, atol=1e-4)
    literal = (logp[:1].exp() * (logp[:1] - logp[1:])).sum(-1).sum(1)
    assert kl[0] == pytest.approx(literal[0].item(), rel=1e-5)
    assert kl[1] == pytest.approx(literal[1].item(), abs=1e-4)


def test_too_little_text_is_refused(model: MedBridge) -> None:
    with pytest.raises(DataError, match="fewer than two tokens"):
        measure(model, tiny_sae(model, HOOK), [[2, 5]])
    with pytest.raises(DataError, match="need a sequence of at least two tokens"):
        measure(model, tiny_sae(model, HOOK), [[5], [6], [7]])
