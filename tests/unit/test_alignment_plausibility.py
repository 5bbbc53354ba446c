"""Metric #6: against ERASER's definitions in loops, scikit-learn's average precision, and planted saliency."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_lens_med.alignment.span_scores import SCORES, span_scores
from sae_lens_med.errors import DataError
from sae_lens_med.statistics import permutation_p

Array = np.ndarray


def _f1(p: float, r: float) -> float:
    return 2 * p * r / (p + r) if p and r else 0.0


def _slow(saliency: Array, spans: Array, threshold: float | None) -> tuple[float, float, float]:
    """Token-F1 and IOU-F1 of sets of tokens as in ERASER, average precision by going down the distinct values."""
    gold = {t for start, end in spans for t in range(start, end)}
    least = sorted(saliency, reverse=True)[len(gold) - 1] if threshold is None else threshold
    predicted = {t for t, s in enumerate(saliency) if s >= least and s > 0}
    hits = len(gold & predicted)
    token = _f1(hits / len(predicted), hits / len(gold)) if predicted else 0.0
    runs: list[set[int]] = []
    for t in sorted(predicted):
        if runs and t - 1 in runs[-1]:
            runs[-1].add(t)
        else:
            runs.append({t})
    truth = [set(range(start, end)) for start, end in spans]
    right = sum(max(len(run & span) / len(run | span) for span in truth) >= 0.5 for run in runs)
    iou = _f1(right / len(runs), right / len(truth)) if runs else 0.0
    precision, before = 0.0, 0.0
    for value in sorted(set(saliency), reverse=True):
        above = {t for t, s in enumerate(saliency) if s >= value}
        recall = len(above & gold) / len(gold)
        precision += (recall - before) * len(above & gold) / len(above)
        before = recall
    return token, iou, precision


def _spans(rng: np.random.Generator, tokens: int, count: int) -> Array:
    return np.sort(rng.choice(tokens + 1, 2 * count, replace=False)).reshape(-1, 2)


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_scores_equal_eraser(threshold: float | None) -> None:
    rng = np.random.default_rng(0)
    saliency = [np.round(rng.normal(size=t), 1) for t in (5, 12, 30, 30, 40)]
    saliency[3][:] = -1.0  # nothing is salient
    spans = [_spans(rng, len(s), count) for s, count in zip(saliency, (1, 2, 5, 1, 8), strict=True)]
    spans[2][1, 0] = spans[2][0, 1]  # two spans that touch
    for s, given_spans in zip(saliency, spans, strict=True):
        for start, end in given_spans[::2]:
            s[start:end] += 1.0
    result = span_scores(saliency, spans, 0, rng, threshold)
    for i in range(5):
        got = tuple(result.per_item[name][i] for name in SCORES)
        assert got == pytest.approx(_slow(saliency[i], spans[i], threshold), abs=1e-12)
    assert 0 < result.value("iou_f1") < 1
    np.testing.assert_allclose(
        result.prevalence, [np.diff(g).sum() / len(s) for s, g in zip(saliency, spans, strict=True)]
    )


def test_average_precision_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    saliency = [np.round(rng.normal(size=50), 1) for _ in range(20)]
    spans = [_spans(rng, 50, 3) for _ in range(20)]
    result = span_scores(saliency, spans, 0, rng)
    for s, g, got in zip(saliency, spans, result.per_item["auprc"], strict=True):
        gold = np.zeros(50)
        for start, end in g:
            gold[start:end] = 1
        assert got == pytest.approx(metrics.average_precision_score(gold, s), abs=1e-9)


def test_the_nulls_are_shifts_and_uniform_placements() -> None:
    rng = np.random.default_rng(0)
    saliency, spans = np.round(rng.gamma(1.0, size=9), 1), np.array([[0, 2], [3, 4]])
    result = span_scores([saliency], [spans], 20_000, rng)

    def scores(starts: list[int]) -> tuple[float, float]:
        gold = np.zeros(9, dtype=bool)
        for start, length in zip(starts, (2, 1), strict=True):
            gold[[(start + k) % 9 for k in range(length)]] = True
        singles = np.array([[t, t + 1] for t in np.flatnonzero(gold)])
        token, _, auprc = _slow(saliency, singles, None)
        return token, auprc

    shifts = np.array([scores([s, 3 + s]) for s in range(9)])
    # Every pair of places that do not overlap is as likely as any other.
    placements = np.array([scores([a, b]) for a in range(8) for b in range(9) if b not in (a, a + 1)])
    for null, exact in ((result.null_shift, shifts), (result.null_random, placements)):
        for column, name in enumerate(("token_f1", "auprc")):
            drawn = np.round(null[name], 9)
            values, counts = np.unique(drawn, return_counts=True)
            expected = {v: float(np.mean(np.round(exact[:, column], 9) == v)) for v in np.round(exact[:, column], 9)}
            assert set(values) <= set(expected)
            for value, count in zip(values, counts, strict=True):
                assert count / 20_000 == pytest.approx(expected[value], abs=0.015)


def _study(rng: np.random.Generator, n: int, effect: float) -> tuple[list[Array], list[Array]]:
    """Smooth saliency of unequal scale and length; `effect` is added where the expert looks."""
    saliency, spans = [], []
    for _ in range(n):
        tokens = int(rng.integers(15, 60))
        s = np.convolve(rng.normal(size=tokens + 4), np.ones(5) / 2, "valid")
        g = _spans(rng, tokens, int(rng.integers(1, 4)))
        g = (g + rng.integers(0, tokens)) % tokens
        g = g[g[:, 0] < g[:, 1]]
        for start, end in g:
            s[start:end] += effect
        saliency.append(s * rng.lognormal())
        spans.append(g)
    return saliency, spans


def test_saliency_that_knows_nothing_is_rejected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    rejected = np.zeros((3, 4), dtype=int)
    for _ in range(500):
        saliency, spans = _study(rng, 8, 0.0)
        # One span each: where it lies says nothing, by shift and by placement.
        result = span_scores(saliency, [g[:1] for g in spans], 199, rng)
        for k, name in enumerate(SCORES):
            value = result.value(name)
            for j, null in enumerate(result.nulls(name).values()):
                rejected[k, j] += (1 + np.count_nonzero(null >= value - 1e-12)) / 200 <= 0.05
            rejected[k, 3] += result.p(name) <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    # IOU-F1 has few values, and the hardest of three is harder than each: both may reject less often. What is moved to
    # another item's length has more ties than what stands in its own, so that the null of position may, too.
    assert (rejected <= high).all() and (rejected[[0, 2], :2] >= low).all(), rejected


def _falling(rng: np.random.Generator, n: int, effect: float) -> tuple[list[Array], list[Array]]:
    """Saliency that falls over every text, and spans that mostly lie early, which have nothing else in common."""
    saliency, spans = [], []
    for _ in range(n):
        tokens = int(np.clip(rng.lognormal(4.0, 0.5), 15, 250))
        s = np.convolve(rng.normal(size=tokens + 4), np.ones(5) / 2, "valid") + 4 * np.exp(-np.arange(tokens) / 20)
        start = int(0.8 * rng.beta(1, 4) * tokens)
        end = min(tokens, start + max(1, int(rng.uniform(0.05, 0.4) * tokens)))
        s[start:end] += effect
        saliency.append(s * rng.lognormal())
        spans.append(np.array([[start, end]]))
    return saliency, spans


def test_saliency_that_merely_falls_over_the_text_is_rejected_as_often_as_said() -> None:
    rejected = np.zeros((3, 4), dtype=int)
    for seed in range(500):
        rng = np.random.default_rng([seed, 15])
        result = span_scores(*_falling(rng, 16, 0.0), 99, rng)
        for k, name in enumerate(SCORES):
            value = result.value(name)
            rejected[k, :3] += [permutation_p(value, null) <= 0.05 for null in result.nulls(name).values()]
            rejected[k, 3] += result.p(name) <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert (rejected[[0, 2], :2] > 200).all(), rejected  # what every place for as likely as any other would say
    assert (rejected[:, 2:] <= high).all() and rejected[0, 2] >= low, rejected


def test_saliency_that_falls_and_knows_is_found() -> None:
    hits = [
        span_scores(*_falling(rng, 40, 1.0), 99, rng).p("auprc") <= 0.05
        for rng in map(np.random.default_rng, range(20))
    ]
    assert np.sum(hits) >= 18, hits


def test_the_null_of_position_is_another_items_saliency_at_the_same_places() -> None:
    rng = np.random.default_rng(1)
    saliency = [rng.normal(size=t) for t in (6, 9, 7, 30, 33, 40)]
    spans = [_spans(rng, len(s), 2) for s in saliency]
    result = span_scores(saliency, spans, 4000, rng)
    # The six are one bin; mean over the items of one permutation, by hand, for all 720 of them.
    exact = []
    for order in permutations(range(6)):
        scores = []
        for i, j in enumerate(order):
            size, other = len(saliency[i]), saliency[j]
            moved = np.array([other[int((t + 0.5) * len(other) / size)] for t in range(size)])
            scores.append(_slow(moved, spans[i], None)[2])
        exact.append(np.mean(scores))
    drawn = result.null_position["auprc"]
    assert np.isin(drawn.round(9), np.round(exact, 9)).all()
    assert drawn.mean() == pytest.approx(np.mean(exact), abs=0.004)
    alone = span_scores(saliency[:1], spans[:1], 50, rng)
    assert alone.p("auprc") == 1.0


def test_saliency_that_knows_is_found_and_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in (4, 40):
        hits = np.zeros(3, dtype=int)
        for _ in range(25):
            result = span_scores(*_study(rng, n, 1.0), 199, rng)
            hits += [result.p(name) <= 0.05 for name in SCORES]
        found.append(hits)
    assert (found[0] < found[1]).all() and found[1].min() >= 20, found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_ranges_scale_and_order_of_spans(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    s, g = np.round(rng.normal(size=25), 1), _spans(rng, 25, 4)
    base = span_scores([s], [g], 20, rng)
    moved = span_scores([s * scale], [g[::-1]], 0, rng)
    for name in SCORES:
        assert 0 <= base.value(name) <= 1
        assert (base.null_shift[name] <= 1).all() and (base.null_random[name] <= 1).all()
        assert moved.value(name) == pytest.approx(base.value(name), abs=1e-12)
    perfect = np.zeros(25)
    for start, end in g:
        perfect[start:end] = 1.0
    best = span_scores([perfect], [g], 0, rng)
    assert best.value("token_f1") == 1 and best.value("auprc") == 1


def test_a_span_around_the_end_is_one_span() -> None:
    """Runs at both ends that are its two halves count once, so that F1 stays below 1."""
    saliency = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    result = span_scores([saliency], [np.array([[2, 6]])], 200, np.random.default_rng(0))
    assert result.null_shift["iou_f1"].max() == pytest.approx(2 / 3)


def test_no_data_and_errors() -> None:
    rng = np.random.default_rng(0)
    none = span_scores([np.zeros(0), np.ones(3)], [np.array([[0, 1]]), np.zeros((0, 2), int)], 5, rng)
    assert len(none.positions) == 0 and none.value("auprc") == 0 and none.p("auprc") == 1
    with pytest.raises(DataError, match="every item needs both"):
        span_scores([np.ones(3)], [], 5, rng)
    with pytest.raises(DataError, match="not finite"):
        span_scores([np.array([1.0, np.nan])], [np.array([[0, 1]])], 5, rng)
    for bad in ([[0, 4]], [[-1, 2]], [[1, 1]], [[0, 2], [1, 3]]):
        with pytest.raises(DataError, match="disjoint"):
            span_scores([np.ones(3)], [np.array(bad)], 5, rng)
