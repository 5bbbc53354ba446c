"""Studies without any alignment, made to be hard, and the p values of the read-out metrics (#1 to #5, #12, #14, and of
being mentioned) in one of them.

The studies have what real ones have and what is no alignment: features that fire at rates from one in three hundred
texts to nearly all of them; texts of very different lengths, long stems beside long explanations (`LENGTH`); subjects
of unequal size, whose vocabulary stem and explanation share; gold letters that are not equally frequent. A `Shape`
makes one of these things extreme. Each metric is used as its `measure_*` function uses it: strata, adjustment for
length, bins of length, one of each case that is told again.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.concept_scores import concept_auroc, concept_f1, crossed_strata
from sae_lens_med.alignment.concept_tests import half_of_strata
from sae_lens_med.alignment.difference import matched_minus_mismatched
from sae_lens_med.alignment.feature_tests import mention_p
from sae_lens_med.alignment.monosemanticity import monosemanticity, shuffled_mean
from sae_lens_med.alignment.overlap import ALIKE, mass_properties, top_k_sets, weighted_jaccard_table
from sae_lens_med.alignment.retrieval import ranked
from sae_lens_med.alignment.rsa import Rsa, cosine_dissimilarity, length_dissimilarities, mantel
from sae_lens_med.alignment.similarity import adjust_for_nuisance, adjust_within_strata, cosine_matrix
from sae_lens_med.features.vectors import idf_weights, weighted
from sae_lens_med.metrics.duplicates import near_duplicates, one_of_each
from sae_lens_med.metrics.inputs import length_properties, length_strata, stratum_labels
from sae_lens_med.records import McqItem
from sae_lens_med.statistics import Strata, coarsen_strata, neighbours, permuted_means, stratified_permutations
from tests.calibration import B, Found, Values, p_values

Array = np.ndarray
N, FEATURES = 40, 60
LENGTH = 0.7
"""Correlation of the log lengths of an item's two texts."""


