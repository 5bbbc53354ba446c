"""How good an SAE is, on text that it was not trained on.

Reconstruction, per token t (special tokens never count; x is the residual, x̂ its reconstruction, μ the mean of x):

    explained variance               1 - Σ||x - x̂||² / Σ||x - μ||²            centred: the mean is not counted
    ... without activation sinks     the same over tokens with ||x|| <= sink_multiple x the median norm
    ... without first direction      the same after projecting x - μ and x - x̂ off the first principal direction

Function: the model runs as it is, with x̂ in place of x, and with μ in place of x (the null, mean ablation; `spliced`):

    CE-loss score = (CE_mean - CE_x̂) / (CE_mean - CE_x)        1: nothing is lost; 0: no better than the mean
    KL score      = 1 - KL(p_x || p_x̂) / KL(p_x || p_mean)

Sinks and special tokens keep their activation in the spliced runs: the SAE is not meant for them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_med.errors import DataError
from sae_lens_med.models.bridge import MedBridge, default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.training.harvest import like_length
from sae_lens_med.training.spliced import spliced_losses


@dataclass(frozen=True, slots=True)
class SaeQuality:
    """Metrics of one SAE on held-out text; the module's docstring defines each."""

    n_tokens: int
    """Tokens counted: not special, not sinks."""
    n_sinks: int
    """Tokens left out as activation sinks."""
    sink_threshold: float
    """Norm above which a token is a sink."""
    l0: float
    """Mean number of active features a token."""
    explained_variance: float
    explained_variance_with_sinks: float
    explained_variance_without_first_direction: float
    first_direction_share: float
    """Share of the centred variance that lies along the first principal direction."""
    dead_fraction: float
    """Share of the features that no counted token activates."""
    ce_loss: float
    ce_loss_spliced: float
    ce_loss_mean_ablated: float
    ce_loss_score: float
    kl_spliced: float
    kl_mean_ablated: float
    kl_score: float
    n_ce_tokens: int
    """Predicted tokens in the three runs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@torch.no_grad()
def measure(
    model: MedBridge,
    sae: SAE[Any],
    sequences: Sequence[Sequence[int]],
    *,
    sink_multiple: float = 5.0,
    ce_sequences: int = 64,
) -> SaeQuality:
    """Measure an exported SAE on token sequences (BOS included where the model has one).

    The functional scores use the first `ce_sequences` sequences, since they run the whole model three times.
    """
    hook_name = sae.cfg.metadata.hook_name
    special = torch.tensor(model.text_tokenizer.all_special_ids)
    reader = ResidualReader(model, [hook_name])
    rows = [torch.empty(0)] * len(sequences)
    for batch in like_length(sequences, default_batch_tokens(model)):
        for i, found in zip(batch, reader.read([sequences[i] for i in batch])[hook_name], strict=True):
            rows[i] = found.float().cpu()[~torch.isin(torch.tensor(sequences[i]), special)]
    x = torch.cat(rows)
    if len(x) < 2:
        raise DataError("an SAE cannot be measured on fewer than two tokens; use more text.")
    threshold = sink_multiple * x.norm(dim=-1).median().item()
    ordinary = x.norm(dim=-1) <= threshold
    error, n_active, dead_fraction = _reconstruction(sae, x, ordinary)
    counted, counted_error = x[ordinary], error[ordinary]
    mean = counted.mean(0)
    centred = counted - mean
    direction = _first_direction(centred)
    return SaeQuality(
        n_tokens=len(counted),
        n_sinks=int((~ordinary).sum()),
        sink_threshold=threshold,
        l0=n_active[ordinary].sum().item() / len(counted),
        explained_variance=_explained_variance(centred, counted_error),
        explained_variance_with_sinks=_explained_variance(x - x.mean(0), error),
        explained_variance_without_first_direction=_explained_variance(
            _without(centred, direction), _without(counted_error, direction)
        ),
        first_direction_share=((centred @ direction).pow(2).sum() / centred.pow(2).sum()).item(),
        dead_fraction=dead_fraction,
        **spliced_losses(model, sae, sequences[:ce_sequences], mean, threshold),
    )


def _reconstruction(sae: SAE[Any], x: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Of the rows `x` `[n, d_in]`: x - x̂, how many features are active on each `[n]`, and the share of the features
    that no row of `counted` `[n]` activates. A chunk at a time, so that the features fit in memory."""
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    active, out = [], []
    for chunk, counts in zip(x.split(4096), counted.split(4096), strict=True):
        acts = sae.encode(chunk.to(sae.device, sae.dtype))
        fires = acts > 0
        fired |= fires[counts.to(fires.device)].any(0).cpu()
        active.append(fires.sum(1).cpu())
        out.append(sae.decode(acts).float().cpu())
    return x - torch.cat(out), torch.cat(active), 1 - fired.float().mean().item()


def _explained_variance(centred: torch.Tensor, error: torch.Tensor) -> float:
    return 1 - (error.pow(2).sum() / centred.pow(2).sum()).item()


def _without(rows: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return rows - torch.outer(rows @ direction, direction)


def _first_direction(centred: torch.Tensor) -> torch.Tensor:
    """Unit vector `[d_in]` along which the rows vary most."""
    return torch.linalg.eigh((centred.T @ centred).double())[1][:, -1].float()
