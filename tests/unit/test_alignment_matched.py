"""Features that are tested, mentions, and spans as tokens."""

import numpy as np
from scipy import sparse, stats

from sae_lens_med.alignment.causal_items import aligned_features
from sae_lens_med.alignment.effects import Effects, EffectSettings
from sae_lens_med.alignment.feature_tests import causal_tests, choose_features, items_of_features, mention_p
from sae_lens_med.alignment.plausibility import span_tokens
from sae_lens_med.statistics import Strata, permutation_p, stratified_permutations


def test_a_feature_is_tested_on_enough_items_and_no_more_than_asked() -> None:
    settings = EffectSettings(items=10, min_items=5)
    fires = {f"i{k}": np.array([0, 1] + ([2] if k < 4 else [])) for k in range(30)}
    wanted = items_of_features(fires, np.array([0, 1, 2]), settings)
    count = {f: sum(f in own for own in wanted.values()) for f in (0, 1, 2)}
    assert count == {0: 10, 1: 10, 2: 0}
    assert wanted == items_of_features(fires, np.array([0, 1, 2]), settings)


def test_with_too_few_comparators_nothing_is_tested() -> None:
    names = [(f"i{k}", str(f)) for k in range(6) for f in range(19)]
    items, features = zip(*names, strict=True)
    one = np.ones(len(names))
    found = Effects(items, features, one, one, np.zeros((len(names), 0)))
    assert np.isnan(causal_tests(found, one, np.array([0])).p).all()  # 18 others


def test_the_band_of_a_feature_is_what_the_comparators_do_in_its_place() -> None:
    """An effect above its band is one of the largest 2.5 % of those that the feature was ranked among."""
    rng = np.random.default_rng(0)
    pairs = [(f"i{k}", f) for k in range(8) for f in range(220)]
    drive = rng.uniform(1, 1.5, len(pairs))
    strength = rng.gamma(2.0, size=220)
    strength[:4] += 20
    effect = np.array([strength[f] for _, f in pairs]) * drive * rng.uniform(0.9, 1.1, len(pairs))
    items, features = zip(*pairs, strict=True)
    found = Effects(items, tuple(map(str, features)), effect, effect, np.zeros((len(pairs), 0)))
    tests = causal_tests(found, drive, np.arange(20))
    low, high = tests.bands.T
    assert tests.comparators == 200
    assert (low < high).all()
    above = tests.effect > high
    assert above.any() and not above.all()
    assert ((tests.p <= 6 / 201) == above).all()


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


def test_excess_is_the_rank_among_the_stand_ins_whatever_their_size() -> None:
    random = np.array([[1.0, 2.0, 3.0, 0.0], [0.0, 0.0, 1.0, 5.0]])
    found = Effects(("a", "a"), ("x", "y"), np.array([2.0, 0.0]), np.zeros(2), random)
    assert found.excess.tolist() == [(2 + 1 / 2) / 4 - 1 / 2, (2 / 2) / 4 - 1 / 2]
    many = Effects(("a", "a"), ("x", "y"), 1000 * found.effect, np.zeros(2), 1000 * random)
    assert many.excess.tolist() == found.excess.tolist()