@dataclass(frozen=True)
class Shape:
    """What is hard about the items of a study."""

    subjects: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Shares of the subjects; so `letters`, of the gold letters."""
    letters: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
    tails: float | None = None
    """Degrees of freedom of the t distributions that make up the log lengths; None: normal."""
    step: float | None = None
    """Log lengths are multiples of it, so that many texts are of one length; None: whole tokens."""
    again: bool = False
    """The last items tell the first ones again (`_cases`), with their explanations."""


PLAIN = Shape()


@dataclass(frozen=True)
class Study:
    """Pooled vectors of one study."""

    stems: sparse.csr_array
    explanations: sparse.csr_array
    lengths: Array
    """`[n, 2]`, tokens of stem and explanation."""
    strata: Strata
    permutations: Array
    items: list[McqItem]
    case: Array
    """`[n]`, which case each item tells."""

    @property
    def properties(self) -> tuple[Array, Array]:
        """As `vectors.text_properties`, without a script."""
        log = np.log1p(self.lengths)
        centred = log - log.mean(axis=0)
        stem, explanation = (np.column_stack([c, c**2]) for c in centred.T)
        return stem, explanation

    @property
    def subject(self) -> Array:
        return np.array([int(item.subject[1:]) for item in self.items])


@cache
def _cases(n: int) -> tuple[Array, Array, list[str]]:
    """Of n items, half tell five of the others again: which case each is, the positions of those that the package takes
    for different cases, and the questions."""
    rng = np.random.default_rng(n)
    source = np.concatenate([np.arange(n - n // 2), rng.integers(5, size=n // 2)])
    written = ["".join(rng.choice(list("abcdefghij "), 150)) for _ in range(n)]
    questions = [written[s] if s == i else f"{written[s]} {written[i][:20]}" for i, s in enumerate(source)]
    return source, one_of_each(near_duplicates(questions)), questions


def study(
    seed: int,
    n: int = N,
    planted: float = 0.0,
    n_features: int = FEATURES,
    shape: Shape = PLAIN,
    remedy: bool = True,
) -> Study:
    """`planted`: chance that a feature of the stem is in the own explanation because it is in the stem. `remedy`: of
    cases that are told again one is measured."""
    rng = np.random.default_rng([seed, n])
    n_subjects = len(shape.subjects)
    subject = rng.choice(n_subjects, n, p=shape.subjects)
    letter = rng.choice(len(shape.letters), n, p=shape.letters)
    common = rng.normal(size=n)
    own = rng.normal(size=(n, 2))
    if shape.tails is not None:  # own: one factor for both texts of an item
        own, common = (each / np.sqrt(rng.chisquare(shape.tails, n) / shape.tails) for each in (own.T, common))
        own = own.T
    log = 4 + 0.5 * (np.sqrt(LENGTH) * common[:, None] + np.sqrt(1 - LENGTH) * own)
    if shape.step is not None:
        log = shape.step * np.round(log / shape.step)
    lengths = np.exp(np.clip(log, 1, 9)).round()
    rate = np.exp(rng.normal(-5, 1.3, size=n_features))  # per token
    liking = np.exp(rng.normal(0, 0.8, size=(n_subjects, n_features)))
    per_text = 1 - np.exp(-lengths[:, :, None] * (rate * liking[subject])[:, None, :])
    fires = rng.random(per_text.shape) < per_text
    if planted:
        fires[:, 1] |= fires[:, 0] & (rng.random(fires[:, 0].shape) < planted)
    strength = rng.gamma(2.0, size=fires.shape) * np.log1p(lengths * rate.mean())[:, :, None]
    acts = np.where(fires, strength, 0.0)
    questions, case = ["Which?"] * n, np.arange(n)
    if shape.again:
        source, distinct, questions = _cases(n)
        rows = distinct if remedy else np.arange(n)
        acts = (acts[source] * rng.uniform(0.8, 1.2, size=acts.shape))[rows]
        subject, letter, lengths = (each[source][rows] for each in (subject, letter, lengths))
        questions, case = [questions[i] for i in rows], source[rows]
    items = [
        McqItem(f"q{i}", f"s{s}", "en", questions[i], ("a", "b", "c", "d"), int(x))
        for i, (s, x) in enumerate(zip(subject, letter, strict=True))
    ]
    stems, explanations = (sparse.csr_array(acts[:, k]) for k in (0, 1))
    weights = idf_weights(stems, explanations)
    strata = coarsen_strata([stratum_labels(item) for item in items])
    permutations = stratified_permutations(strata, B, rng)
    return Study(weighted(stems, weights), weighted(explanations, weights), lengths, strata, permutations, items, case)


CONFOUNDED = {"difference, unadjusted", "overlap_jaccard, unadjusted", "rsa, not partialled"}
"""What the adjustment is for: not calibrated, and not what is reported."""


# --- one study -> p values by name ----------------------------------------------------------------------------------


def similarity(of: Study, rng: np.random.Generator) -> Values:
    """#1, #2, #3, #12."""
    x, y = of.properties
    everyone, drawn = np.arange(len(of.items)), of.permutations
    cosine, jaccard = (f(of.stems, of.explanations) for f in (cosine_matrix, weighted_jaccard_table))
    adjusted = adjust_for_nuisance(cosine, x, y)
    difference, plain = (matched_minus_mismatched(s, of.strata, drawn) for s in (adjusted, cosine))
    ranks = ranked(adjusted, drawn, cuts=(1, 5))
    stems, explanations = (
        np.column_stack([mass_properties(vectors), log[:, :1]])
        for vectors, log in ((of.stems, x), (of.explanations, y))
    )
    near = stratified_permutations(neighbours(of.strata, y[:, 0], ALIKE), B, rng)
    overlap = adjust_within_strata(jaccard, stems, explanations, of.strata)
    common = (top_k_sets(of.stems, 8) @ top_k_sets(of.explanations, 8).T).toarray()
    common = adjust_within_strata(common, stems, explanations, of.strata)
    rsa, partial = mantel(*_dissimilarities(of), drawn), partial_rsa(of)
    found: Found = {
        "difference": (float(difference.differences.mean()), difference.null),
        "difference, unadjusted": (float(plain.differences.mean()), plain.null),
        "retrieval_mrr": (float(ranks.reciprocal_rank.mean()), ranks.null_mrr),
        "retrieval_at_1": (float(ranks.hits[1].mean()), ranks.null_hits[1]),
        "retrieval_at_5": (float(ranks.hits[5].mean()), ranks.null_hits[5]),
        "overlap_jaccard": (float(np.diagonal(overlap).mean()), permuted_means(overlap, near, everyone)),
        "overlap_jaccard, unadjusted": (float(np.diagonal(jaccard).mean()), permuted_means(jaccard, drawn, everyone)),
        "overlap_common": (float(np.diagonal(common).mean()), permuted_means(common, near, everyone)),
        "rsa, not partialled": (rsa.value, rsa.null),
    }
    return p_values(found, rng) | {"rsa_partial": (partial.p, partial.p)}


