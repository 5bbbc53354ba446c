"""Which features are tested for a verdict, and the two p of each: mentioned, and causal (#16).

**Mentioned**: a feature is mentioned when the explanations of the questions that have it have it more than explanations
of other questions of the stratum do. Statistic over the items, with S and E the weighted maxima of both sides:
`T_f = sum_i min(S_if, E_if)` >= 0; null: explanations permuted within strata; `p_f = (1 + #{null >= T_f}) / (B + 1)`.

**Causal**: the feature is the unit. Over the items in which it fires (at most `EffectSettings.items`, drawn at random),
what removing it does over what removing other features does that fire there as strongly:

    R_f = sum_i e_if / sum_i ê_if,     ê_if = a_if  sum_g K(a_if, a_ig) e_ig / a_ig  /  sum_g K(a_if, a_ig)

e the effect (`effects`), a the drive (`features.stand_ins`), K a normal kernel on `ln a` with the standard deviation
`ln CALIPER`; g runs over the *comparators* that were removed from the item, too: up to `EffectSettings.comparators`
different features, none of them tested, that resemble the tested ones in drive and in how many items have them. To
first order an effect grows as the drive, hence the division. Comparators have an R_g of the same kind (each without
itself), and `p_f = (1 + #{R_g >= R_f}) / (1 + #g)`: one-sided, *moves the answer more than features do that fire there
as strongly*. Items that are moved easily are so for both; a comparator that moves every answer is one feature, not one
per item. A pair whose comparators are all much weaker or stronger (`sum K < 1`) does not count.

Out of scope: the correction over features, and what both p together say (`feature_verdicts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.effects import Effects, EffectSettings
from sae_lens_med.errors import DataError
from sae_lens_med.features.stand_ins import CALIPER
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.statistics import permutation_p

LEAST_COMPARATORS = 19
"""With fewer no p can be below 0.05, and nothing is tested."""


def choose_features(
    aligned: Mapping[str, IntArray],
    attribution: Mapping[str, tuple[IntArray, FloatArray]],
    n: int,
    top: int = 10,
) -> tuple[IntArray, IntArray]:
    """Features worth a causal test, from items on which they will *not* be tested.

    Args:
        aligned: item id -> features, best first.
        attribution: item id -> features with the size of their first-order effect on the answer, >= 0.
        n: how many of each kind.
        top: how many of an item's aligned features count.

    Returns up to `n` that stand most often among the first `top` aligned features, and up to `n` others with the
    largest sum of first-order effects, each from the largest; of equals the lower index first.
    """
    often: dict[int, float] = {}
    for features in aligned.values():
        for feature in features[:top].tolist():
            often[feature] = often.get(feature, 0.0) + 1
    mentioned = sorted(often, key=lambda f: (-often[f], f))[:n]
    moved: dict[int, float] = {}
    for features, size in attribution.values():
        for feature, value in zip(features.tolist(), size.tolist(), strict=True):
            moved[feature] = moved.get(feature, 0.0) + value
    taken = set(mentioned)
    others = sorted((f for f in moved if f not in taken), key=lambda f: (-moved[f], f))[:n]
    return np.array(mentioned, dtype=np.int64), np.array(others, dtype=np.int64)


def items_of_features(
    fires: Mapping[str, IntArray], features: IntArray, settings: EffectSettings
) -> dict[str, list[int]]:
    """Item id -> which of `features` are tested in it: each in at most `settings.items` of the items in which it fires,
    drawn at random; none that fires in fewer than `settings.min_items`. `fires`: item id -> features that fire."""
    chosen: dict[str, list[int]] = {name: [] for name in fires}
    where: dict[int, list[str]] = {int(f): [] for f in features}
    for name, own in fires.items():
        for feature in np.intersect1d(own, features).tolist():
            where[feature].append(name)
    for feature, names in where.items():
        if len(names) < settings.min_items:
            continue
        rng = np.random.default_rng([settings.seed, feature])
        for k in rng.permutation(len(names))[: settings.items].tolist():
            chosen[names[k]].append(feature)
    return {name: sorted(own) for name, own in chosen.items() if own}


def mention_p(
    stems: sparse.csr_array, explanations: sparse.csr_array, features: IntArray, permutations: IntArray
) -> FloatArray:
    """`[len(features)]`: p of being mentioned, one-sided; see the module's text.

    Args:
        stems: `[m, d_sae]`, values >= 0, of items with an explanation; so `explanations`.
        features: which columns.
        permutations: `[B, m]`, row b gives item i the explanation of item `permutations[b, i]`.

    1 for a feature that no item has on both sides. Raises `DataError` for permutations of another number of items.
    """
    s = np.asarray(sparse.csc_array(stems)[:, features].toarray(), dtype=np.float64)
    e = np.asarray(sparse.csc_array(explanations)[:, features].toarray(), dtype=np.float64)
    if permutations.ndim != 2 or permutations.shape[1] != len(s):
        raise DataError(f"permutations have shape {permutations.shape}, expected (B, {len(s)}).")
    p = np.ones(len(features))
    for k in range(len(features)):
        rows = np.flatnonzero(s[:, k])  # only the questions that have the feature can add to the sum
        if not len(rows):
            continue
        observed = np.minimum(s[rows, k], e[rows, k]).sum()
        null = np.minimum(s[rows, k], e[permutations[:, rows], k]).sum(axis=1)
        p[k] = (1 + np.count_nonzero(null >= observed - 1e-12 * max(1.0, observed))) / (len(null) + 1)
    return p


def choose_comparators(drive: sparse.csr_array, tested: IntArray, settings: EffectSettings) -> IntArray:
    """Up to `settings.comparators` features, ascending, that resemble the `tested` ones and are none of them.

    Args:
        drive: CSR `[m, d_sae]`, of the items of the test, of the features that may be drawn.

    Tested features take turns, each taking the nearest feature that is left, in the logarithms of the mean drive where
    it fires and of the number of items in which it does; features of fewer than `settings.min_items` items are no
    comparators.
    """
    n_items, d_sae = drive.shape  # type: ignore[misc]  # SciPy's own annotations leave the shape of an array open
    count = np.bincount(drive.indices, minlength=d_sae).astype(np.float64)
    total = np.bincount(drive.indices, weights=drive.data, minlength=d_sae)
    free = count >= min(settings.min_items, n_items)
    free[tested] = False
    left = np.flatnonzero(free)
    if len(left) <= settings.comparators:
        return left
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.stack([np.log(total / count), np.log(count)], axis=1)
    asked = [f for f in tested.tolist() if count[f] > 0]
    nearest = [left[np.argsort(np.linalg.norm(place[left] - place[f], axis=1), kind="stable")].tolist() for f in asked]
    chosen: dict[int, None] = {}
    turns = [iter(each) for each in nearest] or [iter(left.tolist())]
    while len(chosen) < settings.comparators:
        for turn in turns:
            chosen[next(f for f in turn if f not in chosen)] = None
            if len(chosen) == settings.comparators:
                break
    return np.sort(np.fromiter(chosen, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTests:
    """The causal test of F features."""

    p: FloatArray
    """`[F]`; NaN where too few items, or comparators, were measured."""
    ratio: FloatArray
    """`[F]`, R_f: effect over what features as strong do there; NaN as above. So `effect` and `expected`, means over
    items in logits, and `signed`."""
    effect: FloatArray
    expected: FloatArray
    signed: FloatArray
    n: IntArray
    """`[F]`, items."""
    null: FloatArray
    """`[G]`, R_g of the features that each was ranked among."""

    @property
    def comparators(self) -> int:
        """How many features each was ranked among."""
        return len(self.null)

    @property
    def bands(self) -> FloatArray:
        """`[F, 2]`: 2.5 % and 97.5 % of what the effect would be if the feature moved the answer as one of those does,
        `R_g` times `expected`; NaN as `effect`."""
        if not len(self.null):
            return np.full((len(self.expected), 2), np.nan)
        low, high = np.quantile(self.null, [0.025, 0.975], method="nearest")
        with np.errstate(invalid="ignore"):  # nothing expected, times what is infinite
            return self.expected[:, None] * np.array([low, high])


def causal_tests(found: Effects, drive: FloatArray, tested: IntArray, min_items: int = 5) -> FeatureTests:
    """Which of the features `tested` (`[F]`) move the answer more than comparators do; see the module's text.

    Args:
        found: of pairs of an item and one feature, named by its number; those that are not tested are comparators.
        drive: `[N]`, of each pair, > 0.
        min_items: a feature that was measured in fewer items is neither tested nor a comparator.
    """
    feature = np.array([int(name) for name in found.names], dtype=np.int64)
    number = {name: i for i, name in enumerate(dict.fromkeys(found.items))}
    item = np.array([number[name] for name in found.items], dtype=np.int64)
    compared = ~np.isin(feature, tested)
    expected = expected_effects(item, found.effect, drive, compared)
    known = np.isfinite(expected)

    def sums(features: IntArray) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
        rows = [np.flatnonzero(known & (feature == f)) for f in features.tolist()]
        moved, usual, signed = (
            np.array([values[own].sum() for own in rows], dtype=np.float64)
            for values in (found.effect, expected, found.signed)
        )
        return moved, usual, signed, np.array([len(own) for own in rows], dtype=np.int64)

    others = np.unique(feature[compared])
    moved, usual, _, n_others = sums(others)
    null = _ratio(moved, usual)[n_others >= min_items]
    moved, usual, signed, n = sums(tested)
    measured = (n >= min_items) & (len(null) >= LEAST_COMPARATORS)
    ratio = np.where(measured, _ratio(moved, usual), np.nan)
    p = np.array([permutation_p(float(r), null) if ok else np.nan for r, ok in zip(ratio, measured, strict=True)])
    effect, usual, signed = (np.where(measured, v / np.maximum(n, 1), np.nan) for v in (moved, usual, signed))
    return FeatureTests(p, ratio, effect, usual, signed, n, null)


def expected_effects(item: IntArray, effect: FloatArray, drive: FloatArray, compared: BoolArray) -> FloatArray:
    """`[N]`: ê of each pair, from the pairs of its item that are `compared`, without itself; NaN where sum K < 1."""
    found = np.full(len(item), np.nan)
    order = np.argsort(item, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(item[order])) + 1):
        others = rows[compared[rows]]
        if not len(others):
            continue
        gap = np.log(drive[rows])[:, None] - np.log(drive[others])[None]
        weight = np.exp(-0.5 * (gap / np.log(CALIPER)) ** 2)
        weight[rows[:, None] == others[None]] = 0.0
        total = weight.sum(axis=1)
        near = total >= 1
        found[rows[near]] = drive[rows[near]] * (weight[near] @ (effect[others] / drive[others])) / total[near]
    return found


def _ratio(moved: FloatArray, usual: FloatArray) -> FloatArray:
    """`moved / usual`; 1 where both are 0, infinite where only what is usual is."""
    safe = np.divide(moved, usual, out=np.full(len(moved), np.inf), where=usual > 0)
    return np.where((usual == 0) & (moved == 0), 1.0, safe)
