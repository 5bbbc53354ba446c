"""Stand-ins over a study: what they promise, on features of real cases and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.stand_ins import CALIPER, places, stand_ins
from sae_lens_med.features.vectors import n_columns
from tests.causal_study import SIZES, choices, real_study

Array = np.ndarray


def test_sets_of_real_cases_are_as_strong_at_every_size_and_mostly_other_features() -> None:
    study, drawn = real_study(), choices(2)[0]
    n = len(study.own)
    own = np.array([drawn.own_drive(i, SIZES) for i in range(n)])
    random = np.array([drawn.drawn_drive(i, SIZES) for i in range(n)])
    ratios = own.sum(axis=0) / random.sum(axis=0)
    np.testing.assert_allclose(ratios, 1.0, atol=0.02)
    # A hundredth lies one and a half standard deviations of the draws away, and is what sets without repeats lose.
    assert ratios[-1] == pytest.approx(1.0, abs=0.004)
    assert np.mean([drawn.fresh(i) for i in range(n)]) > 0.7
    dense = study.drive.toarray()
    for i, (mine, sets) in enumerate(zip(drawn.own, drawn.sets, strict=True)):
        assert sets.shape == (len(drawn.sets[0]), len(mine))
        assert all(len(set(row)) == len(row) for row in sets.tolist())
        assert (dense[i][sets] > 0).all()
        within = np.abs(np.log(dense[i][sets] / dense[i][mine])) <= np.log(CALIPER) + 1e-6
        assert within.mean() > 0.999  # a pool that other places used up
        # What is counted, counted by hand.
        assert own[i].tolist() == pytest.approx([dense[i][mine[:k]].sum() for k in SIZES])
        assert drawn.fresh(i) == pytest.approx(np.mean([[f not in mine for f in row] for row in sets.tolist()]))


def test_features_recur_over_the_items_of_a_draw_as_the_own_ones_do() -> None:
    """The covariance that effects which belong to features give two sets: own with drawn as drawn with drawn, where an
    effect grows with the drive; where it does not, drawn sets recur more, which is on the safe side."""
    study = real_study()
    weight = np.array([sum(k > j for k in SIZES) / len(SIZES) for j in range(SIZES[-1])])
    dense = study.drive.toarray()

    def profile(sets: list[Array], by_drive: bool) -> Array:
        total = np.zeros(n_columns(study.drive))
        for i, each in enumerate(sets):
            np.add.at(total, each, weight[: len(each)] * (dense[i][each] if by_drive else 1))
        return total

    def ratio(own: Array, drawn: Array) -> float:
        among = drawn @ drawn.T
        spread = np.diagonal(among).mean() - among[~np.eye(len(drawn), dtype=bool)].mean()
        return float((own @ own - (drawn @ own).mean()) / spread)

    own, drawn = (
        [profile(list(study.own), by_drive) for by_drive in (False, True)],
        [
            np.stack([profile([s[d] for s in each.sets], by_drive) for each in choices(2) for d in range(15)])
            for by_drive in (False, True)
        ],
    )
    counted, driven = (ratio(*each) for each in zip(own, drawn, strict=True))
    assert 0.5 < counted < driven == pytest.approx(1.0, abs=0.25), (counted, driven)
    own, drawn = own[0], drawn[0]
    common = np.bincount(study.drive.indices, minlength=n_columns(study.drive))
    assert (drawn @ common / drawn.sum(axis=1)).mean() == pytest.approx(own @ common / own.sum(), rel=0.2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 5))
def test_the_odds_of_a_place_have_the_own_drive_as_their_mean(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    drive, common = rng.lognormal(sigma=0.3, size=80), rng.integers(1, 30, size=80).astype(float)
    order = np.argsort(drive)
    own, every = order[20:60][rng.choice(40, k, replace=False)], np.arange(80)
    found = places(own, every, drive, common)
    assert found is not None
    odds = np.exp(found.log_odds - found.log_odds.max(axis=1, keepdims=True))
    share = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share @ drive, drive[own], rtol=1e-2)
    inside = np.abs(np.log(drive[None] / drive[own][:, None])) <= np.log(CALIPER) + 1e-9
    assert ((share > 0) == inside).mean() > 0.99
    np.testing.assert_allclose(found.gap, np.abs(np.log(drive[None] / drive[own][:, None])), atol=1e-12)


def test_the_strongest_feature_of_a_question_stands_for_itself() -> None:
    drive = sparse.csr_array(np.array([[9.0, 1.0, 1.1, 0.9, 1.0]]))
    drawn = stand_ins(drive, [np.array([0, 1])], (1, 2), 50, np.random.default_rng(0))
    assert (drawn.sets[0][:, 0] == 0).all() and len(set(drawn.sets[0][:, 1].tolist())) == 4
    assert drawn.fresh(0) == pytest.approx((drawn.sets[0][:, 1] != 1).mean() / 2)


def test_items_without_own_features_and_equal_seeds() -> None:
    drive = sparse.csr_array(np.random.default_rng(0).lognormal(size=(3, 30)))
    own = [np.array([3, 4]), np.zeros(0, dtype=np.int64), np.array([3])]
    first, again = (stand_ins(drive, own, (1, 2), 7, np.random.default_rng(5)) for _ in range(2))
    assert [s.shape for s in first.sets] == [(7, 2), (7, 0), (7, 1)]
    assert all((a == b).all() for a, b in zip(first.sets, again.sets, strict=True))
    assert 0 <= first.recurrence <= 1 and first.fresh(1) == 0.0


def test_what_cannot_stand_for_anything_is_an_error() -> None:
    drive = sparse.csr_array(np.array([[1.0, 2.0, 0.0]]))
    with pytest.raises(DataError, match=r"features \[2\] do not fire in item number 0"):
        stand_ins(drive, [np.array([0, 2])], (1,), 3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="at least one draw, got 0"):
        stand_ins(drive, [np.array([0])], (1,), 0, np.random.default_rng(0))
    # With its own barred, a place may have none.
    assert places(np.array([0]), np.array([1]), drive.toarray()[0], np.ones(3)) is None
