"""The answer without, and from, the features that the expert's words point at, beside stand-ins: the runs that
comprehensiveness (#7) and sufficiency (#8) are measured from.

Per item, with T its aligned features (`causal_items`) that fire in the question, T_k the first k, and D draws R_d of
features that stand for them over the whole study (`features.stand_ins`; the first k of R_d stand for T_k):

    without T_k, without R_dk        for each size k: comprehensiveness
    only T_K, only R_d               K the largest size: sufficiency
    no feature                       the empty end of normalised faithfulness, and of the span (`span_gate`)

An answer that rests on many features, each of which says what the others say, does not move before most of them are
gone: model organisms that answer by their 150 aligned features lose nothing at 20 of them. So the sizes go up to 80.

The error term stays in all of them. Passes of the layers above the hook per item: at most `2 + K' + D (K' + 1)` with K'
sizes, and fewer where sets repeat.

**Null** of a mean over items: the same mean in each draw. A draw is a study of its own, with one set for every item, in
which features recur as the aligned ones do; outcomes of different draws are not mixed. **Refused** where drive is not
matched: a ratio of own over drawn summed activation outside of `RATIOS` at a size, or fewer than `LEAST_FRESH` of the
places filled with a feature that is not the item's own.

Out of scope: what the numbers become (`comprehensiveness`, `sufficiency`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.span_gate import Span, SpanGate
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.stand_ins import StandIns, stand_ins
from sae_lens_med.interventions.edit_runs import AnswerText, EditResult, Plan, Planned, margin, probability
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.runs.files import json_sha256

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import HookedText


RATIOS = (0.8, 1.25)
"""Summed activation of the aligned features over that of their stand-ins, between which an effect is compared."""
LEAST_FRESH = 0.2
"""Share of places that stand-ins fill with features that are not the item's own: with fewer there is no contrast."""
MATCHED_NULL = (
    "null: features of the same question that fire as strongly, drawn over the whole study; interval: percentile "
    "bootstrap over items"
)
"""For the notes of a metric."""


@dataclass(frozen=True, slots=True)
class AblationSettings:
    """What is removed, and how many draws stand beside it."""

    sizes: tuple[int, ...]
    """Numbers of features, ascending; an item with fewer aligned features gives what it has."""
    sets: int
    """D, draws: the least p is 1 / (D + 1)."""
    keep: bool = True
    """Whether sets are also kept alone (#8)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sets < 2:
            raise ConfigError(f"a null of stand-ins needs at least 2 draws, got {self.sets}.")

    def to_dict(self) -> dict[str, Any]:
        """For the identity of a run."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Ablated:
    """The outcomes of n items, K sizes and D draws, as arrays."""

    ids: tuple[str, ...]
    sizes: tuple[int, ...]
    whole: FloatArray
    """`[n]`, probability of the model's own answer among the options."""
    without: FloatArray
    """`[n, K]`, the same without T_k."""
    random: FloatArray
    """`[D, n, K]`, without R_dk."""
    margins: FloatArray
    """`[n, 3]`, margin of the gold option (NaN where it is not known): all features, none, only T_K."""
    kept_random: FloatArray
    """`[D, n]`, margin of the gold option from R_d alone."""
    drive: FloatArray
    """`[n, K]`, summed activation of T_k."""
    random_drive: FloatArray
    """`[n, K]`, the mean of that of the R_dk."""
    fresh: FloatArray
    """`[n]`, share of places that the draws fill with a feature that is not the item's own."""
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
            self.drive[rows],
            self.random_drive[rows],
            self.fresh[rows],
            self.n_features[rows],
        )

    @property
    def ratios(self) -> FloatArray:
        """`[K]`, summed activation of the T_k over that of their stand-ins, over all items."""
        own, drawn = self.drive.sum(axis=0), self.random_drive.sum(axis=0)
        return np.divide(own, drawn, out=np.ones(len(own)), where=drawn > 0)

    @property
    def unmatched(self) -> str | None:
        """Why these items cannot be compared with their stand-ins, as the end of a sentence; None where they can."""
        low, high = RATIOS
        for size, ratio in zip(self.sizes, self.ratios.tolist(), strict=True):
            if not low <= ratio <= high:
                return (
                    f"at {size} features the aligned ones have {ratio:.2f} times the summed activation of their "
                    f"stand-ins, outside of {low} to {high}"
                )
        if (fresh := float(self.fresh.mean())) < LEAST_FRESH:
            return (
                f"{fresh:.0%} of the stand-ins are other features than the aligned ones, fewer than {LEAST_FRESH:.0%}: "
                "too few other features of the questions fire as strongly"
            )
        return None

    @property
    def matching(self) -> dict[str, float]:
        """How many draws there are and how well they match, for `MetricValue.extra`."""
        ratios = self.ratios
        return {
            "draws": float(len(self.random)),
            "features_per_item": float(self.n_features.mean()),
            "fresh": float(self.fresh.mean()),
            "matched_ratio_min": float(ratios.min()),
            "matched_ratio_max": float(ratios.max()),
            **{f"matched_ratio_at_{k}": float(ratio) for k, ratio in zip(self.sizes, ratios, strict=True)},
        }


