"""Metrics #1 and #2: against a literal, slow reimplementation, full enumeration, and data whose answer is known."""

import math
from itertools import permutations as all_orders
from itertools import product

import numpy as np
import pytest
from scipy import sparse, stats

from sae_lens_med.alignment.difference import matched_minus_mismatched, measure_difference
from sae_lens_med.alignment.retrieval import measure_retrieval, ranked
from sae_lens_med.alignment.similarity import (
    adjust_for_nuisance,
    cosine_matrix,
)
from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import idf_weights, weighted
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.statistics import Strata, coarsen_strata, mrr_chance, permutation_p, stratified_permutations
from tests.synthetic_study import synthetic

FloatArray = np.ndarray


def _strata(*names: str) -> Strata:
    return coarsen_strata([(name,) for name in names])


def _sparse_study(rng: np.random.Generator, n: int, planted: float, d: int = 300) -> tuple[FloatArray, FloatArray]:
    """Non-negative vectors; a share `planted` of each explanation's features repeats its stem's."""
    stems = (rng.random((n, d)) < 0.1) * rng.gamma(2.0, size=(n, d))
    fresh = (rng.random((n, d)) < 0.1) * rng.gamma(2.0, size=(n, d))
    return stems, np.where(rng.random((n, d)) < planted, stems, fresh)


# --- literal reimplementation ---------------------------------------------------------------------------------------


def _slow_weights(stems: FloatArray, explanations: FloatArray) -> list[float]:
    rows = [*stems.tolist(), *explanations.tolist()]
    return [math.log((1 + len(rows)) / (1 + sum(row[f] > 0 for row in rows))) for f in range(len(rows[0]))]


def _slow_cosine(a: list[float], e: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, e, strict=True))
    size = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in e))
    return dot / size if size else 0.0


def _slow_metrics(stems: FloatArray, explanations: FloatArray, groups: list[str]) -> tuple[float, float, float]:
    """(#2, MRR, R@5) straight from the definitions; ties by averaging over every position the tied can take."""
    weights = _slow_weights(stems, explanations)
    a = [[v * w for v, w in zip(row, weights, strict=True)] for row in stems.tolist()]
    e = [[v * w for v, w in zip(row, weights, strict=True)] for row in explanations.tolist()]
    n = len(a)
    differences, reciprocal, hits = [], [], []
    for i in range(n):
        scores = [_slow_cosine(a[i], e[j]) for j in range(n)]
        others = [scores[j] for j in range(n) if j != i and groups[j] == groups[i]]
        if others:
            differences.append(scores[i] - math.fsum(others) / len(others))
        ranks = [
            1 + sum(s > scores[i] + 1e-13 for s in scores) + extra
            for extra in range(sum(abs(s - scores[i]) <= 1e-13 for s in scores))
        ]
        reciprocal.append(sum(1 / r for r in ranks) / len(ranks))
        hits.append(sum(r <= 5 for r in ranks) / len(ranks))
    return math.fsum(differences) / len(differences), sum(reciprocal) / n, sum(hits) / n


@pytest.mark.parametrize("seed", range(4))
def test_both_metrics_equal_the_slow_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stems, explanations = _sparse_study(rng, 25, planted=0.2, d=60)
    stems[3] = 0  # an item whose stem has no feature: ties with every explanation
    explanations[7] = explanations[8]  # two explanations that no stem can tell apart
    groups = [["a", "b", "c"][int(g)] for g in rng.integers(0, 3, size=24)] + ["alone"]
    left, right = sparse.csr_array(stems), sparse.csr_array(explanations)
    weights = idf_weights(left, right)
    similarity = cosine_matrix(weighted(left, weights), weighted(right, weights))
    strata = _strata(*groups)
    drawn = stratified_permutations(strata, 5, rng)
    two = matched_minus_mismatched(similarity, strata, drawn)
    one = ranked(similarity, drawn)

    value, mrr, at_5 = _slow_metrics(stems, explanations, groups)
    assert two.differences.mean() == pytest.approx(value, abs=1e-12)
    assert one.reciprocal_rank.mean() == pytest.approx(mrr, abs=1e-12)
    assert one.hits[5].mean() == pytest.approx(at_5, abs=1e-12)
    assert len(two.positions) == 24
    # The null is the same statistic on re-assigned explanations: weights and strata are those of the data.
    for b, order in enumerate(drawn):
        value, mrr, at_5 = _slow_metrics(stems, explanations[order], groups)
        assert two.null[b] == pytest.approx(value, abs=1e-12)
        assert one.null_mrr[b] == pytest.approx(mrr, abs=1e-12)
        assert one.null_hits[5][b] == pytest.approx(at_5, abs=1e-12)


