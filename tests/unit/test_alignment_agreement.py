"""Metrics #9 and #15: against scipy, loops, scikit-learn, and published worked examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_lens_med.alignment.agreement import (
    cohen_kappa,
    cohen_kappa_drawn,
    cohen_kappa_null,
    krippendorff_alpha,
    krippendorff_alpha_drawn,
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


def _pairs(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    """Items and concepts, 10 of them, of which each item has some; and a level of its own for each item and concept."""
    item, concept = np.nonzero(rng.random((n, 10)) < 0.5)
    return item, concept, 5 * rng.normal(size=n)[item] + 2 * rng.normal(size=10)[concept]


def test_levels_of_items_and_of_concepts_are_not_agreement() -> None:
    rng = np.random.default_rng(0)
    rejected = naive = 0
    for _ in range(500):
        item, concept, level = _pairs(rng, 15)
        often = 2 * rng.normal(size=10)[concept]
        x, y = rng.standard_t(2, size=(2, len(item))) + np.stack([level, often])
        naive += stats.spearmanr(x, level + y).pvalue <= 0.05  # type: ignore[attr-defined]
        rejected += concept_agreement(x, y, item, concept, 199, rng).p <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert low <= rejected <= high and naive > 400, (rejected, naive)


def test_planted_agreement_is_found_and_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (8, 60):
        hits = 0
        for _ in range(40):
            item, concept, level = _pairs(rng, n)
            y = rng.normal(size=len(item))
            hits += (
                concept_agreement(0.5 * y + rng.normal(size=len(item)) + level, y, item, concept, 199, rng).p <= 0.05
            )
        found.append(hits)
    assert found[0] < found[1] and found[1] >= 30, found


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
        none = concept_agreement(np.ones(n), np.arange(float(n)), np.zeros(n, int), np.arange(n), 9, rng)
        assert (none.pooled, none.p, none.n_pairs) == (0.0, 1.0, n)
    assert cohen_kappa([], []) is None and cohen_kappa([1, 1], [1, 1]) is None
    assert not cohen_kappa_null([1, 1], [1, 1], np.array([[1, 0]])).any()
    assert krippendorff_alpha([[1, NAN], [NAN, 2]]) is None and krippendorff_alpha([[1, 1], [1, 1]]) is None
    with pytest.raises(DataError, match="each entry needs one number in all four"):
        concept_agreement(np.ones(3), np.ones(2), np.zeros(3, int), np.arange(3), 9, rng)
    with pytest.raises(DataError, match="not finite"):
        concept_agreement(np.array([NAN]), np.ones(1), np.zeros(1, int), np.zeros(1, int), 9, rng)
    with pytest.raises(DataError, match="two complete ratings"):
        cohen_kappa([1, 2], [1, NAN])
    with pytest.raises(ConfigError, match="not 'cubic'"):
        cohen_kappa([1, 2], [1, 2], "cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not 'ratio'"):
        krippendorff_alpha([[1, 2], [1, 2]], "ratio")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one row per rater"):
        krippendorff_alpha([1, 2])


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, NAN]), min_size=3, max_size=3), min_size=2, max_size=12),
    st.sampled_from(["nominal", "ordinal", "interval"]),
    st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_alpha_of_drawn_items_is_that_of_a_table_of_them(rows: list[list[float]], level: str, seed: int) -> None:
    table = np.array(rows).T
    drawn = np.random.default_rng(seed).integers(0, table.shape[1], size=(8, table.shape[1]))
    found = krippendorff_alpha_drawn(table, drawn, level)  # type: ignore[arg-type]  # one of the three
    apart = [krippendorff_alpha(table[:, own], level) or 0.0 for own in drawn]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, apart, atol=1e-9)


@pytest.mark.parametrize("weighting", ["none", "linear", "quadratic"])
def test_kappa_of_drawn_items_is_that_of_their_ratings(weighting: str) -> None:
    """Where every category is drawn, else its weights are those of all items."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, 40).astype(float)
    second = np.where(rng.random(40) < 0.6, first, rng.integers(0, 3, 40))
    drawn = rng.integers(0, 40, size=(50, 40))
    found = cohen_kappa_drawn(first, second, drawn, weighting)  # type: ignore[arg-type]  # one of the three
    apart = [cohen_kappa(first[own], second[own], weighting) for own in drawn]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.array(apart, dtype=float), atol=1e-9)
    assert cohen_kappa_drawn([1, 1], [1, 1], np.zeros((3, 2), np.int64)).tolist() == [0.0] * 3


def test_the_null_of_alpha_is_alpha_of_permuted_ratings() -> None:
    """Draw by draw, with ratings that are missing and values that nobody else gave."""
    table = np.array(FOUR_OBSERVERS)
    found = krippendorff_alpha_null(table, 30, np.random.default_rng(3), "ordinal")
    rng, permuted = np.random.default_rng(3), table.copy()
    for value in found:
        for row in permuted:
            rated = np.flatnonzero(np.isfinite(row))
            row[rated] = rng.permutation(row[rated])
        assert value == pytest.approx(krippendorff_alpha(permuted, "ordinal"), abs=1e-9)
