"""Do the concepts that the expert names move the answer more than those that he or she does not? Expert-concept causal
agreement (domain metric #9; Matton et al. 2504.14150 with the expert in the place of the model's own explanation).

Item i has concepts c, those that its question names and that have features of their own. Each has an excess x_ic, the
share of its R stand-ins that move the answer less than its own features do (`effects`: other features of the question
that fire as strongly), less one half; and an expert weight y_ic: 1 where the explanation names it, else 0. With x~ and
y~ the same less their means over the item's concepts, the value is

    pooled = <x~, y~> / (|x~| |y~|)        in [-1, 1], over all pairs; positive: what the expert names moves the answer

**Null**: the concept is the unit. A study has a handful of concepts that come back in many items, and each may have a
level of its own: one that models react to, one that experts like to name. So a draw gives every concept the naming rate
of another, and what is left of its y, above or below its own rate, changes places among its items:

    y'_ic = rate_pi(c) + (y_sigma_c(i),c - rate_c)        pi permutes the concepts, sigma_c the items of c

An item's level does not enter (x~ sums to 0 in it). Why shares and not logits: a concept that is mentioned often has a
strong drive, and strong features move more, in either direction; among stand-ins of equal drive the own rank has one
distribution, however strong they are.

Items with one concept say nothing and are left out.

Out of scope: which features stand for a concept (`concept_features`), and running the model (`effects`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.concept_features import concept_features
from sae_lens_med.alignment.effects import (
    Effects,
    EffectSettings,
    Removals,
    beside_stand_ins,
    effects,
    removal_plan,
)
from sae_lens_med.alignment.span_gate import Span, SpanGate
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_concepts, on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.statistics import permutation_p, quantile_interval

MIN_PAIRS = 20
"""With fewer pairs of item and concept a correlation is not measured."""


def measure_causal_agreement(inputs: Inputs) -> Measured:
    """Of every group, and concept by concept in `concept_effects.json`."""
    spans = inputs.view(SpanGate).by_group
    closed = [span.closed(group) for group, span in spans.items() if not span.open]
    if len(closed) == len(spans):
        return Measured(notes=tuple(closed))
    concepts = inputs.view(ConceptEffects)
    found, weights = concepts.found, concepts.weights
    if not len(found.items):
        return Measured(
            notes=("No concept of the questions has features of its own; causal agreement is not measured.",)
        )
    metrics: list[MetricValue] = []
    notes = [*closed]
    if concepts.alone:
        notes.append(
            f"Causal agreement: {concepts.alone} pairs of item and concept are left out: no other feature of the "
            "question fires as strongly as the concept's."
        )
    for group, ids in inputs.view(CausalItems).groups.items():
        if not spans[group].open:
            continue
        chosen = np.array([name in ids for name in found.items])
        values, more = agreement_values(
            found.subset(chosen),
            weights[chosen],
            spans[group],
            draws=inputs.permutations,
            seed=inputs.seed,
            group=group,
        )
        metrics += values
        notes += more
    return Measured(
        tuple(metrics), tuple(dict.fromkeys(notes)), {"concept_effects.json": _effect_table(found, weights)}
    )


class ConceptEffects:
    """What removing each concept that a question names does to the answer; `inputs.view(ConceptEffects)`.

    Of items that name at least two concepts with features of their own. Empty where no concept has any.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.settings = EffectSettings(stand_ins=inputs.settings.stand_ins, seed=inputs.seed)

    @cached_property
    def _removals(self) -> tuple[Removals, int]:
        inputs, labels = self.inputs, self.inputs.concepts
        standing = {} if labels is None else concept_features(inputs)
        if labels is None or not standing:
            return {}, 0
        items = inputs.view(CausalItems)
        sets: dict[str, dict[str, tuple[int, ...]]] = {}
        for text in items.texts:
            named = [c for c in standing if labels.stem[items.position[text.id], self._column[c]]]
            if len(named) > 1:
                sets[text.id] = {concept: standing[concept] for concept in sorted(named)}
        return beside_stand_ins(sets, items.drive, items.position, self.settings)

    @property
    def alone(self) -> int:
        """How many pairs are left out for want of stand-ins."""
        return self._removals[1]

    @cached_property
    def found(self) -> Effects:
        """`[N]` pairs of an item and the id of a concept."""
        removals, items = self._removals[0], self.inputs.view(CausalItems)
        if not removals:
            return effects([], self.settings.stand_ins)
        results, _ = items.run(
            "concepts",
            [text for text in items.texts if text.id in removals],
            removal_plan(removals),
            {**self.settings.to_dict(), "sets": json_sha256(removals)},
            label="concepts",
        )
        return effects(results, self.settings.stand_ins)

    @property
    def weights(self) -> FloatArray:
        """`[N]`, the expert's weight of each pair: 1 where the explanation names the concept, else 0."""
        labels, position = self.inputs.concepts, self.inputs.view(CausalItems).position
        if labels is None:
            return np.zeros(0)
        pairs = zip(self.found.items, self.found.names, strict=True)
        return np.array([float(labels.explanation[position[i], self._column[c]]) for i, c in pairs], dtype=np.float64)

    @cached_property
    def _column(self) -> dict[str, int]:
        labels = self.inputs.concepts
        return {} if labels is None else {concept: c for c, concept in enumerate(labels.concepts.ids)}


