"""Matched-random features of a text, recombined nulls, mentions, and spans as tokens."""

import numpy as np
import pytest
from scipy import sparse, stats

from sae_lens_med.alignment.causal_items import aligned_features
from sae_lens_med.alignment.comprehensiveness import against_draws
from sae_lens_med.alignment.effects import Effects, EffectSettings
from sae_lens_med.alignment.feature_tests import causal_tests, choose_features, items_of_features, mention_p
from sae_lens_med.alignment.plausibility import span_tokens
from sae_lens_med.errors import DataError
from sae_lens_med.features.matched import Rates, rates, recombined, text_sets
from sae_lens_med.statistics import Strata, permutation_p, stratified_permutations

Array = np.ndarray


def _acts(rng: np.random.Generator, tokens: int = 60, features: int = 80) -> sparse.csr_array:
    rate = np.linspace(0.02, 0.6, features)
    strength = np.exp(rng.normal(size=features))
    values = strength * rng.gamma(2.0, size=(tokens, features))
    return sparse.csr_array(np.where(rng.random((tokens, features)) < rate, values, 0.0))


def test_rates_are_counted_over_the_tokens_asked_for() -> None:
    acts = sparse.csr_array(np.array([[0.0, 2.0, 0.0], [0.0, 4.0, 1.0], [9.0, 9.0, 9.0]]))
    found = rates(acts, np.array([True, True, False]))
    assert found.rate.tolist() == [0.0, 1.0, 0.5]
    assert found.strength.tolist() == [0.0, 3.0, 1.0]
    with pytest.raises(DataError, match="no token"):
        rates(acts, np.zeros(3, dtype=bool))


def test_stand_ins_fire_in_the_text_are_allowed_and_are_alike() -> None:
    rng = np.random.default_rng(0)
    acts = _acts(rng)
    study = rates(_acts(rng, tokens=4000))
    allowed = np.ones(80, dtype=bool)
    allowed[::7] = False
    own = np.array([12, 40, 66])
    found = text_sets(acts, own, allowed, study, 50, np.random.default_rng(1), pool=6)
    assert found is not None and found.sets.shape == (50, 3)
    fires = (acts.toarray() > 0).any(axis=0)
    for row in found.sets:
        assert len(set(row.tolist())) == 3 and not set(row.tolist()) & set(own.tolist())
        assert fires[row].all() and allowed[row].all()
    far = text_sets(acts, own, allowed, study, 50, np.random.default_rng(1), pool=70)
    assert far is not None and found.fold.mean() < 0.7 * far.fold.mean() and (found.fold >= 1).all()
    # The nearest stand-in of a twin is the twin.
    twin = sparse.csr_array(np.repeat(acts.toarray()[:, :10], 2, axis=1))
    twins = Rates(np.repeat(study.rate[:10], 2), np.repeat(study.strength[:10], 2))
    nearest = text_sets(twin, np.array([6]), np.ones(20, dtype=bool), twins, 3, np.random.default_rng(1), pool=1)
    assert nearest is not None and (nearest.sets == 7).all() and (nearest.fold == 1).all()


def test_sets_take_away_as_much_as_the_strongest_features_do() -> None:
    rng = np.random.default_rng(0)
    acts = _acts(rng, features=200)
    energy = (acts.toarray() ** 2).sum(axis=0)
    own = np.argsort(-energy)[3:40:4]
    found = text_sets(acts, own, np.ones(200, dtype=bool), rates(acts), 30, np.random.default_rng(1))
    assert found is not None
    ratio = energy[own].sum() / energy[found.sets].sum(axis=1)
    assert np.abs(np.log(ratio)).max() < 0.1
    assert len({tuple(row) for row in found.sets.tolist()}) == 30


def test_too_few_candidates_give_no_sets_and_a_silent_feature_is_refused() -> None:
    acts = sparse.csr_array(np.array([[1.0, 2.0, 0.0, 1.0]]))
    study, every = rates(acts), np.ones(4, dtype=bool)
    assert text_sets(acts, np.array([0, 1]), every, study, 2, np.random.default_rng(0)) is None
    with pytest.raises(DataError, match=r"\[2\] do not fire"):
        text_sets(acts, np.array([2]), every, study, 2, np.random.default_rng(0))


@pytest.mark.parametrize("sets", [1, 3, 20])
def test_a_recombined_null_is_calibrated_whatever_the_outcomes(sets: int) -> None:
    """Items of very unequal size, heavy tails, and the own outcome one of S + 1 alike: p < 0.05 in 5 % of 1,000."""
    rng = np.random.default_rng(sets)
    low = 0
    for _ in range(1000):
        size = rng.pareto(1.5, size=(1, 25))
        every = size * rng.standard_cauchy(size=(1 + sets, 25)).clip(-50, 50)
        result = against_draws(every[0], recombined(every[0], every[1:], 199, rng))
        low += result.p < 0.05
    # p is a multiple of 1/200, so "below 0.05" is at most 9 of 200.
    first, last = stats.binom.ppf([0.005, 0.995], 1000, 9 / 200)
    assert low <= last
    assert low >= first if sets > 1 else low > 0  # equal sums tie, the fewer sets the more


