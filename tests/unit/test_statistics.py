"""`statistics`: against SciPy, exhaustive enumeration and hand-worked numbers."""

from fractions import Fraction
from itertools import permutations as all_orders
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    coarsen_strata,
    cohen_dz,
    harmonic_numbers,
    mcnemar_exact,
    mrr_chance,
    null_z,
    paired_contrast,
    permutation_p,
    quantile_interval,
    stratified_permutations,
    two_sided_p,
    wilson_interval,
)


@given(n=st.integers(1, 3000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_ends_where_the_score_test_rejects(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = wilson_interval(k, n, confidence)
    assert 0 <= low <= k / n <= high <= 1
    for end in ({low} if k else set()) | ({high} if k < n else set()):
        assert abs(k / n - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5, abs=1e-9)


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0
    with pytest.raises(DataError, match="0 <= k <= n, got k = 3, n = 2"):
        wilson_interval(3, 2)
    with pytest.raises(ConfigError, match=r"between 0 and 1, got 95"):
        wilson_interval(1, 2, 95)


def test_bootstrap_is_that_of_numpy_with_the_same_seed() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    means = values[np.random.default_rng(3).integers(0, 80, size=(2000, 80))].mean(axis=1)
    assert bootstrap_interval(values, seed=3) == tuple(np.quantile(means, [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2]))
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_of_another_statistic_and_of_too_little() -> None:
    values = np.arange(101.0)
    low, high = bootstrap_interval(values, statistic=lambda sample: np.median(sample, axis=1)) or (0, 0)
    assert 25 < low < 50 < high < 75
    assert bootstrap_interval([3.0]) is None
    assert bootstrap_interval([]) is None
    with pytest.raises(DataError, match="finite numbers; 1 are not"):
        bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ConfigError, match="at least one resample"):
        bootstrap_interval([1.0, 2.0], resamples=0)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for study in range(300):
        low, high = bootstrap_interval(rng.normal(1.0, 2.0, size=60), resamples=400, seed=study) or (0, 0)
        covered += low <= 1.0 <= high
    # Percentile intervals are a little short at n = 60: 0.94 expected; 5 standard errors are 0.07.
    assert 0.87 < covered / 300 < 0.99


def test_permutation_p_counts_the_observed_arrangement_and_forgives_rounding() -> None:
    assert permutation_p(2.0, [1.0, 2.0, 3.0]) == 3 / 4
    assert permutation_p(4.0, [1.0, 2.0, 3.0]) == 1 / 4
    assert permutation_p(4.0, []) == 1.0
    assert permutation_p(0.1 + 0.2, [0.3]) == 1.0


def test_permutation_p_of_all_orders_is_the_exact_tail() -> None:
    x, y = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])
    null = [float(x @ y[list(order)]) for order in all_orders(range(4))]
    at_least = sum(value >= float(x @ y) for value in null)
    assert permutation_p(float(x @ y), null) == (1 + at_least) / 25


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_benjamini_hochberg_rejects_what_its_steps_reject(p: list[float]) -> None:
    """The adjusted value is the least q at which the procedure of 1995 rejects: the largest k with p_(k) <= q k / m."""
    m, ordered = len(p), sorted(p)
    for value, adjusted in zip(p, benjamini_hochberg(p), strict=True):
        least = min([1.0, *(x * m / (k + 1) for k, x in enumerate(ordered) if x >= value)])
        assert adjusted == pytest.approx(least, abs=1e-12)


def test_benjamini_hochberg_by_hand_and_bad_input() -> None:
    # m = 3, sorted 0.01, 0.02, 0.9: stepped 0.03, 0.03, 0.9.
    np.testing.assert_allclose(benjamini_hochberg([0.02, 0.9, 0.01]), [0.03, 0.9, 0.03])
    assert len(benjamini_hochberg([])) == 0
    with pytest.raises(DataError, match="between 0 and 1"):
        benjamini_hochberg([1.2])


