"""How good an SAE is, on text that it was not trained on.

Reconstruction, per token t (special tokens never count; x is the residual, x̂ its reconstruction, μ the mean of x):

    explained variance               1 - Σ||x - x̂||² / Σ||x - μ||²            centred: the mean is not counted
    ... without activation sinks     the same over tokens with ||x|| <= sink_multiple x the median norm
    ... without first direction      the same after projecting x - μ and x - x̂ off the first principal direction

Function: the model runs as it is, with x̂ in place of x, and with μ in place of x (the null, mean ablation):

    CE-loss score = (CE_mean - CE_x̂) / (CE_mean - CE_x)        1: nothing is lost; 0: no better than the mean
    KL score      = 1 - KL(p_x || p_x̂) / KL(p_x || p_mean)

Sinks and special tokens keep their activation in the spliced runs: the SAE is not meant for them.

A sequence runs once for the three: at the hook the activation x becomes the batch [x, x̂, μ], so that the layers before
it run once for all. Where the plain transformers model cannot stand for the bridge, the bridge runs three times. The LM
head is most of the work: a vocabulary of 262,144 times a width of 640 costs more than the transformer below it, and its
logits fill memory. They are made for a part of the vocabulary at a time, which stays in the processor's cache, and
summed up at once. With a the logits of the run with x, b those of another:

    CE = lse_b - b[target]        lse_b = log Σ exp(b)
    KL = lse_b - lse_a - Σ p (b - a)        p = exp(a - lse_a)
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from rich.console import Console
from rich.progress import track
from sae_lens import SAE

from sae_lens_med.errors import DataError
from sae_lens_med.models.bridge import NONLINEAR_HEADS, MedBridge, Reached, default_batch_tokens
from sae_lens_med.models.hf_hooks import hf_hooks, hook_places
from sae_lens_med.models.residuals import ResidualReader, ready
from sae_lens_med.models.sinks import SINK_MULTIPLE
from sae_lens_med.training.harvest import like_length

BLOCK_VALUES = 2**21
"""Logits at a time: 8 MB in float32."""


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
    """Mean number of active features per token."""
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


MOSTLY_DEAD = 0.9
"""Share of dead features from which an SAE is said to have failed."""


def reservations(quality: SaeQuality) -> tuple[str, ...]:
    """One sentence for each thing that makes an SAE useless, whatever its other metrics."""
    said = []
    if quality.l0 == 0:
        said.append(
            "No feature fires on the held-out text: training diverged or the sparsity coefficient is too high; lower "
            "lr or the coefficient and train again."
        )
    elif quality.dead_fraction >= MOSTLY_DEAD:
        said.append(
            f"{quality.dead_fraction:.1%} of the features never fire on the held-out text: the sparsity coefficient "
            "or lr is too high, or the text too small; lower them, or use resample_dead."
        )
    if quality.explained_variance <= 0:
        said.append(
            f"The reconstruction is no better than the mean activation (explained variance "
            f"{quality.explained_variance:.3f}): training diverged or was too short."
        )
    return tuple(said)


@torch.no_grad()
def measure(
    model: MedBridge,
    sae: SAE[Any],
    sequences: Sequence[Sequence[int]],
    *,
    sink_multiple: float = SINK_MULTIPLE,
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


# --- the model with the reconstruction in the activation's place ------------------------------------------------------


@torch.no_grad()
def spliced_losses(
    model: MedBridge, sae: SAE[Any], sequences: Sequence[Sequence[int]], mean: torch.Tensor, threshold: float
) -> dict[str, Any]:
    """Cross-entropy and KL of the three runs, averaged over predicted tokens.

    Args:
        sequences: token ids; those with fewer than two tokens predict nothing.
        mean: μ, `[d_in]`.
        threshold: special tokens, and tokens whose activation has a larger norm, keep their activation.

    Returns the fields of `SaeQuality` from `ce_loss` on; losses and KL in nats, at least 0. Raises `DataError` when no
    token is predicted.
    """
    runs = _Runs(model, sae, mean, threshold)
    ce, kl, n = torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0
    for ids in track(sequences, "measuring (sequences)", console=Console(stderr=True)):
        if len(ids) < 2:
            continue
        targets = torch.tensor(ids[1:])
        own_ce, own_kl = cross_entropy_and_kl(runs.logits(ids), targets)
        ce, kl, n = ce + own_ce.cpu(), kl + own_kl.cpu(), n + len(targets)
    if n == 0:
        raise DataError("the functional scores need a sequence of at least two tokens; use more text.")
    (clean, spliced, ablated), (kl_spliced, kl_ablated) = (ce / n).tolist(), (kl / n).tolist()
    return {
        "ce_loss": clean,
        "ce_loss_spliced": spliced,
        "ce_loss_mean_ablated": ablated,
        "ce_loss_score": (ablated - spliced) / (ablated - clean),
        "kl_spliced": kl_spliced,
        "kl_mean_ablated": kl_ablated,
        "kl_score": 1 - kl_spliced / kl_ablated,
        "n_ce_tokens": n,
    }


def cross_entropy_and_kl(blocks: Iterator[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy `[runs]`, and KL `[runs - 1]` of the first run to each other one, summed over the positions.

    Args:
        blocks: float32 logits `[runs, n, width]` each, one part of the vocabulary after the other; they are changed.
        targets: `[n]`, ids of the tokens that come.

    Float64.
    """
    start = 0
    lse = at_target = gap = torch.zeros(())
    for logits in blocks:
        runs, n, width = logits.shape
        targets = targets.to(logits.device)
        if start == 0:
            lse = torch.full((runs, n), -torch.inf, dtype=torch.float64, device=logits.device)
            at_target, gap = torch.zeros_like(lse), torch.zeros_like(lse[1:])
        here = ((targets >= start) & (targets < start + width)).nonzero().squeeze(1)
        at_target[:, here] = logits[:, here, targets[here] - start].double()
        lse, before = torch.logaddexp(lse, logits.logsumexp(-1).double()), lse
        clean, others = logits[0], logits[1:]
        others -= clean
        p = clean.sub_(lse[0, :, None].float()).exp_()
        # What was summed up so far was divided by a smaller sum of exponentials.
        gap = gap * (before[0] - lse[0]).exp() + torch.linalg.vecdot(p, others).double()
        start += width
    return (lse - at_target).sum(1), (lse[1:] - lse[0] - gap).sum(1)