def partial_rsa(of: Study) -> Rsa:
    """#12 with the lengths taken out."""
    return mantel(*_dissimilarities(of), of.permutations, partial=length_dissimilarities(of.properties))


def _dissimilarities(of: Study) -> tuple[Array, Array]:
    stems, explanations = (cosine_dissimilarity(cosine_matrix(side, side)) for side in (of.stems, of.explanations))
    return stems, explanations


def concepts(of: Study, rng: np.random.Generator, planted: float = 0.0) -> Values:
    """#4, #5: concepts that long questions name more often, and subjects unequally; the features know of neither."""
    n = len(of.items)
    strata = length_strata(of.items, of.lengths[:, 0])
    drawn = stratified_permutations(strata, B, rng)
    level = rng.normal(-0.8, 0.7, size=(of.subject.max() + 1, 5))
    log = np.log1p(of.lengths[:, 0])
    logit = level[of.subject] + 1.0 * (log - log.mean())[:, None]
    labels = (rng.random((n, 5)) < 1 / (1 + np.exp(-logit)))[of.case]
    labels[:2] = [[True], [False]]
    acts = of.stems.toarray()
    if planted:
        acts[:, :5] += planted * labels * rng.gamma(4.0, size=labels.shape)
    stems = sparse.csr_array(acts)
    auroc = concept_auroc(stems, labels, strata, drawn, nuisance=length_properties(of.lengths[:, 0]))
    held_out = half_of_strata(strata, rng)
    redrawn = stratified_permutations(crossed_strata(strata, held_out), B, rng)
    f1 = concept_f1(stems, labels, held_out, redrawn)
    found: Found = {
        "concept_auroc_z": (float(np.maximum(auroc.z.max(axis=0), 0).mean()), auroc.null_max.mean(axis=1)),
        "concept_auroc, one concept": (float(auroc.z[:, 0].max()), auroc.null_max[:, 0]),
        "coverage": (f1.coverage, f1.null_coverage),
    }
    return p_values(found, rng)


def monosemantic(of: Study, rng: np.random.Generator, planted: float = 0.0) -> Values:
    """#14: embeddings know the subject and the length of a text."""
    n, subject = len(of.items), of.subject
    drawn = stratified_permutations(length_strata(of.items, of.lengths[:, 0]), B, rng)
    log = np.log1p(of.lengths[:, :1])
    acts = of.stems.toarray()
    embeddings = np.hstack([rng.normal(size=(n, 6))[of.case], np.eye(subject.max() + 1)[subject], log - log.mean()])
    if planted:
        embeddings = np.hstack([embeddings, planted * np.sqrt(acts[:, :10])])
    result = monosemanticity(sparse.csr_array(acts), embeddings)
    common = result.measured[np.argsort(-np.diff(result.scaled.tocsc().indptr)[result.measured])[:1]]
    one = monosemanticity(sparse.csr_array(acts[:, common]), embeddings)
    found = {
        name: shuffled_mean(each, of.lengths[:, 0], drawn)[1]
        for name, each in (("monosemanticity", result), ("monosemanticity, one feature", one))
    }
    return {name: (p, p) for name, p in found.items()}


def mentioned(of: Study, rng: np.random.Generator) -> Values:
    """The mentioned half of #16, of the feature that most questions have and of one that few have."""
    drawn = stratified_permutations(length_strata(of.items, of.lengths[:, 1]), B, rng)
    count = np.diff(of.stems.tocsc().indptr)
    order = np.lexsort((np.arange(len(count)), count))
    often = order[count[order] < len(of.items)][-1]
    seldom = order[count[order] >= 5][0]
    common, rare = mention_p(of.stems, of.explanations, np.array([often, seldom]), drawn).tolist()
    return {"mentioned, a common feature": (common, common), "mentioned, a rare feature": (rare, rare)}
