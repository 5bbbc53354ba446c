"""Metrics #9 and #15: against scipy, loops, scikit-learn, and published worked examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_lens_med.alignment.agreement import (
    cohen_kappa,
    cohen_kappa_null,
    krippendorff_alpha,
    krippendorff_alpha_null,
)
from sae_lens_med.alignment.causal_agreement import concept_agreement
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.statistics import coarsen_strata, permutation_p, stratified_permutations

Array = np.ndarray
NAN = float("nan")

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


def _concepts(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Items with 1 to 7 concepts, and a level of its own for each item."""
    items = np.repeat(np.arange(n), rng.integers(1, 8, size=n))
    return items, 5 * rng.normal(size=n)[items]


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_agreement_equals_scipy_item_by_item(method: str) -> None:
    rng = np.random.default_rng(0)
    items, level = _concepts(rng, 20)
    x, y = np.round(rng.normal(size=(2, len(items))), 1) + level
    order = rng.permutation(len(items))
    result = concept_agreement(x[order], y[order], items[order], 50, rng, method)  # type: ignore[arg-type]
    correlate = stats.spearmanr if method == "spearman" else stats.pearsonr
    expected, top, left, right = {}, 0.0, 0.0, 0.0
    for i in range(20):
        a, b = x[items == i], y[items == i]
        if len(a) >= 3 and len(set(a)) > 1 and len(set(b)) > 1:
            expected[i] = correlate(a, b)[0]
            if method == "spearman":
                a, b = stats.rankdata(a), stats.rankdata(b)
            top += ((a - a.mean()) * (b - b.mean())).sum()
            left, right = left + ((a - a.mean()) ** 2).sum(), right + ((b - b.mean()) ** 2).sum()
    assert result.items.tolist() == list(expected)
    np.testing.assert_allclose(result.per_item, list(expected.values()), atol=1e-9)
    assert result.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert result.pooled == pytest.approx(top / np.sqrt(left * right), abs=1e-9)


def test_the_null_permutes_within_the_item() -> None:
    x, y = np.array([0.1, 0.5, 0.9]), np.array([1.0, 2.0, 4.0])
    result = concept_agreement(x, y, np.zeros(3, int), 6000, np.random.default_rng(0), "pearson")
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    exact = [float(np.corrcoef(x, y[list(order)])[0, 1]) for order in orders]
    values, counts = np.unique(np.round(result.null_mean, 9), return_counts=True)
    np.testing.assert_allclose(values, np.unique(np.round(exact, 9)))
    assert counts / 6000 == pytest.approx(1 / 6, abs=0.03)
    np.testing.assert_allclose(result.null_pooled, result.null_mean)


def test_items_that_differ_as_wholes_are_not_agreement() -> None:
    rng = np.random.default_rng(0)
    rejected, naive = np.zeros(4, dtype=int), 0
    for _ in range(500):
        items, level = _concepts(rng, 15)
        x, y = rng.standard_t(2, size=(2, len(items))) + level
        naive += stats.spearmanr(x, y).pvalue <= 0.05  # type: ignore[attr-defined]
        for k, method in enumerate(("spearman", "pearson")):
            r = concept_agreement(x, y, items, 199, rng, method)  # type: ignore[arg-type]
            rejected[2 * k : 2 * k + 2] += [r.p_mean <= 0.05, r.p_pooled <= 0.05]
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert ((low <= rejected) & (rejected <= high)).all(), rejected
    assert naive > 400


def test_planted_agreement_is_found_and_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (6, 60):
        hits = np.zeros(2, dtype=int)
        for _ in range(40):
            items, level = _concepts(rng, n)
            y = rng.normal(size=len(items))
            r = concept_agreement(0.5 * y + rng.normal(size=len(items)) + level, y, items, 199, rng)
            hits += [r.p_mean <= 0.05, r.p_pooled <= 0.05]
        found.append(hits)
    assert (found[0] < found[1]).all() and found[1].min() >= 36, found


# --- kappa ----------------------------------------------------------------------------------------------------------


def _slow_kappa(a: Array, b: Array, power: int) -> float:
    values = sorted({*a, *b})
    weight = {(x, y): float(x != y) if power == 0 else abs(values.index(x) - values.index(y)) ** power
              for x in values for y in values}  # fmt: skip
    observed = sum(weight[x, y] for x, y in zip(a, b, strict=True)) / len(a)
    return 1 - observed / (sum(weight[x, y] for x in a for y in b) / len(a) ** 2)


def test_kappa_by_hand_by_loops_and_by_scikit_learn() -> None:
    # Cohen's 1960 layout with the counts 20, 5, 10, 15: observed .7, expected .5.
    a, b = np.repeat([1, 1, 0, 0], [20, 5, 10, 15]), np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    assert cohen_kappa(a, b) == pytest.approx(0.4, abs=1e-12)
    rng = np.random.default_rng(0)
    x = rng.integers(1, 6, size=60)
    y = np.where(rng.random(60) < 0.6, x, rng.integers(1, 6, size=60))
    for weighting, power in (("none", 0), ("linear", 1), ("quadratic", 2)):
        assert cohen_kappa(x, y, weighting) == pytest.approx(_slow_kappa(x, y, power), abs=1e-9)  # type: ignore[arg-type]
    metrics = pytest.importorskip("sklearn.metrics")
    for weighting in ("none", "linear", "quadratic"):
        theirs = metrics.cohen_kappa_score(x, y, weights=None if weighting == "none" else weighting)
        assert cohen_kappa(x, y, weighting) == pytest.approx(theirs, abs=1e-9)  # type: ignore[arg-type]