class _Runs:
    """The three runs of a sequence."""

    def __init__(self, model: MedBridge, sae: SAE[Any], mean: torch.Tensor, threshold: float) -> None:
        self.model = model
        self.sae = sae
        self.mean = mean
        self.threshold = threshold
        self.hook_name: str = sae.cfg.metadata.hook_name
        self.special = torch.tensor(model.text_tokenizer.all_special_ids)
        self.passes = self.special
        plain = ready(model)
        self.plain = plain if plain is not None and self.hook_name in hook_places(plain) else None
        head = None if self.plain is None else self.plain.get_output_embeddings()
        config = None if self.plain is None else self.plain.config.get_text_config()
        linear = all(getattr(config, name, None) in (None, 1.0) for name in NONLINEAR_HEADS)
        self.head = head if isinstance(head, torch.nn.Linear) and linear else None

    def logits(self, ids: Sequence[int]) -> Iterator[torch.Tensor]:
        """Float32 `[3, len(ids) - 1, width]`, one part of the vocabulary after the other."""
        tokens = torch.tensor([ids]).to(self.model.cfg.device or "cpu")
        self.passes = torch.isin(tokens[0].cpu(), self.special)
        width = max(1, BLOCK_VALUES // (3 * len(ids)))
        if self.head is not None:
            hidden = self._before_head(tokens)[:, :-1]
            biases = [None] if self.head.bias is None else self.head.bias.split(width)
            for number, weight in enumerate(self.head.weight.split(width)):
                yield F.linear(hidden, weight, biases[number % len(biases)]).float()
            return
        if self.plain is not None:
            with hf_hooks(self.plain, [(self.hook_name, self._three)]):
                whole = self.plain(input_ids=tokens, use_cache=False).logits
        else:
            whole = torch.cat([self._by_bridge(tokens, run) for run in range(3)])
        for block in whole[:, :-1].split(width, dim=-1):
            yield block.to(torch.float32, copy=True)

    def _before_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the LM head reads in the three runs, `[3, n, d_model]`."""
        found: list[torch.Tensor] = []

        def keep(_head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            found.append(args[0])
            raise Reached

        assert self.plain is not None and self.head is not None  # who calls has looked
        handle = self.head.register_forward_pre_hook(keep)
        try:
            with hf_hooks(self.plain, [(self.hook_name, self._three)]):
                self.plain(input_ids=tokens, use_cache=False)
        except Reached:
            return found[0]
        finally:
            handle.remove()
        raise AssertionError("the model has an LM head and did not run it")

    def _by_bridge(self, tokens: torch.Tensor, run: int) -> torch.Tensor:
        def one(x: torch.Tensor, hook: Any) -> torch.Tensor:
            return self._three(x, hook)[run : run + 1]

        return self.model.run_with_hooks(tokens, fwd_hooks=[(self.hook_name, one)] if run else [])

    def _three(self, x: torch.Tensor, hook: Any) -> torch.Tensor:
        """`[1, n, d]` -> `[3, n, d]`: as it is, reconstructed, the mean."""
        del hook  # TransformerLens passes it by name
        new = self.sae(x.to(self.sae.device, self.sae.dtype)).to(x)
        passed = self.passes.to(x.device) | (x[0].float().norm(dim=-1) > self.threshold)
        return torch.where(passed[None, :, None], x, torch.cat([x, new, self.mean.to(x).expand_as(x)]))