class AblationRuns:
    """The ablation of one study's items, run once for both metrics; `inputs.view(AblationRuns)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.settings = AblationSettings(
            sizes=inputs.settings.causal_sizes, sets=inputs.settings.causal_sets, seed=inputs.seed
        )

    @cached_property
    def drawn(self) -> StandIns:
        """Of the measured items, in the order of `CausalItems.texts`."""
        items = self.inputs.view(CausalItems)
        own = [items.aligned[text.id][: self.settings.sizes[-1]] for text in items.texts]
        drive = items.drive[[items.position[text.id] for text in items.texts]]
        rng = np.random.default_rng([self.settings.seed, *b"ablation"])
        return stand_ins(drive, own, self.settings.sizes, self.settings.sets, rng)

    @cached_property
    def _run(self) -> tuple[list[EditResult], dict[str, str]]:
        items = self.inputs.view(CausalItems)
        ids = [text.id for text in items.texts]
        plan = ablation_plan(ids, self.drawn, self.settings)
        own = {name: features.tolist() for name, features in zip(ids, self.drawn.own, strict=True)}
        settings = {**self.settings.to_dict(), "own": json_sha256(own), "recurrence": round(self.drawn.recurrence, 6)}
        return items.run("ablation", items.texts, plan, settings, label="ablation")

    @cached_property
    def outcomes(self) -> Ablated:
        """Of every item that was measured."""
        items, inputs = self.inputs.view(CausalItems), self.inputs
        gold = {item.id: item.answer for item in inputs.items}
        return ablated(self._run[0], gold, [text.id for text in items.texts], self.drawn, self.settings)

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

    def comparable(self) -> tuple[list[tuple[str, Ablated, Span]], list[str]]:
        """The groups of which a number may be given, and why not of the others: at least two items were measured, all
        features together support their answers, and drive is matched. Where no group's span is open, nothing is run."""
        spans = self.inputs.view(SpanGate).by_group
        closed = [span.closed(group) for group, span in spans.items() if not span.open]
        if len(closed) == len(spans):
            return [], closed
        parts: list[tuple[str, Ablated, Span]] = []
        notes = [*self.notes, *closed]
        for group, ids in self.inputs.view(CausalItems).groups.items():
            rows = np.flatnonzero([name in ids for name in self.outcomes.ids])
            if len(rows) < 2 or not spans[group].open:
                continue
            part = self.outcomes.subset(rows)
            if part.unmatched is None:
                parts.append((group, part, spans[group]))
            else:
                notes.append(
                    f"Group {group!r}: what the aligned features do is not measured, because {part.unmatched}."
                )
        return parts, notes


def ablation_plan(ids: Sequence[str], drawn: StandIns, settings: AblationSettings) -> Plan:
    """The edits of an item; see the module's text. `ids`: the items of `drawn`, in its order."""
    from sae_lens_med.interventions.edits import Only, Without  # needs torch, which this module does not

    number = {name: i for i, name in enumerate(ids)}

    def plan(text: AnswerText, hooked: "HookedText") -> Planned | str:  # noqa: ARG001 - the form of a plan
        own = drawn.own[number[text.id]]
        if not len(own):
            return "no aligned feature fires in the question"
        edits: list[Any] = [Only(())]
        for features in [own.tolist(), *drawn.sets[number[text.id]].tolist()]:
            edits += [Without(_set(features[:k])) for k in settings.sizes]
            if settings.keep:
                edits.append(Only(_set(features)))
        return Planned(tuple(edits), {"features": len(own)})

    return plan


def ablated(
    results: Sequence[EditResult],
    gold: Mapping[str, int | None],
    ids: Sequence[str],
    drawn: StandIns,
    settings: AblationSettings,
) -> Ablated:
    """The results of `ablation_plan` as arrays. Raises `DataError` for results of another plan."""
    k, per = len(settings.sizes), len(settings.sizes) + settings.keep
    n, rows = len(results), 1 + per * (1 + settings.sets)
    whole, without, random = np.zeros(n), np.zeros((n, k)), np.zeros((settings.sets, n, k))
    margins, kept_random = np.full((n, 3), np.nan), np.full((settings.sets, n), np.nan)
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
    number = {name: i for i, name in enumerate(ids)}
    at = [number[each.id] for each in results]
    drive = np.array([drawn.own_drive(i, settings.sizes) for i in at]).reshape(n, k)
    random_drive = np.array([drawn.drawn_drive(i, settings.sizes) for i in at]).reshape(n, k)
    return Ablated(
        tuple(each.id for each in results),
        settings.sizes,
        whole,
        without,
        random,
        margins,
        kept_random,
        drive,
        random_drive,
        np.array([drawn.fresh(i) for i in at], dtype=np.float64),
        np.array([len(drawn.own[i]) for i in at], dtype=np.int64),
    )


def _set(features: Sequence[int]) -> tuple[int, ...]:
    """In one order, so that equal sets are run once."""
    return tuple(sorted(features))