def test_cohen_dz() -> None:
    assert cohen_dz([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    t = np.asarray(stats.ttest_1samp([0.3, -0.1, 0.8, 0.2], 0))[0]
    assert cohen_dz([0.3, -0.1, 0.8, 0.2]) == pytest.approx(t / 2)
    assert cohen_dz([1.0]) is None
    assert cohen_dz([0.1 + 0.2, 0.3]) is None


def test_signs_are_flipped_uniformly() -> None:
    rng = np.random.default_rng(0)
    d = np.array([3.0, 1.0, 0.5])
    contrast = paired_contrast(d, 8000, rng)
    values, counts = np.unique(np.round(contrast.null * 3, 9), return_counts=True)
    assert values.tolist() == [-4.5, -3.5, -2.5, -1.5, 1.5, 2.5, 3.5, 4.5]
    assert stats.chisquare(counts).pvalue > 0.001
    assert contrast.p == pytest.approx(1 / 8, abs=0.02)
    assert paired_contrast([], 9, rng).p == 1
    with pytest.raises(DataError, match="finite"):
        paired_contrast([np.nan], 9, rng)
    with pytest.raises(ConfigError, match="at least one draw"):
        paired_contrast([1.0], 0, rng)


def test_harmonic_numbers_and_chance() -> None:
    exact = [Fraction(0)]
    for i in range(1, 31):
        exact.append(exact[-1] + Fraction(1, i))
    np.testing.assert_allclose(harmonic_numbers(30), [float(h) for h in exact], atol=1e-14)
    assert mrr_chance(20) == pytest.approx(0.180, abs=5e-4)
    assert mrr_chance(4) == pytest.approx(np.mean([1 / rank for rank in (1, 2, 3, 4)]))
    with pytest.raises(DataError, match="at least one candidate, got 0"):
        mrr_chance(0)


def test_quantile_interval() -> None:
    assert quantile_interval(np.arange(1001)) == pytest.approx((25.0, 975.0))


# --- strata ---------------------------------------------------------------------------------------------------------


def _labels(*pairs: str) -> list[tuple[str, str]]:
    """`"heart A"` -> `("heart A", "heart")`."""
    return [(pair, pair.split()[0]) for pair in pairs]


def test_strata_by_hand() -> None:
    strata = coarsen_strata(
        _labels("heart A", "heart A", "heart B", "heart B", "heart C", "lung A", "lung B", "skin A", "heart B")
    )
    groups = sorted(group.tolist() for group in strata.members())
    # heart C is alone and joins the smallest stratum of its subject; the two of lung exchange with one another across
    # letters; skin has one item, which exchanges with none.
    assert groups == [[0, 1, 4], [2, 3, 8], [5, 6]]
    assert strata.level.tolist() == [0, 0, 0, 0, 1, 1, 1, -1, 0]
    assert strata.n_coarsened == 3
    assert strata.n_alone == 1
    assert strata.exchangeable.tolist() == [True] * 7 + [False, True]


def test_strata_of_nothing_and_of_strangers() -> None:
    assert coarsen_strata([]).members() == []
    strata = coarsen_strata(_labels("heart A", "lung A"))
    assert (strata.n_alone, strata.members()) == (2, [])


_PAIRS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("ABCDE")).map(lambda p: f"{p[0]} {p[1]}"), max_size=25
)


@given(_PAIRS, st.integers(2, 4))
def test_strata_are_large_enough_pure_and_leave_out_no_one_needlessly(pairs: list[str], min_size: int) -> None:
    labels = _labels(*pairs)
    strata = coarsen_strata(labels, min_size)
    for group in strata.members():
        assert len(group) >= min_size
        assert len({labels[i][1] for i in group}) == 1
    for i in np.flatnonzero(~strata.exchangeable):
        assert sum(own[1] == labels[i][1] for own in labels) < min_size


