"""In which order a rater sees the units: seeded, balanced over the arms, never the same case twice in a row.

Cases come in *waves* of a few, the same for every rater, so that raters who stop early have rated the same units;
within a wave each rater has an order of his or her own.

Within a wave the arms alternate: which one comes next is Tijdeman's choice (1980, "The chairman assignment problem"),
by which every arm a with n_a of N units has, after any k units, at most 1 more or less than k n_a / N. Where all cases
have all arms, every run of as many units as there are arms has each arm once. Ties are drawn. Of the cases that have
that arm left, one that has most units left comes next, and never one that would leave the rest without an order in
which no case follows itself; where no case can be shown with that arm, another arm comes first, so that repeats are
avoided before balance is kept. Of several orders that are drawn, the most balanced is taken.

A case can only follow itself where a wave has more than half of its units (one case alone).
"""

import random
from collections.abc import Sequence
from itertools import groupby

WAVE = 6
"""Cases of a wave."""
_TRIES = 12
"""Orders that are drawn of a wave at most."""


def order_units(units: Sequence[tuple[int, str]], seed: str) -> list[int]:
    """The order in which one rater sees `units`.

    Args:
        units: case (numbered by its place in the draw) and arm of each; no pair twice.
        seed: the same seed and units give the same order; another rater has another one.

    Returns places in `units`, each once.
    """
    rng = random.Random(seed)
    found: list[int] = []
    cases = sorted({case for case, _ in units})
    for wave in waves(cases):
        own = [place for place, (case, _) in enumerate(units) if case in wave]
        drawn = [_drawn(own, units, rng)]
        while _imbalance(drawn[-1], units) > 1 and len(drawn) < _TRIES:
            drawn.append(_drawn(own, units, rng))
        found += min(drawn, key=lambda order: _imbalance(order, units))
    return found


def waves(cases: Sequence[int]) -> list[frozenset[int]]:
    """`cases` in waves of `WAVE`; fewer than half a wave at the end join the one before."""
    starts = list(range(0, len(cases), WAVE))
    if len(starts) > 1 and len(cases) - starts[-1] < WAVE // 2:
        starts.pop()
    return [frozenset(cases[a:b]) for a, b in zip(starts, [*starts[1:], len(cases)], strict=True)]


def _drawn(places: Sequence[int], units: Sequence[tuple[int, str]], rng: random.Random) -> list[int]:
    left: dict[int, list[int]] = {}
    for place in places:
        left.setdefault(units[place][0], []).append(place)
    shares = {arm: len(list(own)) / len(places) for arm, own in groupby(sorted(units[p][1] for p in places))}
    shown = dict.fromkeys(shares, 0)
    order: list[int] = []
    while any(left.values()):
        last = units[order[-1]][0] if order else None
        possible = _possible(left, last)
        for arm in _by_turn(shares, shown, len(order) + 1, rng):
            having = [p for case in possible for p in left[case] if units[p][1] == arm]
            if having:
                most = max(len(left[units[p][0]]) for p in having)
                place = rng.choice([p for p in having if len(left[units[p][0]]) == most])
                break
        else:
            raise AssertionError("some case is always possible")
        order.append(place)
        shown[units[place][1]] += 1
        left[units[place][0]].remove(place)
    return order


def _possible(left: dict[int, list[int]], last: int | None) -> list[int]:
    """Cases after which the rest still has an order without repeats, if any has; else all that are not `last`."""
    rest = sum(map(len, left.values())) - 1
    others = [case for case, own in left.items() if own and case != last]
    safe = [
        case
        for case in others
        if len(left[case]) - 1 <= rest // 2 and all(len(own) <= -(-rest // 2) for c, own in left.items() if c != case)
    ]
    return safe or others or [case for case, own in left.items() if own]


def _by_turn(shares: dict[str, float], shown: dict[str, int], k: int, rng: random.Random) -> list[str]:
    """The arms in the order in which they should come as the k-th, by Tijdeman."""
    slack = 1 / (2 * len(shares) - 2) if len(shares) > 1 else 1.0
    arms = list(shares)
    rng.shuffle(arms)
    behind = {arm: shares[arm] * k - shown[arm] for arm in arms}
    return sorted(arms, key=lambda arm: (behind[arm] < slack - 1e-9, round((1 - slack - behind[arm]) / shares[arm], 9)))


def _imbalance(order: Sequence[int], units: Sequence[tuple[int, str]]) -> float:
    """The largest difference of an arm's count from its share, over all beginnings of `order`; the least is below 1."""
    arms = [units[place][1] for place in order]
    share = {arm: arms.count(arm) / len(arms) for arm in arms}
    shown = dict.fromkeys(share, 0)
    worst = 0.0
    for k, arm in enumerate(arms, 1):
        shown[arm] += 1
        worst = max(worst, *(abs(shown[a] - k * share[a]) for a in share))
    return worst
