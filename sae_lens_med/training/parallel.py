"""SAELens' trainer in each of several processes, every one with its rows of one global batch.

For a loss that is a mean over the batch of B rows, of which rank r holds n_r,

    gradient = Σ_r  n_r / B  x  gradient of rank r

is the gradient of one process with the whole batch. It is in place when SAELens clips the gradient's norm, so the step
is that of one process, up to the rounding of sums; so are the counts of firing that its statistics and masks rest on.

Out of scope: losses that are no mean over rows (`batchtopk` chooses over the batch: here over each rank's part of it).
"""

from typing import Any

import torch
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from typing_extensions import override

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError, DistributedError


class ParallelTrainer(SAETrainer[Any, Any]):
    """`step` takes this rank's rows; weights, optimiser and statistics stay the same in all processes."""

    def __init__(self, cfg: SAETrainerConfig, sae: TrainingSAE[Any], data_provider: Any) -> None:
        """Takes rank 0's initial weights. Raises `ConfigError` for a batch with fewer rows than processes."""
        n_ranks = distributed.ranks().world_size
        if cfg.train_batch_size_samples < n_ranks:
            raise ConfigError(
                f"train_batch_size_tokens is {cfg.train_batch_size_samples}, the batch of all processes together; it "
                f"must be at least their number, {n_ranks}."
            )
        with torch.no_grad():
            for tensor in (*sae.parameters(), *sae.buffers()):
                distributed.broadcast_(tensor)
        super().__init__(cfg, sae, data_provider)
        self._trained = [parameter for parameter in sae.parameters() if parameter.requires_grad]
        self._arrived = 0
        self._weight = 1.0
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    @override
    def step(self, batch: torch.Tensor) -> TrainStepOutput:
        """One step on this rank's rows of the global batch. The output is of these rows alone."""
        whole = self.cfg.train_batch_size_samples
        self._arrived, self._weight = 0, len(batch) / whole
        fired_before, self.act_freq_scores = self.act_freq_scores, torch.zeros_like(self.act_freq_scores)
        output = super().step(batch)
        if self._arrived != len(self._trained):
            raise DistributedError(
                f"{len(self._trained) - self._arrived} of the SAE's parameters got no gradient, so the processes "
                "would drift apart; train this architecture in one process."
            )
        self.n_training_samples += whole - len(batch)
        fired = distributed.all_reduce_sum_(self.act_freq_scores)
        self.n_forward_passes_since_fired[fired > 0] = 0
        self.act_freq_scores = fired_before + fired
        return output

    def _on_gradient(self, parameter: torch.Tensor) -> None:
        """Called by autograd as each gradient is ready; averages all when the last is, in an order that all share."""
        del parameter
        self._arrived += 1
        if self._arrived == len(self._trained):
            for each in self._trained:
                assert each.grad is not None  # the hook of each has been called
                distributed.all_reduce_sum_(each.grad.mul_(self._weight))
