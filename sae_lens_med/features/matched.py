"""Random features that stand for given ones over a data set: the null of an intervention made on every item alike.

A random set has one feature for each given one, alike in how often and how strongly it fires. Distance is Euclidean in
(ln firing rate, ln mean activation where it fires), so that 0.7 is a factor of 2 in one of them; each given feature has
a pool of its nearest features, the given ones left out, and a set takes one of each pool, uniformly at random, none
twice. A feature that never fires matches others that never fire. No two sets are of the same features.

Out of scope: features that stand for those of single texts (`stand_ins`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray, IntArray


class FiringStatistics(Protocol):
    """What `matched_sets` reads of `features.statistics.FeatureStatistics`."""

    @property
    def firing_rate(self) -> npt.NDArray[np.float32]:
        """`[d_sae]`, share of tokens."""
        ...

    @property
    def mean_when_active(self) -> FloatArray:
        """`[d_sae]`, mean activation where the feature fires; 0 for one that never does."""
        ...

    @property
    def n_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class MatchedSets:
    """Random feature sets, position by position matched with the given features."""

    features: IntArray
    """`[k]`, the given ones."""
    sets: IntArray
    """`[n_sets, k]`; column j stands for `features[j]`, so that the first columns match the first features."""
    fold: FloatArray
    """`[n_sets, k]`, by which factor (>= 1) the drawn feature differs from the given one in the number that differs
    most of those compared; 1 for features that never fire."""


def matched_sets(
    stats: FiringStatistics,
    features: Sequence[int],
    n_sets: int,
    rng: np.random.Generator,
    *,
    neighbours: int | None = None,
) -> MatchedSets:
    """Feature sets that fire as often and as strongly as `features` over a data set; see the module's text.

    Args:
        stats: over the texts that the intervention will be measured on.
        features: distinct indices in [0, d_sae).
        n_sets: how many sets, >= 1.
        rng: the same state gives the same sets.
        neighbours: size of a pool; twice `n_sets` when not given, and always at least that plus the features to match.

    Raises `ConfigError` for indices out of range or given twice, `DataError` when the SAE has too few other features
    that fire (or never fire, as the given ones do) for that many sets.
    """
    given = np.asarray(list(features), dtype=np.int64)
    rate = stats.firing_rate.astype(np.float64)
    _require_features(given, len(rate))
    if n_sets < 1:
        raise ConfigError(f"matched random features need at least one set, got {n_sets}.")
    with np.errstate(divide="ignore"):
        place = np.stack([np.log(rate), np.log(stats.mean_when_active)], axis=1)
    place[rate == 0] = 0.0
    size = (2 * n_sets if neighbours is None else max(neighbours, n_sets)) + len(given) - 1
    pools = []
    for feature in given.tolist():
        alike = np.setdiff1d(np.flatnonzero((rate > 0) == (rate[feature] > 0)), given)
        pool = _nearest(place, feature, alike, size)
        if len(pool) < n_sets + len(given) - 1:
            how = "fire" if rate[feature] > 0 else "never fire"
            raise DataError(
                f"{len(pool)} other features {how} on these {stats.n_tokens} tokens, too few for {n_sets} sets that "
                f"match {len(given)} features ({feature} among them); ask for fewer sets, or compute the statistics "
                "over more texts."
            )
        pools.append(np.sort(pool))
    sets = np.array(list(_different(pools, n_sets, rng)), dtype=np.int64)
    return MatchedSets(given, sets, _fold(place, sets, given))


def _nearest(place: FloatArray, feature: int, candidates: IntArray, size: int) -> IntArray:
    """The `size` of `candidates` nearest to `feature`, nearest first; `place` `[d_sae, n_logarithms]`."""
    distance = np.linalg.norm(place[candidates] - place[feature], axis=1)
    return candidates[np.argsort(distance, kind="stable")[:size]]


def _one_of_each(pools: Sequence[IntArray], rng: np.random.Generator) -> list[int]:
    """One feature of each pool, none twice."""
    chosen: list[int] = []
    for pool in pools:
        free = [feature for feature in pool.tolist() if feature not in chosen] if chosen else pool
        chosen.append(int(free[int(rng.integers(len(free)))]))
    return chosen


def _different(pools: Sequence[IntArray], n_sets: int, rng: np.random.Generator) -> Iterator[list[int]]:
    # A pool has at least n_sets + len(pools) - 1 features: the first place of a set always has n_sets free ones, so
    # that new sets never run out.
    seen: set[frozenset[int]] = set()
    while len(seen) < n_sets:
        chosen = _one_of_each(pools, rng)
        if frozenset(chosen) not in seen:
            seen.add(frozenset(chosen))
            yield chosen


def _fold(place: FloatArray, sets: IntArray, given: IntArray) -> FloatArray:
    return np.exp(np.abs(place[sets] - place[given][None]).max(axis=-1))


def _require_features(given: IntArray, d_sae: int) -> None:
    if not len(given):
        raise ConfigError("there are no features to match.")
    for feature in given.tolist():
        if not 0 <= feature < d_sae:
            raise ConfigError(f"feature {feature} does not exist: the SAE has features 0 to {d_sae - 1}.")
    if len(set(given.tolist())) < len(given):
        raise ConfigError("a feature is given twice; name each one once.")
