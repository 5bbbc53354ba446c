"""Random features that stand beside those that somebody edits in one question: the band that an effect is seen against.

One set has for each edited feature another one, edited in the same way: by its own maximum, at the same tokens.

- For a feature that is switched off, another that fires in this question: as strongly there (summed activation over the
  counted stem tokens within a factor of `stand_ins.CALIPER`) and in about as many cases (`stand_ins.places`).
- For one that is raised, lowered or held, whatever it does there by itself: another that fires as often and as strongly
  over the study (`matched.matched_sets`).

Edited features are never drawn, nor are those that `align` leaves out. No feature stands in two sets at the place for
which there are fewest, of the features that are switched off: twenty sets that all have the same feature there would
say of that place no more than one set does. Where few other features fire so strongly, there are fewer sets than were
asked for, or none. Out of scope: what the sets do (`steering`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.app.indexed import Index
from sae_lens_med.errors import DataError
from sae_lens_med.features.matched import matched_sets
from sae_lens_med.features.stand_ins import CALIPER, gumbel, places
from sae_lens_med.records import BoolArray, FloatArray, IntArray

_TRIES = 50
"""Draws for each set that is wanted: some are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """Random features for the edited ones."""

    sets: IntArray
    """`[n, k]`; column j stands for the j-th edited feature. An edited feature that does nothing stands for itself."""
    problem: str = ""
    """Key of a text that says why there are none, or fewer than were asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Firing:
    """What `matched_sets` asks of an index."""

    firing_rate: npt.NDArray[np.float32]
    mean_when_active: FloatArray
    n_tokens: int


def random_sets(
    features: Sequence[int],
    off: Sequence[bool],
    drive: FloatArray,
    index: Index,
    n_sets: int,
    rng: np.random.Generator,
) -> Sets:
    """At most `n_sets` sets for `features`; see the module.

    Args:
        features: distinct, of the SAE.
        off: whether each is switched off, and not raised, lowered or held.
        drive: `[d_sae]`, summed activation over the counted stem tokens of the question, >= 0.
        index: of the study.
        n_sets: >= 1.
        rng: the same state gives the same sets.
    """
    given = np.asarray(features, dtype=np.int64)
    is_off = np.asarray(off, dtype=bool)
    acting = ~is_off | (drive[given] > 0)
    none = Sets(np.zeros((0, len(given)), dtype=np.int64), "steer.band.silent")
    if not acting.any():
        return none
    allowed = index.kept.copy()
    allowed[given] = False
    removed, moved = np.flatnonzero(is_off & acting), np.flatnonzero(~is_off)
    firing = _firing(given, removed, drive, allowed, index, _TRIES * n_sets, rng)
    if not len(firing):
        return Sets(none.sets, "steer.band.alone")
    try:
        others = _alike(given[moved], allowed, index, n_sets, rng)
    except DataError:
        return Sets(none.sets, "steer.band.alone")
    found: list[IntArray] = []
    fewest = _fewest(firing)
    for row in firing:
        chosen = given.copy()
        chosen[removed] = row
        if len(moved):
            chosen[moved] = others[len(found)]
        taken = fewest is not None and any(row[fewest] == each[removed[fewest]] for each in found)
        if not taken and len(set(chosen.tolist())) == len(chosen):
            found.append(chosen)
        if len(found) == n_sets:
            break
    sets = np.array(found, dtype=np.int64).reshape(-1, len(given))
    return Sets(sets, "" if len(sets) == n_sets else "steer.band.few" if len(sets) else "steer.band.alone")


def _fewest(firing: IntArray) -> int | None:
    """The column with the fewest different features; None without columns."""
    counts = [len(np.unique(column)) for column in firing.T]
    return int(np.argmin(counts)) if counts else None


def _firing(
    given: IntArray,
    removed: IntArray,
    drive: FloatArray,
    allowed: BoolArray,
    index: Index,
    tries: int,
    rng: np.random.Generator,
) -> IntArray:
    """`[at most tries, len(removed)]` features that fire in the question as strongly as those at the places `removed`
    of `given`."""
    if not len(removed):
        return np.zeros((tries, 0), dtype=np.int64)
    strongest = np.argsort(-drive[given[removed]], kind="stable")
    candidates = np.flatnonzero(allowed & (drive > 0))
    common = np.maximum(index.n_cases, 1).astype(np.float64)
    pool = places(given[removed][strongest], candidates, drive, common)
    if pool is None:
        return np.zeros((0, len(removed)), dtype=np.int64)
    noise = gumbel(rng.standard_normal((tries, len(candidates))))
    found = np.empty((tries, len(removed)), dtype=np.int64)
    found[:, strongest] = candidates[pool.filled(noise)]
    # Where other places have used a pool up, its place was filled from outside of it.
    alike = np.abs(np.log(drive[found] / drive[given[removed]])) <= np.log(CALIPER) + 1e-9
    return found[alike.all(axis=1)]


def _alike(given: IntArray, allowed: BoolArray, index: Index, n_sets: int, rng: np.random.Generator) -> IntArray:
    """`[n_sets, len(given)]` features that fire as `given` do over the study. Raises `DataError` where there are too
    few."""
    if not len(given):
        return np.zeros((n_sets, 0), dtype=np.int64)
    rate = index.count / max(index.n_tokens, 1)
    of_these = allowed.copy()
    of_these[given] = True
    stats = _Firing(np.where(of_these, rate, 0.0).astype(np.float32), index.mean, index.n_tokens)
    return matched_sets(stats, given.tolist(), n_sets, rng).sets
