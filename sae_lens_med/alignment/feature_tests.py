"""Which features are tested for a verdict, and the two p of each: mentioned, and causal (#16).

**Mentioned**: a feature is mentioned when the explanations of the questions that have it have it more than explanations
of other questions of the stratum do. Statistic over the items, with S and E the weighted maxima of both sides:
`T_f = sum_i min(S_if, E_if)` >= 0; null: explanations permuted within strata; `p_f = (1 + #{null >= T_f}) / (B + 1)`.

**Causal**: over the items in which it fires (at most `EffectSettings.items`, drawn at random): the mean effect of
removing it (`effects`), against the mean over items of one outcome per item, drawn from its own and those of its R
stand-ins (`features.matched.recombined`). With R = 1 that is the sign-flip test of its difference to a matched-random
feature; more stand-ins make it sharper. One p per feature, one-sided: *moves the answer more than features do that fire
there as often and as strongly*.

Out of scope: the correction over features, and what both p together say (`feature_verdicts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.effects import Effects, EffectSettings
from sae_lens_med.errors import DataError
from sae_lens_med.features.matched import recombined
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import permutation_p


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


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTests:
    """The causal test of F features."""

    p: FloatArray
    """`[F]`; NaN where too few items were measured."""
    effect: FloatArray
    """`[F]`, mean over items; NaN as above. So `random`, the mean of the stand-ins', and `signed`."""
    random: FloatArray
    signed: FloatArray
    n: IntArray
    """`[F]`, items."""


def causal_tests(found: Effects, features: IntArray, settings: EffectSettings, draws: int) -> FeatureTests:
    """Which `features` (`[F]`, the names in `found` are their numbers) move the answer more than matched ones do, with
    `draws` draws of each null."""
    shape = len(features)
    p, effect, random, signed = (np.full(shape, np.nan) for _ in range(4))
    n = np.zeros(shape, dtype=np.int64)
    names = np.array(found.names)
    for k, feature in enumerate(features.tolist()):
        rows = np.flatnonzero(names == str(feature))
        n[k] = len(rows)
        if len(rows) < settings.min_items:
            continue
        own, sets = found.effect[rows], found.random[rows].T
        rng = np.random.default_rng([settings.seed, feature, 1])
        p[k] = permutation_p(float(own.mean()), recombined(own, sets, draws, rng).mean(axis=1))
        effect[k], random[k], signed[k] = own.mean(), sets.mean(), found.signed[rows].mean()
    return FeatureTests(p, effect, random, signed, n)
