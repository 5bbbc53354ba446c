"""Metric #3: against loops over the definition, scipy's hypergeometric, and data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from sae_lens_med.alignment.overlap import overlap_chance, overlap_tables, top_k_sets, weighted_jaccard_table
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.statistics import coarsen_strata, permutation_p, permuted_means, stratified_permutations

Array = np.ndarray


def _vectors(rng: np.random.Generator, n: int, rate: Array) -> Array:
    return (rng.random((n, len(rate))) < rate) * rng.gamma(2.0, size=(n, len(rate)))


def _slow(a: Array, e: Array, k: int, relevant: int) -> tuple[float, float, float]:
    def top(v: Array, size: int) -> set[int]:
        return set(sorted((f for f in range(len(v)) if v[f] > 0), key=lambda f: (-v[f], f))[:size])

    largest = sum(max(x, y) for x, y in zip(a, e, strict=True))
    jaccard = sum(min(x, y) for x, y in zip(a, e, strict=True)) / largest if largest else 0.0
    t, u = top(a, k), top(e, relevant)
    return jaccard, len(t & u) / len(t) if t else 0.0, len(t & u) / len(u) if u else 0.0


def _p(table: Array, drawn: Array) -> float:
    return permutation_p(float(np.diagonal(table).mean()), permuted_means(table, drawn, np.arange(len(table))))


def test_every_cell_equals_loops() -> None:
    rng = np.random.default_rng(0)
    a, e = _vectors(rng, 12, np.full(40, 0.2)), np.round(_vectors(rng, 12, np.full(40, 0.2)))
    a[3], e[5] = 0, 0
    tables = overlap_tables(sparse.csr_array(a), sparse.csr_array(e), 5)
    for i in range(12):
        for j in range(12):
            got = (tables.jaccard[i, j], tables.precision[i, j], tables.recall[i, j])
            assert got == pytest.approx(_slow(a[i], e[j], 5, 5), abs=1e-12)


def test_chance_is_the_hypergeometric_expectation() -> None:
    rng = np.random.default_rng(0)
    a, e = (_vectors(rng, 30, np.full(50, 0.4)) + 0.01 * rng.random((30, 50)) for _ in range(2))
    chance = overlap_chance(sparse.csr_array(a), sparse.csr_array(e), 10)
    assert chance.n_live == 50
    np.testing.assert_allclose(chance.precision * 10, stats.hypergeom(50, 10, 10).mean())
    np.testing.assert_allclose(chance.recall * 10, 10 * 10 / 50)


def test_frequent_features_alone_exceed_the_hypergeometric_floor_but_not_the_permutations() -> None:
    """Strata, unequal firing rates, and lengths that both sides share: 400 studies without any alignment."""
    rng = np.random.default_rng(0)
    strata = coarsen_strata([(str(i % 3),) for i in range(24)])
    p, above_floor = [], 0
    for _ in range(400):
        rate = rng.beta(0.4, 3.0, size=(3, 80))[np.arange(24) % 3]
        a = sparse.csr_array((rng.random((24, 80)) < rate) * rng.gamma(2.0, size=(24, 80)))
        e = (rng.random((24, 80)) < rate) * rng.gamma(2.0, size=(24, 80)) * rng.lognormal(size=(24, 1))
        drawn = stratified_permutations(strata, 199, rng)
        tables = overlap_tables(a, sparse.csr_array(e), 8)
        floor = overlap_chance(a, sparse.csr_array(e), 8).precision.mean()
        above_floor += np.diagonal(tables.precision).mean() > 1.5 * floor
        p.append([_p(table, drawn) for table in (tables.jaccard, tables.precision, tables.recall)])
    low, high = stats.binom.ppf([0.005, 0.995], 400, 0.05)
    rejected = np.count_nonzero(np.array(p) <= 0.05, axis=0)
    assert ((low <= rejected) & (rejected <= high)).all(), rejected
    assert above_floor > 350


def test_planted_overlap_is_found_and_the_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (12, 48):
        strata = coarsen_strata([(str(i % 3),) for i in range(n)])
        hits = 0
        for _ in range(30):
            a, fresh = _vectors(rng, n, np.full(80, 0.2)), _vectors(rng, n, np.full(80, 0.2))
            e = np.where(rng.random((n, 80)) < 0.12, a, fresh)
            jaccard = weighted_jaccard_table(sparse.csr_array(a), sparse.csr_array(e))
            hits += _p(jaccard, stratified_permutations(strata, 199, rng)) <= 0.05
        found.append(hits)
    assert found[0] < found[1] and found[1] >= 27, found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_scale_and_order_change_nothing(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    a, e = (sparse.csr_array(_vectors(rng, 6, np.full(20, 0.3))) for _ in range(2))
    table = weighted_jaccard_table(a, e)
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_allclose(weighted_jaccard_table(a * scale, e * scale), table, atol=1e-9)
    order = rng.permutation(6)
    np.testing.assert_allclose(weighted_jaccard_table(a[order], e), table[order], atol=1e-12)
    own = np.diagonal(weighted_jaccard_table(a, a))
    np.testing.assert_allclose(own, np.diff(a.indptr) > 0)


def test_no_data_and_errors() -> None:
    empty = sparse.csr_array((3, 5))
    tables, chance = overlap_tables(empty, empty, 2), overlap_chance(empty, empty, 2)
    assert not tables.jaccard.any() and not tables.precision.any() and not tables.recall.any()
    assert not chance.precision.any() and not chance.recall.any()
    with pytest.raises(ConfigError, match="k of at least 1"):
        top_k_sets(empty, 0)
    for measure in (overlap_tables, overlap_chance):
        with pytest.raises(DataError, match="as many stems"):
            measure(empty, sparse.csr_array((2, 5)))
    with pytest.raises(DataError, match="0 or more"):
        weighted_jaccard_table(sparse.csr_array([[-1.0]]), sparse.csr_array([[1.0]]))
    with pytest.raises(DataError, match="different features"):
        weighted_jaccard_table(sparse.csr_array((3, 4)), empty)