def test_kappa_of_raters_who_do_not_look_is_rejected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    strata, rejected, found = coarsen_strata([("all",)] * 40), 0, 0
    for _ in range(500):
        a, b = rng.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1], size=(2, 40))
        drawn = stratified_permutations(strata, 199, rng)
        rejected += permutation_p(cohen_kappa(a, b, "linear") or 0.0, cohen_kappa_null(a, b, drawn, "linear")) <= 0.05
        c = np.where(rng.random(40) < 0.6, a, b)
        found += permutation_p(cohen_kappa(a, c, "linear") or 0.0, cohen_kappa_null(a, c, drawn, "linear")) <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert low <= rejected <= high
    assert found > 450


# --- alpha ----------------------------------------------------------------------------------------------------------


def _slow_alpha(ratings: Array, level: str) -> float:
    """Coincidences pair by pair, and the metric as it is printed."""
    units = [[v for v in column if v == v] for column in ratings.T]
    units = [u for u in units if len(u) > 1]
    values = sorted({v for u in units for v in u})
    o = {(a, b): 0.0 for a in values for b in values}
    for u in units:
        for i, a in enumerate(u):
            for j, b in enumerate(u):
                if i != j:
                    o[a, b] += 1 / (len(u) - 1)
    n_of = {a: sum(o[a, b] for b in values) for a in values}
    n = sum(n_of.values())

    def metric(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        return (sum(n_of[g] for g in values if low <= g <= high) - (n_of[a] + n_of[b]) / 2) ** 2

    observed = sum(o[a, b] * metric(a, b) for a in values for b in values) / n
    return 1 - observed / (sum(n_of[a] * n_of[b] * metric(a, b) for a in values for b in values) / (n * (n - 1)))


def test_alpha_equals_krippendorffs_worked_example_and_loops() -> None:
    published = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}
    rng = np.random.default_rng(0)
    other = rng.integers(1, 6, size=(3, 30)).astype(float)
    other[1:] = np.where(rng.random((2, 30)) < 0.6, other[0], other[1:])
    other[rng.random((3, 30)) < 0.3] = NAN
    for level, value in published.items():
        assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(value, abs=5e-4)  # type: ignore[arg-type]
        for ratings in (np.array(FOUR_OBSERVERS), other):
            assert krippendorff_alpha(ratings, level) == pytest.approx(_slow_alpha(ratings, level), abs=1e-9)  # type: ignore[arg-type]


def test_alpha_of_raters_who_do_not_look_is_rejected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    rejected = found = 0
    for _ in range(300):
        ratings = rng.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1], size=(3, 20)).astype(float)
        ratings[rng.random((3, 20)) < 0.2] = NAN
        null = krippendorff_alpha_null(ratings, 99, rng, "ordinal")
        rejected += permutation_p(krippendorff_alpha(ratings, "ordinal") or 0.0, null) <= 0.05
        if rejected + found < 60:
            alike = np.where(rng.random((3, 20)) < 0.8, rng.integers(5, size=20), ratings)
            null = krippendorff_alpha_null(alike, 99, rng, "ordinal")
            found += permutation_p(krippendorff_alpha(alike, "ordinal") or 0.0, null) <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], 300, 0.05)
    assert low <= rejected <= high
    assert found >= 40


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_order_scale_and_names_change_nothing(seed: int, scale: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 4, size=(3, 9)).astype(float)
    order = rng.permutation(9)
    for level in ("nominal", "ordinal", "interval"):
        base = krippendorff_alpha(ratings, level)  # type: ignore[arg-type]
        moved = krippendorff_alpha(ratings[::-1, order] * scale + offset, level)  # type: ignore[arg-type]
        assert (base is None) == (moved is None)
        assert base is None or (moved == pytest.approx(base, abs=1e-7) and base <= 1 + 1e-12)
    base = cohen_kappa(ratings[0], ratings[1])
    moved = cohen_kappa(-ratings[0][order], -ratings[1][order])
    assert (base is None and moved is None) or moved == pytest.approx(base, abs=1e-12)


def test_no_data_and_errors() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 4):  # nothing at all; effects that are all the same
        none = concept_agreement(np.ones(n), np.arange(float(n)), np.zeros(n, int), 9, rng)
        assert (none.mean, none.pooled, none.p_mean, none.p_pooled, none.n_concepts) == (0.0, 0.0, 1.0, 1.0, 0)
    assert cohen_kappa([], []) is None and cohen_kappa([1, 1], [1, 1]) is None
    assert not cohen_kappa_null([1, 1], [1, 1], np.array([[1, 0]])).any()
    assert krippendorff_alpha([[1, NAN], [NAN, 2]]) is None and krippendorff_alpha([[1, 1], [1, 1]]) is None
    with pytest.raises(DataError, match="each entry needs one number in all three"):
        concept_agreement(np.ones(3), np.ones(2), np.zeros(3, int), 9, rng)
    with pytest.raises(DataError, match="not finite"):
        concept_agreement(np.array([NAN]), np.ones(1), np.zeros(1, int), 9, rng)
    with pytest.raises(DataError, match="two complete ratings"):
        cohen_kappa([1, 2], [1, NAN])
    with pytest.raises(ConfigError, match="not 'cubic'"):
        cohen_kappa([1, 2], [1, 2], "cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not 'ratio'"):
        krippendorff_alpha([[1, 2], [1, 2]], "ratio")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one row per rater"):
        krippendorff_alpha([1, 2])
