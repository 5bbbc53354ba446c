"""Are items alike for the model where they are alike for the expert? RSA with Mantel tests (domain metric #12).

Two dissimilarity matrices over the same n items (`[n, n]`, symmetric, the diagonal is not read), for example of their
feature vectors and of embeddings of their explanations:

    rho = Spearman(upper triangle of X, upper triangle of Y),   in [-1, 1]      (Kriegeskorte et al. 2008)

rho > 0: pairs of items far apart in one are far apart in the other. The pairs are not independent, so the null moves
items (rows and columns of X together) within strata (Mantel 1967); the p is one-sided.

**Partial** (Smouse, Long & Sokal 1986): what other dissimilarities Z explain is taken from both: the wording of the
questions; of the lengths of either text, the sum of two items' and how far they are apart (without the second, 11 % of
500 null studies of 60 items are rejected at 5 % where the lengths have heavy tails).
X, Y and Z are replaced by ranks; X and Y by their least-squares residuals on the constant, Z and powers of Z (ranks
follow ranks along a curve even where the cause is linear). The null moves the items of X's residual and fits that to Z
again (Freedman & Lane 1983; Legendre 2000). The residuals of items that are unusual in Z vary more, in X and in Y at
once, so rho itself varies more than the moved residuals say. The p therefore compares rho over its standard error, from
the share h_i that each item's pairs have in it (DiCiccio & Romano 2017):

    T = sum_i h_i / sqrt(sum_i (h_i - mean h)²),    h_i = sum_j res(X)_ij res(Y)_ij

What partialling cannot take: a Z that measures the confound with noise leaves part of it, and so does one that is not
a function of Z's ranks (cosines of noisy vectors depend on the vectors' lengths as well).

A permutation is one pass over the pairs: ranks and residuals do not change when items move.

What it does not find is not shown to be absent: it has far less power than matched minus mismatched.

Variants: `sae`, the controls, `raw`, `pca`, and `tfidf` where the wording is not partialled out: it is what is taken
out. `bm25` is not symmetric and takes no part.

Out of scope: making the vectors (`similarities`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.alignment.similarity import cosine_matrix
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_controls, on_embedder
from sae_lens_med.metrics.inputs import Group, Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import null_z, permutation_p, quantile_interval

POWERS = 3
"""Powers of the ranks of each Z that are partialled out."""
MIN_ITEMS = 4
"""With fewer items there are at most 3 pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Rsa:
    """A (partial) Mantel test."""

    value: float
    """Spearman's rho over the pairs, or the partial one; in [-1, 1]. 0 where a matrix (or its residual) is constant."""
    null: FloatArray
    """`[B]`, rho under each permutation."""
    p: float
    """One-sided; of rho, or of T where something is partialled out. 1 when there are no permutations."""
    n_items: int
    n_pairs: int

    @property
    def z(self) -> float | None:
        """Distance from the null's mean in its standard deviations."""
        return null_z(self.value, self.null)


def cosine_dissimilarity(similarity: FloatArray) -> FloatArray:
    """`1 - S`, made symmetric, with a diagonal of 0, of a matrix of cosines `[n, n]` of items with themselves."""
    dissimilarity = 1.0 - (similarity + similarity.T) / 2
    np.fill_diagonal(dissimilarity, 0.0)
    return dissimilarity


def mantel(
    x: FloatArray,
    y: FloatArray,
    permutations: IntArray,
    partial: Sequence[FloatArray] = (),
    powers: int = POWERS,
) -> Rsa:
    """Metric #12: Spearman's rho of two dissimilarity matrices, with those of `partial` taken out; see the module.

    Args:
        x: `[n, n]`, the matrix whose items move.
        y: `[n, n]`.
        permutations: `[B, n]` of `stratified_permutations`.
        partial: matrices `[n, n]` to partial out on ranks.
        powers: of the ranks of each of `partial`, >= 1; 1 is the textbook partial Spearman correlation.

    Value on no data: 0 with p = 1 where x or y says nothing (beyond `partial`) about any pair. Raises
    `DataError` unless there are at least four items and all matrices are symmetric, finite and of one shape.
    """
    n = len(x)
    for name, matrix in [("x", x), ("y", y), *((f"partial[{i}]", z) for i, z in enumerate(partial))]:
        _require_dissimilarity(matrix, n, name)
    upper = np.triu_indices(n, 1)
    confounds = _powers([_ranks(z[upper]) for z in partial], powers, len(upper[0]))
    left, right = (residual(_ranks(matrix[upper]), confounds) for matrix in (x, y))
    if not (left.any() and right.any()):
        return Rsa(value=0.0, null=np.zeros(len(permutations)), p=1.0, n_items=n, n_pairs=len(left))
    rho, studentised = moved_residuals(left, right, confounds, permutations)
    statistic = studentised if len(partial) else rho
    return Rsa(
        value=float(rho[0]),
        null=rho[1:],
        p=permutation_p(float(statistic[0]), statistic[1:]),
        n_items=n,
        n_pairs=len(left),
    )


