"""The sparse step of `tied_l1` in Triton: encode, decode and gradients that touch only the active features.

    c_ij = ReLU(<x_i, M_j> + b_j)                      kept as an `ActiveSet`: rows i, columns j ascending
    x̂_i  = Σ_j c_ij M_j
    dc_ij = <g_i, M_j> + g_values_ij                   at the active positions; g = dL/dx̂
    dM_j  = Σ_i c_ij g_i + dc_ij x_i                   db_j = Σ_i dc_ij
    dE_j  = (dM_j - <dM_j, M_j> M_j)·inv_norm_j        M_j = E_j·inv_norm_j
    dx_i  = Σ_j dc_ij M_j

M `[d_sae, d_in]` has unit rows; x and g are `[B, d_in]`; everything is float32 and accumulated in float32. Only the
encoding multiplies densely, a slice of rows at a time in one buffer of `BUFFER_BYTES`; no `[B, d_sae]` is held.

Every sum has a fixed order and no kernel uses atomics: the same input gives the same bits on the same device. NaN
counts as active, so that it reaches the loss as it does in a dense step.

The bf16 filter. With x̃, M̃ the values rounded to bf16, ρ_i = ||x_i - x̃_i||, σ_j = ||M_j - M̃_j|| and
ν = max(||v||, ||ṽ||) of a row v, all three measured rather than bounded (by round-to-nearest ρ <= 2^-8 ||x|| and
σ <= 2^-8 ||M||; in practice about half of it):

    <x, M> - <x̃, M̃> = <x - x̃, M> + <x̃, M - M̃>        so that |...| <= ρ_i ν_j + ν_i σ_j      (Cauchy-Schwarz)

Products of two bf16 values are exact in float32. The tensor cores' additions, which may truncate, lose at most 2^-23 of
Σ_k |x̃_k M̃_k| <= ν_i ν_j each, those of the float32 product that is compared with at most 2^-24: together less than
d_in·2^-22 ν_i ν_j while d_in <= 2^16. Products below the normal range lose at most 2^-126 each. Hence

    |fl32(<x, M>) - fl32(<x̃, M̃>)| <= margin_ij = (1 + 2^-8)(ρ_i ν_j + ν_i σ_j) + d_in·2^-22 ν_i ν_j + d_in·2^-124

where 1 + 2^-8 pays for the rounding of ρ, σ, ν themselves. The bf16 product is written in float32, so it is not
rounded again. An entry is a candidate unless fl32(<x̃, M̃>) + b_j < -margin_ij; the candidates' values are computed
anew in float32 and those that are not above 0 are dropped. What is dropped early is at most 0 in float32: the filter
saves work and changes no result, beyond the order of summation that differs between any two float32 products.

Importing this module needs the package `triton`. Under TRITON_INTERPRET=1 (set before Triton is imported) the kernels
run on CPU tensors, slowly: that is for tests. Out of scope: float64, CPU (`kernels.torch`, `kernels.cpu`).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from sae_lens_med.errors import ConfigError
from sae_lens_med.saes.kernels.active import ActiveSet

BUFFER_BYTES = 2**28
"""The most that the pre-activations of one slice of rows, or the partial sums of long columns, may take."""
ENCODE_COLUMNS = 1024
"""Columns that one program of the encoder counts and writes."""
MIN_SEGMENT = 128
"""A feature with more entries than this is summed by several programs."""
MAX_D_IN = 2**16
"""The margin of the filter is proven up to here; beyond it a row no longer fits one program either."""

_DOT_GROUP, _DECODE_GROUP, _ENTRIES = 4, 4, 2
_MARGIN_SLACK = 1.0 + 2.0**-8


def forward(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor, *, bf16_filter: bool) -> tuple[ActiveSet, torch.Tensor]:
    """The active features of `x [B, d_in]` and the reconstruction `[B, d_in]`.

    Args:
        x: activations, float32.
        M: the dictionary `[d_sae, d_in]`, float32, unit rows.
        b: encoder bias `[d_sae]`, float32.
        bf16_filter: find the candidates by a bf16 product and compute only those in float32. The result is that of
            float32 (module docstring). Without it the product is float32 (TF32 where torch was told to allow that).

    Raises:
        ConfigError: a tensor is not float32, the shapes do not fit, or d_in is above `MAX_D_IN`.
    """
    _check(x, M, b=b)
    x, M, b = x.contiguous(), M.contiguous(), b.contiguous()
    with _on_device_of(x):
        if bf16_filter:
            crow, col = _encode_bf16(x, M, b)
            acts = _drop_inactive(crow, col, _dots(crow, col, x, M, b))
        else:
            acts = _encode_float32(x, M, b)
        return acts, _decode(acts.crow, acts.col, acts.values, M, len(x))


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
    """Gradients with respect to E `[d_sae, d_in]`, b `[d_sae]` and, where asked, x `[B, d_in]` (else None).

    Args:
        acts: what `forward` returned.
        g: dL/dx̂ `[B, d_in]`.
        g_values: dL/d(acts.values) `[nnz]` through every path other than x̂ (the L1 term).
        x: the activations given to `forward`.
        M: the dictionary given to `forward`.
        inv_norm: 1 / ||E_j|| `[d_sae]`.
        needs_x: whether dL/dx is wanted.

    Raises:
        ConfigError: a tensor is not float32, or the shapes do not fit.
    """
    _check(x, M, inv_norm=inv_norm)
    if g.shape != x.shape or g.dtype != torch.float32 or g_values.shape != acts.values.shape:
        raise ConfigError(
            f"the sparse step's gradients do not fit: g must be float32 {tuple(x.shape)} and g_values "
            f"{tuple(acts.values.shape)}, got {g.dtype} {tuple(g.shape)} and {tuple(g_values.shape)}."
        )
    x, M, g = x.contiguous(), M.contiguous(), g.contiguous()
    with _on_device_of(x):
        dE, db, dc = _weight_gradients(acts, g, g_values, x, M, inv_norm.contiguous())
        return dE, db, _decode(acts.crow, acts.col, dc, M, len(x)) if needs_x else None


def _check(x: torch.Tensor, M: torch.Tensor, **per_feature: torch.Tensor) -> None:
    for name, tensor in {"x": x, "M": M, **per_feature}.items():
        if tensor.dtype != torch.float32:
            raise ConfigError(f"the CUDA kernels of the sparse step take float32, but {name} is {tensor.dtype}.")
        if tensor.device != x.device:
            raise ConfigError(
                f"the sparse step's tensors must share a device: x is on {x.device}, {name} on {tensor.device}."
            )
    if x.ndim != 2 or M.ndim != 2 or x.shape[1] != M.shape[1] or x.shape[1] > MAX_D_IN:
        raise ConfigError(
            f"the sparse step takes x [B, d_in] and M [d_sae, d_in] with d_in <= {MAX_D_IN}, "
            f"got {tuple(x.shape)} and {tuple(M.shape)}."
        )
    for name, tensor in per_feature.items():
        if tensor.shape != M.shape[:1]:
            raise ConfigError(f"{name} must be [{len(M)}], one number per feature, got {tuple(tensor.shape)}.")


def _on_device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    # Triton launches on the current device, which need not be the tensors' one.
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: object, warps: int, **constants: object) -> None:
    """Runs a kernel, unless the grid is empty."""
    if all(grid):
        # Fused multiply-adds are Triton's default up to 3.9 only: asked for, so that later versions give the same bits.
        kernel[grid](*arguments, num_warps=warps, enable_fp_fusion=True, **constants)


def _warps(elements: int) -> int:
    return min(16, max(1, elements // 512))


# --- encode -----------------------------------------------------------------------------------------------------------


def _encode_float32(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor) -> ActiveSet:
    values: list[torch.Tensor] = []
    crow, col = _encode(x, M, b, margins=None, values=values)
    return ActiveSet(crow, col, torch.cat(values) if values else x.new_empty(0))


def _encode_bf16(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row offsets and columns of the candidates."""
    d_in = x.shape[1]
    x_low, x_norm, x_error = _round_rows(x)
    M_low, M_norm, M_error = _round_rows(M)
    # margin_ij = row_error_i · ν_j + ν_i · column_error_j + floor
    row_error = _MARGIN_SLACK * x_error + d_in * 2.0**-22 * x_norm
    margins = (row_error, x_norm, M_norm, _MARGIN_SLACK * M_error)
    return _encode(x_low, M_low, b, margins=margins, values=None)


