"""The sparse training step of `tied_l1`: exact values and gradients, with one dense product in place of six.

    M = E / ||E_row||₂      c = ReLU(M x + b)      x̂ = Mᵀ c

At 64 active features of 20,480 a dense decode multiplies zeros 99.7 % of the time, and so does every product of the
backward pass. Only M x is dense: which features are active is not known before it. With c in CSR form, g = ∂L/∂x̂ and
∂L/∂c known,

    δ_ij = g_i·M_j + ∂L/∂c_ij       at the active positions, where ReLU' = 1; elsewhere it is 0
    D_j  = Σ_i c_ij g_i + δ_ij x_i   the dictionary reads and writes: both terms
    ∂L/∂E_j = (D_j - (D_j·M_j) M_j) / ||E_j||        through the row norm
    ∂L/∂b_j = Σ_i δ_ij               ∂L/∂x_i = Σ_j δ_ij M_j

Kernels: `kernels.cpu` (float32 on a CPU), `kernels.cuda` (float32 on a GPU with Triton), `kernels.torch` (the
reference, and float64). A dense step is faster while many features are active, as at the start of training;
`next_path_is_sparse` says which one the next batch takes.

Out of scope: half-precision parameters (train in float32; the encoding product runs in bfloat16 all the same), second
derivatives.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_med.saes.kernels.active import ActiveSet, Kernels

SPARSE_BELOW = 0.04
DENSE_ABOVE = 0.06
"""Share of active entries at which a batch changes path; a CPU's two steps cost the same near 0.05 (benchmarks/)."""


def next_path_is_sparse(is_sparse: bool, density: float) -> bool:
    """The path of the next batch, from this one's path and share of active entries. Between the limits it stays."""
    return density <= DENSE_ABOVE if is_sparse else density < SPARSE_BELOW


def supports(E: torch.Tensor) -> bool:
    """Whether there is a sparse step for parameters of this type on this device."""
    return E.dtype in (torch.float32, torch.float64) and E.device.type in ("cpu", "cuda")


@torch.compiler.disable()
def encode_decode(
    x: torch.Tensor, E: torch.Tensor, b: torch.Tensor, *, bf16_filter: bool = True, kernels: Kernels | None = None
) -> tuple[ActiveSet, torch.Tensor]:
    """c = ReLU(M x + b) as the set of what is above 0, and x̂ = Mᵀ c; gradients reach x, E and b from both.

    Args:
        x: `[batch, d_in]`.
        E: `[d_sae, d_in]`, any norm.
        b: `[d_sae]`.
        bf16_filter: find the active entries in bfloat16 where the hardware is fast at it; the values stay float32.
        kernels: instead of the ones made for x's device and type.

    Returns the active set (its `values` take part in autograd) and x̂ `[batch, d_in]`.
    """
    chosen = kernels or kernels_for(x)
    with torch.autocast(x.device.type, enabled=False):
        x_hat, values, crow, col = _EncodeDecode.apply(x, E, b, chosen, bf16_filter and has_fast_bf16(x.device))
    return ActiveSet(crow, col, values), x_hat


def kernels_for(x: torch.Tensor) -> Kernels:
    """The fastest kernels for a tensor's device and type."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        from sae_lens_med.saes.kernels import cpu as kernels_cpu

        return kernels_cpu
    if x.dtype == torch.float32 and x.device.type == "cuda" and find_spec("triton") is not None:
        from sae_lens_med.saes.kernels import cuda as kernels_cuda

        return kernels_cuda
    from sae_lens_med.saes.kernels import torch as kernels_torch

    return kernels_torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a bfloat16 product is faster than a float32 one there."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


class _EncodeDecode(torch.autograd.Function):
    """`encode_decode` as (x̂, values, crow, col)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, E: torch.Tensor, b: torch.Tensor, kernels: Kernels, bf16_filter: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        inv_norm = E.norm(dim=1).clamp_min(1e-8).reciprocal()
        M = E * inv_norm[:, None]
        acts, x_hat = kernels.forward(x, M, b, bf16_filter=bf16_filter)
        ctx.save_for_backward(x, M, inv_norm, acts.crow, acts.col, acts.values)
        ctx.mark_non_differentiable(acts.crow, acts.col)
        ctx.kernels = kernels
        return x_hat, acts.values, acts.crow, acts.col

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # static
        g, g_values, _, _ = grads
        x, M, inv_norm, crow, col, values = ctx.saved_tensors
        dE, db, dx = ctx.kernels.backward(
            ActiveSet(crow, col, values), g, g_values, x, M, inv_norm, needs_x=ctx.needs_input_grad[0]
        )
        return dx, dE, db, None, None
