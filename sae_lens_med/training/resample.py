"""Dead features get new directions: neuron resampling for the tied dictionary.

Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling". At given steps, for the features
that have not fired for `dead_steps` steps, on a batch of activations:

    rows       one input x a feature, drawn with p(x) ∝ loss(x)², no input twice at one step (two features with one
               direction and one bias would stay one feature for ever); loss(x) = ||x - x̂||²
    E_j        the direction of the error x - x̂, at the mean norm of the living rows
    b_j        such that the feature fires on the same share of the batch as a living feature does on average
    Adam       both moments of E_j and b_j are 0 again; the feature counts as having just fired

What differs from the source, and why. The loss is the error alone: the penalty of an input is no work for a new
feature. The source writes the input into decoder and encoder, the latter at 0.2 of the living norm, with a bias of 0. A
tied row reads with what it writes, so only its bias can make it begin quietly. Tried on the released dictionary of
gemma-3-270m (layer 9; the 1,442 features that 20,000 tokens had not activated; 250 steps more, explained variance 0.898
without resampling):

    direction   bias                                  at once           250 steps later   of the resampled, active
    input       firing rate of the living x 0.3       EV below 0        EV 0.897          26 % (of 4,000 tokens)
    error       fires at 0.2 mean value on its own x  EV 0.865          EV 0.898          2 %
    error       mean bias of the living               EV below 0        EV 0.900, L0 +5   100 %
    error       firing rate of the living x 0.3       EV 0.898          EV 0.899          85 %
    error       firing rate of the living             EV 0.873, L0 +21  EV 0.899, L0 +0   96 %

Everything is decided by the batch, the weights and (seed, step) on a generator of the CPU: a resumed run, and every
process of a distributed one, resamples the same features in the same way.

Out of scope: other architectures (their SAELens classes have ways of their own), warming the learning rate up again.
"""

import itertools
from typing import Any

import torch
from sae_lens import SAETrainer

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE
from sae_lens_med.training.activations import Activations
from sae_lens_med.training.recipe import Resampling

_FIRST_SHARE = 0.01
"""Share of the batch that a resampled feature fires on where no other fires at all."""

_CHUNK_VALUES = 1 << 24


def is_due(resampling: Resampling | None, step: int, total: int) -> bool:
    """Whether dead features are resampled after `step` of `total` steps."""
    return resampling is not None and step % resampling.every == 0 and step <= resampling.until * total


def rows_for(acts: Activations, n_rows: int, batch_size: int, *, seed: int, step: int) -> torch.Tensor:
    """The activations that resampling at `step` looks at, float32 `[n, d_in]`, the same in all processes.

    About `n_rows` (whole batches of `batch_size`, one at least) at random from the first window: what the first batch
    of training needed is there, even while the harvest goes on.
    """
    there = sum(acts.rows_per_shard[: acts.first_window])
    n_batches = max(1, min(n_rows, there) // batch_size)
    batches = acts.batches(batch_size, _seed("rows", seed, step))
    try:
        return torch.cat(list(itertools.islice(batches, n_batches)))
    finally:
        batches.close()


@torch.no_grad()
def resample_dead(trainer: SAETrainer[Any, Any], batch: torch.Tensor, *, seed: int, step: int, dead_steps: int) -> int:
    """Give the dead features of `trainer.sae` new directions, in place.

    Args:
        batch: float `[n, d_in]`, n >= 2, activations before SAELens' scaling, the same in all processes; no more
            features are resampled than rows of it.
        dead_steps: a feature is dead when it has not fired for more steps than this.

    Returns how many were resampled. Raises `ConfigError` when the SAE is not `tied_l1`.
    """
    sae = trainer.sae
    if not isinstance(sae, TiedL1TrainingSAE):
        raise ConfigError(
            f"dead features are resampled in tied_l1 only; this SAE is {sae.cfg.architecture()!r}; leave "
            "'resample_dead' out."
        )
    dead = trainer.n_forward_passes_since_fired > dead_steps
    if not dead.any():
        return 0
    x = trainer.activation_scaler(batch.to(sae.device, sae.dtype))
    error, n_fired = _errors(sae, x)
    generator = torch.Generator().manual_seed(_seed("draw", seed, step))
    drawn = draw(error.pow(2).sum(-1), int(dead.sum()), generator).to(x.device)
    if len(drawn) == 0:
        return 0
    features = dead.nonzero().squeeze(1)[: len(drawn)]
    directions = torch.nn.functional.normalize(error[drawn], dim=1)
    living = ~dead if not dead.all() else dead
    sae.E[features] = directions * sae.E[living].norm(dim=1).mean()
    n_wanted = round(n_fired[living].float().mean().item() or _FIRST_SHARE * len(x))
    sae.b_enc[features] = -_threshold(sae.process_sae_in(x), directions, min(max(n_wanted, 1), len(x) - 1))
    for parameter in (sae.E, sae.b_enc):
        for name in ("exp_avg", "exp_avg_sq"):
            moments = trainer.optimizer.state[parameter].get(name)
            if moments is not None:  # none before the first step
                moments[features] = 0
        distributed.broadcast_(parameter.data)  # GPUs may round the same sum differently
    trainer.n_forward_passes_since_fired[features] = 0
    return len(features)


def draw(loss: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """`n` different rows, each drawn with a probability proportional to its loss² among those not drawn yet.

    `loss` is float `[rows]`, at least 0. Rows without a loss are never drawn, so fewer than `n` may come back.
    """
    weights = loss.double().cpu().pow(2)
    n = min(n, int((weights > 0).sum()))
    if n == 0:
        return torch.empty(0, dtype=torch.long)
    return torch.multinomial(weights, n, replacement=False, generator=generator)


def _errors(sae: TiedL1TrainingSAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x - x̂ `[n, d_in]`, and on how many rows each feature fires `[d_sae]`."""
    errors, fired = [], torch.zeros(sae.cfg.d_sae, dtype=torch.long, device=x.device)
    for chunk in x.split(max(1, _CHUNK_VALUES // sae.cfg.d_sae)):
        acts = sae.encode(chunk)
        errors.append(chunk - sae.decode(acts))
        fired += (acts > 0).sum(0)
    return torch.cat(errors), fired


def _threshold(x: torch.Tensor, directions: torch.Tensor, n: int) -> torch.Tensor:
    """For each direction the value that `n` of the rows of `x` exceed along it."""
    chunks = directions.split(max(1, _CHUNK_VALUES // len(x)))
    return torch.cat([(x @ chunk.T).topk(n + 1, dim=0).values[-1] for chunk in chunks])


def _seed(what: str, seed: int, step: int) -> int:
    return int(json_sha256([what, seed, step])[:15], 16)
