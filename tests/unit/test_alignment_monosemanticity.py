"""Metric #14: against the double sum over pairs, exact expectations under shuffling, and planted topics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from sae_lens_med.alignment.monosemanticity import Monosemanticity, monosemanticity, shuffled_mean
from sae_lens_med.errors import DataError
from sae_lens_med.statistics import coarsen_strata, stratified_permutations

Array = np.ndarray


def _slow(a: Array, v: Array) -> float:
    spread = a.max() - a.min()
    scaled = (a - a.min()) / spread if spread else a * 0
    top = bottom = 0.0
    for n in range(len(a)):
        for m in range(n + 1, len(a)):
            size = np.linalg.norm(v[n]) * np.linalg.norm(v[m])
            top += scaled[n] * scaled[m] * (float(v[n] @ v[m]) / size if size else 0.0)
            bottom += scaled[n] * scaled[m]
    return top / bottom if bottom else float("nan")


def _shuffled(result: Monosemanticity, drawn: Array) -> Array:
    """The null of texts of one length, of which nothing is taken out."""
    return shuffled_mean(result, np.full(drawn.shape[1], 30.0), drawn)[0]


def _acts(rng: np.random.Generator, n: int, features: int) -> Array:
    acts = (rng.random((n, features)) < rng.beta(1.0, 2.0, size=features)) * rng.gamma(2.0, size=(n, features))
    acts[:, 0] = 0  # never
    acts[:, 1] = 0
    acts[2, 1] = 1.0  # once
    acts[:, 2] += 1.0  # always
    acts[:, 3] = 0.7  # a constant
    return acts


def test_scores_and_nulls_equal_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    acts, embeddings = _acts(rng, 14, 9), rng.normal(size=(14, 5))
    embeddings[4] = 0
    result = monosemanticity(sparse.csr_array(acts), embeddings)
    expected = np.array([_slow(acts[:, f], embeddings) for f in range(9)])
    np.testing.assert_allclose(result.score, expected, atol=1e-9)
    assert result.measured.tolist() == np.flatnonzero(np.isfinite(expected)).tolist() == [2, 4, 5, 6, 7]
    assert result.mean == pytest.approx(np.nanmean(expected))
    pairs = [_slow(np.eye(14)[i] + np.eye(14)[j], embeddings) for i in range(14) for j in range(i)]
    assert result.corpus_mean == pytest.approx(np.mean(pairs), abs=1e-12)
    drawn = stratified_permutations(coarsen_strata([("all",)] * 14), 8, rng)
    mean = _shuffled(result, drawn)
    alone = {f: _shuffled(monosemanticity(sparse.csr_array(acts[:, [f]]), embeddings), drawn) for f in (2, 5, 7)}
    for b, order in enumerate(drawn):
        scores = np.array([_slow(acts[:, f], embeddings[order]) for f in range(9)])
        np.testing.assert_allclose([null[b] for null in alone.values()], scores[[2, 5, 7]], atol=1e-9)
        assert mean[b] == pytest.approx(np.nanmean(scores), abs=1e-9)


def test_shuffled_activations_score_the_corpus_mean() -> None:
    rng = np.random.default_rng(0)
    acts, embeddings = _acts(rng, 20, 12), rng.normal(size=(20, 6)) + 1.0
    result = monosemanticity(sparse.csr_array(acts), embeddings)
    drawn = stratified_permutations(coarsen_strata([("all",)] * 20), 20_000, rng)
    assert result.corpus_mean > 0.3
    null = np.stack(
        [
            _shuffled(monosemanticity(sparse.csr_array(acts[:, [f]]), embeddings), drawn)
            for f in result.measured.tolist()
        ],
        axis=1,
    )
    error = null.std(axis=0) / np.sqrt(len(null))
    assert (np.abs(null.mean(axis=0) - result.corpus_mean) < 5 * error + 1e-12).all()
    assert _shuffled(result, drawn).mean() == pytest.approx(result.corpus_mean, abs=0.002)


def test_features_about_nothing_are_rejected_as_often_as_said() -> None:
    """Texts of two strata resemble each other within them, and features fire at the strata's rates and the lengths'."""
    rng = np.random.default_rng(0)
    strata = coarsen_strata([(str(i % 2),) for i in range(24)])
    rejected = np.zeros(2, dtype=int)
    for _ in range(500):
        rate = rng.beta(1.0, 2.0, size=(2, 12))[np.arange(24) % 2] * rng.uniform(0.3, 1.0, size=(24, 1))
        acts = (rng.random((24, 12)) < rate) * rng.gamma(2.0, size=(24, 12))
        acts[:4, 0] += 0.1
        texts = rng.normal(size=(24, 5)) + 2 * rng.normal(size=(2, 5))[np.arange(24) % 2]
        result = monosemanticity(sparse.csr_array(acts), texts)
        alone = monosemanticity(sparse.csr_array(acts[:, [0]]), texts)
        drawn = stratified_permutations(strata, 199, rng)
        rejected += [
            shuffled_mean(result, np.ones(24), drawn)[1] <= 0.05,
            shuffled_mean(alone, np.ones(24), drawn)[1] <= 0.05,
        ]
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert ((low <= rejected) & (rejected <= high)).all(), rejected


def test_length_is_taken_out_of_both_sides_by_least_squares() -> None:
    rng = np.random.default_rng(3)
    acts, embeddings = _acts(rng, 9, 8), rng.normal(size=(9, 4))
    lengths = rng.integers(20, 400, size=9).astype(float)
    result = monosemanticity(sparse.csr_array(acts), embeddings)
    drawn = stratified_permutations(coarsen_strata([("all",)] * 9), 6, rng)
    null, _ = shuffled_mean(result, lengths, drawn)
    pairs = [(i, j) for i in range(9) for j in range(i + 1, 9)]
    log = np.log(lengths) - np.log(lengths).mean()
    design = np.array([[1, log[i] + log[j], (log[i] + log[j]) ** 2, (log[i] + log[j]) ** 3, (log[i] - log[j]) ** 2]
                       for i, j in pairs])  # fmt: skip
    weight = np.zeros(len(pairs))
    for f in result.measured:
        a = (acts[:, f] - acts[:, f].min()) / np.ptp(acts[:, f])
        own = np.array([a[i] * a[j] for i, j in pairs])
        weight += own / own.sum() / len(result.measured)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    alike = np.array([unit[i] @ unit[j] for i, j in pairs])

    def left(values: Array) -> Array:
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    square = np.zeros((9, 9))
    for (i, j), value in zip(pairs, left(alike), strict=True):
        square[i, j] = square[j, i] = value
    own = left(weight)
    beyond = float(own @ left(alike))
    for b, order in enumerate(drawn):
        moved = left(np.array([square[order[i], order[j]] for i, j in pairs]))
        rho = float(own @ moved) / np.linalg.norm(moved) * np.linalg.norm(left(alike))
        assert null[b] == pytest.approx(result.mean - beyond + rho, abs=1e-9)


def test_features_of_one_topic_are_found_and_more_so_with_more_texts() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (8, 48):
        hits = 0
        for _ in range(40):
            topic = rng.integers(4, size=n)
            texts = 1.2 * rng.normal(size=(4, 8))[topic] + rng.normal(size=(n, 8))
            fires = rng.random((n, 6)) < np.where(topic[:, None] == np.arange(6) % 4, 0.7, 0.15)
            result = monosemanticity(sparse.csr_array(fires * rng.gamma(2.0, size=(n, 6))), texts)
            drawn = stratified_permutations(coarsen_strata([("all",)] * n), 199, rng)
            hits += shuffled_mean(result, rng.integers(20, 90, size=n).astype(float), drawn)[1] <= 0.05
        found.append(hits)
    assert found[0] < found[1] and found[1] >= 25, found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_order_and_scale_change_nothing(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    acts, texts = _acts(rng, 10, 6), rng.normal(size=(10, 4))
    order = rng.permutation(10)
    base = monosemanticity(sparse.csr_array(acts), texts).score
    moved = monosemanticity(sparse.csr_array(acts[order] * scale), texts[order] * scale).score
    np.testing.assert_allclose(moved, base, atol=1e-9)
    assert (np.abs(base[np.isfinite(base)]) <= 1).all()


def test_no_data_and_errors() -> None:
    empty = monosemanticity(sparse.csr_array((3, 2)), np.eye(3) + 1)
    assert np.isnan(empty.score).all() and empty.mean == empty.corpus_mean
    null, p = shuffled_mean(empty, np.ones(3), np.zeros((2, 3), int))
    assert null.tolist() == [empty.corpus_mean] * 2 and p == 1.0
    with pytest.raises(DataError, match="an embedding for each"):
        monosemanticity(sparse.csr_array((3, 2)), np.eye(2))
    with pytest.raises(DataError, match="finite embeddings"):
        monosemanticity(sparse.csr_array((3, 2)), np.full((3, 3), np.inf))
