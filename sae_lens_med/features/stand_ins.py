"""Features that stand for an item's own, over a whole study: the null of removing, or keeping, features of a text.

Item i has own features T_i, best first, each with a drive a_if: its activation summed over the counted stem tokens,
what an edit takes away. One *draw* gives every item a set of as many features that fire in it, one for each place of
T_i. A number measured on the own features is compared with the same number on each of D draws: `(1 + #{draws >= own}) /
(D + 1)`. That is a test only if the own features could as well have been one of the draws, so that

- **drive is matched**, at every place, hence at every size: a place takes features whose drive is within a factor of
  `CALIPER` of its own's, with odds `exp(theta ln(a_g / a_f))`, theta such that the expected drive is the own's. Odds
  fall with the difference in how many items have the feature (normal kernel on logarithms, sd `SPREAD`);
- **own features may be drawn**, for themselves or for one another: barred from the draws, what is drawn would come from
  what the own features left over. Where nothing else is as strong, a place stands for itself and adds no contrast;
- **features recur as the own ones do**: a feature may move every answer by the same amount, so that what counts is how
  many different features a study has. A draw prefers the same features in all items, to the degree rho at which two
  items share as many drawn features as they share own ones (Gumbel noise, of which rho is drawn per feature and the
  rest per item and feature);
- **sets of a draw have no feature twice.**

`own_drive` over `drawn_drive` says how well drive was matched at each size, `fresh` how many places the draws fill with
another feature.

Out of scope: features that do not fire in a text (removing them changes nothing there); what the model does without
them (`interventions.edit_runs`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import STEM_PARTS, counted_tokens, n_columns
from sae_lens_med.records import BoolArray, FeatureActs, FloatArray, IntArray

CALIPER = 1.5
"""Greatest factor between the drives of a feature and of one that stands for it."""
SPREAD = 1.0
"""Standard deviation of the kernel on the logarithm of how many items have a feature."""
_TRIED = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Values of rho between which it is interpolated."""
_TRIAL_DRAWS = 12
_STEEPEST = 60.0
"""Bound of theta; beyond it a place takes the strongest, or the weakest, of its pool."""


def drives(acts: FeatureActs, kept: BoolArray | None = None) -> sparse.csr_array:
    """CSR `[n_items, d_sae]`, float64, >= 0: activations summed over the counted stem tokens of each item.

    `kept` (`[d_sae]`, bool) leaves out the other features; their columns stay, empty.
    """
    tokens = np.flatnonzero(counted_tokens(acts, STEM_PARTS))
    n = len(acts.item_ids)
    member = sparse.csr_array((np.ones(len(tokens)), (acts.token_item[tokens], tokens)), (n, len(acts.token_item)))
    found = sparse.csr_array(member @ acts.acts.astype(np.float64))
    if kept is not None:
        found.data[~kept[found.indices]] = 0.0
    found.eliminate_zeros()
    found.sort_indices()
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """What one item's k places may take, of c candidates."""

    candidates: IntArray
    """`[c]`, features."""
    log_odds: FloatArray
    """`[k, c]`; -inf outside of a place's pool."""
    gap: FloatArray
    """`[k, c]`, `|ln(a_g / a_f)|`."""

    def filled(self, noise: FloatArray) -> IntArray:
        """`[D, k]`: for each draw of Gumbel noise (`[D, c]`) one candidate per place, by its position, none twice.

        A place whose pool other places have used up takes the nearest candidate that is left; -1 where none is.
        """
        draws = len(noise)
        free = np.ones(noise.shape, dtype=bool)
        found = np.full((draws, len(self.log_odds)), -1, dtype=np.int64)
        rows = np.arange(draws)
        for j, odds in enumerate(self.log_odds):
            score = np.where(free, odds + noise, -np.inf)
            chosen = score.argmax(axis=1)
            stuck = np.isneginf(score[rows, chosen])
            if stuck.any():
                chosen[stuck] = np.where(free[stuck], self.gap[j], np.inf).argmin(axis=1)
            some = free[rows, chosen]
            found[some, j] = chosen[some]
            free[rows, chosen] = False
        return found


def places(own: IntArray, candidates: IntArray, drive: FloatArray, common: FloatArray) -> Places | None:
    """Pools of the places of `own` (`[k]`, features) among `candidates` (`[c]`), with the odds of the module's text.

    Args:
        drive: `[d_sae]`, of this item; positive for all of both.
        common: `[d_sae]`, how many items of the study have each feature, >= 1 for all of both.

    None where a place has no candidate within the caliper, or there are fewer candidates than places.
    """
    delta = np.log(drive[candidates])[None] - np.log(drive[own])[:, None]
    inside = np.abs(delta) <= np.log(CALIPER) + 1e-9
    if len(candidates) < len(own) or not inside.any(axis=1).all():
        return None
    apart = np.log(common[candidates])[None] - np.log(common[own])[:, None]
    base = np.where(inside, -0.5 * (apart / SPREAD) ** 2, -np.inf)
    times = np.exp(delta)
    low, high = np.full((len(own), 1), -_STEEPEST), np.full((len(own), 1), _STEEPEST)
    for _ in range(30):  # the expected drive grows with theta
        theta = (low + high) / 2
        odds = base + theta * np.where(inside, delta, 0.0)
        share = np.exp(odds - odds.max(axis=1, keepdims=True))
        mean = (share * times).sum(axis=1, keepdims=True) / share.sum(axis=1, keepdims=True)
        low, high = np.where(mean < 1, theta, low), np.where(mean < 1, high, theta)
    return Places(candidates, base + (low + high) / 2 * np.where(inside, delta, 0.0), np.abs(delta))


