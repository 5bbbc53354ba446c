"""Metrics #7, #8, #10 and the verdict: against the formulas written out, and simulated ablations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sae_lens_med.alignment.comprehensiveness import against_draws, aopc
from sae_lens_med.alignment.feature_verdicts import feature_verdicts
from sae_lens_med.alignment.steering import off_target_divergence, steering_specificity
from sae_lens_med.alignment.sufficiency import normalised_faithfulness
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.interventions.edit_runs import answer_margin

Array = np.ndarray


def test_aopc_is_the_mean_loss_over_sizes() -> None:
    rng = np.random.default_rng(0)
    whole, ablated = rng.random(7), rng.random((3, 7, 4))
    for d, draw in enumerate(aopc(whole, ablated)):
        for i in range(7):
            expected = sum(whole[i] - ablated[d, i, k] for k in range(4)) / 4
            assert draw[i] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(aopc(whole, ablated[0]), aopc(whole, ablated)[0])
    assert not aopc(whole, np.repeat(whole[:, None], 4, axis=1)).any()


def test_z_and_p_against_draws_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    own, draws = rng.random(9), rng.random((200, 9))
    result = against_draws(own, draws)
    means = [sum(draw) / 9 for draw in draws.tolist()]
    assert result.value == pytest.approx(sum(own) / 9)
    assert result.z == pytest.approx((result.value - np.mean(means)) / np.std(means, ddof=1), abs=1e-9)
    assert result.p == (1 + sum(m >= result.value for m in means)) / 201
    assert against_draws(own, draws[:1]).z is None


def _ablation(rng: np.random.Generator, items: int, effect: float, draws: int = 199) -> float:
    """Items of unequal sensitivity; 200 features of unequal strength, of which sets of 10 are ablated. The chosen set
    is like the others but for `effect`."""
    sensitivity = rng.gamma(0.5, size=items)
    strength = rng.pareto(2.0, size=200)
    fires = rng.random((items, 200)) < 0.3
    sets = np.stack([rng.choice(200, size=10, replace=False) for _ in range(draws + 1)])
    lost = np.einsum("if,sf->si", fires * strength, (sets[:, :, None] == np.arange(200)).any(axis=1)) * sensitivity
    lost[0] += effect * rng.exponential(size=items)
    whole = np.full(items, 0.9)
    after = 0.9 * np.exp(-lost / 10)[..., None]
    return against_draws(aopc(whole, after[0]), aopc(whole, after[1:])).p


def test_a_set_like_any_other_is_rejected_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    rejected = sum(_ablation(rng, 12, 0.0) <= 0.05 for _ in range(500))
    low, high = stats.binom.ppf([0.005, 0.995], 500, 0.05)
    assert low <= rejected <= high


def test_a_set_that_matters_is_found_and_more_so_with_more_items() -> None:
    rng = np.random.default_rng(0)
    found = [sum(_ablation(rng, n, 2.0) <= 0.05 for _ in range(40)) for n in (2, 60)]
    assert found[0] < found[1] and found[1] >= 28, found


def test_faithfulness_is_a_ratio_of_means() -> None:
    rng = np.random.default_rng(0)
    whole, empty, kept = rng.normal(size=(3, 20)) + np.array([[3.0], [0.0], [2.0]])
    expected = (kept.mean() - empty.mean()) / (whole.mean() - empty.mean())
    assert normalised_faithfulness(whole, empty, kept) == pytest.approx(expected, abs=1e-12)
    assert normalised_faithfulness(whole, empty, whole) == pytest.approx(1.0)
    assert normalised_faithfulness(whole, empty, empty) == pytest.approx(0.0)
    draws = normalised_faithfulness(whole, empty, np.stack([kept, whole]))
    assert draws == pytest.approx([expected, 1.0])
    assert normalised_faithfulness(whole, whole, kept) is None
    assert normalised_faithfulness(np.zeros(0), np.zeros(0), np.zeros(0)) is None


def test_margin_is_the_answer_less_the_mean_of_the_others() -> None:
    logits = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    np.testing.assert_allclose(answer_margin(logits, np.array([0, 2])), [1.5, -1.5])
    np.testing.assert_allclose(answer_margin(np.stack([logits, logits + 9]), np.array([0, 2]))[1], [1.5, -1.5])


def test_divergence_is_scipys_relative_entropy_without_the_target() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 6, 30))
    target = rng.integers(30, size=6)
    got = off_target_divergence(before, after, target)
    for i in range(6):
        p, q = (np.delete(np.exp(v[i]), target[i]) for v in (before, after))
        assert got[i] == pytest.approx(stats.entropy(p / p.sum(), q / q.sum()), abs=1e-9)
    moved = before.copy()
    moved[np.arange(6), target] += 5.0
    np.testing.assert_allclose(off_target_divergence(before, moved, target), 0.0, atol=1e-12)


def test_specificity_is_the_shift_over_the_divergence() -> None:
    shift, divergence = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[0.5, 1.5], [0.0, 0.0]])
    np.testing.assert_allclose(steering_specificity(shift, divergence), [2.0, 0.0])
    # A divergence of rounding does not make a shift specific.
    assert steering_specificity(np.array([1e-6]), np.array([1e-12])) == pytest.approx(1e-4)


def test_verdicts_are_the_two_by_two_after_correction() -> None:
    mentioned = np.array([0.001, 0.001, 0.9, 0.9, np.nan, 0.04])
    causal = np.array([0.001, 0.8, 0.001, 0.8, 0.001, 0.04])
    result = feature_verdicts(mentioned, causal)
    expected = ("shared_reasoning", "present_unused", "hidden_driver", "neither", "untested", "neither")
    assert result.verdict == expected
    np.testing.assert_allclose(result.mentioned_q[[0, 1, 5]], [0.0025, 0.0025, 0.04 * 5 / 3])
    np.testing.assert_allclose(result.causal_q[:5], stats.false_discovery_control(causal)[:5])
    assert np.isnan(result.mentioned_q[4])
    assert sum(result.counts.values()) == 6 and result.counts["neither"] == 2


def test_without_effects_a_verdict_is_rare_and_planted_features_are_recovered() -> None:
    rng = np.random.default_rng(0)
    any_of = np.zeros(3, dtype=int)
    for _ in range(1000):
        counts = feature_verdicts(rng.random(50), rng.random(50)).counts
        any_of += [
            counts["shared_reasoning"] > 0,
            counts["shared_reasoning"] + counts["present_unused"] > 0,
            counts["shared_reasoning"] + counts["hidden_driver"] > 0,
        ]
    low, high = stats.binom.ppf([0.005, 0.995], 1000, 0.05)
    assert any_of[0] <= 10 and ((low <= any_of[1:]) & (any_of[1:] <= high)).all(), any_of

    right, called, both, both_right = 0, 0, 0, 0
    for _ in range(100):
        mentioned, causal = rng.random((2, 50))
        mentioned[:20] = rng.random(20) * 1e-4  # the first ten are mentioned only
        causal[10:30] = rng.random(20) * 1e-4
        result = feature_verdicts(mentioned, causal)
        verdict, sure = result.verdict, result.both_q <= 0.05
        assert all(verdict[f] == "shared_reasoning" for f in np.flatnonzero(sure))
        both, both_right = both + np.count_nonzero(sure), both_right + np.count_nonzero(sure[10:20])
        right += verdict[10:20].count("shared_reasoning")
        called += verdict.count("shared_reasoning")
    assert right == both_right == 1000
    # Two corrections do not control the share of false "both"; the correction of the larger p does.
    assert (called - right) / called < 0.1 and (both - both_right) / both < 0.05


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_order_and_level_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, draws, order = rng.random(8), rng.random((30, 8)), rng.permutation(8)
    base, moved = against_draws(own, draws), against_draws(own[order] * 2 + 1, draws[:, order] * 2 + 1)
    assert moved.p == base.p and moved.z == pytest.approx(base.z, abs=1e-6)
    whole, empty, kept = rng.normal(size=(3, 8)) + np.array([[5.0], [0.0], [1.0]])
    ratio = normalised_faithfulness(whole, empty, kept)
    assert normalised_faithfulness(whole[order] * 3 + 1, empty[order] * 3 + 1, kept[order] * 3 + 1) == pytest.approx(
        ratio
    )
    p = rng.random((2, 9))
    keep = rng.permutation(9)
    assert [feature_verdicts(*p).verdict[i] for i in keep] == list(feature_verdicts(p[0, keep], p[1, keep]).verdict)


def test_no_data_and_errors() -> None:
    nothing = against_draws(np.zeros(0), np.zeros((3, 0)))
    assert (nothing.value, nothing.p, nothing.z) == (0.0, 1.0, None)
    assert feature_verdicts(np.zeros(0), np.zeros(0)).verdict == ()
    half = np.full(2, 0.5)
    for bad in (np.zeros((3, 1)), np.zeros((2, 0)), np.full((2, 1), 1.5)):
        with pytest.raises(DataError, match="AOPC needs"):
            aopc(half, bad)
    with pytest.raises(DataError, match="every item in every draw"):
        against_draws(half, np.zeros((4, 3)))
    with pytest.raises(DataError, match="not finite"):
        against_draws(half, np.full((4, 2), np.nan))
    with pytest.raises(DataError, match="one margin per item"):
        normalised_faithfulness(half, half, np.zeros(3))
    with pytest.raises(DataError, match="two or more options"):
        answer_margin(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(DataError, match="a shift and a divergence"):
        steering_specificity(half, -half)
    with pytest.raises(ConfigError, match="must be positive"):
        steering_specificity(half, half, floor=0.0)
    with pytest.raises(DataError, match="two p values per feature"):
        feature_verdicts(half, np.zeros(3))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        feature_verdicts(half, half, q=1.0)
