"""Which features a question shares with its explanation: the aligned features of an item, and which are mentioned.

**Aligned features** of an item: not masked (`vectors.feature_mask`), above 0 on a counted stem token and on a counted
token of the masked explanation; ranked by the smaller of the two IDF-weighted maxima, of equals the lower index first.
These are the features that metrics #6 to #8 attribute to, remove and keep.

**Mentioned**: a feature is mentioned when the explanations of the questions that have it have it more than explanations
of other questions of the stratum do. Statistic over the items, with S and E the weighted maxima of both sides:
`T_f = sum_i min(S_if, E_if)` >= 0; null: explanations permuted within strata; `p_f = (1 + #{null >= T_f}) / (B + 1)`.

Out of scope: what the features do to the answer (`ablation_runs`, `feature_effects`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import (
    EXPLANATION_PARTS,
    STEM_PARTS,
    Collected,
    feature_mask,
    idf_weights,
    max_pool,
    token_scripts,
    weighted,
)
from sae_lens_med.records import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Aligned features of the items that have an explanation."""

    features: dict[str, IntArray]
    """Item id -> features, the best aligned first; empty where the two sides share none."""
    scores: dict[str, FloatArray]
    """Item id -> the smaller of the two weighted maxima of each, > 0, descending."""
    kept: BoolArray
    """`[d_sae]`, the features that are not masked."""
    explained: IntArray
    """`[m]`, the items with an explanation."""
    stems: sparse.csr_array
    """CSR `[m, d_sae]`, weighted maxima over the stem; so `explanations`."""
    explanations: sparse.csr_array


def aligned_features(features: Collected) -> Aligned:
    """Of every item with an explanation; see the module's text."""
    acts = features.acts
    mask = feature_mask(acts, token_scripts(acts, features.texts))
    explained = np.flatnonzero(features.has_explanation)
    stems = max_pool(acts, STEM_PARTS, mask.kept)[explained]
    explanations = max_pool(acts, EXPLANATION_PARTS, mask.kept)[explained]
    weights = idf_weights(stems, explanations)
    return rank_shared(
        [acts.item_ids[i] for i in explained],
        explained,
        weighted(stems, weights),
        weighted(explanations, weights),
        mask.kept,
    )


def rank_shared(
    ids: Sequence[str], explained: IntArray, stems: sparse.csr_array, explanations: sparse.csr_array, kept: BoolArray
) -> Aligned:
    """`aligned_features` from weighted maxima `[m, d_sae]` that are there already."""
    found: dict[str, IntArray] = {}
    scores: dict[str, FloatArray] = {}
    for row, name in enumerate(ids):
        (left, stem), (right, explanation) = _row(stems, row), _row(explanations, row)
        both, at, to = np.intersect1d(left, right, assume_unique=True, return_indices=True)
        smaller = np.minimum(stem[at], explanation[to])
        order = np.lexsort((both, -smaller))
        found[name], scores[name] = both[order].astype(np.int64), smaller[order]
    return Aligned(found, scores, kept, np.asarray(explained, dtype=np.int64), stems, explanations)


def mention_p(
    stems: sparse.csr_array, explanations: sparse.csr_array, features: IntArray, permutations: IntArray
) -> FloatArray:
    """`[len(features)]`: p of being mentioned, one-sided; see the module's text.

    Args:
        stems: `[m, d_sae]`, values >= 0, of items with an explanation; so `explanations`.
        features: which columns.
        permutations: `[B, m]`, row b gives item i the explanation of item `permutations[b, i]`.

    1 for a feature that no item has on both sides. Raises `DataError` for permutations of another number of items.
    """
    s = np.asarray(sparse.csc_array(stems)[:, features].toarray(), dtype=np.float64)
    e = np.asarray(sparse.csc_array(explanations)[:, features].toarray(), dtype=np.float64)
    if permutations.ndim != 2 or permutations.shape[1] != len(s):
        raise DataError(f"permutations have shape {permutations.shape}, expected (B, {len(s)}).")
    p = np.ones(len(features))
    for k in range(len(features)):
        rows = np.flatnonzero(s[:, k])  # only the questions that have the feature can add to the sum
        if not len(rows):
            continue
        observed = np.minimum(s[rows, k], e[rows, k]).sum()
        null = np.minimum(s[rows, k], e[permutations[:, rows], k]).sum(axis=1)
        p[k] = (1 + np.count_nonzero(null >= observed - 1e-12 * max(1.0, observed))) / (len(null) + 1)
    return p


def choose_features(
    aligned: Mapping[str, IntArray],
    attribution: Mapping[str, tuple[IntArray, FloatArray]],
    n: int,
    top: int = 10,
) -> tuple[IntArray, IntArray]:
    """Features worth a causal test, from items on which they will *not* be tested.

    Args:
        aligned: item id -> features, best first.
        attribution: item id -> features with the size of their first-order effect on the answer, >= 0.
        n: how many of each kind.
        top: how many of an item's aligned features count.

    Returns up to `n` that stand most often among the first `top` aligned features, and up to `n` others with the
    largest sum of first-order effects, each from the largest; of equals the lower index first.
    """
    often: dict[int, float] = {}
    for features in aligned.values():
        for feature in features[:top].tolist():
            often[feature] = often.get(feature, 0.0) + 1
    mentioned = sorted(often, key=lambda f: (-often[f], f))[:n]
    moved: dict[int, float] = {}
    for features, size in attribution.values():
        for feature, value in zip(features.tolist(), size.tolist(), strict=True):
            moved[feature] = moved.get(feature, 0.0) + value
    taken = set(mentioned)
    others = sorted((f for f in moved if f not in taken), key=lambda f: (-moved[f], f))[:n]
    return np.array(mentioned, dtype=np.int64), np.array(others, dtype=np.int64)


def _row(side: sparse.csr_array, row: int) -> tuple[IntArray, FloatArray]:
    """Features of a row with their values above 0, in ascending order."""
    start, end = side.indptr[row], side.indptr[row + 1]
    features = np.asarray(side.indices[start:end], dtype=np.int64)
    values = np.asarray(side.data[start:end], dtype=np.float64)
    order = np.argsort(features, kind="stable")
    features, values = features[order], values[order]
    return features[values > 0], values[values > 0]
