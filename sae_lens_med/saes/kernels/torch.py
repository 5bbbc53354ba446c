"""The sparse step's kernels in plain torch: the reference that the compiled ones are held against.

For every device and every floating-point type, float64 included. It makes the dense pre-activations of the whole batch,
so it saves time over a dense step and little memory.
"""

import torch

from sae_lens_med.saes.kernels.active import ActiveSet


def forward(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor, *, bf16_filter: bool) -> tuple[ActiveSet, torch.Tensor]:
    """See `active.Kernels`; `bf16_filter` changes nothing here."""
    del bf16_filter
    pre = torch.addmm(b, x, M.T)
    rows, col = torch.nonzero(~(pre <= 0), as_tuple=True)  # NaN counts: it must show in the loss
    crow = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
    torch.cumsum(torch.bincount(rows, minlength=len(x)), 0, out=crow[1:])
    acts = ActiveSet(crow, col, pre[rows, col])
    return acts, torch.sparse.mm(_csr(acts, acts.values, len(M)), M)


def backward(
    acts: ActiveSet,
    g: torch.Tensor,
    g_values: torch.Tensor,
    x: torch.Tensor,
    M: torch.Tensor,
    inv_norm: torch.Tensor,
    *,
    needs_x: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """See `active.Kernels`."""
    pattern = _csr(acts, g_values, len(M))
    delta = torch.sparse.sampled_addmm(pattern, g.contiguous(), M.T.contiguous())
    values = acts.to_coo(len(M))
    delta_coo = torch.sparse_coo_tensor(
        values.indices(), delta.values(), values.shape, is_coalesced=True, check_invariants=False
    )
    D = torch.sparse.mm(values.t(), g) + torch.sparse.mm(delta_coo.t(), x)
    dE = (D - (D * M).sum(1, keepdim=True) * M) * inv_norm[:, None]
    db = torch.zeros(len(M), dtype=x.dtype, device=x.device).index_add_(0, acts.col, delta.values())
    return dE, db, torch.sparse.mm(delta, M) if needs_x else None


def _csr(acts: ActiveSet, values: torch.Tensor, d_sae: int) -> torch.Tensor:
    return torch.sparse_csr_tensor(acts.crow, acts.col, values, (len(acts.crow) - 1, d_sae), check_invariants=False)