@dataclass(frozen=True, slots=True, eq=False)
class ConceptAgreement:
    """Agreement of effects and weights over pairs of item and concept."""

    pooled: float
    """In [-1, 1]; 0 where it cannot be measured."""
    null: FloatArray
    """`[B]`."""
    n_pairs: int
    """Pairs that count."""
    n_items: int
    n_concepts: int

    @property
    def p(self) -> float:
        """One-sided."""
        return permutation_p(self.pooled, self.null)


def concept_agreement(
    effects: FloatArray,
    weights: FloatArray,
    items: IntArray,
    concepts: IntArray,
    draws: int,
    rng: np.random.Generator,
) -> ConceptAgreement:
    """Agreement of any effects with any weights; see the module's text.

    Args:
        effects: `[N]`, one entry for every concept of every item.
        weights: `[N]`.
        items: `[N]`, the number of the item that each entry is of; so `concepts`. No pair stands twice.
        draws: B.
        rng: of the permutations.

    Value where fewer than `MIN_PAIRS` pairs count, or a side does not vary: 0, p = 1. Raises `DataError` for arrays of
    different lengths or numbers that are not finite.
    """
    x, y, of, about = (
        np.asarray(effects, np.float64),
        np.asarray(weights, np.float64),
        np.asarray(items),
        np.asarray(concepts),
    )
    if x.ndim != 1 or not x.shape == y.shape == of.shape == about.shape:
        raise DataError(
            f"effects, weights, items and concepts have shapes {x.shape}, {y.shape}, {of.shape}, {about.shape}; "
            "each entry needs one number in all four."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("some effects or weights are not finite; leave these concepts out.")
    number = np.unique(of, return_inverse=True)[1]
    kept = np.flatnonzero(np.bincount(number)[number] > 1)
    x, y, of, about = x[kept], y[kept], *(np.unique(v[kept], return_inverse=True)[1] for v in (of, about))
    n_items, n_concepts = (int(v.max(initial=-1)) + 1 for v in (of, about))
    own, named = _centred(x, of), _centred(y, of)
    size = float(np.linalg.norm(own) * np.linalg.norm(named))
    if len(x) < MIN_PAIRS or size == 0:
        return ConceptAgreement(0.0, np.zeros(draws), len(x), n_items, n_concepts)
    rate = np.bincount(about, y) / np.bincount(about)
    rates = rate[rng.random((draws, n_concepts)).argsort(axis=1)]
    null = rates @ np.bincount(about, own)
    for c, rows in enumerate(_members(about)):
        beyond = y[rows] - rate[c]
        null += beyond[rng.random((draws, len(rows))).argsort(axis=1)] @ own[rows]
    pooled = float(np.clip(own @ named / size, -1.0, 1.0))
    return ConceptAgreement(pooled, null / size, len(x), n_items, n_concepts)


def _members(labels: IntArray) -> list[IntArray]:
    """The positions of each label, for labels 0, 1, ..."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else []


def _centred(values: FloatArray, group: IntArray) -> FloatArray:
    """`values` less the mean of their group; rounding of a constant is not a difference."""
    if not len(values):
        return values
    left = values - (np.bincount(group, values) / np.bincount(group))[group]
    return np.where(np.abs(left).max() > 1e-9 * np.abs(values).max(), left, 0.0)


def agreement_values(
    found: Effects, weights: FloatArray, span: Span, *, draws: int, seed: int, group: str = "all"
) -> tuple[list[MetricValue], list[str]]:
    """Of the excess; or a note on why not. `weights` `[N]`, one per effect."""
    items, concepts = (_numbered(names) for names in (found.items, found.names))
    agreed = concept_agreement(found.excess, weights, items, concepts, draws, np.random.default_rng([seed, 9]))
    if agreed.n_pairs < MIN_PAIRS:
        return [], [
            f"Group {group!r}: {agreed.n_pairs} pairs of item and concept count (items with two concepts that have "
            f"features), fewer than {MIN_PAIRS}; causal agreement is not measured."
        ]
    if not agreed.null.any():
        return [], [
            f"Group {group!r}: the experts name every concept that has features, or none, or all move the answer "
            "alike; causal agreement is not measured."
        ]
    extra = {
        "pairs": float(agreed.n_pairs),
        "concepts": float(agreed.n_concepts),
        "stand_ins": float(found.random.shape[1]),
        "permutations": float(draws),
        **span.extra,
    }
    value = MetricValue(
        name="alignment/causal_agreement_excess",
        value=agreed.pooled,
        range=(-1.0, 1.0),
        n=agreed.n_items,
        null_mean=float(agreed.null.mean()),
        null_interval=quantile_interval(agreed.null),
        p=agreed.p,
        group=group,
        extra=with_z(agreed.pooled, agreed.null, extra),
        notes="Correlation over pairs of item and concept within items; null: naming rates permuted among concepts, "
        "and what is left of the expert's weights among the items of each" + few(agreed.n_items),
    )
    return [value], []


def _numbered(names: tuple[str, ...]) -> IntArray:
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def _effect_table(found: Effects, weights: FloatArray) -> list[dict[str, Any]]:
    """Concept by concept: its effect, that of matched-random features, and the expert's weight."""
    columns = ("item", "concept", "effect", "signed", "random", "weight")
    random = [float(row.mean()) for row in found.random]
    numbers = found.effect.tolist(), found.signed.tolist(), random, weights.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(found.items, found.names, *numbers, strict=True)]


CAUSAL_AGREEMENT = Metric(
    name="causal-agreement",
    number=9,
    family="causal",
    title="Expert-concept causal agreement",
    meaning="Whether the concepts that the expert names are those whose features move the answer more.",
    range=(-1.0, 1.0),
    null="Naming rates permuted among concepts, and what is left of the expert's weights among the questions of each.",
    needs=("explanations", "concepts", "model"),
    source="Matton et al. 2504.14150, with the expert in the place of the model's own explanation",
    values=("alignment/causal_agreement",),
    confirmatory=("alignment/causal_agreement_excess",),
    claims={
        "alignment/causal_agreement_excess": Claim(
            may=Sentence(
                "within questions, the concepts that the expert names are those whose features move the answer more",
                "한 질문 안에서 전문가가 언급한 개념의 특징이 답을 더 많이 움직인다",
            ),
            may_not=Sentence(
                "the model weighs them for the expert's reasons", "모델이 전문가와 같은 이유로 그 개념을 중시한다"
            ),
            floor=0.05,
            least=0.0,
        )
    },
    depends_on=(on_concepts, on_model_runs),
    measure=measure_causal_agreement,
)
