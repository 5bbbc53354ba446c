"""Metric #12: against scipy's Spearman, partial correlation by least squares, and matrices whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from sae_lens_med.alignment.rsa import cosine_dissimilarity, mantel
from sae_lens_med.errors import DataError
from sae_lens_med.statistics import coarsen_strata, permutation_p, stratified_permutations

Array = np.ndarray
NONE = np.zeros((0, 12), dtype=np.int64)


def _distances(rng: np.random.Generator, n: int = 12) -> Array:
    return np.round(squareform(pdist(rng.normal(size=(n, 3)))), 1)


def _upper(matrix: Array) -> Array:
    return np.array([matrix[i, j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))])


def _slow_partial(x: Array, y: Array, z: list[Array], powers: int) -> float:
    ranks = [stats.rankdata(_upper(m)) for m in (x, y, *z)]
    scaled = [(r - r.mean()) / r.std() for r in ranks[2:]]
    design = np.column_stack([np.ones(len(ranks[0]))] + [r**k for r in scaled for k in range(1, powers + 1)])
    left, right = (r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2])
    return float(np.corrcoef(left, right)[0, 1])


def test_rho_and_its_null_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = _distances(rng), _distances(rng)
    drawn = stratified_permutations(coarsen_strata([("a",)] * 6 + [("b",)] * 6), 20, rng)
    result = mantel(x, y, drawn)
    assert result.value == pytest.approx(stats.spearmanr(_upper(x), _upper(y))[0], abs=1e-9)
    for b, order in enumerate(drawn):
        moved = x[np.ix_(order, order)]
        assert result.null[b] == pytest.approx(stats.spearmanr(_upper(moved), _upper(y))[0], abs=1e-9)
    assert result.p == permutation_p(result.value, result.null)
    assert (result.n_items, result.n_pairs) == (12, 66)


@pytest.mark.parametrize("powers", [1, 3])
def test_partial_rho_equals_least_squares(powers: int) -> None:
    rng = np.random.default_rng(0)
    x, y, z, w = (_distances(rng) for _ in range(4))
    x, y = x + z, y + z
    assert mantel(x, y, NONE, [z, w], powers).value == pytest.approx(_slow_partial(x, y, [z, w], powers), abs=1e-9)
    # The textbook formula for one confound.
    xy, xz, yz = (
        np.corrcoef(stats.rankdata(_upper(a)), stats.rankdata(_upper(b)))[0, 1] for a, b in ((x, y), (x, z), (y, z))
    )
    textbook = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert mantel(x, y, NONE, [z], 1).value == pytest.approx(textbook, abs=1e-9)


def test_the_partial_and_the_studentised_null_are_the_formulas() -> None:
    rng = np.random.default_rng(1)
    x, y, z = (_distances(rng) for _ in range(3))
    drawn = stratified_permutations(coarsen_strata([("a",)] * 12), 30, rng)
    ranks = [stats.rankdata(_upper(m)) for m in (x, y, z)]
    design = np.column_stack([np.ones(66), *[(ranks[2] / 66) ** k for k in (1, 2, 3)]])

    def residual(v: Array) -> Array:
        return v - design @ np.linalg.lstsq(design, v, rcond=None)[0]

    def square(v: Array) -> Array:
        out = np.zeros((12, 12))
        out[np.triu_indices(12, 1)] = v
        return out + out.T

    left, right = square(residual(ranks[0])), square(residual(ranks[1]))
    rhos, statistics = [], []
    for order in [np.arange(12), *drawn]:
        again = square(residual(_upper(left[np.ix_(order, order)])))
        rhos.append(np.corrcoef(_upper(again), _upper(right))[0, 1])
        share = (again * right).sum(axis=1)
        statistics.append(share.sum() / np.sqrt(((share - share.mean()) ** 2).sum()))
    result = mantel(x, y, drawn, [z])
    np.testing.assert_allclose([result.value, *result.null], rhos, atol=1e-9)
    assert result.p == permutation_p(statistics[0], np.array(statistics[1:]))


def _rejections(repetitions: int, n: int, kind: str, seed: int) -> tuple[int, int]:
    """How often p <= 0.05 for X and Y that have nothing but strata (plain) or Z (partial) in common."""
    rng = np.random.default_rng(seed)
    strata = coarsen_strata([(str(i // (n // 3)),) for i in range(n)])
    plain = partial = 0
    for _ in range(repetitions):
        z = rng.normal(size=(n, 4)) + 2 * np.repeat(rng.normal(size=(3, 4)), n // 3, axis=0)
        topics = 2 * np.repeat(rng.normal(size=(3, 4)), n // 3, axis=0)
        e, f = rng.gamma(1.0, size=(n, 1)) * rng.normal(size=(n, 4)), rng.normal(size=(n, 4))
        drawn = stratified_permutations(strata, 199, rng)
        plain += mantel(squareform(pdist(e + topics)), squareform(pdist(f + topics)), drawn).p <= 0.05
        parts = [z + f, z + rng.normal(size=(n, 4)), z] if kind == "sum" else [np.hstack([z, f]), np.hstack([z, e]), z]
        x, y, own = (squareform(pdist(v)) for v in parts)
        partial += mantel(x, y, drawn, [own]).p <= 0.05
    return plain, partial


@pytest.mark.parametrize("kind", ["sum", "beside"])
def test_nothing_in_common_but_strata_or_the_confound_is_not_called_alike(kind: str) -> None:
    plain, partial = _rejections(400, 24, kind, seed=0)
    low, high = stats.binom.ppf([0.005, 0.995], 400, 0.05)
    assert low <= plain <= high
    assert low <= partial <= high


def test_the_same_confound_counts_when_it_is_not_partialled_out() -> None:
    rng = np.random.default_rng(0)
    drawn = stratified_permutations(coarsen_strata([("a",)] * 24), 199, rng)
    z = rng.normal(size=(24, 4))
    x, y = (squareform(pdist(z + 0.7 * rng.normal(size=z.shape))) for _ in range(2))
    assert mantel(x, y, drawn).p == 1 / 200


def test_planted_likeness_is_found_beyond_the_confound_and_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (9, 36):
        strata = coarsen_strata([(str(i % 3),) for i in range(n)])
        hits = np.zeros(2, dtype=int)
        for _ in range(30):
            z, shared = rng.normal(size=(2, n, 3))
            x, y = (squareform(pdist(z + shared + rng.normal(size=(n, 3)))) for _ in range(2))
            drawn = stratified_permutations(strata, 199, rng)
            hits += [mantel(x, y, drawn).p <= 0.05, mantel(x, y, drawn, [squareform(pdist(z))]).p <= 0.05]
        found.append(hits)
    assert (found[0] < found[1]).all() and found[1].min() >= 20, found


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_order_and_monotone_scales_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, z = (_distances(rng) for _ in range(3))
    order = rng.permutation(12)
    moved = [m[np.ix_(order, order)] for m in (x, y, z)]
    assert mantel(moved[0], moved[1], NONE).value == pytest.approx(mantel(x, y, NONE).value, abs=1e-9)
    base = mantel(x, y, NONE, [z]).value
    assert -1 <= base <= 1
    assert mantel(moved[0], moved[1], NONE, [moved[2]]).value == pytest.approx(base, abs=1e-9)
    assert mantel(np.exp(x), y**3, NONE, [2 * z + 1]).value == pytest.approx(base, abs=1e-9)


def test_no_data_and_errors() -> None:
    rng = np.random.default_rng(0)
    x, flat = _distances(rng), 1.0 - np.eye(12)
    drawn = stratified_permutations(coarsen_strata([("a",)] * 12), 9, rng)
    for result in (mantel(x, flat, drawn), mantel(x, _distances(rng), drawn, [x])):
        assert (result.value, result.p) == (0.0, 1.0) and not result.null.any()
        assert result.z is None
    assert mantel(x, x, drawn, [flat]).value == pytest.approx(1.0)
    with pytest.raises(DataError, match="square matrices"):
        mantel(x, x[:4, :4], NONE)
    with pytest.raises(DataError, match="symmetric and finite"):
        mantel(x, np.triu(x), NONE)
    similarity = np.array([[1.0, 0.2], [0.2, 1.0]])
    np.testing.assert_allclose(cosine_dissimilarity(similarity), [[0, 0.8], [0.8, 0]])
