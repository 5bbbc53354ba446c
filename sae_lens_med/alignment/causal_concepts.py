"""What single features and the features of single concepts do to the answer (#9, and the causal half of the verdict).

The effect of removing a set of features from an item is the absolute change of the margin of the model's own answer
(`|F - F_without|`, in logits): a feature that holds the answer down moves it, too. Beside each stand the effects of R
matched-random sets in the same item (`matched`).

**Is a feature causal?** Over the items in which it fires (at most `items`, drawn at random): the mean effect, against
the mean over items of one outcome per item, drawn from its own and those of its R stand-ins (`matched.recombined`).
With R = 1 that is the sign-flip test of its difference to a matched-random feature; more stand-ins make it sharper. One
p per feature, one-sided: *moves the answer more than features do that fire there as often and as strongly*.

**Effects of concepts**: for each item and concept that its question names, the effect of removing the concept's
features, and the mean effect of R matched-random sets, which more or stronger features would have anyway.

Passes of the layers above the hook per item: 1 + (1 + R) for each feature or concept, fewer where sets repeat.

Out of scope: which features stand for a concept, which are worth a test (`shared.choose_features`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError
from sae_lens_med.features.matched import POOL, Rates, recombined, text_sets
from sae_lens_med.interventions.edit_runs import AnswerText, Plan, Planned, Ran, item_rng, margin
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.statistics import permutation_p

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """How effects of features or concepts are measured."""

    stand_ins: int = 5
    """R, matched-random sets per item and feature."""
    items: int = 20
    """Most items per feature."""
    min_items: int = 5
    """A feature that fires in fewer is not tested."""
    pool: int = POOL
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stand_ins < 1 or self.items < 1 or self.min_items < 1:
            raise ConfigError(
                f"effects need stand_ins, items and min_items of 1 or more, got {self.stand_ins}, {self.items} and "
                f"{self.min_items}."
            )

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


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


def effect_plan(
    sets: Mapping[str, Mapping[str, Sequence[int]]], kept: BoolArray, study: Rates, settings: EffectSettings
) -> Plan:
    """Remove each named set of features from an item, and its stand-ins.

    Args:
        sets: item id -> name (a feature's number, a concept) -> features. Of each the features that fire in the
            question are removed; a set of which none does has no effect and no pass.
        kept: `[d_sae]`, what may be drawn as stand-in.
        study: rates over the counted stem tokens of the study.
    """
    from sae_lens_med.interventions.edits import Without  # needs torch, which this module does not

    def plan(text: AnswerText, hooked: "HookedText") -> Planned | str:
        named = sets.get(text.id)
        if not named:
            return "nothing to remove"
        acts, fires = hooked.active, hooked.first < len(hooked.at)
        edits: list[Any] = []
        names: list[str] = []
        for name, given in named.items():
            own = [int(f) for f in given if fires[f]]
            drawn = None
            if own:
                rng = item_rng(settings.seed, text.id, f"effect {name}")
                drawn = text_sets(acts, np.array(own), kept, study, settings.stand_ins, rng, settings.pool)
                if drawn is None:
                    continue
            names.append(name)
            edits.append(Without(tuple(sorted(own))))
            rows = [[]] * settings.stand_ins if drawn is None else drawn.sets.tolist()
            edits += [Without(tuple(sorted(row))) for row in rows]
        return Planned(tuple(edits), {"names": names}) if names else "too few other features fire in the question"

    return plan


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """Effects of N pairs of an item and a named set."""

    items: tuple[str, ...]
    """`[N]`, item ids."""
    names: tuple[str, ...]
    """`[N]`."""
    effect: FloatArray
    """`[N]`, >= 0, `|F - F_without|` of the model's own answer."""
    signed: FloatArray
    """`[N]`, `F - F_without`: positive where the set speaks for the answer."""
    random: FloatArray
    """`[N, R]`, `effect` of the stand-ins."""

    @property
    def excess(self) -> FloatArray:
        """`[N]`, the effect less the mean of its stand-ins'."""
        return self.effect - self.random.mean(axis=1)


def effects(ran: Sequence[Ran], settings: EffectSettings) -> Effects:
    """The results of `effect_plan`."""
    items: list[str] = []
    names: list[str] = []
    signed: list[FloatArray] = []
    for each in ran:
        change = margin(each.whole, each.predicted) - margin(each.logits, each.predicted)
        signed.append(change.reshape(-1, 1 + settings.stand_ins))
        names += each.about["names"]
        items += [each.id] * len(each.about["names"])
    together = np.concatenate([*signed, np.zeros((0, 1 + settings.stand_ins))])
    size = np.abs(together)
    return Effects(tuple(items), tuple(names), size[:, 0], together[:, 0], size[:, 1:])


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
