"""What two texts share that is no alignment and no stratum of subject sees: an author's style, and a case told again.

500 studies of each kind without any alignment, 1,000 in the slow tier. Without the remedy (the column `block`; one item
of each cluster) p is below 0.05 far more often than in one of twenty; with it, as often as said. The size of the fault
without the remedy is what the documentation names.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.alignment.concept_scores import concept_auroc, concept_f1, crossed_strata
from sae_lens_med.alignment.concept_tests import half_of_strata
from sae_lens_med.alignment.difference import matched_minus_mismatched
from sae_lens_med.alignment.retrieval import ranked
from sae_lens_med.alignment.rsa import cosine_dissimilarity, mantel
from sae_lens_med.alignment.similarity import cosine_matrix
from sae_lens_med.data.mappings import subject_stratum
from sae_lens_med.metrics.duplicates import one_of_each
from sae_lens_med.metrics.inputs import length_properties, length_strata, stratum_labels
from sae_lens_med.records import McqItem
from sae_lens_med.statistics import coarsen_strata, permutation_p, stratified_permutations
from tests.calibration import FAST, TIERS, B, band, rejects

Array = np.ndarray
N, FEATURES, AUTHORS = 60, 40, 6


def _items(rng: np.random.Generator, blocks: Array | None = None) -> list[McqItem]:
    items = [
        McqItem(f"q{i}", f"s{s}", "en", "Which?", ("a", "b", "c"), int(x))
        for i, (s, x) in enumerate(zip(rng.integers(2, size=N), rng.integers(3, size=N), strict=True))
    ]
    if blocks is None:
        return items
    return [replace(item, provenance={"block": f"author {b}"}) for item, b in zip(items, blocks, strict=True)]


def _vectors(rng: np.random.Generator, liking: Array) -> sparse.csr_array:
    """Features that fire at rates of their own, times how much each text likes them (`[n, F]`)."""
    rate = np.minimum(0.9, np.exp(rng.normal(-1.5, 0.7, size=liking.shape[1])) * liking)
    return sparse.csr_array((rng.random(rate.shape) < rate) * rng.gamma(2.0, size=rate.shape))


def _similar(
    stems: sparse.csr_array, explanations: sparse.csr_array, items: list[McqItem], rng: np.random.Generator
) -> list[float]:
    """p of #2, #12 and #1."""
    strata = coarsen_strata([stratum_labels(item) for item in items])
    drawn = stratified_permutations(strata, B, rng)
    similarity = cosine_matrix(stems, explanations)
    difference, ranks = matched_minus_mismatched(similarity, strata, drawn), ranked(similarity, drawn, cuts=(1,))
    questions, answers = (cosine_dissimilarity(cosine_matrix(side, side)) for side in (stems, explanations))
    return [
        permutation_p(float(difference.differences.mean()), difference.null),
        mantel(questions, answers, drawn).p,
        permutation_p(float(ranks.reciprocal_rank.mean()), ranks.null_mrr),
    ]


def style(seed: int, remedy: bool) -> list[float]:
    """Each author likes some features, in the questions that they write and in their explanations."""
    rng = np.random.default_rng([seed, 1])
    author = rng.integers(AUTHORS, size=N)
    liking = np.exp(rng.normal(0, 0.5, size=(AUTHORS, FEATURES)))[author]
    items = _items(rng, author if remedy else None)
    return _similar(_vectors(rng, liking), _vectors(rng, liking), items, rng)


def _told_again(rng: np.random.Generator, vectors: sparse.csr_array, source: Array) -> sparse.csr_array:
    """Row i is row `source[i]`, with a little noise."""
    rows = vectors.toarray()[source]
    return sparse.csr_array(rows * rng.uniform(0.8, 1.2, size=rows.shape))


def _clusters(rng: np.random.Generator) -> Array:
    """Of 60 items the last 30 tell five of the first again."""
    return np.concatenate([np.arange(30), rng.integers(5, size=30)])