def test_the_null_over_all_permutations_is_exact_for_four_items() -> None:
    similarity = np.random.default_rng(0).random((4, 4))
    everything = np.array(list(all_orders(range(4))))
    two = matched_minus_mismatched(similarity, _strata(*"aaaa"), everything)
    assert two.null.mean() == pytest.approx(0.0, abs=1e-15)
    # Row sums are constant, so that the statistic ranks assignments as the sum of their own similarities does.
    sums = np.array([similarity[range(4), order].sum() for order in everything])
    tail = np.count_nonzero(sums >= np.trace(similarity) - 1e-12)
    assert permutation_p(float(two.differences.mean()), two.null) == (1 + tail) / 25
    assert ranked(similarity, everything).null_mrr.mean() == pytest.approx(mrr_chance(4), abs=1e-15)


def test_sampled_permutations_approach_full_enumeration_within_strata() -> None:
    similarity = np.random.default_rng(1).random((6, 6))
    strata = _strata(*"aaabbb")
    full = np.array([[*x, *(3 + j for j in y)] for x, y in product(all_orders(range(3)), repeat=2)])
    sampled = stratified_permutations(strata, 20_000, np.random.default_rng(2))
    exact, drawn = (matched_minus_mismatched(similarity, strata, orders) for orders in (full, sampled))
    observed = float(exact.differences.mean())
    assert exact.null.mean() == pytest.approx(0.0, abs=1e-15)
    assert permutation_p(observed, drawn.null) == pytest.approx(np.mean(exact.null >= observed - 1e-12), abs=0.02)
    assert drawn.null.std() == pytest.approx(exact.null.std(), rel=0.05)


# --- known answers --------------------------------------------------------------------------------------------------


def _p(similarity: FloatArray, strata: Strata, rng: np.random.Generator, permutations: int = 99) -> tuple[float, float]:
    """p of #2 and of MRR."""
    drawn = stratified_permutations(strata, permutations, rng)
    two, one = matched_minus_mismatched(similarity, strata, drawn), ranked(similarity, drawn, cuts=())
    return (
        permutation_p(float(two.differences.mean()), two.null),
        permutation_p(float(one.reciprocal_rank.mean()), one.null_mrr),
    )


def test_p_is_uniform_when_nothing_is_aligned() -> None:
    rng = np.random.default_rng(0)
    strata = _strata(*"aaaaaaaabbbbbbbbcccccccc")
    p = np.array([_p(cosine_matrix(*_sparse_study(rng, 24, planted=0.0, d=80)), strata, rng) for _ in range(200)])
    for of_metric in p.T:
        for alpha in (0.05, 0.25, 0.5):
            low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 200, alpha)
            assert low <= np.count_nonzero(of_metric <= alpha) <= high


def test_planted_alignment_is_found() -> None:
    rng = np.random.default_rng(0)
    strata = _strata(*(["a", "b"] * 30))
    for _ in range(10):
        assert max(_p(cosine_matrix(*_sparse_study(rng, 60, planted=0.3)), strata, rng, 499)) == 1 / 500


def test_a_shared_subject_alone_is_not_alignment() -> None:
    """Stem and explanation share their subject's features and nothing else: only strata keep this from counting."""
    rng = np.random.default_rng(0)
    subjects = [f"s{i % 6}" for i in range(60)]
    within, across = [], []
    for _ in range(40):
        topic = np.where(rng.random((6, 200)) < 0.2, 3.0, 0.0)
        stems, explanations = _sparse_study(rng, 60, planted=0.0, d=200)
        rows = np.arange(60) % 6
        similarity = cosine_matrix(stems + topic[rows], explanations + topic[rows])
        within.append(_p(similarity, _strata(*subjects), rng))
        across.append(_p(similarity, _strata(*(["all"] * 60)), rng))
    assert (np.array(across) == 0.01).all()
    rejected = np.count_nonzero(np.array(within) <= 0.05, axis=0)
    assert (rejected <= stats.binom.ppf(1 - 1e-4, 40, 0.05)).all()


