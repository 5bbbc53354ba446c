"""Matched random features over a data set, against brute force."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.matched import matched_sets
from sae_lens_med.features.statistics import FeatureStatistics

IDENTITY = {"source": "here", "sae_id": "x", "sha256": "00", "hook_name": "blocks.1.hook_resid_post"}


def synthetic(rate: Any, when_active: Any) -> FeatureStatistics:
    """Statistics with the given firing rates and means where the features fire."""
    rate, active = np.asarray(rate, np.float32), np.asarray(when_active, np.float32)
    return FeatureStatistics(
        maximum=np.where(rate > 0, 3 * active, 0).astype(np.float32),
        mean=rate * active,
        firing_rate=rate,
        n_tokens=1000,
        sae=IDENTITY,
        model={"name": "m"},
        data_sha256="00",
        exclusion={},
    )


RATES = st.lists(st.floats(1e-4, 1.0), min_size=40, max_size=80)


@settings(max_examples=40, deadline=None)
@given(rates=RATES, n_sets=st.integers(1, 8), size=st.integers(1, 4), seed=st.integers(0, 9))
def test_matched_sets_hold_what_they_promise(rates: list[float], n_sets: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stats = synthetic(rates, rng.lognormal(size=len(rates)))
    features = rng.choice(len(rates), size, replace=False).tolist()
    found = matched_sets(stats, features, n_sets, np.random.default_rng(seed))
    assert found.sets.shape == (n_sets, size)
    assert not np.isin(found.sets, features).any()
    assert all(len(set(row)) == size for row in found.sets.tolist())
    assert len({frozenset(row) for row in found.sets.tolist()}) == n_sets
    again = matched_sets(stats, features, n_sets, np.random.default_rng(seed))
    np.testing.assert_array_equal(found.sets, again.sets)
    # Each drawn feature is among the 2 n + size - 1 nearest, by a literal search.
    rate, active = stats.firing_rate.astype(float), stats.mean_when_active
    for j, feature in enumerate(features):
        others = [i for i in range(len(rates)) if i not in features]
        others.sort(key=lambda i: (np.log(rate[i] / rate[feature])) ** 2 + (np.log(active[i] / active[feature])) ** 2)
        assert set(found.sets[:, j]) <= set(others[: 2 * n_sets + size - 1])
        for s, drawn in enumerate(found.sets[:, j]):
            fold = max(max(a[drawn] / a[feature], a[feature] / a[drawn]) for a in (rate, active))
            assert found.fold[s, j] == pytest.approx(fold, rel=1e-6)


def test_features_match_their_own_kind() -> None:
    """Two clouds of features a hundredfold apart, and features that never fire: each is matched with its own."""
    rate = np.concatenate([np.full(30, 0.3), np.full(30, 0.003), np.zeros(30)])
    stats = synthetic(rate, np.linspace(1, 1.1, 90))
    sets = matched_sets(stats, [0, 40, 70], 10, np.random.default_rng(0)).sets
    assert (sets[:, 0] < 30).all()
    assert ((sets[:, 1] >= 30) & (sets[:, 1] < 60)).all()
    assert (sets[:, 2] >= 60).all()


def test_the_draw_is_uniform_over_the_pool() -> None:
    stats = synthetic(np.full(30, 0.1), np.geomspace(1, 2, 30))
    rng = np.random.default_rng(1)
    drawn = np.concatenate([matched_sets(stats, [0], 1, rng, neighbours=5).sets.ravel() for _ in range(3000)])
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4, 5]
    assert (abs(counts - 600) < 120).all()


def test_what_cannot_be_matched_is_an_error() -> None:
    stats = synthetic([0.1] * 6 + [0.0] * 2, [1.0] * 8)
    with pytest.raises(DataError, match="1 other features never fire on these 1000 tokens, too few for 4 sets"):
        matched_sets(stats, [7], 4, np.random.default_rng(0))
    with pytest.raises(DataError, match="5 other features fire"):
        matched_sets(stats, [0], 6, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="feature 8 does not exist: the SAE has features 0 to 7"):
        matched_sets(stats, [8], 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="given twice"):
        matched_sets(stats, [1, 1], 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="at least one set"):
        matched_sets(stats, [1], 0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no features"):
        matched_sets(stats, [], 1, np.random.default_rng(0))
