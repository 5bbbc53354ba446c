"""The sparse step's kernels on a CPU: torch's matrix product to encode, compiled loops (numba) for what is sparse.

The encoding product is made a block of features at a time, into one buffer that stays in the cache; a scan picks the
active entries out of it, and everything after that touches only those. No `[batch, d_sae]` matrix exists.

`bf16_filter` makes the product in bfloat16, two to four times as fast where the processor has the instructions. It only
says which entries *may* be active; those are computed again in float32. With δx = x - bf16(x), δM = M - bf16(M):

    |M_j·x_i - bf16(M_j)·bf16(x_i)|  <=  ||δx_i|| ||M_j|| + ||bf16(x_i)|| ||δM_j||            (Cauchy-Schwarz)

The norms on the right are computed, not assumed. The margin adds the float32 accumulation, d_in·2⁻²³·||x_i||, and the
roundings to bfloat16: 2⁻⁸ |b_j| of the bias, as much of the product (near the threshold it is -b_j), 1 % of the sum. An
entry that lies further below zero than that cannot be active, so none is missed, and the step equals the float32 one.

Threads: each kernel runs without the interpreter's lock on a share of the rows (or of the features), at most one share
for each of torch's threads, and none of less work than `LEAST_SHARE`: waking a thread costs microseconds on a quiet
machine and, once a kernel, a time slice of some milliseconds on one whose cores are taken. Each sum is made by one
thread in a fixed order, so the results are equal bit for bit, whatever the number of shares.

Out of scope: other types than float32, for which `kernels.torch` stands in.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

from sae_lens_med.saes.kernels.active import ActiveSet

BUFFER_BYTES = 2**25
"""Of one block of pre-activations: what a server's last-level cache holds."""

SCAN_WIDTH = 16
"""Entries that the scan rejects at once."""
LEAST_SHARE = 2**18
"""Multiply-adds, or entries looked at, of one thread's share at least: some 0.1 ms."""

Array = np.ndarray[Any, Any]
Share = tuple[int, int]

_jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
"""Sums may be reordered, so that they use vector instructions; NaN and infinity keep their meaning."""


def forward(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor, *, bf16_filter: bool) -> tuple[ActiveSet, torch.Tensor]:
    """See `active.Kernels`. float32 only."""
    x, M, b = x.contiguous(), M.contiguous(), b.contiguous()
    out = torch.empty_like(x)
    if bf16_filter:
        crow, col, values = _encode_by_candidates(x, M, b, out)
    else:
        crow, col, values = _collect(x, M, None, _scan_float32, b.numpy())
        _parallel(_decode, _shares(crow, x.shape[1]), M.numpy(), crow, col, values, out.numpy())
    return ActiveSet(torch.from_numpy(crow), torch.from_numpy(col), torch.from_numpy(values)), out


