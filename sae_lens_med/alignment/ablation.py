"""The answer without, and from, the features that the expert's words point at, beside matched-random ones: the runs
that comprehensiveness (#7) and sufficiency (#8) are measured from.

Per item, with T its aligned features (`causal_items`) that fire in the question, T_k the first k, and S random sets R_s
matched feature by feature (`features.matched`; the first k of R_s stand for T_k):

    without T_k, without R_sk        for each size k: comprehensiveness
    only T_K, only R_s               K the largest size: sufficiency
    no feature                       the empty end of normalised faithfulness

The error term stays in all of them. Passes of the layers above the hook per item: at most `2 + K' + S (K' + 1)` with K'
sizes, and fewer where sets repeat (a single feature has only `pool` different stand-ins).

**Null** of a mean over items (`pooled_null`): with `ENOUGH_SETS` random sets per item or more, each draw is one set per
item; with fewer, draws are recombined (`features.matched.recombined`).

Out of scope: what the numbers become (`comprehensiveness`, `sufficiency`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.matched import POOL, Rates, recombined, text_sets
from sae_lens_med.interventions.edit_runs import (
    AnswerText,
    EditResult,
    Plan,
    Planned,
    item_rng,
    margin,
    probability,
)
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


SIZES = (1, 5, 10, 20)
ENOUGH_SETS = 200
"""Random sets per item from which on each of them is a draw of the pooled null by itself."""
MATCHED_NULL = (
    "null: random features of the same question, matched in firing rate and strength there and over the study; "
    "interval: percentile bootstrap over items"
)
"""For the notes of a metric."""


@dataclass(frozen=True, slots=True)
class AblationSettings:
    """What is removed, and how many random sets stand beside it."""

    sizes: tuple[int, ...] = SIZES
    """Numbers of features, ascending; an item with fewer aligned features gives what it has."""
    sets: int = 20
    """Random sets per item. At `ENOUGH_SETS` or more each is a draw of the pooled null by itself; fewer are
    recombined."""
    pool: int = POOL
    """Candidates for the place of each feature."""
    keep: bool = True
    """Whether sets are also kept alone (#8)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ConfigError(f"sizes of feature sets must be ascending whole numbers from 1; got {self.sizes}.")
        if self.sets < 2:
            raise ConfigError(f"a null of random sets needs at least 2 sets per item, got {self.sets}.")

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Ablated:
    """The outcomes of n items, K sizes and S random sets, as arrays."""

    ids: tuple[str, ...]
    sizes: tuple[int, ...]
    whole: FloatArray
    """`[n]`, probability of the model's own answer among the options."""
    without: FloatArray
    """`[n, K]`, the same without T_k."""
    random: FloatArray
    """`[S, n, K]`, without R_sk."""
    margins: FloatArray
    """`[n, 3]`, margin of the gold option (NaN where it is not known): all features, none, only T_K."""
    kept_random: FloatArray
    """`[S, n]`, margin of the gold option from R_s alone."""
    removed: FloatArray
    """`[n, 2]`, length of what is removed with T_K, and the mean of that with the R_s: should be alike."""
    fold: FloatArray
    """`[n]`, median factor by which drawn features differ from those that they stand for."""
    n_features: IntArray
    """`[n]`, how many aligned features were removed at the largest size."""

    def subset(self, rows: IntArray) -> "Ablated":
        """The items `rows`."""
        return Ablated(
            tuple(self.ids[i] for i in rows),
            self.sizes,
            self.whole[rows],
            self.without[rows],
            self.random[:, rows],
            self.margins[rows],
            self.kept_random[:, rows],
            self.removed[rows],
            self.fold[rows],
            self.n_features[rows],
        )

    def matching(self, draws: int) -> dict[str, float]:
        """How many random sets there are and how well they match, for `MetricValue.extra`; `draws` of the null."""
        own, random = self.removed.T
        together = float(random.mean())
        return {
            "sets_per_item": float(len(self.random)),
            "draws": float(draws),
            "features_per_item": float(self.n_features.mean()),
            "match_fold": float(np.median(self.fold)),
            "removed_length_ratio": float(own.mean()) / together if together else 1.0,
        }


class AblationRuns:
    """The ablation of one study's items, run once for both metrics; `inputs.view(AblationRuns)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.settings = AblationSettings(
            sizes=inputs.settings.causal_sizes, sets=inputs.settings.causal_sets, seed=inputs.seed
        )

    @cached_property
    def _run(self) -> tuple[list[EditResult], dict[str, str]]:
        items = self.inputs.view(CausalItems)
        plan = ablation_plan(items.aligned, self.inputs.pooled.mask.kept, items.rates, self.settings)
        return items.run("ablation", items.texts, plan, self.settings.to_dict(), label="ablation")

    @cached_property
    def outcomes(self) -> Ablated:
        """Of every item that was measured."""
        return ablated(self._run[0], {item.id: item.answer for item in self.inputs.items}, self.settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many items were measured, and why not the others."""
        results, skipped = self._run
        notes = [
            f"Ablation: {len(results)} of {len(self.inputs.pooled.explained)} explained items; items left out of the "
            "SAE's training text come first, the rest is drawn by the seed."
        ]
        for reason in sorted(set(skipped.values())):
            notes.append(f"Ablation: {sum(r == reason for r in skipped.values())} items are not measured: {reason}.")
        return tuple(notes)

    @property
    def by_group(self) -> list[tuple[str, Ablated]]:
        """The groups of which at least two items were measured."""
        parts = []
        for group, ids in self.inputs.view(CausalItems).groups.items():
            rows = np.flatnonzero([name in ids for name in self.outcomes.ids])
            if len(rows) > 1:
                parts.append((group, self.outcomes.subset(rows)))
        return parts


def ablation_plan(aligned: Mapping[str, IntArray], kept: BoolArray, study: Rates, settings: AblationSettings) -> Plan:
    """The edits of an item; see the module's text.

    Args:
        aligned: item id -> its aligned features, best first.
        kept: `[d_sae]`, features that are not masked: what may be drawn.
        study: rates of all features over the counted stem tokens of the study.
    """
    from sae_lens_med.interventions.edits import Only, Without  # needs torch, which this module does not

    def plan(text: AnswerText, hooked: "HookedText") -> Planned | str:
        acts = hooked.active
        fires = hooked.first < len(hooked.at)
        own = [f for f in aligned.get(text.id, np.zeros(0, np.int64)).tolist() if fires[f]][: settings.sizes[-1]]
        if not own:
            return "no aligned feature fires in the question"
        rng = item_rng(settings.seed, text.id, "ablation")
        drawn = text_sets(acts, np.array(own), kept, study, settings.sets, rng, settings.pool)
        if drawn is None:
            return f"fewer than {len(own)} other features fire in the question"
        edits: list[Any] = [Only(())]
        for features in [own, *drawn.sets.tolist()]:
            edits += [Without(_set(features[:k])) for k in settings.sizes]
            if settings.keep:
                edits.append(Only(_set(features)))
        return Planned(tuple(edits), {"own": own, "fold": float(np.median(drawn.fold).round(4))})

    return plan


def ablated(results: Sequence[EditResult], gold: Mapping[str, int | None], settings: AblationSettings) -> Ablated:
    """The results of `ablation_plan` as arrays. Raises `DataError` for results of another plan."""
    k, per = len(settings.sizes), len(settings.sizes) + settings.keep
    n, rows = len(results), 1 + per * (1 + settings.sets)
    whole, without, random = np.zeros(n), np.zeros((n, k)), np.zeros((settings.sets, n, k))
    margins, kept_random = np.full((n, 3), np.nan), np.full((settings.sets, n), np.nan)
    removed, fold, count = np.zeros((n, 2)), np.zeros(n), np.zeros(n, dtype=np.int64)
    for i, each in enumerate(results):
        if len(each.logits) != rows:
            raise DataError(f"item {each.id!r} has {len(each.logits)} edits where these settings make {rows}.")
        sets = each.logits[1:].reshape(1 + settings.sets, per, -1)
        p = probability(sets[:, :k], each.predicted)
        whole[i], without[i], random[:, i] = probability(each.whole, each.predicted), p[0], p[1:]
        answer = gold.get(each.id)
        if answer is not None:
            margins[i, :2] = margin(each.whole, answer), margin(each.logits[0], answer)
            if settings.keep:
                alone = margin(sets[:, k], answer)
                margins[i, 2], kept_random[:, i] = alone[0], alone[1:]
        size = each.size[1:].reshape(1 + settings.sets, per)[:, k - 1]
        removed[i] = size[0], size[1:].mean()
        fold[i], count[i] = each.about["fold"], len(each.about["own"])
    return Ablated(
        tuple(each.id for each in results),
        settings.sizes,
        whole,
        without,
        random,
        margins,
        kept_random,
        removed,
        fold,
        count,
    )


def pooled_null(own: FloatArray, sets: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[B, n]`: outcomes of matched-random sets, one per item in each draw; see the module's text.

    Args:
        own: `[n]`, outcomes of the items' own features.
        sets: `[S, n]`, those of their random sets.
        draws: B where they are recombined, at least `ENOUGH_SETS`; else B is S.
    """
    return sets if len(sets) >= ENOUGH_SETS else recombined(own, sets, max(draws, ENOUGH_SETS), rng)


def _set(features: Sequence[int]) -> tuple[int, ...]:
    """In one order, so that equal sets are run once."""
    return tuple(sorted(features))
