"""Random features that stand for given ones: the null of whatever is done to features (matched-random sets).

A random set has one feature for each given one, alike in how often and how strongly it fires. Distance is Euclidean in
logarithms, so that 0.7 is a factor of 2 in one of them; each given feature has a pool of its nearest features, the
given ones left out, and a set takes one of each pool, uniformly at random, none twice. There are two ways to be alike:

- `matched_sets`: over a data set, in (ln firing rate, ln mean activation where it fires). For an intervention that is
  made on every item alike. A feature that never fires matches others that never fire. No two sets are of the same
  features.
- `text_sets`: in one text, because what an ablation takes away from one answer depends on what fires there. The
  candidates fire in the text too, and the distance has four logarithms: rate and mean in the text, and over the study.
  Sets may repeat. The features that a text is about are its strongest, and what resembles the strongest is on average
  weaker, so for each set `SPARE` are drawn and the ones kept whose energy in the text (sum of squared activations over
  tokens and features) is nearest to that of the given features, in logarithms: a set takes away about as much as they
  do.

`recombined`: an item has one outcome of its own features and S of random sets. If the own features could as well have
been any of the sets, each choice of one of the S + 1 outcomes per item is as likely as the one that was made, and so
the mean over items has a null of (S + 1)^n arrangements, of which B are drawn. A few sets per item thus make an exact
pooled null; the own outcome is one of the choices, so that p is not too small however small S is.

Out of scope: features that fire nowhere in a text (removing them changes nothing there).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import BoolArray, FloatArray, IntArray

POOL = 20
"""Candidates for the place of each feature of a text."""
SPARE = 20
"""Sets drawn for each that is kept, in a text."""


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
class Rates:
    """How often and how strongly features fire over the tokens of a study."""

    rate: FloatArray
    """`[d_sae]`, share of tokens, in [0, 1]."""
    strength: FloatArray
    """`[d_sae]`, mean activation where it fires; 0 for a feature that never does."""


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


def rates(acts: sparse.csr_array, tokens: BoolArray | None = None) -> Rates:
    """Of CSR activations `[n, d_sae]`, over the rows `tokens` (all when not given). Raises `DataError` without rows."""
    own = acts if tokens is None else acts[np.flatnonzero(tokens)]
    n, width = len(own.indptr) - 1, n_columns(acts)
    if n == 0:
        raise DataError("there are no tokens to measure firing rates over.")
    fires = own.data > 0
    count = np.bincount(own.indices[fires], minlength=width).astype(np.float64)
    total = np.bincount(own.indices[fires], weights=own.data[fires], minlength=width)
    return Rates(count / n, np.divide(total, count, out=np.zeros(width), where=count > 0))


def text_sets(
    acts: sparse.csr_array,
    features: IntArray,
    allowed: BoolArray,
    study: Rates,
    sets: int,
    rng: np.random.Generator,
    pool: int = POOL,
) -> MatchedSets | None:
    """Random sets for `features` in one text; see the module's text.

    Args:
        acts: CSR `[m, d_sae]`, activations at the text's tokens.
        features: distinct, each firing in the text.
        allowed: `[d_sae]`, what may be drawn; the given features never are.
        study: rates over the study. A feature that fires here and not there counts as firing there once in 10^9.
        sets: S >= 1.
        rng: the same state gives the same sets.
        pool: candidates for each feature, >= 1; at least k are taken.

    None where fewer than k candidates fire in the text. Raises `ConfigError` for S or pool below 1, `DataError` for a
    feature that does not fire.
    """
    given = np.asarray(features, dtype=np.int64)
    if sets < 1 or pool < 1:
        raise ConfigError(f"matched-random sets need sets >= 1 and pool >= 1, got {sets} and {pool}.")
    here = rates(acts)
    if (here.rate[given] == 0).any():
        raise DataError(f"features {given[here.rate[given] == 0].tolist()} do not fire in the text.")
    free = allowed & (here.rate > 0)
    free[given] = False
    candidates = np.flatnonzero(free)
    if len(candidates) < len(given):
        return None
    place = np.log(
        np.maximum(np.stack([here.rate, here.strength, study.rate, study.strength], axis=1), 1e-9, dtype=np.float64)
    )
    size = min(max(pool, len(given)), len(candidates))
    pools = [_nearest(place, feature, candidates, size) for feature in given.tolist()]
    drawn = np.array([_one_of_each(pools, rng) for _ in range(SPARE * sets)], dtype=np.int64)
    energy = np.bincount(acts.indices, weights=acts.data**2, minlength=len(here.rate))
    nearness = np.abs(np.log(energy[drawn].sum(axis=1) / energy[given].sum()))
    drawn = drawn[np.sort(np.argsort(nearness, kind="stable")[:sets])]
    return MatchedSets(given, drawn, _fold(place, drawn, given))


def recombined(own: FloatArray, sets: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[draws, n, ...]`: in each draw one outcome per item, uniformly of its own (`own` `[n, ...]`) and those of its
    random sets (`sets` `[S, n, ...]`). Raises `DataError` for shapes that do not go together or no set."""
    mine, random = np.asarray(own, np.float64), np.asarray(sets, np.float64)
    if random.ndim != mine.ndim + 1 or random.shape[1:] != mine.shape or len(random) == 0:
        raise DataError(
            f"outcomes have shape {mine.shape}, but those of the random sets {random.shape}; expected (S, "
            f"*{mine.shape})."
        )
    every = np.concatenate([mine[None], random])
    choice = rng.integers(len(every), size=(draws, len(mine)))
    return every[choice, np.arange(len(mine))[None]]


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