def moved_residuals(
    left: FloatArray, right: FloatArray, confounds: FloatArray, permutations: IntArray
) -> tuple[FloatArray, FloatArray]:
    """rho and T (`[B + 1]` each, the first of the items in place) of two residuals, neither of them 0, over the pairs
    (i, j > i) of n items: `left` `[n_pairs]`, whose items move, and `right`; `confounds` `[n_pairs, q]` orthonormal,
    what both are residuals on; `permutations` `[B, n]`."""
    n = permutations.shape[1]
    upper = np.triu_indices(n, 1)
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    directions = np.stack([_square(column, n, upper) for column in (right, *confounds.T)])
    orders = np.concatenate([np.arange(n)[None], permutations])
    from sae_lens_med.alignment.rsa_kernel import moved_correlations  # numba

    return moved_correlations(_square(left, n, upper), directions, orders)


def measure_rsa(inputs: Inputs) -> Measured:
    """Spearman's rho of the dissimilarities of questions (features) and explanations (wording or embeddings):
    plain, and with the questions' wording and the lengths of both texts partialled out."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    similarities = inputs.view(Similarities)
    question_words, explanation_words = similarities.words
    wording = cosine_dissimilarity(cosine_matrix(question_words, question_words))
    if inputs.embedder is None:
        expected = cosine_dissimilarity(cosine_matrix(explanation_words, explanation_words))
    else:
        embedded = np.asarray(inputs.embedder(inputs.explanation_texts()), dtype=np.float64)
        expected = cosine_dissimilarity(cosine_matrix(embedded, embedded))
    lengths = length_dissimilarities(inputs.properties)
    for variant, matrix in _dissimilarities(inputs, similarities).items():
        for group in inputs.explained_groups:
            if len(group.rows) < MIN_ITEMS or not group.strata.exchangeable.any():
                notes.append(f"RSA: the group {group.name!r} has too few items that can be exchanged; not measured.")
                continue
            cells = np.ix_(group.rows, group.rows)
            x, y = matrix[cells], expected[cells]
            plain = mantel(x, y, group.permutations)
            metrics.append(_value(inputs, group, "alignment/rsa", variant, plain, "Nothing is partialled out"))
            if variant != "tfidf":
                partial = [wording[cells], *(length[cells] for length in lengths)]
                without = mantel(x, y, group.permutations, partial=partial)
                what = "Partialled out: wording of the questions (TF-IDF), length of questions and of explanations"
                metrics.append(_value(inputs, group, "alignment/rsa_partial", variant, without, what))
    notes.append(
        f"RSA: explanations are compared by {inputs.embedder_name}. What partialling cannot take is what its measures "
        "of wording and length miss."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def length_dissimilarities(properties: Sequence[FloatArray]) -> list[FloatArray]:
    """What two lengths alone may give to a dissimilarity, `[n, n]` each: the sum of the log lengths of two items, and
    how far they are apart. `properties`: of each side `[n, k]`, the log length first."""
    logs = [side[:, 0] for side in properties]
    return [np.add.outer(log, log) for log in logs] + [np.abs(np.subtract.outer(log, log)) for log in logs]


def _square(pairs: FloatArray, n: int, upper: tuple[IntArray, ...]) -> FloatArray:
    square = np.zeros((n, n))
    square[upper] = pairs
    return square + square.T


def _ranks(values: FloatArray) -> FloatArray:
    """Average ranks, centred and scaled into [-1, 1]."""
    from scipy.stats import rankdata  # importing it takes a second

    ranks = rankdata(values)
    return (2 * ranks - (len(ranks) + 1)) / max(1, len(ranks) - 1)


def _powers(ranks: Sequence[FloatArray], powers: int, n_pairs: int) -> FloatArray:
    """`[n_pairs, q]`, orthonormal and each of mean 0: the span of the powers of every confound's ranks."""
    columns = [rank**power for rank in ranks for power in range(1, powers + 1)]
    return orthonormal(np.column_stack(columns) if columns else np.zeros((n_pairs, 0)))


