"""Is what a feature fires on about one thing? The monosemanticity score (domain metric #14; Pach et al. 2504.02821).

Over N texts with unit embeddings v_n (`s_nm = cos(v_n, v_m)`) and activations a_nf scaled per feature to [0, 1] by its
minimum and maximum over the texts,

    MS_f = sum_{n<m} a_nf a_mf s_nm / sum_{n<m} a_nf a_mf,   in [-1, 1]

the mean similarity of pairs of texts, weighted by how much the feature fires on both. Large: the texts resemble each
other. Without any n x n loop: `2 sum_{n<m} a_n a_m s_nm = |sum_n a_n v_n|² - sum_n a_n² |v_n|²`.

What it must be compared with: texts of one corpus resemble each other anyway. When activations are shuffled between
texts, the expected score of *every* feature is the mean cosine of the corpus, exactly (over all pairs, where texts move
freely). The p of one feature comes from shuffles of its own; the p of the mean over features from shuffles of the texts
that move all features together, for which one `[N, N]` matrix stands for all features.

Out of scope: making the embeddings.
"""

from dataclasses import dataclass

import numba
import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import FloatArray, IntArray

_jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


@dataclass(frozen=True, slots=True, eq=False)
class Monosemanticity:
    """Metric #14 for every feature."""

    score: FloatArray
    """`[F]`, in [-1, 1]; NaN for a feature that fires on fewer than two texts."""
    corpus_mean: float
    """Mean cosine of all pairs of texts: the score of a feature that fires on all alike."""
    scaled: sparse.csr_array
    """CSR `[N, F]`, the activations in [0, 1]."""
    similarity: FloatArray
    """`[N, N]`, cosines; the diagonal is 0, since no text is paired with itself."""
    pair_weight: FloatArray
    """`[F]`, `sum_{n<m} a_n a_m`."""

    @property
    def measured(self) -> IntArray:
        """The features with a score."""
        return np.flatnonzero(np.isfinite(self.score))

    @property
    def mean(self) -> float:
        """Mean score of the measured features; the corpus mean without any."""
        return float(self.score[self.measured].mean()) if len(self.measured) else self.corpus_mean


def monosemanticity(acts: sparse.csr_array, embeddings: FloatArray) -> Monosemanticity:
    """Metric #14: see the module's text.

    Args:
        acts: `[N, F]`, >= 0.
        embeddings: `[N, d]`. A row of zeros has similarity 0 to all.

    Raises `DataError` when the rows differ in number, there are fewer than two texts, or a value is not finite.
    """
    texts = len(acts.indptr) - 1
    if embeddings.ndim != 2 or len(embeddings) != texts or texts < 2:
        raise DataError(
            f"monosemanticity needs an embedding for each of two or more texts; got {texts} texts and embeddings of "
            f"shape {embeddings.shape}."
        )
    if not np.isfinite(embeddings).all() or (len(acts.data) and not acts.data.min() >= 0):
        raise DataError("monosemanticity needs finite embeddings and activations of 0 or more.")
    norm = np.linalg.norm(embeddings, axis=1)
    unit = embeddings * np.divide(1.0, norm, out=np.zeros(texts), where=norm > 0)[:, None]
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, 0.0)
    scaled = _min_max(acts)
    square = scaled * scaled
    sums, squares = (np.asarray(m.sum(axis=0), dtype=np.float64).ravel() for m in (scaled, square))
    weight = (sums**2 - squares) / 2
    own = np.asarray(square.T @ (norm > 0).astype(np.float64))
    together = (np.asarray(scaled.T @ unit) ** 2).sum(axis=1)
    paired = np.bincount(scaled.indices, minlength=len(sums)) >= 2
    score = np.divide(together - own, 2 * weight, out=np.full(len(sums), np.nan), where=paired)
    return Monosemanticity(
        score=np.clip(score, -1.0, 1.0),
        corpus_mean=float(similarity.sum() / (texts * (texts - 1))),
        scaled=scaled,
        similarity=similarity,
        pair_weight=weight,
    )


def shuffled_mean(result: Monosemanticity, permutations: IntArray) -> FloatArray:
    """`[B]`: the mean score of the measured features when text n has the embedding of text `permutations[b, n]`.

    `mean_f MS_f = sum_{n<m} G_nm s_nm` with `G = A diag(1 / (pair weight * number of features)) Aᵀ`, so a permutation
    costs N² look-ups whatever the number of features.
    """
    if len(result.measured) == 0:
        return np.full(len(permutations), result.corpus_mean)
    chosen = result.scaled[:, result.measured]
    scale = 1.0 / (result.pair_weight[result.measured] * len(result.measured))
    shared = (chosen @ sparse.diags_array(scale) @ chosen.T).toarray()
    return _moved_sums(shared, result.similarity, permutations)


def shuffled_scores(result: Monosemanticity, features: IntArray, permutations: IntArray) -> FloatArray:
    """`[B, k]`: the scores of `features` (`[k]`, measured ones) when text n has the embedding of text
    `permutations[b, n]`. A permutation costs, for each feature, the square of the number of texts that it fires on."""
    by_feature = result.scaled[:, features].tocsc()
    sums = _moved_scores(
        by_feature.indptr.astype(np.int64),
        by_feature.indices.astype(np.int64),
        by_feature.data,
        result.similarity,
        permutations,
    )
    return sums / result.pair_weight[features]


def _min_max(acts: sparse.csr_array) -> sparse.csr_array:
    """`(a - min) / (max - min)` per column, without stored zeros; a column that does not vary is 0 throughout."""
    texts, n_features = len(acts.indptr) - 1, n_columns(acts)
    entries = acts.tocsc()
    column = np.repeat(np.arange(n_features), np.diff(entries.indptr))
    low, high = np.full(n_features, np.inf), np.zeros(n_features)
    np.minimum.at(low, column, entries.data)
    np.maximum.at(high, column, entries.data)
    low[np.diff(entries.indptr) < texts] = 0.0
    spread = high - np.where(np.isfinite(low), low, 0.0)
    scaled = np.divide(entries.data - low[column], spread[column], out=np.zeros(len(column)), where=spread[column] > 0)
    result = sparse.csc_array((scaled, entries.indices, entries.indptr), shape=acts.shape).tocsr()
    result.eliminate_zeros()
    return result


@_jit
def _moved_sums(shared: FloatArray, similarity: FloatArray, permutations: IntArray) -> FloatArray:
    sums = np.zeros(len(permutations))
    for b in range(len(permutations)):
        order = permutations[b]
        total = 0.0
        for i in range(len(shared)):
            row = similarity[order[i]]
            for j in range(i):
                total += shared[i, j] * row[order[j]]
        sums[b] = total
    return sums


@_jit
def _moved_scores(
    indptr: IntArray, indices: IntArray, data: FloatArray, similarity: FloatArray, permutations: IntArray
) -> FloatArray:
    sums = np.zeros((len(permutations), len(indptr) - 1))
    for b in range(len(permutations)):
        order = permutations[b]
        for f in range(len(indptr) - 1):
            total = 0.0
            for i in range(indptr[f], indptr[f + 1]):
                row = similarity[order[indices[i]]]
                own = 0.0
                for j in range(indptr[f], i):
                    own += data[j] * row[order[indices[j]]]
                total += data[i] * own
            sums[b, f] = total
    return sums