@given(_PAIRS, st.randoms(use_true_random=False))
def test_strata_do_not_depend_on_the_order_of_items(pairs: list[str], random) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)
    shuffled = coarsen_strata(_labels(*(pairs[i] for i in order)))

    def content(strata, names: list[str]) -> list[list[str]]:
        return sorted(sorted(names[i] for i in group) for group in strata.members())

    assert content(coarsen_strata(_labels(*pairs)), pairs) == content(shuffled, [pairs[i] for i in order])


def test_strata_refuse_what_is_not_nested() -> None:
    with pytest.raises(DataError, match="'A' goes with 'heart' and with 'lung'; put the coarser label into the finer"):
        coarsen_strata([("A", "heart"), ("A", "lung")])
    with pytest.raises(DataError, match="item 1 has 1 stratum labels, but the first item has 2"):
        coarsen_strata([("A", "heart"), ("A",)])
    with pytest.raises(ConfigError, match="min_size = 1"):
        coarsen_strata([], 1)


def test_permutations_stay_within_strata_and_are_uniform() -> None:
    strata = coarsen_strata(_labels("a A", "b A", "a A", "c A", "a A", "b A"))
    drawn = stratified_permutations(strata, 6000, np.random.default_rng(0))
    assert drawn.shape == (6000, 6)
    assert (np.sort(drawn, axis=1) == np.arange(6)).all()
    assert (strata.index[drawn] == strata.index).all()
    assert (drawn[:, 3] == 3).all()
    _, counts = np.unique(drawn[:, [0, 2, 4]], axis=0, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4


@given(lost=st.integers(0, 400), won=st.integers(0, 400))
def test_mcnemar_equals_the_binomial_test_of_scipy(lost: int, won: int) -> None:
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar_exact(lost, won) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(lost, won) == mcnemar_exact(won, lost)


def test_mcnemar_by_hand() -> None:
    # 1 against 5 of six coins: 2 * (1 + 6) / 64.
    assert mcnemar_exact(1, 5) == pytest.approx(14 / 64)
    assert mcnemar_exact(0, 0) == mcnemar_exact(3, 3) == 1.0
    with pytest.raises(DataError, match="counts of 0 or more, got -1 and 2"):
        mcnemar_exact(-1, 2)


def test_mcnemar_equals_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for lost, won in [(0, 1), (2, 9), (30, 11), (120, 140)]:
        assert mcnemar_exact(lost, won) == pytest.approx(tables.mcnemar([[50, lost], [won, 7]], exact=True).pvalue)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=30, unique=True))
def test_two_sided_p_is_exact(values: list[int]) -> None:
    """Whichever of exchangeable values is called observed, P(p <= k / n) <= k / n; each p against its definition."""
    n = len(values)
    found = []
    for i, observed in enumerate(values):
        null = values[:i] + values[i + 1 :]
        centre = Fraction(sum(values), n)
        away = sum(abs(value - centre) >= abs(observed - centre) for value in null)
        found.append(two_sided_p(observed, null))
        assert found[-1] == pytest.approx((1 + away) / n)
    for k in range(1, n + 1):
        assert sum(p <= k / n + 1e-9 for p in found) <= k


def test_two_sided_p_sees_an_effect_against_the_drift_of_the_null() -> None:
    """All random sets lower the value; one that raises it by less is still the odd one out."""
    null = -0.5 + np.linspace(-0.05, 0.05, 19)
    assert two_sided_p(0.3, null) == pytest.approx(1 / 20)
    assert two_sided_p(-0.5, null) > 0.9
    assert two_sided_p(2.0, []) == 1.0
    assert two_sided_p(0.1 + 0.2, [0.3, 0.3]) == 1.0


def test_null_z() -> None:
    null = np.random.default_rng(0).normal(size=50)
    assert null_z(1.5, null) == pytest.approx(stats.zmap(1.5, null, ddof=1).item())
    assert null_z(1.0, [0.3]) is None
    assert null_z(1.0, [0.3, 0.3, 0.3]) is None
