"""Is what a feature fires on about one thing? The monosemanticity score (domain metric #14; Pach et al. 2504.02821).

Over N texts with unit embeddings v_n (`s_nm = cos(v_n, v_m)`) and activations a_nf scaled per feature to [0, 1] by its
minimum and maximum over the texts,

    MS_f = sum_{n<m} a_nf a_mf s_nm / sum_{n<m} a_nf a_mf,   in [-1, 1]

the mean similarity of pairs of texts, weighted by how much the feature fires on both. Large: the texts resemble each
other. Without any n x n loop: `2 sum_{n<m} a_n a_m s_nm = |sum_n a_n v_n|² - sum_n a_n² |v_n|²`.

What it must be compared with: texts of one corpus resemble each other anyway. When activations are shuffled between
texts, the expected score of *every* feature is the mean cosine of the corpus, exactly (over all pairs, where texts move
freely). The p of the mean over features comes from shuffles of the texts, within strata of neighbours in length, that
move all features together: one `[N, N]` matrix stands for all of them, `mean_f MS_f = sum_{n<m} G_nm s_nm` with
`G = A diag(1 / (pair weight * number of features)) Aᵀ`.

**Length.** Long texts fire more features together and have embeddings of their own, so that features seem to be about
something where subjects are small and neighbours in length far. What is a function of the two lengths (the sum of the
centred logs up to its cube, the square of their difference) is therefore taken from G and from s by least squares over
all pairs, as in partial RSA (`rsa`), and p is that of its studentised statistic. Value and null stay on the scale of
the score: the null is the value, less what its residuals give beyond those that were moved.

Out of scope: making the embeddings.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.baselines import tfidf
from sae_lens_med.alignment.rsa import MIN_ITEMS, moved_residuals, orthonormal, residual
from sae_lens_med.alignment.similarity import cosine_matrix
from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.depends import on_controls, on_embedder
from sae_lens_med.metrics.inputs import Inputs, length_strata
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import bootstrap_interval, permutation_p, quantile_interval, stratified_permutations


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


def measure_monosemanticity(inputs: Inputs) -> Measured:
    """Over questions: stem features, and embeddings of the stems (TF-IDF where none are given)."""
    questions = [item.question for item in inputs.items]
    metrics: list[MetricValue] = []
    notes: list[str] = []
    if len(questions) < 2:
        return Measured(notes=("Monosemanticity needs at least two questions; it is not measured.",))
    if inputs.embedder is None:
        words, _ = tfidf(questions, questions)
        embedded = _same_cosines(cosine_matrix(words, words))
    else:
        embedded = np.asarray(inputs.embedder(questions), dtype=np.float64)
    for variant in inputs.feature_variants:
        pooled = inputs.pooled_of(variant).stem_maxima
        for group, chosen in inputs.all_groups.items():
            rows = inputs.distinct(group)
            if len(rows) < 2:
                continue
            strata = length_strata([inputs.items[i] for i in rows], inputs.question_lengths[rows])
            result = monosemanticity(pooled[rows], embedded[rows])
            if not strata.exchangeable.any() or not len(result.measured):
                notes.append(f"Monosemanticity: nothing in the group {group!r} can be exchanged; not measured.")
                continue
            drawn = stratified_permutations(strata, inputs.permutations, inputs.rng(f"monosemanticity {group}"))
            null, p = shuffled_mean(result, inputs.question_lengths[rows], drawn)
            metrics.append(
                MetricValue(
                    name="alignment/monosemanticity",
                    value=result.mean,
                    range=(-1.0, 1.0),
                    n=len(result.measured),
                    unit="features",
                    interval=bootstrap_interval(result.score[result.measured], seed=inputs.seed),
                    null_mean=float(null.mean()),
                    null_interval=quantile_interval(null),
                    p=p,
                    group=group,
                    variant=variant,
                    masked={
                        "near_duplicates": int(np.count_nonzero(chosen)) - len(rows),
                        "items_without_partner": strata.n_alone,
                        **inputs.pooled_of(variant).mask.counts,
                    },
                    extra=with_z(
                        result.mean,
                        null,
                        {
                            "corpus_mean": result.corpus_mean,
                            "texts": float(len(rows)),
                            "permutations": float(len(null)),
                        },
                    ),
                    notes=f"Embedding: {inputs.embedder_name}; interval: percentile bootstrap over features, which "
                    "share texts, so it is too narrow; null: activations moved between questions within strata, length "
                    "taken out; p of the studentised statistic" + few(len(rows), " items"),
                )
            )
    notes.append(
        "Monosemanticity: with TF-IDF embeddings, features that fire on a word make texts alike that contain that word."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


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


def shuffled_mean(result: Monosemanticity, lengths: FloatArray, permutations: IntArray) -> tuple[FloatArray, float]:
    """`[B]`: the mean score of the measured features when text n has the embedding of text `permutations[b, n]`, both
    free of length; and the p of the studentised statistic. See the module's text.

    Args:
        result: of N texts.
        lengths: `[N]`, above 0, in any unit.
        permutations: `[B, N]`.

    Without a measured feature, or where nothing is left of either side, the null is the value itself and p is 1.
    """
    n = len(lengths)
    everything = np.full(len(permutations), result.mean)
    if len(result.measured) == 0 or n < MIN_ITEMS:
        return everything, 1.0
    chosen = result.scaled[:, result.measured]
    scale = 1.0 / (result.pair_weight[result.measured] * len(result.measured))
    upper = np.triu_indices(n, 1)
    shared = (chosen @ sparse.diags_array(scale) @ chosen.T).toarray()[upper]
    log = np.log(np.maximum(lengths, 1.0))
    log = log - log.mean()
    added, apart = log[upper[0]] + log[upper[1]], log[upper[0]] - log[upper[1]]
    confounds = orthonormal(np.column_stack([added, added**2, added**3, apart**2]))
    left, right = residual(result.similarity[upper], confounds), residual(shared, confounds)
    if not (left.any() and right.any()):
        return everything, 1.0
    rho, studentised = moved_residuals(left, right, confounds, permutations)
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    null = result.mean - size * (rho[0] - rho[1:])
    return null, permutation_p(float(studentised[0]), studentised[1:])


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


def _same_cosines(similarity: FloatArray) -> FloatArray:
    """`[n, r]` vectors whose cosines are `similarity` `[n, n]`: far fewer columns than there are n-grams."""
    values, vectors = np.linalg.eigh((similarity + similarity.T) / 2)
    kept = values > 1e-12 * max(1.0, float(values[-1]))
    return vectors[:, kept] * np.sqrt(values[kept])


MONOSEMANTICITY = Metric(
    name="monosemanticity",
    number=14,
    family="features",
    title="Monosemanticity",
    meaning="Mean similarity of the questions on which a feature fires, against that of any two questions.",
    range=(-1.0, 1.0),
    null="Activations shuffled between questions within strata of neighbours in length, length taken out; its level is "
    "about the mean cosine of the corpus.",
    needs=("embeddings",),
    source="Pach et al. 2504.02821",
    values=("alignment/monosemanticity",),
    confirmatory=("alignment/monosemanticity",),
    claims={
        "alignment/monosemanticity": Claim(
            may=Sentence(
                "questions on which a feature fires resemble each other more than questions at large",
                "한 특징이 활성화되는 질문들은 임의의 질문들보다 서로 더 비슷하다",
            ),
            may_not=Sentence("features are medical concepts", "특징이 의학 개념이다"),
            floor=0.005,
        )
    },
    depends_on=(on_controls, on_embedder),
    measure=measure_monosemanticity,
)
