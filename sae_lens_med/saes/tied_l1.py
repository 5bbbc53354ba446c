"""`tied_l1`: the tied-weight L1 sparse autoencoder of Cunningham et al. 2023 (arXiv 2309.08600), for SAELens.

    M  = E / ||E_row||₂                      unit rows; the gradient flows through the norm
    c  = ReLU(M (x - m) + b)                 one matrix reads and writes
    x̂  = Mᵀ c + m
    L  = ||x - x̂||²  +  α ||c||₁             summed over d_in and d_sae, mean over the batch

x is the activation after SAELens' own scaling (`normalize_activations`). m is 0 (`center="none"`, the paper's form), or
the mean of the first batches (`center="mean"`), fixed from then on: a decoder bias that is estimated, not learned.

This is a *training* architecture. `save_inference_model`, and so SAELens' runners, write SAELens' `standard`
(W_enc = Mᵀ, W_dec = M, b_enc = b, b_dec = m), which loads where this package is not installed. Checkpoints keep the
training form and need it.

Scale of α. SAELens sums the squared error over d_in; the paper and its code average it. The same optimum needs
`l1_coefficient = published α x d_in` (`l1_from_published`). α also scales with the activations: under
`expected_average_only_in` the mean norm is sqrt(d_in), so that the mean square per dimension is about 1.

The step is dense while many features are active and sparse from then on (`sparse_step`), with the same values and
gradients to rounding; nothing has to be asked for. It stays dense where a hook of the SAE is in use, and for parameters
in half precision.

Out of scope: dead-feature revival (`training/revive.py`) and per-feature penalties.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from sae_lens import StandardSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, register_sae_training_class
from sae_lens.saes.sae import (
    SAEConfig,
    TrainCoefficientConfig,
    TrainingSAE,
    TrainingSAEConfig,
    TrainStepInput,
    TrainStepOutput,
)
from torch import nn
from typing_extensions import override

from sae_lens_med import distributed
from sae_lens_med.errors import ConfigError
from sae_lens_med.saes import sparse_step

ARCHITECTURE = "tied_l1"


def l1_from_published(alpha: float, d_in: int) -> float:
    """The `l1_coefficient` for an α published for a squared error averaged over d_in (Cunningham et al.: 8.6e-4)."""
    return alpha * d_in


@dataclass
class TiedL1TrainingSAEConfig(TrainingSAEConfig):
    """Configuration of `tied_l1`.

    Args:
        l1_coefficient (float): α, for a squared error that is summed over d_in, as in SAELens' `standard`.
        l1_warm_up_steps (int): steps over which α grows linearly from 0.
        center (str): "none", or "mean": subtract the activations' mean before encoding and add it after decoding.
        center_batches (int): how many first batches the mean is taken over.
        decoder_init_norm (float): norm of E's rows at the start. The features are unit vectors whatever it is; with
            Adam, a step turns a feature by about lr / this.
        initial_density (float | None): at the first batch, set each bias so that the feature fires on this share of the
            batch (after Conerly et al. 2025, Transformer Circuits, January update). Training is then sparse from the
            start, and no feature starts dead. None: biases start at 0, and a feature fires on about half.
        bf16_filter (bool): the sparse step finds active features with a product in bfloat16 where the hardware is fast
            at it. Their values are computed in float32 and none is missed: results do not change beyond rounding.
    """

    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0
    center: Literal["none", "mean"] = "none"
    center_batches: int = 10
    decoder_init_norm: float | None = 1.0
    initial_density: float | None = None
    bf16_filter: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return ARCHITECTURE

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return StandardSAEConfig

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center not in ("none", "mean"):
            raise ConfigError(f"center must be 'none' or 'mean', got {self.center!r}.")
        if self.center_batches < 1:
            raise ConfigError(f"center_batches must be at least 1, got {self.center_batches}.")
        if self.initial_density is not None and not 0 < self.initial_density < 1:
            raise ConfigError(f"initial_density must be between 0 and 1, got {self.initial_density}.")
        if self.l1_coefficient < 0:
            raise ConfigError(f"l1_coefficient must not be negative, got {self.l1_coefficient}.")
        if self.normalize_activations not in ("none", "expected_average_only_in"):
            raise ConfigError(
                f"tied_l1 cannot be trained with normalize_activations={self.normalize_activations!r}: its encoder and "
                "decoder would no longer be one matrix; use 'none' or 'expected_average_only_in'."
            )
        if self.center == "mean" and not self.apply_b_dec_to_input:
            raise ConfigError("center='mean' subtracts the mean from the input; leave apply_b_dec_to_input at True.")


class TiedL1TrainingSAE(TrainingSAE[TiedL1TrainingSAEConfig]):
    """The training SAE. `W_enc` and `W_dec` are read-only views of one parameter, `E [d_sae, d_in]`.

    `act_scale` (1 until SAELens folds its activation scaling) makes them differ after folding:
    W_enc = Mᵀ·s and W_dec = M / s take unscaled activations, with the features' values as in training.
    """

    E: nn.Parameter
    b_enc: nn.Parameter
    act_scale: torch.Tensor
    centered_batches: torch.Tensor
    takes_sparse_path: torch.Tensor
    """Whether the next batch takes the sparse step: part of the state, so that a resumed run goes on as it was."""

    @override
    def initialize_weights(self) -> None:
        # The base class assigns W_enc and W_dec, which are properties here.
        d_sae, d_in, like = self.cfg.d_sae, self.cfg.d_in, {"dtype": self.dtype, "device": self.device}
        rows = nn.functional.normalize(torch.randn(d_sae, d_in, **like), dim=1)
        self.E = nn.Parameter(rows * (self.cfg.decoder_init_norm or 1.0))
        self.b_enc = nn.Parameter(torch.zeros(d_sae, **like))
        self.b_dec = nn.Parameter(torch.zeros(d_in, **like), requires_grad=False)
        self.register_buffer("act_scale", torch.ones((), **like))
        self.register_buffer("centered_batches", torch.zeros((), dtype=torch.long, device=self.device))
        self.register_buffer("takes_sparse_path", torch.zeros((), dtype=torch.bool, device=self.device))

    @property
    def M(self) -> torch.Tensor:
        """The dictionary: unit rows, `[d_sae, d_in]`."""
        return nn.functional.normalize(self.E, dim=1, eps=1e-8)

    @property
    def W_dec(self) -> torch.Tensor:  # type: ignore[override]  # a view of E, where SAELens has a parameter
        """`[d_sae, d_in]`; unit rows until the activation scaling is folded in."""
        return self.M / self.act_scale

    @property
    def W_enc(self) -> torch.Tensor:  # type: ignore[override]  # a view of E, where SAELens has a parameter
        """`[d_in, d_sae]`."""
        return self.M.T * self.act_scale

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {"l1": TrainCoefficientConfig(self.cfg.l1_coefficient, self.cfg.l1_warm_up_steps)}

    @override
    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        return self.hook_sae_acts_post(self.activation_fn(hidden_pre)), hidden_pre

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        return {"l1_loss": step_input.coefficients["l1"] * feature_acts.sum(-1).mean()}

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        if self.cfg.center == "mean" and self.centered_batches < self.cfg.center_batches:
            self._update_center(step_input.sae_in)
        if self.cfg.initial_density is not None and step_input.n_training_steps == 0:
            self._set_initial_density(step_input.sae_in, self.cfg.initial_density)
        is_sparse = bool(self.takes_sparse_path)
        if is_sparse and self._can_be_sparse(step_input.sae_in):
            output = self._sparse_forward_pass(step_input)
            n_active = output.feature_acts.values().numel()
        else:
            output = super().training_forward_pass(step_input)
            n_active = int(torch.count_nonzero(output.feature_acts.detach()))
        density = n_active / (output.sae_in.shape[0] * self.cfg.d_sae)
        self.takes_sparse_path.fill_(sparse_step.next_path_is_sparse(is_sparse, density))
        return output

    def _can_be_sparse(self, x: torch.Tensor) -> bool:
        hooks_in_use = any(hook.fwd_hooks or hook.bwd_hooks for hook in self.hook_dict.values())
        return sparse_step.supports(self.E) and x.ndim == 2 and not hooks_in_use

    def _sparse_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """`training_forward_pass` with what is active only; `feature_acts` is a sparse tensor, as `topk`'s may be.

        `hidden_pre` is the same tensor: pre-activations are not kept where they are below zero."""
        x = self.process_sae_in(step_input.sae_in) * self.act_scale
        acts, decoded = sparse_step.encode_decode(x, self.E, self.b_enc, bf16_filter=self.cfg.bf16_filter)
        sae_out = decoded / self.act_scale + self.b_dec
        mse_loss = self.mse_loss_fn(sae_out, step_input.sae_in).sum(-1).mean()
        l1_loss = step_input.coefficients["l1"] * acts.values.sum() / len(x)
        with torch.no_grad():
            feature_acts = acts.to_coo(self.cfg.d_sae)
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=sae_out,
            feature_acts=feature_acts,
            hidden_pre=feature_acts,
            loss=mse_loss + l1_loss,
            losses={"mse_loss": mse_loss, "l1_loss": l1_loss},
        )

    @torch.no_grad()
    def _update_center(self, x: torch.Tensor) -> None:
        """Running mean over the first batches; the first one alone is close, so training starts at once."""
        self.centered_batches += 1
        self.b_dec.add_((distributed.mean_of_rows(x).to(self.b_dec.dtype) - self.b_dec) / self.centered_batches)

    @torch.no_grad()
    def _set_initial_density(self, x: torch.Tensor, density: float) -> None:
        x, M = self.process_sae_in(x) * self.act_scale, self.M
        n_firing = min(max(1, round(density * len(x))), len(x) - 1)
        for at in range(0, len(M), 1024):  # never all pre-activations at once
            pre = x @ M[at : at + 1024].T
            around = pre.topk(n_firing + 1, dim=0).values[-2:]  # the last that fires and the first that does not
            self.b_enc[at : at + 1024] = -around.mean(0)
        distributed.broadcast_(self.b_enc.data)
        self.takes_sparse_path.fill_(sparse_step.next_path_is_sparse(False, density))

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        # Takes s·x inside: features are those of training, reconstructions are of x.
        self.act_scale *= scaling_factor
        self.b_dec.div_(scaling_factor)
        self.cfg.normalize_activations = "none"

    @override
    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> torch.Tensor:
        """The decoder rows' norms, `[d_sae]`. Before the activation scaling is folded they are 1 and nothing changes;
        after it they are all 1/s, and the features are rescaled so that they are 1."""
        norms = self.get_W_dec_norm()
        self.b_enc.div_(self.act_scale)
        # c/s through rows of norm 1 equals c through rows of norm 1/s; M is unit already.
        self.act_scale.fill_(1.0)
        return norms

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        # SAELens' loader has cast every tensor to the SAE's dtype; a count is none, nor a yes or no.
        state_dict["centered_batches"] = state_dict["centered_batches"].to(torch.long)
        state_dict["takes_sparse_path"] = state_dict["takes_sparse_path"].to(torch.bool)

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        W_enc, W_dec = self.W_enc.detach().contiguous(), self.W_dec.detach().contiguous()
        for name in ("E", "act_scale", "centered_batches", "takes_sparse_path"):
            del state_dict[name]
        state_dict["W_enc"], state_dict["W_dec"] = W_enc, W_dec


def register() -> None:
    """Make SAELens know `tied_l1`; safe to call twice."""
    if ARCHITECTURE not in SAE_TRAINING_CLASS_REGISTRY:
        register_sae_training_class(ARCHITECTURE, TiedL1TrainingSAE, TiedL1TrainingSAEConfig)


register()
