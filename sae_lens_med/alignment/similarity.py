"""How much a question resembles an explanation: cosines, and what text length and script alone give to them.

`S[i, j] = cos(a_i, e_j)` for the stem vector of item i and the explanation vector of item j (float64 `[n, n]`). A
vector without any entry has similarity 0 to everything; it is counted, and stays in.

**Adjustment** (`adjust_for_nuisance`). Long texts make dense vectors, and two long texts resemble each other whatever
they say; so do two Korean ones. The part of S that is a function of such properties alone is taken away,

    S' = S - P_X S P_Y + mean(S)

with P_X the projection on the stem properties (a constant, log length, its square, the share of Hangul) and P_Y that on
the explanation's: the least-squares fit of S on all products of the two, over all n^2 pairs. The fit looks at all pairs
alike, so the permutation test on S' is as exact as that on S. Groups of fewer than `MIN_ADJUSTED` items are not
adjusted.

Texts of one subject share words and features, so that length may count more among them than across subjects. Where the
pairs of a stratum alone are compared, the fit on these alone (`adjust_within_strata`) leaves less of it.

Out of scope: what is measured on the similarities (`retrieval`, `difference`), and which vectors (`similarities`).
"""

from typing import Any

import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.records import FloatArray
from sae_lens_med.statistics import Strata

MIN_ADJUSTED = 30
"""Items that a group needs before its similarities are adjusted: fewer cannot carry the fit of 16 coefficients."""


def cosine_matrix(stems: FloatArray | sparse.csr_array, explanations: FloatArray | sparse.csr_array) -> FloatArray:
    """`[n, n]` cosines of all stem rows with all explanation rows (`[n, d]` each, sparse or dense), in [-1, 1].

    A row of zeros has similarity 0 to everything. Raises `DataError` when the shapes differ.
    """
    if stems.shape != explanations.shape:
        raise DataError(f"stem vectors {stems.shape} and explanation vectors {explanations.shape} must have one shape.")
    product: Any = _unit_rows(stems) @ _unit_rows(explanations).T
    dense = product.toarray() if sparse.issparse(product) else product
    return np.clip(np.asarray(dense, dtype=np.float64), -1.0, 1.0)


def adjust_for_nuisance(
    similarity: FloatArray, stem_properties: FloatArray, explanation_properties: FloatArray
) -> FloatArray:
    """`S - P_X S P_Y + mean(S)`, `[n, n]`: see the module's text.

    Args:
        similarity: S, `[n, n]`. Rows and columns that are all zero (empty vectors) stay zero.
        stem_properties: `[n, k]`, without the constant. A property that does not vary changes nothing.
        explanation_properties: `[n, k]`.
    """
    adjusted = similarity - _fitted(similarity, stem_properties, explanation_properties) + similarity.mean()
    nonzero = similarity != 0
    return np.where(nonzero.any(axis=1)[:, None] & nonzero.any(axis=0)[None, :], adjusted, similarity)


def adjust_within_strata(
    similarity: FloatArray, stem_properties: FloatArray, explanation_properties: FloatArray, strata: Strata
) -> FloatArray:
    """As `adjust_for_nuisance`, with the fit made on the pairs within strata, and taken from these: `[n, n]`.

    Other pairs stay as they are: permutations within strata never meet them. Pairs of a text that resembles none (all
    zero) take no part and stay zero. Where there are fewer than twice as many pairs as coefficients, nothing is fitted.
    """
    nonzero = similarity != 0
    same = (strata.index[:, None] == strata.index[None]) & strata.exchangeable[:, None]
    same &= nonzero.any(axis=1)[:, None] & nonzero.any(axis=0)[None]
    row, column = np.nonzero(same)
    left, right = _basis(stem_properties), _basis(explanation_properties)
    products = (left[row][:, :, None] * right[column][:, None, :]).reshape(len(row), -1)
    if len(row) < 2 * products.shape[1]:
        return similarity
    # All columns are of one scale, so that rounding is what the least singular values hold.
    u, singular, _ = np.linalg.svd(products, full_matrices=False)
    u = u[:, singular > 1e-9 * singular[0]]
    values = similarity[row, column]
    adjusted = similarity.copy()
    adjusted[row, column] = values - u @ (u.T @ values) + values.mean()
    return adjusted


def _unit_rows(rows: FloatArray | sparse.csr_array) -> FloatArray | sparse.csr_array:
    norm = np.sqrt(np.asarray((rows * rows).sum(axis=1), dtype=np.float64)).ravel()
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    if sparse.issparse(rows):
        return sparse.csr_array(sparse.diags_array(scale) @ rows)
    return np.asarray(rows, dtype=np.float64) * scale[:, None]


def _fitted(similarity: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    left, right = _basis(x), _basis(y)
    return left @ (left.T @ similarity @ right) @ right.T


def _basis(properties: FloatArray) -> FloatArray:
    """Orthonormal columns `[n, rank]` that span the constant and the properties."""
    n = len(properties)
    centred = properties - properties.mean(axis=0)
    spread = centred.std(axis=0)
    # A property that does not vary is rounding after centring; scaled up it would be noise.
    centred = centred[:, spread > 1e-9 * (1 + np.abs(properties).max(axis=0, initial=0.0))]
    design = np.column_stack([np.ones(n), centred / centred.std(axis=0)])
    u, singular, _ = np.linalg.svd(design, full_matrices=False)
    return u[:, singular > 1e-9 * singular[0]]