def test_recombined_power_grows_with_items() -> None:
    rng = np.random.default_rng(0)
    found = []
    for items in (5, 20, 80):
        rejected = 0
        for _ in range(200):
            every = rng.normal(size=(11, items))
            every[0] += 0.5
            rejected += against_draws(every[0], recombined(every[0], every[1:], 199, rng)).p < 0.05
        found.append(rejected / 200)
    assert found[0] < found[1] < found[2] and found[2] > 0.95


def test_recombined_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected \(S, \*\(3,\)\)"):
        recombined(np.zeros(3), np.zeros((2, 4)), 5, np.random.default_rng(0))


def test_a_feature_is_causal_when_it_moves_more_than_its_stand_ins_and_is_tested_on_enough_items() -> None:
    rng = np.random.default_rng(0)
    settings = EffectSettings(stand_ins=5, items=10, min_items=5)
    fires = {f"i{k}": np.array([0, 1] + ([2] if k < 4 else [])) for k in range(30)}
    wanted = items_of_features(fires, np.array([0, 1, 2]), settings)
    count = {f: sum(f in own for own in wanted.values()) for f in (0, 1, 2)}
    assert count == {0: 10, 1: 10, 2: 0}
    assert wanted == items_of_features(fires, np.array([0, 1, 2]), settings)
    rows = [(name, f) for name, own in wanted.items() for f in own]
    size = np.array([5.0 if f == 0 else 1.0 for _, f in rows]) * rng.exponential(size=len(rows))
    found = Effects(
        tuple(name for name, _ in rows),
        tuple(str(f) for _, f in rows),
        size,
        size,
        rng.exponential(size=(len(rows), 5)),
    )
    tests = causal_tests(found, np.array([0, 1, 2]), settings, 2000)
    assert tests.p[0] < 0.01 < tests.p[1] and np.isnan(tests.p[2])
    assert tests.n.tolist() == [10, 10, 0]


def test_mention_is_found_where_pairs_share_and_calibrated_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    n, features = 60, 300
    rate = rng.uniform(0.1, 0.9, size=features)
    stems = np.where(rng.random((n, features)) < rate, rng.gamma(2.0, size=(n, features)), 0.0)
    explanations = np.where(rng.random((n, features)) < rate, rng.gamma(2.0, size=(n, features)), 0.0)
    explanations[:, :10] = stems[:, :10] * rng.uniform(0.5, 1.5, size=(n, 10))
    strata = Strata(np.arange(n) % 3, np.zeros(n, dtype=np.int64))
    drawn = stratified_permutations(strata, 199, rng)
    chosen = np.arange(features)
    p = mention_p(sparse.csr_array(stems), sparse.csr_array(explanations), chosen, drawn)
    low, high = stats.binom.ppf([0.005, 0.995], features - 10, 0.05)
    assert (p[:10] < 0.05).sum() >= 8 and low <= (p[10:] <= 0.05).sum() <= high
    k = 17  # by the formula
    observed = np.minimum(stems[:, k], explanations[:, k]).sum()
    null = [np.minimum(stems[:, k], explanations[row, k]).sum() for row in drawn]
    assert p[k] == permutation_p(observed, null)
    assert mention_p(sparse.csr_array(stems * 0), sparse.csr_array(explanations), chosen[:2], drawn).tolist() == [1, 1]


def test_shared_features_rank_by_the_weaker_side() -> None:
    stems = sparse.csr_array(np.array([[3.0, 1.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 0.0, 1.0]]))
    explanations = sparse.csr_array(np.array([[1.0, 4.0, 2.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]]))
    found = aligned_features(["a", "b"], stems, explanations)
    assert found["a"].tolist() == [3, 0, 1] and found["b"].tolist() == []


def test_features_are_chosen_by_standing_first_and_by_effect() -> None:
    aligned = {"a": np.array([4, 2, 9]), "b": np.array([2, 4]), "c": np.array([2])}
    attribution = {"a": (np.array([2, 7]), np.array([9.0, 1.0])), "b": (np.array([7, 8]), np.array([1.0, 3.0]))}
    mentioned, others = choose_features(aligned, attribution, 2, top=2)
    assert mentioned.tolist() == [2, 4] and others.tolist() == [8, 7]


def test_spans_become_runs_of_the_tokens_they_touch() -> None:
    tokens = np.array([[0, 3], [3, 6], [6, 9], [9, 12], [12, 15]])
    assert span_tokens(tokens, [(7, 8), (1, 4)]).tolist() == [[0, 2], [2, 3]]
    assert span_tokens(tokens, [(0, 4), (4, 9)]).tolist() == [[0, 2], [2, 3]]  # a token belongs to the first
    assert span_tokens(tokens, []).shape == (0, 2)
    assert span_tokens(tokens[[0, 2, 4]], [(0, 15)]).tolist() == [[0, 3]]