def again(seed: int, remedy: bool) -> list[float]:
    """Cases told again with their explanations."""
    rng = np.random.default_rng([seed, 2])
    clusters = _clusters(rng)
    free = np.ones((N, FEATURES))
    sides = [_told_again(rng, _vectors(rng, free), clusters) for _ in range(2)]
    told = _items(rng)
    items = [told[c] for c in clusters]
    items = [replace(item, id=f"q{i}") for i, item in enumerate(items)]
    rows = one_of_each(clusters) if remedy else np.arange(N)
    return _similar(sides[0][rows], sides[1][rows], [items[i] for i in rows], rng)


def concepts_again(seed: int, remedy: bool) -> list[float]:
    """Cases told again name the same concepts, and lie on both sides of the split."""
    rng = np.random.default_rng([seed, 3])
    clusters = _clusters(rng)
    acts = _told_again(rng, _vectors(rng, np.ones((N, FEATURES))), clusters)
    labels = (rng.random((N, 4)) < 0.35)[clusters]
    labels[:1], labels[1:2] = True, False
    lengths = (rng.integers(100, 130, size=N)[clusters]).astype(np.float64)
    told = _items(rng)
    items = [told[c] for c in clusters]
    rows = one_of_each(clusters) if remedy else np.arange(N)
    strata = length_strata([items[i] for i in rows], lengths[rows])
    drawn = stratified_permutations(strata, B, rng)
    acts, labels = sparse.csr_array(acts[rows]), labels[rows]
    auroc = concept_auroc(acts, labels, strata, drawn, nuisance=length_properties(lengths[rows]))
    held_out = half_of_strata(strata, rng)
    f1 = concept_f1(acts, labels, held_out, stratified_permutations(crossed_strata(strata, held_out), B, rng))
    return [
        permutation_p(float(np.maximum(auroc.z.max(axis=0), 0).mean()), auroc.null_max.mean(axis=1)),
        permutation_p(f1.coverage, f1.null_coverage),
    ]


KINDS: dict[str, Callable[[int, bool], list[float]]] = {"style": style, "again": again, "concepts": concepts_again}


@cache
def _rejected(kind: str, remedy: bool, studies: int) -> list[float]:
    return rejects([KINDS[kind](seed, remedy) for seed in range(studies)]).mean(axis=0).tolist()


@pytest.mark.parametrize("studies", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_remedy_one_study_of_twenty_is_rejected(kind: str, studies: int) -> None:
    low, high = band(studies)
    *continuous, with_ties = _rejected(kind, True, studies)
    assert all(low <= share <= high for share in continuous) and with_ties <= high, (continuous, with_ties)


@pytest.mark.parametrize(
    ("kind", "least"), [("style", (0.6, 0.1, 0.3)), ("again", (0.1, 0.6, 0.08)), ("concepts", (0.1, 0.1))]
)
def test_without_it_far_more_are(kind: str, least: tuple[float, ...]) -> None:
    found = _rejected(kind, False, FAST)
    assert all(share > enough for share, enough in zip(found, least, strict=True)), found


def test_a_block_keeps_items_apart_and_spellings_of_a_subject_join_them() -> None:
    own = {"dataset": "CasiMedicos-Arg"}
    item = McqItem("q", "INFECTIOUS", "en", "Which?", ("a", "b"), 0, provenance=own)
    for subject in ("INFECTIOUS DISEASES", "Infectology", " MICROBIOLOGY "):
        assert stratum_labels(replace(item, subject=subject)) == stratum_labels(item)
    assert stratum_labels(replace(item, subject="SURGERY")) != stratum_labels(item)
    blocked = [replace(item, provenance=own | {"block": b}) for b in ("x", "y")]
    assert stratum_labels(blocked[0])[-1] != stratum_labels(blocked[1])[-1]
    lengths = length_strata([item, *blocked, blocked[0]], np.full(4, 50.0))
    assert lengths.index.tolist() == [-1, 0, -1, 0]
    # Another data set's subjects are what they say, but for case and white space.
    other = replace(item, provenance={})
    assert subject_stratum(replace(other, subject="Infectology ")) == "infectology" != subject_stratum(other)
