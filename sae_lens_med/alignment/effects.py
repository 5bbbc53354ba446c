"""What removing a feature, or the features of a concept, does to the answer (#9, #11, and the causal half of verdicts).

The effect of removing a set of features from an item is the absolute change of the margin of the model's own answer
(`|F - F_without|`, in logits): a feature that holds the answer down moves it, too. Beside each stand the effects of R
matched-random sets in the same item (`features.matched`), which more or stronger features would have anyway.

Passes of the layers above the hook per item: 1 + (1 + R) for each set, fewer where sets repeat.

Out of scope: which features stand for a concept (`concept_tests`), which are worth a test (`feature_tests`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import ConfigError
from sae_lens_med.features.matched import POOL, Rates, text_sets
from sae_lens_med.interventions.edit_runs import AnswerText, EditResult, Plan, Planned, item_rng, margin
from sae_lens_med.records import BoolArray, FloatArray

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """How effects of features or concepts are measured."""

    stand_ins: int = 5
    """R, matched-random sets per item and feature."""
    items: int = 20
    """Most items per single feature."""
    min_items: int = 5
    """A single feature that fires in fewer is not tested."""
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
    """`[N]`, `F - F_without`: positive where the set supports the answer."""
    random: FloatArray
    """`[N, R]`, `effect` of the stand-ins."""

    @property
    def excess(self) -> FloatArray:
        """`[N]`, the effect less the mean of its stand-ins'."""
        return self.effect - self.random.mean(axis=1)

    def subset(self, chosen: BoolArray) -> "Effects":
        """The pairs where `chosen` `[N]` is True."""
        at = np.flatnonzero(chosen)
        return Effects(
            tuple(self.items[i] for i in at),
            tuple(self.names[i] for i in at),
            self.effect[at],
            self.signed[at],
            self.random[at],
        )


def effects(results: Sequence[EditResult], settings: EffectSettings) -> Effects:
    """The results of `effect_plan`."""
    items: list[str] = []
    names: list[str] = []
    signed: list[FloatArray] = []
    for each in results:
        change = margin(each.whole, each.predicted) - margin(each.logits, each.predicted)
        signed.append(change.reshape(-1, 1 + settings.stand_ins))
        names += each.about["names"]
        items += [each.id] * len(each.about["names"])
    together = np.concatenate([*signed, np.zeros((0, 1 + settings.stand_ins))])
    size = np.abs(together)
    return Effects(tuple(items), tuple(names), size[:, 0], together[:, 0], size[:, 1:])