def orthonormal(design: FloatArray) -> FloatArray:
    """`[n_pairs, q]`, orthonormal and each of mean 0: what the columns of `design` `[n_pairs, k]` span."""
    design = design - design.mean(axis=0)
    if not design.any():
        return design[:, :0]
    u, singular, _ = np.linalg.svd(design, full_matrices=False)
    return u[:, singular > 1e-9 * singular[0]]


def residual(values: FloatArray, confounds: FloatArray) -> FloatArray:
    """Of `values` `[n_pairs]` on the constant and orthonormal `confounds` `[n_pairs, q]`."""
    centred = values - values.mean()
    left = centred - confounds @ (confounds.T @ centred)
    # What rounding leaves of a matrix that the confounds explain altogether is no residual.
    return left if np.linalg.norm(left) > 1e-9 * np.linalg.norm(centred) else np.zeros_like(left)


def _require_dissimilarity(matrix: FloatArray, n: int, name: str) -> None:
    if matrix.shape != (n, n) or n < MIN_ITEMS:
        raise DataError(
            f"the dissimilarities {name} have shape {matrix.shape}; RSA needs square matrices over the same items, "
            f"at least {MIN_ITEMS}."
        )
    off = ~np.eye(n, dtype=bool)
    if not np.isfinite(matrix[off]).all() or not np.allclose(matrix, matrix.T, atol=1e-9, equal_nan=True):
        raise DataError(f"the dissimilarities {name} are not symmetric and finite.")


def _dissimilarities(inputs: Inputs, similarities: Similarities) -> dict[str, FloatArray]:
    """Dissimilarities of the questions with each other, `[m, m]`."""
    found = {variant: cosine_matrix(*(inputs.pooled_of(variant).stems,) * 2) for variant in inputs.feature_variants}
    stem, reduced, question_words = similarities.raw[0], similarities.reduced[0], similarities.words[0]
    found |= {
        "raw": cosine_matrix(stem, stem),
        "pca": cosine_matrix(reduced, reduced),
        "tfidf": cosine_matrix(question_words, question_words),
    }
    return {variant: cosine_dissimilarity(matrix) for variant, matrix in found.items()}


def _value(inputs: Inputs, group: Group, name: str, variant: str, result: Rsa, what: str) -> MetricValue:
    n = result.n_items
    masked = group.left_out
    if variant in inputs.feature_variants:
        masked |= inputs.pooled_of(variant).mask.counts
    return MetricValue(
        name=name,
        value=result.value,
        range=(-1.0, 1.0),
        n=n,
        null_mean=float(result.null.mean()),
        null_interval=quantile_interval(result.null),
        p=result.p,
        group=group.name,
        variant=variant,
        masked=masked,
        extra={"pairs": float(result.n_pairs), "permutations": float(len(result.null))}
        | ({} if result.z is None else {"z": result.z}),
        notes=f"{what}; null: items moved within strata"
        + ("; p of the studentised statistic" if name.endswith("partial") else "")
        + "; pairs are not independent, so no interval is given"
        + few(n),
    )


RSA = Metric(
    name="rsa",
    number=12,
    family="readout",
    title="Representational similarity (RSA)",
    meaning="Whether questions far apart in features have explanations far apart in wording, beyond shared wording of "
    "the questions and length.",
    range=(-1.0, 1.0),
    null="Mantel test: items moved within strata; studentised where something is partialled out.",
    needs=("explanations", "embeddings"),
    source="Kriegeskorte et al. 2008; Mantel 1967; Smouse, Long & Sokal 1986",
    values=("alignment/rsa",),
    confirmatory=("alignment/rsa_partial",),
    claims={
        "alignment/rsa_partial": Claim(
            may=Sentence(
                "questions that are alike in features have explanations that are alike, beyond the questions' own "
                "wording",
                "특징이 비슷한 질문들은 질문의 표현을 제외하고도 해설이 서로 비슷하다",
            ),
            may_not=Sentence("the features hold the expert's reasons", "특징에 전문가의 이유가 담겨 있다"),
            floor=0.02,
            least=0.0,
        )
    },
    depends_on=(on_controls, on_embedder),
    measure=measure_rsa,
)
