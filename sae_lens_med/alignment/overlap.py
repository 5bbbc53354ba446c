"""Do a stem and its explanation fire the same features? Overlap of feature sets (domain metric #3).

Stem i has the vector a_i and explanation j the vector e_j (`[F]`, >= 0, sparse). Three numbers on the pair:

- **weighted Jaccard** `J = sum_f min(a_f, e_f) / sum_f max(a_f, e_f)`, on all features;
- **precision@k** `|T ∩ U| / |T|` and **recall@k** `|T ∩ U| / |U|`, T the k strongest features of the stem, U those of
  the explanation. Features at 0 are in no set, so a set may have fewer than k; where both have k the two are equal.

Large values mean overlap. Two nulls stand beside each:

- **hypergeometric**: two sets of these sizes drawn from F_live features alike, `E|T ∩ U| = |T| |U| / F_live` (`k² /
  F_live`). It is a floor only: features are not equally frequent, and two unrelated texts share the frequent ones.
- **permutation** of explanations within strata, which keeps every set as it is, and so every feature's frequency.

Every pair is measured once, into `[n, n]` tables; a permutation then costs n look-ups.

Out of scope: which features to leave out and how to weigh them (`vectors`).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import hypergeom

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import permuted_means

DEFAULT_K = 20
"""Features in a set."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Metric #3 item by item, with its nulls; n items, B permutations."""

    jaccard: FloatArray
    """`[n]`, in [0, 1]; 0 for an item whose stem or explanation has no feature."""
    precision: FloatArray
    """`[n]`, in [0, 1]; 0 where the stem has no feature."""
    recall: FloatArray
    """`[n]`, in [0, 1]; 0 where the explanation has no feature."""
    null_jaccard: FloatArray
    """`[B]`, the mean over items under each permutation; so the two below."""
    null_precision: FloatArray
    null_recall: FloatArray
    chance_precision: FloatArray
    """`[n]`, the hypergeometric expectation `|U| / F_live`, 0 where T is empty."""
    chance_recall: FloatArray
    """`[n]`, `|T| / F_live`, 0 where U is empty."""
    hypergeometric_p: FloatArray
    """`[n]`, `P(X >= |T ∩ U|)` with X hypergeometric: per item, and only as good as "all features are alike" is."""
    n_live: int
    """F_live: the features that are in at least one vector."""
    k: int


def weighted_jaccard_table(stems: sparse.csr_array, explanations: sparse.csr_array) -> FloatArray:
    """`[n, m]` of `sum min / sum max` for every stem (`[n, F]`) with every explanation (`[m, F]`), in [0, 1].

    Two vectors without features have 0. `sum max = sum a + sum e - sum min`, so only shared features are visited.
    Range 0 to 1, 1 for equal vectors; not changed when both are multiplied by one number. Ružička 1958.
    Raises `DataError` for different widths and for negative activations.
    """
    _require_activations(stems, explanations)
    by_feature = explanations.tocsc()
    smaller = np.zeros((_rows(stems), _rows(explanations)))
    for i in range(_rows(stems)):
        own = slice(stems.indptr[i], stems.indptr[i + 1])
        shared = by_feature[:, stems.indices[own]]
        shared.data = np.minimum(shared.data, np.repeat(stems.data[own], np.diff(shared.indptr)))
        smaller[i] = np.bincount(shared.indices, weights=shared.data, minlength=_rows(explanations))
    left, right = (np.asarray(side.sum(axis=1), dtype=np.float64) for side in (stems, explanations))
    larger = np.add.outer(left, right) - smaller
    return np.clip(np.divide(smaller, larger, out=np.zeros_like(smaller), where=larger > 0), 0.0, 1.0)


def top_k_sets(vectors: sparse.csr_array, k: int) -> sparse.csr_array:
    """CSR `[n, F]` of ones: the k features of each row with the largest positive values; of equals the lower index.

    A row with fewer than k positive values has them all. Raises `ConfigError` when k < 1.
    """
    if k < 1:
        raise ConfigError(f"a set of the strongest features needs k of at least 1, got {k}.")
    row_of = np.repeat(np.arange(_rows(vectors)), np.diff(vectors.indptr))
    positive = vectors.data > 0
    rows, features, values = row_of[positive], vectors.indices[positive], np.asarray(vectors.data[positive])
    order = np.lexsort((features, np.negative(values), rows))
    rows, features = rows[order], features[order]
    first = np.searchsorted(rows, np.arange(_rows(vectors)))
    chosen = np.arange(len(rows)) - first[rows] < k
    entries = (rows[chosen], features[chosen])
    return sparse.csr_array((np.ones(np.count_nonzero(chosen)), entries), shape=vectors.shape)


def feature_overlap(
    stems: sparse.csr_array,
    explanations: sparse.csr_array,
    permutations: IntArray,
    k: int = DEFAULT_K,
    relevant_k: int | None = None,
) -> Overlap:
    """Metric #3 on pooled vectors (CSR `[n, F]` each) with `permutations` `[B, n]` of `stratified_permutations`.

    Args:
        stems: row i belongs to row i of `explanations`.
        explanations: as `stems`.
        permutations: row b pairs stem i with explanation `permutations[b, i]`.
        k: size of T, the stem's set, >= 1.
        relevant_k: size of U, the explanation's set; k when not given. With all features of the explanation
            (`relevant_k = F`), precision@k and recall@k are those of information retrieval.

    Value on no data: an item without features on a side has 0 and stays in the mean. F_live counts the features that
    appear in any of the vectors. Raises `DataError` when the sides differ in shape or there is no item.
    """
    if stems.shape != explanations.shape or _rows(stems) == 0:
        raise DataError(
            f"feature overlap needs as many stems as explanations over the same features, and at least one; "
            f"got {stems.shape} and {explanations.shape}."
        )
    jaccard = weighted_jaccard_table(stems, explanations)
    top, relevant = top_k_sets(stems, k), top_k_sets(explanations, k if relevant_k is None else relevant_k)
    common = (top @ relevant.T).toarray()
    n_top, n_relevant = np.diff(top.indptr), np.diff(relevant.indptr)
    precision = common / np.maximum(n_top, 1)[:, None]
    recall = common / np.maximum(n_relevant, 1)[None, :]
    live = max(1, len(np.union1d(stems.indices[stems.data > 0], explanations.indices[explanations.data > 0])))
    everyone = np.arange(len(common))
    return Overlap(
        jaccard=np.diagonal(jaccard).copy(),
        precision=np.diagonal(precision).copy(),
        recall=np.diagonal(recall).copy(),
        null_jaccard=permuted_means(jaccard, permutations, everyone),
        null_precision=permuted_means(precision, permutations, everyone),
        null_recall=permuted_means(recall, permutations, everyone),
        chance_precision=np.where(n_top > 0, n_relevant / live, 0.0),
        chance_recall=np.where(n_relevant > 0, n_top / live, 0.0),
        hypergeometric_p=np.asarray(hypergeom.sf(np.diagonal(common) - 1, live, n_relevant, n_top)),
        n_live=live,
        k=k,
    )


def _rows(matrix: sparse.csr_array) -> int:
    return len(matrix.indptr) - 1


def _require_activations(*sides: sparse.csr_array) -> None:
    if len({n_columns(side) for side in sides}) > 1:
        raise DataError(f"the sides have different features: {', '.join(str(side.shape) for side in sides)}.")
    if any(len(side.data) and not side.data.min() >= 0 for side in sides):
        raise DataError("feature overlap needs activations of 0 or more; some are negative or not a number.")
