"""What removing a feature, or the features of a concept, does to the answer (#9, #11, and the causal half of verdicts).

The effect of removing a set of features from an item is the absolute change of the margin of the model's own answer
(`|F - F_without|`, in logits): a feature that holds the answer down moves it, too.

Beside the features of a concept stand R sets of other features of the question with like drive, the concept's own
barred (`features.stand_ins`): the *excess* is the rank of the concept's own among them. A concept that has no such
others in a question is left out there.

Passes of the layers above the hook per item: 1 + (1 + R) for each set, fewer where sets repeat.

Out of scope: which features stand for a concept (`concept_features`), which are worth a test (`feature_tests`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sae_lens_med.errors import ConfigError
from sae_lens_med.features.stand_ins import gumbel, places
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.interventions.edit_runs import AnswerText, EditResult, Plan, Planned, item_rng, margin
from sae_lens_med.records import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """How effects of features or concepts are measured."""

    stand_ins: int = 10
    """R, sets beside the features of each concept and item."""
    comparators: int = 199
    """Features that tested ones are ranked among."""
    items: int = 20
    """Most items per single feature."""
    min_items: int = 5
    """A single feature that fires in fewer is not tested."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.stand_ins, self.comparators, self.items, self.min_items) < 1:
            raise ConfigError(
                "effects need stand_ins, comparators, items and min_items of 1 or more, got "
                f"{self.stand_ins}, {self.comparators}, {self.items} and {self.min_items}."
            )

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


Removals = Mapping[str, Mapping[str, tuple[tuple[int, ...], ...]]]
"""Item id -> name (a feature's number, a concept) -> sets to remove: its own, and what stands beside it."""


def beside_stand_ins(
    sets: Mapping[str, Mapping[str, Sequence[int]]],
    drive: sparse.csr_array,
    position: Mapping[str, int],
    settings: EffectSettings,
) -> tuple[dict[str, dict[str, tuple[tuple[int, ...], ...]]], int]:
    """Removals of each named set of features and of R stand-ins, and how many pairs of item and name have none.

    Args:
        sets: item id -> name -> features. Of each the features that fire in the question are removed; where none does,
            there is nothing to remove, and nothing beside it.
        drive: CSR `[n_items, d_sae]` from `features.stand_ins.drives`, of the features that may stand for others.
        position: item id -> its row of `drive`.
    """
    common = np.maximum(np.bincount(drive.indices, minlength=n_columns(drive)), 1).astype(np.float64)
    found: dict[str, dict[str, tuple[tuple[int, ...], ...]]] = {}
    alone = 0
    for item, named in sets.items():
        own_row = slice(drive.indptr[position[item]], drive.indptr[position[item] + 1])
        active = drive.indices[own_row].astype(np.int64)
        row = np.zeros(n_columns(drive))
        row[active] = drive.data[own_row]
        for name, given in named.items():
            own = np.array([f for f in given if row[f] > 0], dtype=np.int64)
            rows = [()] * settings.stand_ins
            if len(own):
                pool = places(own, np.setdiff1d(active, own), row, common)
                if pool is None:
                    alone += 1
                    continue
                rng = item_rng(settings.seed, item, f"effect {name}")
                noise = gumbel(rng.standard_normal((settings.stand_ins, len(pool.candidates))))
                rows = [tuple(sorted(each)) for each in pool.candidates[pool.filled(noise)].tolist()]
            found.setdefault(item, {})[name] = (tuple(sorted(own.tolist())), *rows)
    return found, alone


def removal_plan(removals: Removals) -> Plan:
    """Remove each named set, and what stands beside it, from an item."""
    from sae_lens_med.interventions.edits import Without  # needs torch, which this module does not

    def plan(text: AnswerText, hooked: "HookedText") -> Planned | str:  # noqa: ARG001 - the form of a plan
        named = removals.get(text.id)
        if not named:
            return "nothing to remove"
        return Planned(tuple(Without(each) for sets in named.values() for each in sets), {"names": list(named)})

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
    """`[N, R]`, `effect` of what stands beside it."""

    @property
    def excess(self) -> FloatArray:
        """`[N]` in [-1/2, 1/2]: the share of the stand-ins that move the answer less, ties for one half, less 1/2."""
        less, equal = (self.random < self.effect[:, None]), (self.random == self.effect[:, None])
        return (less + equal / 2).mean(axis=1) - 0.5

    def subset(self, chosen: BoolArray | IntArray) -> "Effects":
        """The pairs `chosen`: a mask `[N]`, or their numbers."""
        at = np.arange(len(self.items))[chosen]
        return Effects(
            tuple(self.items[i] for i in at),
            tuple(self.names[i] for i in at),
            self.effect[at],
            self.signed[at],
            self.random[at],
        )


def effects(results: Sequence[EditResult], beside: int) -> Effects:
    """The results of `removal_plan`; `beside`: R, how many sets stand beside each."""
    items: list[str] = []
    names: list[str] = []
    signed: list[FloatArray] = []
    for each in results:
        change = margin(each.whole, each.predicted) - margin(each.logits, each.predicted)
        signed.append(change.reshape(-1, 1 + beside))
        names += each.about["names"]
        items += [each.id] * len(each.about["names"])
    together = np.concatenate([*signed, np.zeros((0, 1 + beside))])
    size = np.abs(together)
    return Effects(tuple(items), tuple(names), size[:, 0], together[:, 0], size[:, 1:])
