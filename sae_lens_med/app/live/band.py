"""Random features that stand beside those that somebody edits in one question: the band that an effect is seen against.

One set has for each edited feature another one, edited in the same way: by its own maximum, at the same tokens.

- For a feature that is switched off, another that fires in this question: as strongly there (summed activation over the
  counted stem tokens within a factor of `stand_ins.CALIPER`) and in about as many cases (`stand_ins.places`).
- For one that is raised, lowered or held, whatever it does there by itself: another that fires as often and as strongly
  over the study (`matched.matched_sets`).

No two sets are the same, so that of a single feature there may be fewer than were asked for. Where several are edited
together, a place at which d others may stand keeps its own feature in one of d + 1 sets. Without that, twenty sets that
all have the same other feature at the place of the strongest would say no more of it than one set does, and be left by
every edit of it; with it, where a single place decides, the edited set lies outside of n others in 2 of n + d + 1
cases, fewer than 2 of n + 1. What `align` leaves out is never drawn. Out of scope: what the sets do (`steering`).
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

_NEAR = float(np.log(CALIPER)) + 1e-9
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
    firing = _firing(given[removed], drive, allowed, index, _TRIES * n_sets, rng)
    if len(removed) + len(moved) > 1:
        ways = np.array([len({own, *each.tolist()}) for own, each in zip(given[removed], firing.T, strict=True)])
        firing = np.where(rng.random(firing.shape) * ways < 1, given[removed], firing)
    try:
        others = _alike(given[moved], allowed, index, n_sets, rng)
    except DataError:
        return Sets(none.sets, "steer.band.alone")
    found: dict[tuple[frozenset[int], tuple[int, ...]], IntArray] = {}
    for row in firing:
        chosen = given.copy()
        chosen[removed] = row
        if len(moved):
            chosen[moved] = others[len(found)]
        # Which feature is off for which other one makes no difference.
        edit = (frozenset(row.tolist()), tuple(chosen[moved].tolist()))
        if edit != (frozenset(given[removed].tolist()), ()) and len(set(chosen.tolist())) == len(chosen):
            found.setdefault(edit, chosen)
        if len(found) == n_sets:
            break
    sets = np.array(list(found.values()), dtype=np.int64).reshape(-1, len(given))
    return Sets(sets, "" if len(sets) == n_sets else "steer.band.few" if len(sets) else "steer.band.alone")


def _firing(
    own: IntArray, drive: FloatArray, allowed: BoolArray, index: Index, tries: int, rng: np.random.Generator
) -> IntArray:
    """`[tries, len(own)]` features that fire in the question as strongly as `own`; one for which there is none, or none
    that other places have not taken, stands for itself."""
    found = np.tile(own, (tries, 1))
    candidates = np.flatnonzero(allowed & (drive > 0))
    apart = np.abs(np.log(drive[candidates])[None] - np.log(drive[own])[:, None])
    filled = np.flatnonzero((apart <= _NEAR).any(axis=1))
    filled = filled[np.argsort(-drive[own[filled]], kind="stable")]
    common = np.maximum(index.n_cases, 1).astype(np.float64)
    pool = places(own[filled], candidates, drive, common) if len(filled) else None
    if pool is not None:
        drawn = candidates[pool.filled(gumbel(rng.standard_normal((tries, len(candidates)))))]
        near = np.abs(np.log(drive[drawn] / drive[own[filled]])) <= _NEAR
        found[:, filled] = np.where(near, drawn, own[filled])
    return found


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