def test_length_alone_is_not_alignment() -> None:
    """Long stems have long explanations, and nothing else in common: the plain cosine calls that alignment."""
    rng = np.random.default_rng(0)
    strata = _strata(*(["all"] * 150))
    plain, adjusted = [], []
    for _ in range(60):
        log_length = rng.normal(4.0, 0.5, size=150)
        frequency = rng.pareto(1.0, size=500) + 0.05
        frequency /= frequency.sum()

        def side(log_length: FloatArray, frequency: FloatArray) -> FloatArray:
            fires = rng.random((150, 500)) < 1 - np.exp(-8 * np.exp(log_length)[:, None] * frequency)
            return fires * rng.gamma(2.0, size=(150, 500))

        left = sparse.csr_array(side(log_length, frequency))
        right = sparse.csr_array(side(log_length + 0.3, frequency))
        weights = idf_weights(left, right)
        similarity = cosine_matrix(weighted(left, weights), weighted(right, weights))
        centred = (log_length - log_length.mean())[:, None]
        properties = np.hstack([centred, centred**2])
        plain.append(_p(similarity, strata, rng))
        adjusted.append(_p(adjust_for_nuisance(similarity, properties, properties), strata, rng))
    assert np.count_nonzero(np.array(plain)[:, 0] <= 0.05) >= 15
    rejected = np.count_nonzero(np.array(adjusted) <= 0.05, axis=0)
    assert (rejected <= stats.binom.ppf(1 - 1e-3, 60, 0.05)).all()


def test_adjusting_keeps_planted_alignment() -> None:
    rng = np.random.default_rng(0)
    similarity = cosine_matrix(*_sparse_study(rng, 80, planted=0.3))
    adjusted = adjust_for_nuisance(similarity, rng.normal(size=(80, 3)), rng.normal(size=(80, 3)))
    strata, drawn = _strata(*(["a"] * 80)), np.zeros((0, 80), dtype=np.int64)
    before, after = (matched_minus_mismatched(s, strata, drawn).differences.mean() for s in (similarity, adjusted))
    assert after == pytest.approx(before, rel=0.05)


def test_adjustment_is_least_squares_on_all_products_of_the_properties() -> None:
    rng = np.random.default_rng(0)
    n = 12
    similarity, x, y = rng.random((n, n)), rng.normal(size=(n, 2)), rng.normal(size=(n, 3))
    left, right = np.column_stack([np.ones(n), x]), np.column_stack([np.ones(n), y])
    design = np.array([np.outer(left[i], right[j]).ravel() for i in range(n) for j in range(n)])
    coefficients = np.linalg.lstsq(design, similarity.ravel(), rcond=None)[0]
    expected = similarity - (design @ coefficients).reshape(n, n) + similarity.mean()
    np.testing.assert_allclose(adjust_for_nuisance(similarity, x, y), expected, atol=1e-12)
    # A property that does not vary, and one that repeats another, add nothing; the level of S stays.
    more = np.column_stack([x, np.full(n, 0.7), x[:, 0] * 3 + 1])
    np.testing.assert_allclose(adjust_for_nuisance(similarity, more, y), expected, atol=1e-12)
    assert expected.mean() == pytest.approx(similarity.mean())


def test_adjustment_leaves_empty_vectors_at_zero() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.random((8, 8))
    similarity[2], similarity[:, 5] = 0, 0
    adjusted = adjust_for_nuisance(similarity, rng.normal(size=(8, 1)), rng.normal(size=(8, 1)))
    assert not adjusted[2].any()
    assert not adjusted[:, 5].any()
    assert (adjusted != similarity)[0, 0]


# --- properties -----------------------------------------------------------------------------------------------------


def test_cosines_equal_numpy_and_empty_rows_are_zero() -> None:
    rng = np.random.default_rng(0)
    a, e = rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    a[2] = 0
    expected = np.array([[_slow_cosine(x.tolist(), y.tolist()) for y in e] for x in a])
    np.testing.assert_allclose(cosine_matrix(a, e), expected, atol=1e-12)
    np.testing.assert_allclose(cosine_matrix(sparse.csr_array(a), sparse.csr_array(e)), expected, atol=1e-12)
    assert not cosine_matrix(a, e)[2].any()
    with pytest.raises(DataError, match="must have one shape"):
        cosine_matrix(a, e[:4])


