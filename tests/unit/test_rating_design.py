"""The order of the units: nothing is lost, no case follows itself, arms are balanced at every point, raters differ."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.app.rating.design import WAVE, order_units, waves

ARMS = ("cot", "expert", "feature_label", "shuffled")


def _whole(cases: int, arms: int) -> list[tuple[int, str]]:
    return [(case, arm) for case in range(cases) for arm in ARMS[:arms]]


@st.composite
def _ragged(draw: st.DrawFn) -> list[tuple[int, str]]:
    """Cases of which each lacks some arms, at least one left."""
    held = draw(st.lists(st.sets(st.sampled_from(ARMS), min_size=1), min_size=1, max_size=20))
    return [(case, arm) for case, arms in enumerate(held) for arm in sorted(arms)]


def _can_be_apart(units: list[tuple[int, str]], wave: frozenset[int]) -> bool:
    sizes = [sum(case == c for case, _ in units) for c in wave]
    return max(sizes) <= -(-sum(sizes) // 2)


@given(_ragged(), st.text(max_size=8))
@settings(deadline=None)
def test_every_unit_comes_once_and_no_case_follows_itself(units: list[tuple[int, str]], seed: str) -> None:
    order = order_units(units, seed)
    assert sorted(order) == list(range(len(units)))
    assert order == order_units(units, seed)
    cases = [units[place][0] for place in order]
    if all(_can_be_apart(units, wave) for wave in waves(sorted({case for case, _ in units}))):
        assert all(a != b for a, b in zip(cases, cases[1:], strict=False))


@given(_ragged(), st.text(max_size=8))
@settings(deadline=None)
def test_at_every_point_each_arm_has_had_its_share(units: list[tuple[int, str]], seed: str) -> None:
    """Within one and a half units of it, wave by wave, whatever the cases lack."""
    order, at = order_units(units, seed), 0
    for wave in waves(sorted({case for case, _ in units})):
        own = [units[place] for place in order if units[place][0] in wave]
        assert [units[place] for place in order[at : at + len(own)]] == own, "a wave is not mixed with others"
        at += len(own)
        if len(wave) < 3 or not _can_be_apart(units, wave):
            continue
        arms = [arm for _, arm in own]
        for k in range(1, len(arms) + 1):
            for arm in set(arms):
                assert abs(arms[:k].count(arm) - k * arms.count(arm) / len(arms)) < 1.5


@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 10**6))
@settings(deadline=None)
def test_where_no_case_lacks_an_arm_every_round_has_each_arm_once(cases: int, n_arms: int, seed: int) -> None:
    units = _whole(cases, n_arms)
    arms = [units[place][1] for place in order_units(units, str(seed))]
    for start in range(0, len(arms), n_arms):
        assert sorted(arms[start : start + n_arms]) == sorted(ARMS[:n_arms])


def test_over_many_raters_each_arm_stands_at_each_position_equally_often() -> None:
    """400 raters, 24 positions, 4 arms: 100 each, and by chance (binomial, sd 8.7) within 5 sd of it."""
    units = _whole(WAVE, 4)
    orders = [order_units(units, f"r{n}") for n in range(400)]
    for position in range(len(units)):
        for arm in ARMS:
            assert abs(sum(units[order[position]][1] == arm for order in orders) - 100) < 44
    assert len({tuple(order) for order in orders}) == 400


def test_raters_who_stop_early_have_rated_the_same_units() -> None:
    units = _whole(20, 4)
    first = [{units[p] for p in order_units(units, name)[: 4 * WAVE]} for name in ("r1", "r2", "r3")]
    assert first[0] == first[1] == first[2]
    assert [len(wave) for wave in waves(list(range(20)))] == [6, 6, 8]


def test_a_case_alone_is_shown_all_the_same() -> None:
    assert sorted(order_units([(0, "cot"), (0, "expert")], "x")) == [0, 1]