@dataclass(frozen=True, eq=False)
class StandIns:
    """D draws of a study."""

    own: tuple[IntArray, ...]
    """Per item `[k_i]`, its own features; empty where it has none."""
    sets: tuple[IntArray, ...]
    """Per item `[D, k_i]`; column j stands for `own[j]`."""
    drive: sparse.csr_array
    """CSR `[n_items, d_sae]`."""
    recurrence: float
    """rho, in [0, 1]."""

    def own_drive(self, item: int, sizes: Sequence[int]) -> FloatArray:
        """`[K]`, summed drive of the first k own features of an item, for each of `sizes`."""
        row = _row(self.drive, item)
        return np.array([row[self.own[item][:k]].sum() for k in sizes], dtype=np.float64)

    def drawn_drive(self, item: int, sizes: Sequence[int]) -> FloatArray:
        """`[K]`, the mean over draws of the summed drive of their first k features."""
        row, sets = _row(self.drive, item), self.sets[item]
        return np.array([row[sets[:, :k]].sum() / len(sets) for k in sizes], dtype=np.float64)

    def fresh(self, item: int) -> float:
        """Share of an item's places, over draws, that are filled by a feature that is not its own; 0 without places."""
        return float((~np.isin(self.sets[item], self.own[item])).mean()) if len(self.own[item]) else 0.0


def stand_ins(drive: sparse.csr_array, own: Sequence[IntArray], draws: int, rng: np.random.Generator) -> StandIns:
    """D draws for the own features of every item; see the module's text.

    Args:
        drive: CSR `[n_items, d_sae]` from `drives`, of the features that may be drawn.
        own: per item `[k_i]`, distinct features with a positive drive in it, best first.
        draws: D >= 1.
        rng: the same state gives the same draws.

    Raises `ConfigError` for D below 1, `DataError` for an own feature without drive.
    """
    if draws < 1:
        raise ConfigError(f"stand-ins need at least one draw, got {draws}.")
    common = np.maximum(np.bincount(drive.indices, minlength=n_columns(drive)), 1).astype(np.float64)
    pools: list[Places | None] = []
    for i, features in enumerate(own):
        row = _row(drive, i)
        if not (row[features] > 0).all():
            silent = features[row[features] <= 0].tolist()
            raise DataError(f"features {silent} do not fire in item number {i}, so that nothing can stand for them.")
        active = drive.indices[drive.indptr[i] : drive.indptr[i + 1]].astype(np.int64)
        pools.append(places(features, active, row, common) if len(features) else None)
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *(p.candidates for p in pools if p is not None)]))
    column = np.full(n_columns(drive), -1, dtype=np.int64)
    column[used] = np.arange(len(used))
    target = _pairs([f[None] for f in own if len(f)])
    trial = np.random.default_rng(rng.integers(2**63))
    met = [_pairs([s for s in _draw(pools, column, rho, _TRIAL_DRAWS, trial) if s.shape[1]]) for rho in _TRIED]
    rho = float(np.interp(target, np.maximum.accumulate(met), _TRIED))
    return StandIns(tuple(own), tuple(_draw(pools, column, rho, draws, rng)), drive, rho)


def _draw(
    pools: Sequence[Places | None], column: IntArray, rho: float, draws: int, rng: np.random.Generator
) -> list[IntArray]:
    """Per item `[D, k]` features."""
    shared = rng.standard_normal((draws, int(column.max(initial=-1)) + 1), dtype=np.float32)
    sets = []
    for each in pools:
        if each is None:
            sets.append(np.zeros((draws, 0), dtype=np.int64))
            continue
        alone = rng.standard_normal((draws, len(each.candidates)), dtype=np.float32)
        normal = np.sqrt(rho) * shared[:, column[each.candidates]] + np.sqrt(1 - rho) * alone
        sets.append(each.candidates[each.filled(gumbel(normal))])
    return sets


def gumbel(normal: npt.NDArray[np.floating]) -> FloatArray:
    """Standard normal numbers as standard Gumbel ones of the same quantile."""
    return -np.log(-np.log(np.clip(ndtr(normal.astype(np.float64)), 1e-12, 1 - 1e-12)))


def _pairs(sets: Sequence[IntArray]) -> float:
    """Mean over draws of the number of pairs of items that share a feature, each feature for itself; `[D, k]` each."""
    if not sets:
        return 0.0
    draws = len(sets[0])
    total = 0.0
    for d in range(draws):
        count = np.unique(np.concatenate([each[d] for each in sets]), return_counts=True)[1]
        total += float((count * (count - 1)).sum()) / 2
    return total / draws


def _row(matrix: sparse.csr_array, i: int) -> FloatArray:
    own = slice(matrix.indptr[i], matrix.indptr[i + 1])
    dense = np.zeros(n_columns(matrix))
    dense[matrix.indices[own]] = matrix.data[own]
    return dense
