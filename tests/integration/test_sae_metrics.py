"""The quality of SAEs whose quality is known: one that loses nothing, one that gives the mean, one in between."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

from sae_lens_med.errors import DataError, ReleaseError
from sae_lens_med.models import MedBridge, residuals
from sae_lens_med.training.card import model_card
from sae_lens_med.training.metrics import measure
from tests.tiny import HIDDEN, tiny_model, tiny_sae

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


def test_too_little_text_is_refused(model: MedBridge) -> None:
    with pytest.raises(DataError, match="fewer than two tokens"):
        measure(model, tiny_sae(model, HOOK), [[2, 5]])


def test_a_card_needs_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(ReleaseError, match="lacks metrics.json"):
        model_card("r", HOOK, tmp_path)


def test_the_card_compares_like_with_like(tmp_path: Path) -> None:
    for name, steps in (("a", 5), ("b", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("sae: {architecture: standard}")
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"text": {"sha256": "x"}, "steps": steps, "heldout": {}})
        )
    with pytest.raises(ReleaseError, match="compare like"):
        model_card("r", HOOK, tmp_path / "a", [tmp_path / "b"])
