"""The loop of `rsa` over permutations, compiled. Apart, so that who reads the list of metrics loads no compiler."""

import numba
import numpy as np

from sae_lens_med.records import FloatArray, IntArray

_jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
"""Sums may be reordered, so that they use vector instructions."""


@_jit
def moved_correlations(left: FloatArray, directions: FloatArray, orders: IntArray) -> tuple[FloatArray, FloatArray]:
    """rho and T (`[B]` each) of `left` `[n, n]` with its items in each of `orders` `[B, n]`.

    `directions` `[1 + q, n, n]`: the residual of Y, then the confounds, to which it is orthogonal. All, and `left`, are
    of length 1 over the pairs. So what the confounds explain of the moved matrix is taken from the sums over its pairs,
    not from each of them.
    """
    n, q = len(left), len(directions) - 1
    confounded = np.zeros((q, n))
    for k in range(q):
        for i in range(n):
            confounded[k, i] = (directions[1 + k, i] * directions[0, i]).sum()
    rho, studentised = np.zeros(len(orders)), np.zeros(len(orders))
    moved, fitted, share = np.empty(n), np.empty(q), np.empty(n)
    for b in range(len(orders)):
        order = orders[b]
        fitted[:] = 0.0
        share[:] = 0.0
        for i in range(n):
            row = left[order[i]]
            own = 0.0
            for j in range(i):
                moved[j] = row[order[j]]
            for j in range(i):
                product = moved[j] * directions[0, i, j]
                own += product
                share[j] += product
            share[i] += own
            for k in range(q):
                inner = 0.0
                for j in range(i):
                    inner += moved[j] * directions[1 + k, i, j]
                fitted[k] += inner
        length = 1.0
        for k in range(q):
            length -= fitted[k] ** 2
            for i in range(n):
                share[i] -= fitted[k] * confounded[k, i]
        total = share.sum() / 2
        spread = 0.0
        for i in range(n):
            spread += (share[i] - 2 * total / n) ** 2
        if length > 1e-12:
            rho[b] = total / np.sqrt(length)
        if spread > 1e-24:
            studentised[b] = 2 * total / np.sqrt(spread)
    return rho, studentised