def test_the_order_of_items_and_the_scale_of_activations_change_nothing() -> None:
    rng = np.random.default_rng(0)
    stems, explanations = _sparse_study(rng, 20, planted=0.2)
    groups = [str(g) for g in rng.integers(0, 3, size=20)]
    order, none = rng.permutation(20), np.zeros((0, 20), dtype=np.int64)

    def measure(a: FloatArray, e: FloatArray, names: list[str]) -> tuple[FloatArray, FloatArray]:
        similarity = cosine_matrix(a, e)
        two = matched_minus_mismatched(similarity, _strata(*names), none)
        return two.differences, ranked(similarity, none).reciprocal_rank

    base = measure(stems, explanations, groups)
    moved = measure(stems[order], explanations[order], [groups[i] for i in order])
    scaled = measure(7.0 * stems, 0.1 * explanations, groups)
    for a, b, c in zip(base, moved, scaled, strict=True):
        np.testing.assert_allclose(a[order], b, atol=1e-12)
        np.testing.assert_allclose(a, c, atol=1e-12)


def test_what_cannot_tell_explanations_apart_scores_exactly_chance() -> None:
    result = ranked(np.zeros((12, 12)), np.zeros((0, 12), dtype=np.int64))
    np.testing.assert_allclose(result.reciprocal_rank, mrr_chance(12))
    np.testing.assert_allclose(result.hits[5], 5 / 12)


def test_a_single_pair_by_hand() -> None:
    similarity = np.array([[0.9, 0.1, 0.5], [0.2, 0.4, 0.6], [0.0, 0.3, 0.8]])
    strata = _strata("a", "a", "alone")
    result = matched_minus_mismatched(similarity, strata, np.array([[0, 1, 2], [1, 0, 2]]))
    np.testing.assert_allclose(result.matched, [0.9, 0.4])
    np.testing.assert_allclose(result.mismatched_mean, [0.1, 0.2])
    np.testing.assert_allclose(result.null, [0.5, -0.5])
    assert result.positions.tolist() == [0, 1]
    with pytest.raises(DataError, match="no two items share a stratum"):
        matched_minus_mismatched(similarity, _strata("a", "b", "c"), np.zeros((0, 3), dtype=np.int64))


# --- records --------------------------------------------------------------------------------------------------------


def test_records_carry_the_null_and_say_when_n_is_small() -> None:
    items, features, _ = synthetic(n=20, subjects=1)
    study = Inputs(items=items, features=features, permutations=199)
    two = next(m for m in measure_difference(study).metrics if m.variant == "sae")
    assert (two.n, two.p, two.extra["permutations"]) == (20, 1 / 200, 199.0)
    assert two.masked["items_without_partner"] == 0
    assert two.interval is not None and two.interval[0] < two.value < two.interval[1]
    assert two.null_interval is not None and two.null_interval[0] < 0 < two.null_interval[1] < two.value
    assert two.extra["d_z"] > 1
    assert "n = 20 is small" in two.notes

    rows = [m for m in measure_retrieval(study).metrics if m.variant == "sae"]
    assert [row.name.rsplit("/")[-1] for row in rows] == [
        "retrieval_mrr",
        "retrieval_at_1",
        "retrieval_at_5",
        "retrieval_at_10",
    ]
    assert [row.extra["chance"] for row in rows] == pytest.approx([mrr_chance(20), 1 / 20, 5 / 20, 10 / 20])
    for row in rows:
        # Explanations move within a gold letter, so that the own is the right one more often than by chance.
        assert row.null_mean is not None and row.extra["chance"] < row.null_mean < row.value


def test_a_cut_that_cannot_fail_is_not_reported_and_without_a_partner_there_is_no_null() -> None:
    items, features, _ = synthetic(n=5, subjects=5)
    study = Inputs(items=items, features=features, permutations=9)
    assert measure_difference(study).metrics == ()
    rows = [m for m in measure_retrieval(study).metrics if m.variant == "sae"]
    assert [row.name for row in rows] == ["alignment/retrieval_mrr", "alignment/retrieval_at_1"]
    assert rows[0].p is None and rows[0].null_mean is None