def _encode(
    x: torch.Tensor,
    M: torch.Tensor,
    b: torch.Tensor,
    margins: tuple[torch.Tensor, ...] | None,
    values: list[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row offsets `[B+1]` and columns `[nnz]` of the entries above 0, or above minus their margin if there are margins.
    Appends the values, one tensor per slice of rows, to `values`."""
    n_rows, d_sae, d_in = len(x), len(M), x.shape[1]
    slice_rows = max(1, BUFFER_BYTES // (4 * max(1, d_sae)))
    if slice_rows > 128:
        slice_rows -= slice_rows % 128
    buffer = torch.empty(min(slice_rows, n_rows), d_sae, dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(d_sae, ENCODE_COLUMNS)
    crow = torch.zeros(n_rows + 1, dtype=torch.int64, device=x.device)
    # A kernel needs a pointer even where it reads nothing from it.
    row_error, row_norm, column_norm, column_error = margins or (b, b, b, b)
    columns: list[torch.Tensor] = []
    found = 0
    for low in range(0, n_rows, slice_rows):
        part = x[low : low + slice_rows]
        pre = _product(part, M, buffer[: len(part)])
        limits = (row_error[low:], row_norm[low:], column_norm, column_error, d_in * 2.0**-124)
        counts = torch.empty(len(part), blocks, dtype=torch.int32, device=x.device)
        shape = {"FILTER": margins is not None, "BLOCK": ENCODE_COLUMNS, "warps": 4}
        _launch(_count_active, counts.shape, pre, b, *limits, counts, d_sae, blocks, **shape)
        ends = counts.flatten().cumsum(0)
        in_slice = int(ends[-1]) if len(ends) else 0
        crow[low + 1 : low + len(part) + 1] = ends.view(len(part), blocks)[:, -1] + found if blocks else found
        col = torch.empty(in_slice, dtype=torch.int64, device=x.device)
        kept = torch.empty(in_slice if values is not None else 0, dtype=torch.float32, device=x.device)
        if in_slice:
            _launch(_write_active, counts.shape, pre, b, *limits, counts, ends, col, kept, d_sae, blocks, **shape)
        columns.append(col)
        if values is not None:
            values.append(kept)
        found += in_slice
    return crow, torch.cat(columns) if columns else crow.new_empty(0)


def _product(x: torch.Tensor, M: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """x Mᵀ in float32, written to `out`. `out=` also keeps an autocast region of the caller out of it."""
    if x.dtype == torch.float32:
        return torch.mm(x, M.T, out=out)
    if x.is_cuda:
        return torch.mm(x, M.T, out_dtype=torch.float32, out=out)
    return torch.mm(x.float(), M.float().T, out=out)


def _round_rows(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """v in bf16; per row max(||v||, ||ṽ||) and ||v - ṽ||."""
    rounded = torch.empty_like(v, dtype=torch.bfloat16)
    norm, error = v.new_empty(len(v)), v.new_empty(len(v))
    block = triton.next_power_of_2(v.shape[1])
    _launch(_round_row, (len(v),), v, rounded, norm, error, v.shape[1], BLOCK=block, warps=_warps(block))
    return rounded, norm, error


def _dots(crow: torch.Tensor, col: torch.Tensor, x: torch.Tensor, M: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """<x_i, M_j> + b_j at the given positions, in float32."""
    values = x.new_empty(len(col))
    block = min(1024, triton.next_power_of_2(x.shape[1]))
    _launch(_dot_at, (len(x),), crow, col, x, M, b, values, x.shape[1], GROUP=_DOT_GROUP, BLOCK=block, warps=4)
    return values


def _drop_inactive(crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor) -> ActiveSet:
    active = ~(values <= 0)
    kept_before = torch.zeros(len(col) + 1, dtype=torch.int64, device=col.device)
    torch.cumsum(active, 0, out=kept_before[1:])
    return ActiveSet(kept_before[crow], col[active], values[active])


# --- decode and gradients ---------------------------------------------------------------------------------------------


def _decode(crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, M: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Σ_j values_ij M_j, `[B, d_in]`."""
    d_in = M.shape[1]
    out = M.new_empty(n_rows, d_in)
    block = min(1024, triton.next_power_of_2(d_in))
    grid = (n_rows, triton.cdiv(d_in, block))
    _launch(_decode_row, grid, crow, col, values, M, out, d_in, GROUP=_DECODE_GROUP, BLOCK=block, warps=4)
    return out


def _weight_gradients(
    acts: ActiveSet, g: torch.Tensor, g_values: torch.Tensor, x: torch.Tensor, M: torch.Tensor, inv_norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dE, db, and dc in the order of `acts`."""
    (d_sae, d_in), nnz, device = M.shape, len(acts.col), M.device
    sorted_col, order = torch.sort(acts.col, stable=True)
    row = torch.repeat_interleave(torch.arange(len(x), device=device), acts.crow.diff(), output_size=nnz)
    features = torch.arange(d_sae + 1, device=device)
    entries = (row[order], order, acts.values[order], g_values.float()[order])
    start = torch.searchsorted(sorted_col, features)

    # A long column is cut into segments, each with a slot for its partial sum; at most 2 nnz / segment are needed.
    most_slots = max(1, BUFFER_BYTES // (4 * max(1, d_in)))
    segment = max(MIN_SEGMENT, triton.next_power_of_2(triton.cdiv(2 * nnz, most_slots)))
    slots = 2 * nnz // segment
    length = start.diff()
    slot_end = torch.where(length > segment, (length + segment - 1) // segment, 0).cumsum(0)
    slot_feature = torch.searchsorted(slot_end, torch.arange(slots, device=device), right=True)

    partial, partial_b = M.new_empty(slots, d_in), M.new_empty(slots)
    dE, db, dc = torch.empty_like(M), M.new_empty(d_sae), M.new_empty(nnz)
    block = triton.next_power_of_2(d_in)
    shape = {"ENTRIES": _ENTRIES, "BLOCK": block, "warps": _warps(block)}
    segment_out, feature_out = (partial, partial_b, dc), (dE, db, dc)
    _launch(
        _sum_segment,
        (slots,),
        *entries,
        start,
        slot_feature,
        slot_end,
        g,
        x,
        M,
        *segment_out,
        d_in,
        d_sae,
        segment,
        **shape,
    )
    _launch(
        _sum_feature,
        (d_sae,),
        *entries,
        start,
        slot_end,
        partial,
        partial_b,
        g,
        x,
        M,
        inv_norm,
        *feature_out,
        d_in,
        segment,
        **shape,
    )
    return dE, db, dc


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def _active_block(
    pre, b, row_error, row_norm, column_norm, column_error, floor, row, block, d_sae, FILTER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns of one block of one row, pre-activations with bias, and which are active (candidates with FILTER)."""
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d_sae
    value = tl.load(pre + row * d_sae + columns, mask=inside, other=0.0)
    value += tl.load(b + columns, mask=inside, other=0.0)
    # Written so that NaN, in a value or in a margin, keeps the entry.
    if FILTER:
        margin = tl.load(row_error + row) * tl.load(column_norm + columns, mask=inside, other=0.0)
        margin += tl.load(row_norm + row) * tl.load(column_error + columns, mask=inside, other=0.0)
        active = inside & ~(value < -(margin + floor))
    else:
        active = inside & ~(value <= 0.0)
    return columns, value, active


@triton.jit
def _count_active(
    pre, b, row_error, row_norm, column_norm, column_error, floor, counts, d_sae, blocks, FILTER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    _, _, active = _active_block(
        pre, b, row_error, row_norm, column_norm, column_error, floor, row, block, d_sae, FILTER, BLOCK
    )
    tl.store(counts + row * blocks + block, tl.sum(active.to(tl.int32), axis=0))


@triton.jit
def _write_active(
    pre, b, row_error, row_norm, column_norm, column_error, floor, counts, ends, col, values, d_sae, blocks,
    FILTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count = tl.load(counts + row * blocks + block)
    if count > 0:
        columns, value, active = _active_block(
            pre, b, row_error, row_norm, column_norm, column_error, floor, row, block, d_sae, FILTER, BLOCK
        )
        first = tl.load(ends + row * blocks + block) - count
        place = first + tl.cumsum(active.to(tl.int32), axis=0) - 1
        tl.store(col + place, columns.to(tl.int64), mask=active)
        if not FILTER:
            tl.store(values + place, value, mask=active)


@triton.jit
def _norm(v):
    # Scaled by the largest entry: squares of small or large entries leave float32's range.
    scale = tl.maximum(tl.max(tl.abs(v), axis=0), 2.0**-126)
    v = v / scale
    return scale * tl.sqrt(tl.sum(v * v, axis=0))


@triton.jit
def _round_row(v, rounded, norm, error, d_in, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, BLOCK)
    inside = dims < d_in
    full = tl.load(v + row * d_in + dims, mask=inside, other=0.0)
    low = full.to(tl.bfloat16)
    tl.store(rounded + row * d_in + dims, low, mask=inside)
    back = low.to(tl.float32)
    tl.store(norm + row, tl.maximum(_norm(full), _norm(back), propagate_nan=tl.PropagateNan.ALL))
    tl.store(error + row, _norm(full - back))


@triton.jit
def _dot_at(crow, col, x, M, b, values, d_in, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start, end = tl.load(crow + row), tl.load(crow + row + 1)
    for first in range(start, end, GROUP):
        places = first + tl.arange(0, GROUP)
        live = places < end
        columns = tl.load(col + places, mask=live, other=0)
        total = tl.zeros([GROUP, BLOCK], dtype=tl.float32)
        for low in range(0, d_in, BLOCK):
            dims = low + tl.arange(0, BLOCK)
            inside = dims < d_in
            entry = tl.load(x + row * d_in + dims, mask=inside, other=0.0)
            weights = tl.load(
                M + columns[:, None] * d_in + dims[None, :], mask=live[:, None] & inside[None, :], other=0.0
            )
            total += weights * entry[None, :]
        value = tl.sum(total, axis=1) + tl.load(b + columns, mask=live, other=0.0)
        tl.store(values + places, value, mask=live)


@triton.jit
def _decode_row(crow, col, values, M, out, d_in, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = dims < d_in
    start, end = tl.load(crow + row), tl.load(crow + row + 1)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(start, end, GROUP):
        places = first + tl.arange(0, GROUP)
        live = places < end
        columns = tl.load(col + places, mask=live, other=0)
        value = tl.load(values + places, mask=live, other=0.0)
        weights = tl.load(M + columns[:, None] * d_in + dims[None, :], mask=live[:, None] & inside[None, :], other=0.0)
        total += tl.sum(weights * value[:, None], axis=0)
    tl.store(out + row * d_in + dims, total, mask=inside)


@triton.jit
def _sum_entries(
    row, order, value, g_value, first, last, g, x, weights, dc_out, d_in, ENTRIES: tl.constexpr, BLOCK: tl.constexpr
):
    """Σ c_i g_i + dc_i x_i and Σ dc_i over the entries [first, last) of one feature; stores each dc."""
    dims = tl.arange(0, BLOCK)
    inside = dims < d_in
    total = tl.zeros([BLOCK], dtype=tl.float32)
    total_b = tl.zeros([ENTRIES], dtype=tl.float32)
    for at in range(first, last, ENTRIES):
        places = at + tl.arange(0, ENTRIES)
        live = places < last
        here = tl.load(row + places, mask=live, other=0)[:, None] * d_in + dims[None, :]
        readable = live[:, None] & inside[None, :]
        gradient = tl.load(g + here, mask=readable, other=0.0)
        entry = tl.load(x + here, mask=readable, other=0.0)
        dc = tl.sum(gradient * weights[None, :], axis=1) + tl.load(g_value + places, mask=live, other=0.0)
        tl.store(dc_out + tl.load(order + places, mask=live, other=0), dc, mask=live)
        c = tl.load(value + places, mask=live, other=0.0)
        total += tl.sum(c[:, None] * gradient + dc[:, None] * entry, axis=0)
        total_b += dc
    return total, tl.sum(total_b, axis=0)


@triton.jit
def _sum_segment(
    row, order, value, g_value, start, slot_feature, slot_end, g, x, M, partial, partial_b, dc, d_in, d_sae, segment,
    ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One segment of a feature that has more than one."""
    slot = tl.program_id(0).to(tl.int64)
    feature = tl.load(slot_feature + slot)
    if feature < d_sae:
        feature_first, feature_last = tl.load(start + feature), tl.load(start + feature + 1)
        segments = (feature_last - feature_first + segment - 1) // segment
        first = feature_first + (slot - (tl.load(slot_end + feature) - segments)) * segment
        last = tl.minimum(first + segment, feature_last)
        dims = tl.arange(0, BLOCK)
        inside = dims < d_in
        weights = tl.load(M + feature * d_in + dims, mask=inside, other=0.0)
        total, total_b = _sum_entries(row, order, value, g_value, first, last, g, x, weights, dc, d_in, ENTRIES, BLOCK)
        tl.store(partial + slot * d_in + dims, total, mask=inside)
        tl.store(partial_b + slot, total_b)


@triton.jit
def _sum_feature(
    row, order, value, g_value, start, slot_end, partial, partial_b, g, x, M, inv_norm, dE, db, dc, d_in, segment,
    ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dE and db of one feature, from its entries or, where it has several segments, from their partial sums."""
    feature = tl.program_id(0).to(tl.int64)
    first, last = tl.load(start + feature), tl.load(start + feature + 1)
    dims = tl.arange(0, BLOCK)
    inside = dims < d_in
    if first == last:
        tl.store(dE + feature * d_in + dims, tl.zeros([BLOCK], dtype=tl.float32), mask=inside)
        tl.store(db + feature, 0.0)
    else:
        weights = tl.load(M + feature * d_in + dims, mask=inside, other=0.0)
        if last - first > segment:
            slot_last = tl.load(slot_end + feature)
            total = tl.zeros([BLOCK], dtype=tl.float32)
            total_b = 0.0
            for slot in range(slot_last - (last - first + segment - 1) // segment, slot_last):
                total += tl.load(partial + slot * d_in + dims, mask=inside, other=0.0)
                total_b += tl.load(partial_b + slot)
        else:
            total, total_b = _sum_entries(
                row, order, value, g_value, first, last, g, x, weights, dc, d_in, ENTRIES, BLOCK
            )
        along = tl.sum(total * weights, axis=0)
        total = (total - along * weights) * tl.load(inv_norm + feature)
        tl.store(dE + feature * d_in + dims, total, mask=inside)
        tl.store(db + feature, total_b)
