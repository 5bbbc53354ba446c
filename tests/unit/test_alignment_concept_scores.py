"""Metrics #4 and #5: against loops over the definitions, scipy's rank test, and planted concepts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from sae_lens_med.alignment import concept_scores
from sae_lens_med.alignment.concept_scores import concept_auroc, concept_f1, crossed_strata
from sae_lens_med.errors import DataError
from sae_lens_med.statistics import Strata, coarsen_strata, permutation_p, stratified_permutations

Array = np.ndarray


def _acts(rng: np.random.Generator, rows: int, features: int, rate: float = 0.4) -> Array:
    """Rounded, so that values tie; the last feature fires everywhere, the first nowhere."""
    acts = (rng.random((rows, features)) < rate) * np.round(rng.gamma(2.0, size=(rows, features)), 1)
    acts[:, 0] = 0
    acts[:, -1] += 0.5
    return acts


def _one(n: int) -> Strata:
    return coarsen_strata([("all",)] * n)


def _slow_auroc(a: Array, label: Array) -> float:
    pairs = [(x > y) + (x == y) / 2 for x in a[label] for y in a[~label]]
    return float(np.mean(pairs)) if pairs else float("nan")


def _slow_z(a: Array, label: Array, strata: Strata) -> float:
    """Rank sum of the labelled, its expectation and variance in each stratum written out."""
    return _z_of(stats.rankdata(a), label, strata)


def _z_of(ranks: Array, label: Array, strata: Strata) -> float:
    total, expected, variance = ranks[label].sum(), ranks[label & ~strata.exchangeable].sum(), 0.0
    for group in strata.members():
        r, m, n = ranks[group], label[group].sum(), len(group)
        expected += m * r.mean()
        variance += m * (n - m) / (n - 1) * r.var()
    return (total - expected) / np.sqrt(variance) if variance > 1e-9 else 0.0


def _slow_f1(a: Array, label: Array, held_out: Array) -> tuple[int, float, float, float]:
    def f1(fires: Array, truth: Array) -> float:
        both = fires.sum() + truth.sum()
        return 2 * (fires & truth).sum() / both if both else 0.0

    best = (-1, 0.0, 0.0, 0.0)
    for f in range(a.shape[1]):
        largest = a[~held_out, f].max()
        for step in range(10):
            fires = a[:, f] > step / 10 * largest
            value = f1(fires[~held_out], label[~held_out])
            if largest > 0 and value > best[2]:
                best = (f, step / 10, value, f1(fires[held_out], label[held_out]))
    return best


@pytest.mark.parametrize("kind", [2000, 0])
def test_auroc_z_and_the_null_equal_loops(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_lens_med.alignment.concept_kernels.FLOAT32_ROWS", kind)
    rng = np.random.default_rng(0)
    acts, labels = _acts(rng, 24, 9), rng.random((24, 4)) < [0.1, 0.3, 0.6, 0.0]
    strata = coarsen_strata([(str(i % 3),) for i in range(23)] + [("alone",)])
    drawn = stratified_permutations(strata, 70, rng)
    result = concept_auroc(sparse.csr_array(acts), labels, strata, drawn)
    for f in range(9):
        for c in range(4):
            assert result.auroc[f, c] == pytest.approx(_slow_auroc(acts[:, f], labels[:, c]), abs=1e-9, nan_ok=True)
            assert result.z[f, c] == pytest.approx(_slow_z(acts[:, f], labels[:, c], strata), abs=1e-9)
    for b, order in enumerate(drawn):
        for c in range(4):
            moved = labels[order, c]
            largest = max(0.0, max(_slow_z(acts[:, f], moved, strata) for f in range(9)))
            assert result.null_max[b, c] == pytest.approx(largest, rel=1e-5 if kind else 1e-9, abs=1e-9)
    p, overall = result.p(), result.p(overall=True)
    for f in range(9):
        for c in range(4):
            assert p[f, c] == permutation_p(result.z[f, c], result.null_max[:, c])
            assert overall[f, c] == permutation_p(result.z[f, c], result.null_max.max(axis=1))
    assert (p[:, 3] == 1).all() and (overall >= p).all()
    threaded = concept_auroc(sparse.csr_array(acts), labels, strata, drawn, threads=3)
    np.testing.assert_array_equal(threaded.null_max, result.null_max)


def test_a_nuisance_is_taken_from_the_ranks_within_strata() -> None:
    rng = np.random.default_rng(4)
    acts, labels, nuisance = _acts(rng, 30, 6), rng.random((30, 3)) < 0.4, rng.normal(size=(30, 2))
    strata = coarsen_strata([(str(i % 4),) for i in range(29)] + [("alone",)])
    drawn = stratified_permutations(strata, 20, rng)
    result = concept_auroc(sparse.csr_array(acts), labels, strata, drawn, nuisance=nuisance)
    beside = np.zeros((30, 2))
    for group in strata.members():
        beside[group] = nuisance[group] - nuisance[group].mean(axis=0)
    left = []
    for f in range(6):
        ranks = stats.rankdata(acts[:, f])
        dummies = np.stack([strata.index == s for s in range(-1, 4)], axis=1).astype(float)
        slope = np.linalg.lstsq(np.hstack([beside, dummies]), ranks, rcond=None)[0][:2]
        left.append(ranks - beside @ slope)
    for c in range(3):
        for f in range(6):
            assert result.z[f, c] == pytest.approx(_z_of(left[f], labels[:, c], strata), abs=1e-9)
        for b, order in enumerate(drawn):
            largest = max(0.0, *(_z_of(left[f], labels[order, c], strata) for f in range(6)))
            assert result.null_max[b, c] == pytest.approx(largest, rel=1e-5)


def test_z_of_one_stratum_is_the_normal_approximation_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(0)
    acts, labels = _acts(rng, 60, 5), rng.random((60, 1)) < 0.3
    result = concept_auroc(sparse.csr_array(acts), labels, _one(60), np.zeros((0, 60), int))
    for f in range(1, 5):
        own, others = acts[labels[:, 0], f], acts[~labels[:, 0], f]
        test = stats.mannwhitneyu(own, others, use_continuity=False, method="asymptotic", alternative="greater")
        assert stats.norm.sf(result.z[f, 0]) == pytest.approx(test.pvalue, abs=1e-9)
        assert result.auroc[f, 0] == pytest.approx(test.statistic / len(own) / len(others), abs=1e-12)


def test_auroc_and_f1_equal_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    acts, labels, held_out = _acts(rng, 50, 6), rng.random((50, 3)) < 0.3, rng.random(50) < 0.5
    none = np.zeros((0, 50), int)
    auroc = concept_auroc(sparse.csr_array(acts), labels, _one(50), none).auroc
    f1 = concept_f1(sparse.csr_array(acts), labels, held_out, none)
    for c in range(3):
        for f in range(6):
            assert auroc[f, c] == pytest.approx(metrics.roc_auc_score(labels[:, c], acts[:, f]), abs=1e-9)
        f = f1.feature[c]
        fires = acts[:, f] > f1.threshold[c] * acts[~held_out, f].max()
        assert f1.f1[c] == pytest.approx(metrics.f1_score(labels[held_out, c], fires[held_out]), abs=1e-9)
        assert f1.prevalence_f1[c] == pytest.approx(
            metrics.f1_score(labels[held_out, c], np.ones(held_out.sum())), abs=1e-9
        )


def test_f1_coverage_and_the_null_equal_loops() -> None:
    rng = np.random.default_rng(0)
    acts, labels, held_out = _acts(rng, 30, 8), rng.random((30, 4)) < [0.15, 0.3, 0.5, 0.0], np.arange(30) % 2 == 0
    drawn = stratified_permutations(crossed_strata(_one(30), held_out), 70, rng)
    result = concept_f1(sparse.csr_array(acts), labels, held_out, drawn)
    assert result.concepts.tolist() == [0, 1, 2]
    for c in range(3):
        got = (result.feature[c], result.threshold[c], result.train_f1[c], result.f1[c])
        assert got == pytest.approx(_slow_f1(acts, labels[:, c], held_out), abs=1e-12)
        for b, order in enumerate(drawn):
            assert result.null_f1[b, c] == pytest.approx(_slow_f1(acts, labels[order, c], held_out)[3], abs=1e-12)
    assert result.coverage == pytest.approx(result.f1.mean())
    np.testing.assert_allclose(result.null_coverage, result.null_f1.mean(axis=1))
    assert result.p[0] == permutation_p(result.f1[0], result.null_f1[:, 0])


def test_tokens_of_one_item_move_together() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3], [3, 6, 2, 4])
    acts, labels = _acts(rng, 15, 5), np.zeros((15, 1), dtype=bool)
    labels[3:6] = True  # the first half of item 1
    order = np.array([[1, 0, 3, 2], [2, 3, 0, 1]])
    # Item 0 (3 tokens) takes the first half of item 1's pattern: its tokens 0 and 1 (of 0, 2, 4 in item 1).
    moved = [[0, 1], [11, 12]]
    starts = np.array([0, 3, 9, 11])
    result = concept_auroc(sparse.csr_array(acts), labels, _one(4), order, groups)
    for b, rows in enumerate(moved):
        expected = []
        for f in range(5):
            own = np.zeros(15, dtype=bool)
            own[rows] = True
            expected.append(_slow_z(acts[:, f], own, _one(15)))
        assert result.null_max[b, 0] == pytest.approx(max(0.0, *expected), rel=1e-5)
    assert starts[3] == moved[1][0]
    assert result.z[2, 0] == pytest.approx(_slow_z(acts[:, 2], labels[:, 0], _one(15)), abs=1e-9)


def _null_study(rng: np.random.Generator, grouped: bool) -> tuple[Array, Array, Strata, Array | None]:
    """Features with unequal rates and labels that share strata and lengths with them, and nothing else."""
    items, per = 48, 8
    strata = coarsen_strata([(str(i % 2),) for i in range(items)])
    level = rng.lognormal(sigma=0.5, size=(items, 1)) if grouped else np.ones((items, 1))
    rate = np.clip(rng.beta(0.5, 2.0, size=(2, 30))[np.arange(items) % 2] * level, 0, 0.9)
    chance = rng.uniform(0.1, 0.6, size=(2, 4))[np.arange(items) % 2]
    if not grouped:
        acts = (rng.random((items, 30)) < rate) * rng.gamma(2.0, size=(items, 30))
        return acts, rng.random((items, 4)) < chance, strata, None
    size = rng.integers(3, per, size=items)
    groups = np.repeat(np.arange(items), size)
    # All tokens of an item share its features and its labels: tokens are not independent.
    about = (rng.random((items, 30)) < rate)[groups] * rng.gamma(2.0, size=(len(groups), 30))
    runs = (rng.random((items, 4)) < chance)[groups] & (rng.random((len(groups), 1)) < 0.8)
    return about, runs, strata, groups


@pytest.mark.parametrize("grouped", [False, True])
def test_studies_without_concepts_are_rejected_as_often_as_said(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    rejected = np.zeros(4, dtype=int)
    for _ in range(400):
        acts, labels, strata, groups = _null_study(rng, grouped)
        held_items = rng.permutation(48) < 24
        held_out = held_items if groups is None else held_items[groups]
        drawn = stratified_permutations(strata, 199, rng)
        auroc = concept_auroc(sparse.csr_array(acts), labels, strata, drawn, groups)
        within = stratified_permutations(crossed_strata(strata, held_items), 199, rng)
        f1 = concept_f1(sparse.csr_array(acts), labels, held_out, within, groups)
        rejected += [
            auroc.p()[:, 0].min() <= 0.05,
            auroc.p(overall=True).min() <= 0.05,
            permutation_p(f1.coverage, f1.null_coverage) <= 0.05,
            len(f1.p) > 0 and f1.p[0] <= 0.05,
        ]
    low, high = stats.binom.ppf([0.005, 0.995], 400, 0.05)
    # The last is of one concept's F1, a number of few values: it may reject less often, never more.
    assert ((low <= rejected[:3]) & (rejected <= high)[:3]).all() and rejected[3] <= high, rejected


def test_a_planted_concept_is_found_and_its_feature_named() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (16, 64):
        strata, hits = coarsen_strata([(str(i % 2),) for i in range(n)]), np.zeros(2, dtype=int)
        for _ in range(30):
            acts = (rng.random((n, 40)) < 0.2) * rng.gamma(2.0, size=(n, 40))
            labels = rng.random((n, 3)) < 0.3
            acts[:, 7] += labels[:, 1] * (rng.random(n) < 0.8) * 4.0
            held_out = np.arange(n) % 4 < 2
            auroc = concept_auroc(sparse.csr_array(acts), labels, strata, stratified_permutations(strata, 199, rng))
            drawn = stratified_permutations(crossed_strata(strata, held_out), 199, rng)
            f1 = concept_f1(sparse.csr_array(acts), labels, held_out, drawn)
            hits += [
                auroc.p(overall=True)[7, 1] <= 0.05,
                1 in f1.concepts and permutation_p(f1.coverage, f1.null_coverage) <= 0.05,
            ]
        found.append(hits)
    assert (found[0] < found[1]).all() and found[1].min() >= 24, found


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.1, 50.0))
def test_order_and_scale_change_nothing(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    acts, labels, held_out = _acts(rng, 20, 5), rng.random((20, 2)) < 0.4, rng.random(20) < 0.5
    order, none = rng.permutation(20), np.zeros((0, 20), int)
    base = concept_auroc(sparse.csr_array(acts), labels, _one(20), none)
    moved = concept_auroc(sparse.csr_array(acts[order]), labels[order], _one(20), none)
    np.testing.assert_allclose(moved.auroc, base.auroc, atol=1e-12)
    np.testing.assert_allclose(moved.z, base.z, atol=1e-9)
    scaled = concept_auroc(sparse.csr_array(acts**2 * scale), labels, _one(20), none)
    np.testing.assert_allclose(scaled.auroc, base.auroc, atol=1e-12)
    first = concept_f1(sparse.csr_array(acts), labels, held_out, none)
    second = concept_f1(sparse.csr_array(acts[order]), labels[order], held_out[order], none)
    np.testing.assert_array_equal(first.f1, second.f1)
    np.testing.assert_array_equal(first.feature, second.feature)


def test_crossed_strata_keep_both() -> None:
    strata = coarsen_strata([("a",)] * 4 + [("b",)] * 3 + [("alone",)])
    side = np.array([True, True, False, False, True, True, False, False])
    crossed = crossed_strata(strata, side)
    assert [group.tolist() for group in crossed.members()] == [[2, 3], [0, 1], [4, 5]]
    assert crossed.n_alone == 2


def test_no_data_and_errors() -> None:
    empty = sparse.csr_array((4, 3))
    labels, none = np.eye(4, 2, dtype=bool), np.zeros((5, 4), int) + np.arange(4)
    result = concept_auroc(empty, labels, _one(4), none)
    assert (result.auroc == 0.5).all() and not result.z.any() and (result.p() == 1).all()
    half = np.array([True, False, True, False])
    f1 = concept_f1(empty, labels, half, none)
    assert len(f1.f1) == 0 and f1.coverage == 0 and f1.null_coverage.shape == (5,)
    f1 = concept_f1(empty, np.ones((4, 1), bool), half, none)
    assert f1.feature.tolist() == [-1] and f1.coverage == 0 and f1.p.tolist() == [1.0]
    with pytest.raises(DataError, match="one row for each"):
        concept_auroc(empty, labels[:3], _one(4), none)
    with pytest.raises(DataError, match="0 or more"):
        concept_auroc(sparse.csr_array(-np.ones((4, 3))), labels, _one(4), none)
    with pytest.raises(DataError, match=r"expected \(B, 4\)"):
        concept_auroc(empty, labels, _one(4), none[:, :3])
    with pytest.raises(DataError, match="numbered from 0"):
        concept_f1(empty, labels, half, none, np.array([0, 2, 1, 3]))
    assert concept_scores.THRESHOLDS[0] == 0.0 and len(concept_scores.THRESHOLDS) == 10
