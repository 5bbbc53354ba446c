"""Features that stand for an item's own, over a whole study: the null of removing, or keeping, features of a text.

Item i has own features T_i, best first, each with a drive a_if: its activation summed over the counted stem tokens,
what an edit takes away. One *draw* gives every item a set of as many features that fire in it, one for each place of
T_i. A number measured on the own features is compared with the same number on each of D draws: `(1 + #{draws >= own}) /
(D + 1)`. That is a test only if the own features could as well have been one of the draws, so that

- **drive is matched**, at every place, hence at every size, and so is how common features are: a place takes features
  whose drive is within a factor of `CALIPER` of its own's, with odds

      exp(-d² / (2 SPREAD²) + theta · (a_g / a_f - aim, d)),    d = ln(items with g) - ln(items with f),

  theta such that the expected drive is `aim` times the own's and the expected d 0 (exponential tilting). The aim is 1
  but for what is lost because a set has no feature twice: later places find the strong ones taken. For the places
  between two sizes it is set so that in trial draws the drawn drive is the own's over the study;
- **own features may be drawn**, for themselves or for one another: barred from the draws, what is drawn would come from
  what the own features left over. Where nothing else is as strong, a place stands for itself and adds no contrast;
- **features recur as the own ones do**: a feature may move every answer by the same amount, so that what counts is how
  many different features a study has. A draw prefers the same features in all items, to the degree rho at which two
  items share as many drawn features as they share own ones (Gumbel noise, of which rho is drawn per feature and the
  rest per item and feature). Shared features are counted, and counted by their drive, because an effect may grow with
  it; the larger rho of the two is taken;
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
_AIMED, _AIM_DRAWS = 2, 40
"""How often the aims are set, and trial draws each time."""
_STEPS, _LONGEST = 15, 4.0
"""Of Newton's method, and the longest step along one axis."""


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

        A place whose pool other places have used up takes the nearest candidate that is left: there is one, since there
        are no fewer candidates than places.
        """
        draws = len(noise)
        free = np.ones(noise.shape, dtype=bool)
        found = np.zeros((draws, len(self.log_odds)), dtype=np.int64)
        rows = np.arange(draws)
        for j, odds in enumerate(self.log_odds):
            pool = np.flatnonzero(np.isfinite(odds))
            score = np.where(free[:, pool], odds[pool] + noise[:, pool], -np.inf)
            best = score.argmax(axis=1)
            chosen, stuck = pool[best], np.isneginf(score[rows, best])
            if stuck.any():
                chosen[stuck] = np.where(free[stuck], self.gap[j], np.inf).argmin(axis=1)
            found[:, j] = chosen
            free[rows, chosen] = False
        return found


def places(
    own: IntArray, candidates: IntArray, drive: FloatArray, common: FloatArray, aim: FloatArray | None = None
) -> Places | None:
    """Pools of the places of `own` (`[k]`, features) among `candidates` (`[c]`), with the odds of the module's text.

    Args:
        drive: `[d_sae]`, of this item; positive for all of both.
        common: `[d_sae]`, how many items of the study have each feature, >= 1 for all of both.
        aim: `[k]`, expected drive over the own's; None: 1.

    None where a place has no candidate within the caliper, or there are fewer candidates than places.
    """
    delta = np.log(drive[candidates])[None] - np.log(drive[own])[:, None]
    inside = np.abs(delta) <= np.log(CALIPER) + 1e-9
    if len(candidates) < len(own) or not inside.any(axis=1).all():
        return None
    apart = np.log(common[candidates])[None] - np.log(common[own])[:, None]
    base = np.where(inside, -0.5 * (apart / SPREAD) ** 2, -np.inf)
    above = np.expm1(delta) - (0.0 if aim is None else aim[:, None] - 1)
    told = np.stack([np.where(inside, above, 0.0), np.where(inside, apart, 0.0)], axis=-1)
    return Places(candidates, base + (told @ _tilt(base, told)[..., None])[..., 0], np.abs(delta))


def _tilt(base: FloatArray, told: FloatArray) -> FloatArray:
    """`[k, 2]`: theta with `sum_g exp(base + theta · told) told = 0` for each place, by Newton's method; where the own
    values are at the edge of the pool, there is none, and theta grows until the nearest of the pool have all odds."""
    theta = np.zeros((len(base), 2))
    # The pools of all places in one row, place after place: most candidates are in few pools.
    inside = np.isfinite(base)
    place = np.nonzero(inside)[0]
    first = np.searchsorted(place, np.arange(len(base)))
    alone, (x, y) = base[inside], told[inside].T
    terms = np.stack([np.ones(len(x)), x, y, x * x, x * y, y * y])
    for _ in range(_STEPS):
        odds = alone + x * theta[place, 0] + y * theta[place, 1]
        share = np.exp(odds - np.maximum.reduceat(odds, first)[place])
        sums = np.add.reduceat(share * terms, first, axis=1)
        mean, square = (sums[1:3] / sums[0]).T, (sums[[3, 4, 4, 5]] / sums[0]).T.reshape(-1, 2, 2)
        spread = square - mean[:, :, None] * mean[:, None, :]
        step = np.linalg.solve(spread + 1e-6 * np.eye(2), mean[..., None])[..., 0]
        theta -= step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / _LONGEST)
    return theta


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


def places_of(sizes: Sequence[int], k: int) -> FloatArray:
    """`[k]`, the share of `sizes` at which each of k places counts."""
    return (np.asarray(sizes)[None] > np.arange(k)[:, None]).mean(axis=1)


def stand_ins(
    drive: sparse.csr_array, own: Sequence[IntArray], sizes: Sequence[int], draws: int, rng: np.random.Generator
) -> StandIns:
    """D draws for the own features of every item; see the module's text.

    Args:
        drive: CSR `[n_items, d_sae]` from `drives`, of the features that may be drawn.
        own: per item `[k_i]`, distinct features with a positive drive in it, best first.
        sizes: numbers of first features that are removed together: how much each place counts.
        draws: D >= 1.
        rng: the same state gives the same draws.

    Raises `ConfigError` for D below 1, `DataError` for an own feature without drive.
    """
    if draws < 1:
        raise ConfigError(f"stand-ins need at least one draw, got {draws}.")
    common = np.maximum(np.bincount(drive.indices, minlength=n_columns(drive)), 1).astype(np.float64)
    most = max((len(features) for features in own), default=0)
    pools = _pools(drive, own, common, np.ones(most))
    used = np.unique(np.concatenate([np.zeros(0, np.int64), *(p.candidates for p in pools if p is not None)]))
    column = np.full(n_columns(drive), -1, dtype=np.int64)
    column[used] = np.arange(len(used))
    weights = places_of(sizes, most)
    trial = np.random.default_rng(rng.integers(2**63))
    tried = [_draw(pools, column, rho, _TRIAL_DRAWS, trial) for rho in _TRIED]
    rho = 0.0
    for by in (None, drive):
        target = _met([features[None] for features in own], weights, by)
        met = [_met(sets, weights, by) for sets in tried]
        rho = max(rho, float(np.interp(target, np.maximum.accumulate(met), _TRIED)))
    aims = np.ones(most)
    for _ in range(_AIMED):
        drawn = _draw(pools, column, rho, _AIM_DRAWS, trial)
        # A set answers to a higher aim by about twice as much: strong features are taken that later places had.
        aims *= np.sqrt(_lost(drawn, own, drive, sizes, most))
        pools = _pools(drive, own, common, aims)
    return StandIns(tuple(own), tuple(_draw(pools, column, rho, draws, rng)), drive, rho)


def _pools(
    drive: sparse.csr_array, own: Sequence[IntArray], common: FloatArray, aims: FloatArray
) -> list[Places | None]:
    """The places of every item; None for one without own features. `aims` `[most places]`."""
    pools: list[Places | None] = []
    for i, features in enumerate(own):
        row = _row(drive, i)
        if not (row[features] > 0).all():
            silent = features[row[features] <= 0].tolist()
            raise DataError(f"features {silent} do not fire in item number {i}, so that nothing can stand for them.")
        active = drive.indices[drive.indptr[i] : drive.indptr[i + 1]].astype(np.int64)
        pools.append(places(features, active, row, common, aims[: len(features)]) if len(features) else None)
    return pools


def _lost(
    sets: Sequence[IntArray], own: Sequence[IntArray], drive: sparse.csr_array, sizes: Sequence[int], most: int
) -> FloatArray:
    """`[most]`, for each place: own drive over the drive of `sets` (`[D, k]` per item), of the places that become part
    of a set at the same one of `sizes`."""
    mine, drawn = np.zeros(most), np.zeros(most)
    for i, (features, each) in enumerate(zip(own, sets, strict=True)):
        row = _row(drive, i)
        mine[: len(features)] += row[features]
        drawn[: len(features)] += row[each].mean(axis=0)
    part = np.searchsorted(np.asarray(sizes), np.arange(most), side="right")
    return (np.bincount(part, mine) / np.maximum(np.bincount(part, drawn), 1e-300))[part]


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


def _met(sets: Sequence[IntArray], weights: FloatArray, drive: sparse.csr_array | None) -> float:
    """How much items share features, from `[D, k]` each: mean over draws of `sum_f [(sum_i w_if)² - sum_i w_if²]`, w
    the weight of the place that f fills in item i, times its drive there where that is given."""
    if not sets:
        return 0.0
    feature = np.concatenate(sets, axis=1)
    weight = np.tile(np.concatenate([weights[: each.shape[1]] for each in sets]), (len(feature), 1))
    if drive is not None:
        weight *= np.concatenate([_row(drive, i)[each] for i, each in enumerate(sets)], axis=1)
    total = 0.0
    for own, its in zip(feature, weight, strict=True):
        number = np.unique(own, return_inverse=True)[1]
        total += float((np.bincount(number, its) ** 2 - np.bincount(number, its**2)).sum())
    return total / len(feature)


def _row(matrix: sparse.csr_array, i: int) -> FloatArray:
    own = slice(matrix.indptr[i], matrix.indptr[i + 1])
    dense = np.zeros(n_columns(matrix))
    dense[matrix.indices[own]] = matrix.data[own]
    return dense
