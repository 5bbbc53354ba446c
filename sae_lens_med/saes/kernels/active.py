"""The active features of a batch, and what a set of kernels for the sparse training step provides."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class ActiveSet:
    """The active features of a batch, row by row (CSR). Columns ascend within a row."""

    crow: torch.Tensor
    """`[batch + 1]` int64: where each row begins in `col` and `values`."""
    col: torch.Tensor
    """`[nnz]` int64: feature."""
    values: torch.Tensor
    """`[nnz]`: activation, above 0."""

    def to_coo(self, d_sae: int) -> torch.Tensor:
        """A coalesced sparse tensor `[batch, d_sae]`, what SAELens' trainer takes as `feature_acts`."""
        rows = torch.arange(len(self.crow) - 1, device=self.col.device).repeat_interleave(self.crow.diff())
        shape = (len(self.crow) - 1, d_sae)
        indices = torch.stack([rows, self.col])
        return torch.sparse_coo_tensor(indices, self.values, shape, is_coalesced=True, check_invariants=False)


class Kernels(Protocol):
    """The two passes of the sparse step. M has unit rows: M = E · inv_norm, row by row."""

    def forward(
        self, x: torch.Tensor, M: torch.Tensor, b: torch.Tensor, *, bf16_filter: bool
    ) -> tuple[ActiveSet, torch.Tensor]:
        """c = ReLU(M x + b), and Mᵀ c.

        Args:
            x: `[batch, d_in]`.
            M: `[d_sae, d_in]`.
            b: `[d_sae]`.
            bf16_filter: find the active entries with a product in bfloat16; their values do not change.

        Returns the active set, and `[batch, d_in]`.
        """
        ...

    def backward(
        self,
        acts: ActiveSet,
        g: torch.Tensor,
        g_values: torch.Tensor,
        x: torch.Tensor,
        M: torch.Tensor,
        inv_norm: torch.Tensor,
        *,
        needs_x: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Gradients at the active positions only.

            δ_ij = g_i·M_j + g_values_ij        D_j = Σ_i c_ij g_i + δ_ij x_i
            dE_j = (D_j - (D_j·M_j) M_j) inv_norm_j       db_j = Σ_i δ_ij       dx_i = Σ_j δ_ij M_j

        Args:
            g: the loss's gradient by Mᵀ c, `[batch, d_in]`.
            g_values: the loss's gradient by the activations, without what goes through Mᵀ c, `[nnz]`.
            needs_x: whether dx is wanted; None otherwise.

        Returns dE `[d_sae, d_in]`, db `[d_sae]`, dx `[batch, d_in]`.
        """
        ...