def _encode_by_candidates(x: torch.Tensor, M: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> tuple[Array, ...]:
    x16, M16 = x.bfloat16(), M.bfloat16()
    M_error = np.empty(len(M), np.float32)
    _parallel(_rounding_errors, _even(len(M), M.shape[1]), M.numpy(), _bits16(M16), M_error)
    norm = x.norm(dim=1)
    margin = (x - x16.float()).norm(dim=1) + norm * (1.004 * float(M_error.max(initial=0)) + x.shape[1] * 2.0**-23)
    if len(b):
        margin += 2.0**-7 * b.abs().max()
    # 1 %: the sum's own rounding to bfloat16, the norms' in float32, and that of the margin.
    limit = _bits16((1.01 * margin).bfloat16()) | np.uint16(0x8000)
    crow, col, values = _collect(x16, M16, b.bfloat16(), _scan_bfloat16, limit)
    n_kept = np.empty(len(x), np.int64)
    _parallel(
        _decode_candidates,
        _shares(crow, x.shape[1]),
        x.numpy(),
        M.numpy(),
        b.numpy(),
        crow,
        col,
        values,
        n_kept,
        out.numpy(),
    )
    kept_crow = _offsets(n_kept)
    kept_col, kept_values = np.empty(kept_crow[-1], np.int64), np.empty(kept_crow[-1], np.float32)
    _parallel(_pack, _even(len(x), len(col) // max(1, len(x))), crow, kept_crow, col, values, kept_col, kept_values)
    return kept_crow, kept_col, kept_values


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
    """See `active.Kernels`. float32 only."""
    g_, g_values_, x_, M_, inv_norm_ = (t.contiguous().numpy() for t in (g, g_values, x, M, inv_norm))
    crow, col, values = acts.crow.numpy(), acts.col.numpy(), acts.values.numpy()
    delta = np.empty_like(values)
    _parallel(_gradient_at_active, _shares(crow, x.shape[1]), M_, crow, col, g_, g_values_, delta)
    dx = None
    if needs_x:
        dx = torch.empty(x.shape)
        _parallel(_decode, _shares(crow, x.shape[1]), M_, crow, col, delta, dx.numpy())
    ccol, entry, row = _by_feature(crow, col, len(M))
    dE, db = torch.empty(M.shape), torch.empty(len(M))
    arrays = (ccol, entry, row, values, delta, g_, x_, M_, inv_norm_, dE.numpy(), db.numpy())
    _parallel(_weight_gradient, _shares(ccol, 2 * x.shape[1]), *arrays)
    return dE, db, dx


# --- the encoding product, block by block --------------------------------------------------------------------------


class _Found:
    """What one thread has picked: entries by block of features, then row, then feature."""

    def __init__(self, room: int) -> None:
        self.n = 0
        self.row, self.col, self.value = (np.empty(room, t) for t in (np.int32, np.int32, np.float32))

    def grow(self) -> None:
        self.row, self.col, self.value = (np.resize(a, 2 * len(a)) for a in (self.row, self.col, self.value))


def _collect(
    x: torch.Tensor, M: torch.Tensor, b: torch.Tensor | None, scan: Callable[..., int], limit: Array
) -> tuple[Array, Array, Array]:
    """The entries of x Mᵀ (+ b, if given) that `scan` picks by its `limit`, as CSR: crow, col, values."""
    rows = _even(len(x), len(M))
    found = [_Found(max(SCAN_WIDTH, 128 * (stop - start))) for start, stop in rows]
    width = max(SCAN_WIDTH, BUFFER_BYTES // (x.element_size() * max(1, len(x))) // SCAN_WIDTH * SCAN_WIDTH)
    buffer = torch.empty(len(x) * min(width, len(M)), dtype=x.dtype)
    for at in range(0, len(M), width):
        M_block = M[at : at + width]
        into = buffer[: len(x) * len(M_block)].view(len(x), len(M_block))
        if b is None:
            torch.mm(x, M_block.T, out=into)
        else:
            torch.addmm(b[at : at + width], x, M_block.T, out=into)
        pre = _bits16(into) if into.dtype == torch.bfloat16 else into.numpy()

        def scan_share(share: int, pre: Array = pre, at: int = at) -> None:
            mine = found[share]
            while (n := scan(pre, limit, *rows[share], at, mine.row, mine.col, mine.value, mine.n)) < 0:
                mine.grow()
            mine.n = n

        _each(scan_share, len(rows))
    count = np.zeros(len(x), np.int64)
    for mine in found:
        _count(mine.row, mine.n, count)
    crow = _offsets(count)
    col, values, cursor = np.empty(crow[-1], np.int64), np.empty(crow[-1], np.float32), crow[:-1].copy()

    def place_share(share: int) -> None:
        mine = found[share]
        _place(mine.row, mine.col, mine.value, mine.n, cursor, col, values)

    _each(place_share, len(rows))
    return crow, col, values


def _bits16(t: torch.Tensor) -> Array:
    """bfloat16 values as what numpy knows: their bits."""
    return t.view(torch.int16).numpy().view(np.uint16)


@_jit
def _scan_float32(pre, b, start, stop, at, row, col, value, n):
    """Append the entries of rows start..stop that are above zero with their bias, or NaN, to (row, col, value).

    Returns how many there are then, or -1 if there is no room for them. `n`: how many there are before."""
    width = pre.shape[1]
    for r in range(start, stop):
        for first in range(0, width, SCAN_WIDTH):
            last = min(first + SCAN_WIDTH, width)
            if last - first == SCAN_WIDTH:
                some = False
                for k in range(first, first + SCAN_WIDTH):
                    some |= not pre[r, k] + b[at + k] <= 0
                if not some:
                    continue
            if n + SCAN_WIDTH > len(col):
                return -1
            for k in range(first, last):
                v = pre[r, k] + b[at + k]
                if not v <= 0:
                    row[n], col[n], value[n] = r, at + k, v
                    n += 1
    return n


@_jit
def _scan_bfloat16(bits, limit, start, stop, at, row, col, value, n):  # noqa: ARG001 - values come later
    """As `_scan_float32`, for entries (bias included) above minus the row's margin, whose bits `limit` holds.

    Read as unsigned integers, negative floats lie above all positive ones and grow as they fall."""
    width = bits.shape[1]
    for r in range(start, stop):
        most = limit[r]
        for first in range(0, width, SCAN_WIDTH):
            last = min(first + SCAN_WIDTH, width)
            if last - first == SCAN_WIDTH:
                least = np.uint16(0xFFFF)
                for k in range(SCAN_WIDTH):
                    least = min(least, bits[r, first + k])
                if least > most:
                    continue
            if n + SCAN_WIDTH > len(col):
                return -1
            for k in range(first, last):
                if bits[r, k] <= most:
                    row[n], col[n] = r, at + k
                    n += 1
    return n


@_jit
def _count(row, n, count):
    for i in range(n):
        count[row[i]] += 1


@_jit
def _place(row, col, value, n, cursor, out_col, out_value):
    for i in range(n):
        p = cursor[row[i]]
        out_col[p], out_value[p] = col[i], value[i]
        cursor[row[i]] = p + 1


@_jit
def _rounding_errors(start, stop, M, bits, out):
    """||M_j - bf16(M_j)||, by row."""
    half = np.empty(M.shape[1], np.uint32)
    rounded = half.view(np.float32)
    for j in range(start, stop):
        for k in range(M.shape[1]):
            half[k] = np.uint32(bits[j, k]) << np.uint32(16)
        total = np.float32(0)
        for k in range(M.shape[1]):
            error = M[j, k] - rounded[k]
            total += error * error
        out[j] = np.sqrt(total)


# --- what is sparse ----------------------------------------------------------------------------------------------


@_jit
def _decode(start, stop, M, crow, col, values, out):
    """out_i = Σ_j values_ij M_j."""
    for r in range(start, stop):
        into = out[r]
        into[:] = 0
        for p in range(crow[r], crow[r + 1]):
            m, v = M[col[p]], values[p]
            for k in range(len(into)):
                into[k] += v * m[k]


@_jit
def _decode_candidates(start, stop, x, M, b, crow, col, values, n_kept, out):
    """Activations of the candidates in float32; the active ones move to the front of their row and are decoded."""
    for r in range(start, stop):
        into, x_r = out[r], x[r]
        into[:] = 0
        to = crow[r]
        for p in range(crow[r], crow[r + 1]):
            j = col[p]
            m = M[j]
            v = np.float32(0)
            for k in range(len(into)):
                v += m[k] * x_r[k]
            v += b[j]
            if not v <= 0:
                col[to], values[to] = j, v
                to += 1
                for k in range(len(into)):
                    into[k] += v * m[k]
        n_kept[r] = to - crow[r]


@_jit
def _pack(start, stop, crow, kept_crow, col, values, kept_col, kept_values):
    for r in range(start, stop):
        n = kept_crow[r + 1] - kept_crow[r]
        kept_col[kept_crow[r] : kept_crow[r + 1]] = col[crow[r] : crow[r] + n]
        kept_values[kept_crow[r] : kept_crow[r + 1]] = values[crow[r] : crow[r] + n]


@_jit
def _gradient_at_active(start, stop, M, crow, col, g, g_values, delta):
    for r in range(start, stop):
        g_r = g[r]
        for p in range(crow[r], crow[r + 1]):
            m = M[col[p]]
            v = np.float32(0)
            for k in range(len(g_r)):
                v += g_r[k] * m[k]
            delta[p] = v + g_values[p]


@_jit
def _by_feature(crow, col, d_sae):
    """The entries in the order of their features: where each feature begins, and each entry's place and row."""
    ccol = np.zeros(d_sae + 1, np.int64)
    for p in range(len(col)):
        ccol[col[p] + 1] += 1
    for j in range(d_sae):
        ccol[j + 1] += ccol[j]
    cursor = ccol[:-1].copy()
    entry, row = np.empty(len(col), np.int64), np.empty(len(col), np.int64)
    for r in range(len(crow) - 1):
        for p in range(crow[r], crow[r + 1]):
            q = cursor[col[p]]
            entry[q], row[q] = p, r
            cursor[col[p]] = q + 1
    return ccol, entry, row


@_jit
def _weight_gradient(start, stop, ccol, entry, row, values, delta, g, x, M, inv_norm, dE, db):
    for j in range(start, stop):
        into, m = dE[j], M[j]
        into[:] = 0
        db[j] = 0
        for q in range(ccol[j], ccol[j + 1]):
            p, r = entry[q], row[q]
            c, d = values[p], delta[p]
            g_r, x_r = g[r], x[r]
            for k in range(len(into)):
                into[k] += c * g_r[k] + d * x_r[k]
            db[j] += d
        along = np.float32(0)
        for k in range(len(into)):
            along += into[k] * m[k]
        scale = inv_norm[j]
        for k in range(len(into)):
            into[k] = (into[k] - along * m[k]) * scale


# --- shares and threads ------------------------------------------------------------------------------------------


def _offsets(count: Array) -> Array:
    out = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=out[1:])
    return out


def _parts(work: int) -> int:
    """In how many shares to do so much work."""
    return max(1, min(torch.get_num_threads(), work // LEAST_SHARE))


def _even(n: int, cost: int) -> list[Share]:
    """n rows in equal shares; `cost`: the work of a row."""
    parts = _parts(n * cost)
    return [(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def _shares(offsets: Array, cost: int) -> list[Share]:
    """Rows in shares of about as many entries; a row counts as one entry more. `cost`: the work of an entry."""
    work = offsets + np.arange(len(offsets))
    parts = _parts(int(work[-1]) * cost)
    cuts = np.searchsorted(work, work[-1] * np.arange(parts + 1) / parts)
    cuts[0], cuts[-1] = 0, len(offsets) - 1
    return [(int(a), int(z)) for a, z in zip(cuts[:-1], cuts[1:], strict=True)]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One a process: threads do not survive a fork."""
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="sparse-step")


def _each(work: Callable[[int], None], n: int) -> None:
    """work(0) .. work(n - 1), at the same time."""
    if n == 1:
        work(0)
    else:
        list(_pool(os.getpid(), torch.get_num_threads()).map(work, range(n)))


def _parallel(kernel: Callable[..., None], shares: list[Share], *arrays: Array) -> None:
    """The kernel on each share, at the same time."""
    _each(lambda i: kernel(*shares[i], *arrays), len(shares))
