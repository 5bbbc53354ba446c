"""How good an SAE is, on text that it was not trained on.

Reconstruction, per token t (special tokens never count; x is the residual, x̂ its reconstruction, μ the mean of x):

    explained variance               1 - Σ||x - x̂||² / Σ||x - μ||²            centred: the mean is not counted
    ... without activation sinks     the same over tokens with ||x|| <= sink_multiple x the median norm
    ... without first direction      the same after projecting x - μ and x - x̂ off the first principal direction

Function: the model runs once as it is, once with x̂ in place of x, once with μ in place of x (mean ablation, the null):

    CE-loss score = (CE_mean - CE_x̂) / (CE_mean - CE_x)        1: nothing is lost; 0: no better than the mean
    KL score      = 1 - KL(p_x || p_x̂) / KL(p_x || p_mean)

Sinks and special tokens keep their activation in the spliced runs: the SAE is not meant for them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from sae_lens import SAE

from sae_lens_med.errors import DataError
from sae_lens_med.models import MedBridge
from sae_lens_med.reader import ResidualReader


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
    batch_sequences: int = 8,
    ce_sequences: int = 64,
) -> SaeQuality:
    """Measure an exported SAE on token sequences (BOS included where the model has one).

    The functional scores use the first `ce_sequences` sequences, since they run the whole model three times.
    """
    hook_name = sae.cfg.metadata.hook_name
    special = torch.tensor(model.text_tokenizer.all_special_ids)
    reader = ResidualReader(model, [hook_name])
    batches = [sequences[at : at + batch_sequences] for at in range(0, len(sequences), batch_sequences)]
    rows = [
        x.float().cpu()[~torch.isin(torch.tensor(ids), special)]
        for batch in batches
        for ids, x in zip(batch, reader.read(batch)[hook_name], strict=True)
    ]
    x = torch.cat(rows)
    if len(x) < 2:
        raise DataError("an SAE cannot be measured on fewer than two tokens; give more text.")
    threshold = sink_multiple * x.norm(dim=-1).median().item()
    ordinary = x.norm(dim=-1) <= threshold
    mean = x[ordinary].mean(0)
    with_sinks = _Reconstruction(sae, x)
    counted = _Reconstruction(sae, x[ordinary])
    direction = _first_direction(x[ordinary] - mean)
    ce = _spliced_losses(model, sae, sequences[:ce_sequences], mean, threshold)
    return SaeQuality(
        n_tokens=len(x[ordinary]),
        n_sinks=int((~ordinary).sum()),
        sink_threshold=threshold,
        l0=counted.l0,
        explained_variance=counted.explained_variance(mean),
        explained_variance_with_sinks=with_sinks.explained_variance(x.mean(0)),
        explained_variance_without_first_direction=counted.explained_variance(mean, without=direction),
        first_direction_share=(
            ((x[ordinary] - mean) @ direction).pow(2).sum() / (x[ordinary] - mean).pow(2).sum()
        ).item(),
        dead_fraction=counted.dead_fraction,
        **ce,
    )


class _Reconstruction:
    """An SAE's reconstruction of rows, a chunk at a time so that the features fit in memory."""

    def __init__(self, sae: SAE[Any], x: torch.Tensor) -> None:
        self.x = x
        fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
        active, out = 0, []
        for chunk in x.split(4096):
            acts = sae.encode(chunk.to(sae.device, sae.dtype))
            fired |= (acts > 0).any(0).cpu()
            active += int((acts > 0).sum())
            out.append(sae.decode(acts).float().cpu())
        self.error = x - torch.cat(out)
        self.l0 = active / len(x)
        self.dead_fraction = 1 - fired.float().mean().item()

    def explained_variance(self, mean: torch.Tensor, without: torch.Tensor | None = None) -> float:
        centred, error = self.x - mean, self.error
        if without is not None:
            centred = centred - torch.outer(centred @ without, without)
            error = error - torch.outer(error @ without, without)
        return 1 - (error.pow(2).sum() / centred.pow(2).sum()).item()


def _first_direction(centred: torch.Tensor) -> torch.Tensor:
    """Unit vector `[d_in]` along which the rows vary most."""
    return torch.linalg.eigh((centred.T @ centred).double())[1][:, -1].float()


def _spliced_losses(
    model: MedBridge,
    sae: SAE[Any],
    sequences: Sequence[Sequence[int]],
    mean: torch.Tensor,
    threshold: float,
) -> dict[str, Any]:
    """Cross-entropy and KL of the three runs, averaged over predicted tokens."""
    special = torch.tensor(model.text_tokenizer.all_special_ids)
    names = ("ce_loss", "ce_loss_spliced", "ce_loss_mean_ablated", "kl_spliced", "kl_mean_ablated")
    totals: dict[str, float] = dict.fromkeys(names, 0.0)
    n = 0
    # One sequence at a time: the logits of a long one over a large vocabulary fill memory by themselves.
    for ids in track(sequences, "measuring (sequences)", console=Console(stderr=True)):
        if len(ids) < 2:
            continue
        tokens = torch.tensor([ids]).to(model.cfg.device or "cpu")
        targets = tokens[0, 1:]
        plain = torch.isin(tokens[0], special.to(tokens.device))
        clean = _logprobs(model, tokens, [])
        totals["ce_loss"] -= clean.gather(1, targets[:, None]).sum().item()
        for by in ("spliced", "mean_ablated"):

            def splice(x: torch.Tensor, hook: Any, by: str = by, plain: torch.Tensor = plain) -> torch.Tensor:
                del hook  # TransformerLens passes it by name
                new = sae(x.to(sae.device, sae.dtype)).to(x) if by == "spliced" else mean.to(x).expand_as(x)
                passed = plain | (x[0].float().norm(dim=-1) > threshold)
                return torch.where(passed[None, :, None], x, new)

            changed = _logprobs(model, tokens, [(sae.cfg.metadata.hook_name, splice)])
            totals[f"ce_loss_{by}"] -= changed.gather(1, targets[:, None]).sum().item()
            totals[f"kl_{by}"] += (clean.exp() * (clean - changed)).sum().item()
        n += len(targets)
    if n == 0:
        raise DataError("the functional scores need a sequence of at least two tokens; give more text.")
    means = {key: total / n for key, total in totals.items()}
    lost = means["ce_loss_mean_ablated"] - means["ce_loss"]
    return {
        **means,
        "ce_loss_score": (means["ce_loss_mean_ablated"] - means["ce_loss_spliced"]) / lost,
        "kl_score": 1 - means["kl_spliced"] / means["kl_mean_ablated"],
        "n_ce_tokens": n,
    }


def _logprobs(model: MedBridge, tokens: torch.Tensor, hooks: list[Any]) -> torch.Tensor:
    """`[n_tokens - 1, vocabulary]` float32 log-probabilities of the next token."""
    return model.run_with_hooks(tokens, fwd_hooks=hooks)[0, :-1].float().log_softmax(-1)
