"""Do the concepts that the expert names move the answer more than those that he or she does not? Expert-concept causal
agreement (domain metric #9; Matton et al. 2504.14150 with the expert in the place of the model's own explanation).

Item i has concepts c, those that its question names and that have features of their own. Each has an effect x_ic on the
answer, that of removing its features (`effects`), and an expert weight y_ic: 1 where the explanation names it, else 0.
Two numbers in [-1, 1], positive where what the expert weighs moves the answer:

- `mean`: the correlation over the concepts of each item (Spearman's or Pearson's), averaged over items;
- `pooled`: `sum_i <x_i, y_i> / sqrt(sum_i |x_i|² sum_i |y_i|²)`, x_i and y_i (for Spearman their ranks) centred within
  the item: items with more concepts weigh more. What items differ in as wholes is in neither.

Null: the weights are permuted among the concepts of each item. Beside both stand the same of the *excess*, the effect
less that of matched-random features. The interval of the mean is a percentile bootstrap over items.

Out of scope: which features stand for a concept (`concept_tests`), and running the model (`effects`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.concept_tests import concept_features
from sae_lens_med.alignment.effects import Effects, EffectSettings, effect_plan, effects
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_concepts, on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.statistics import bootstrap_interval, permutation_p, quantile_interval

MIN_CONCEPTS = 3
"""With two concepts a correlation is 1 or -1 whatever they are."""


def measure_causal_agreement(inputs: Inputs) -> Measured:
    """Of every group, and concept by concept in `concept_effects.json`."""
    concepts = inputs.view(ConceptEffects)
    found, weights = concepts.found, concepts.weights
    if not len(found.items):
        return Measured(
            notes=("No concept of the questions has features of its own; causal agreement is not measured.",)
        )
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for group, ids in inputs.view(CausalItems).groups.items():
        chosen = np.array([name in ids for name in found.items])
        values, more = agreement_values(
            found.subset(chosen), weights[chosen], draws=inputs.permutations, seed=inputs.seed, group=group
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
    def found(self) -> Effects:
        """`[N]` pairs of an item and the id of a concept."""
        inputs, labels = self.inputs, self.inputs.concepts
        standing = {} if labels is None else concept_features(inputs, most=inputs.settings.concept_features)
        if labels is None or not standing:
            return effects([], self.settings)
        items = inputs.view(CausalItems)
        sets: dict[str, dict[str, tuple[int, ...]]] = {}
        for text in items.texts:
            named = [c for c in standing if labels.stem[items.position[text.id], self._column[c]]]
            if len(named) > 1:
                sets[text.id] = {concept: standing[concept] for concept in sorted(named)}
        results, _ = items.run(
            "concepts",
            [text for text in items.texts if text.id in sets],
            effect_plan(sets, inputs.pooled.mask.kept, items.rates, self.settings),
            {**self.settings.to_dict(), "sets": json_sha256(sets)},
            label="concepts",
        )
        return effects(results, self.settings)

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
    """Agreement over the m items that have at least `MIN_CONCEPTS` concepts on which neither side is constant."""

    per_item: FloatArray
    """`[m]`, in [-1, 1]."""
    items: IntArray
    """`[m]`, the numbers of these items."""
    pooled: float
    """In [-1, 1]; 0 without items."""
    null_mean: FloatArray
    """`[B]`, the mean of `per_item` under each permutation."""
    null_pooled: FloatArray
    """`[B]`."""
    n_concepts: int
    """Concepts of the m items together."""

    @property
    def mean(self) -> float:
        """Mean over items; 0 without items."""
        return float(self.per_item.mean()) if len(self.per_item) else 0.0

    @property
    def p_mean(self) -> float:
        """One-sided."""
        return permutation_p(self.mean, self.null_mean)

    @property
    def p_pooled(self) -> float:
        """One-sided."""
        return permutation_p(self.pooled, self.null_pooled)


def concept_agreement(
    effects: FloatArray,
    weights: FloatArray,
    items: IntArray,
    draws: int,
    rng: np.random.Generator,
    method: Literal["spearman", "pearson"] = "spearman",
) -> ConceptAgreement:
    """Agreement of any effects with any weights; see the module's text.

    Args:
        effects: `[N]`, one entry for every concept of every item.
        weights: `[N]`.
        items: `[N]`, the number of the item that each entry is of.
        draws: B.
        rng: of the permutations.
        method: `spearman` correlates average ranks within the item.

    Value on no data: 0, p = 1, when no item can be measured. Raises `DataError` for arrays of different lengths or
    numbers that are not finite.
    """
    from scipy.stats import rankdata  # importing it takes a second

    x, y, of = np.asarray(effects, np.float64), np.asarray(weights, np.float64), np.asarray(items)
    if x.ndim != 1 or not x.shape == y.shape == of.shape:
        raise DataError(
            f"effects, weights and items have shapes {x.shape}, {y.shape}, {of.shape}; "
            "each entry needs one number in all three."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("some effects or weights are not finite; leave these concepts out.")
    order = np.argsort(of, kind="stable")
    numbers, first = np.unique(of[order], return_index=True)
    per_item, kept = [], []
    null_mean, null_pooled = np.zeros(draws), np.zeros(draws)
    together, power_x, power_y, n_concepts = 0.0, 0.0, 0.0, 0
    for number, rows in zip(numbers, np.split(order, first)[1:], strict=True):
        a, b = (_centred(rankdata(v[rows]) if method == "spearman" else v[rows]) for v in (x, y))
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        if len(rows) < MIN_CONCEPTS or size == 0:
            continue
        moved = b[rng.random((draws, len(rows))).argsort(axis=1)] @ a
        null_mean += moved / size
        null_pooled += moved
        per_item.append(float(a @ b) / size)
        kept.append(int(number))
        together, power_x, power_y = together + float(a @ b), power_x + float(a @ a), power_y + float(b @ b)
        n_concepts += len(rows)
    scale = float(np.sqrt(power_x * power_y))
    return ConceptAgreement(
        per_item=np.clip(np.array(per_item), -1.0, 1.0),
        items=np.array(kept, dtype=np.int64),
        pooled=min(1.0, max(-1.0, together / scale)) if kept else 0.0,
        null_mean=null_mean / max(1, len(kept)),
        null_pooled=null_pooled / scale if kept else null_pooled,
        n_concepts=n_concepts,
    )


def _centred(values: FloatArray) -> FloatArray:
    centred = values - values.mean()
    # Rounding of a constant is not a difference.
    return centred if np.abs(centred).max(initial=0.0) > 1e-12 * np.abs(values).max(initial=0.0) else centred * 0


def agreement_values(
    found: Effects, weights: FloatArray, *, draws: int, seed: int, group: str = "all"
) -> tuple[list[MetricValue], list[str]]:
    """Both numbers, of the effects and of their excess; or a note on why not. `weights` `[N]`, one per effect."""
    number = {name: i for i, name in enumerate(dict.fromkeys(found.items))}
    items = np.array([number[name] for name in found.items], dtype=np.int64)
    metrics: list[MetricValue] = []
    rows: tuple[tuple[str, FloatArray, str], ...] = (
        (
            "",
            found.effect,
            "effect: absolute change of the margin of the model's answer without the concept's features",
        ),
        ("excess_", found.excess, "effect: the same, less that of matched-random features of the question"),
    )
    for prefix, effect, what in rows:
        agreed = concept_agreement(effect, weights, items, draws, np.random.default_rng([seed, 9]))
        n = len(agreed.items)
        if n == 0:
            return [], [
                f"Group {group!r}: no item has {MIN_CONCEPTS} concepts that differ in effect and in the expert's "
                "weight; causal agreement is not measured."
            ]
        pooled: tuple[tuple[str, float, FloatArray, float, tuple[float, float] | None], ...] = (
            ("pooled", agreed.pooled, agreed.null_pooled, agreed.p_pooled, None),
            ("mean", agreed.mean, agreed.null_mean, agreed.p_mean, bootstrap_interval(agreed.per_item, seed=seed)),
        )
        for name, value, null, p, interval in pooled:
            metrics.append(
                MetricValue(
                    name=f"alignment/causal_agreement_{prefix}{name}",
                    value=value,
                    range=(-1.0, 1.0),
                    n=n,
                    interval=interval,
                    null_mean=float(null.mean()),
                    null_interval=quantile_interval(null),
                    p=p,
                    group=group,
                    extra=with_z(value, null, {"concepts": float(agreed.n_concepts), "permutations": float(draws)}),
                    notes=f"Spearman within items; {what}; null: the expert's weights permuted among the concepts of "
                    "each item" + few(n),
                )
            )
    return metrics, []


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
    meaning="Whether the concepts that the expert names more are those whose features move the answer more.",
    range=(-1.0, 1.0),
    null="The expert's weights permuted among the concepts of each item.",
    needs=("explanations", "concepts", "model"),
    source="Matton et al. 2504.14150, with the expert in the place of the model's own explanation",
    values=("alignment/causal_agreement",),
    confirmatory=("alignment/causal_agreement_pooled",),
    claims={
        "alignment/causal_agreement_pooled": Claim(
            may=Sentence(
                "within questions, the concepts that the expert names more are those whose features move the answer "
                "more",
                "한 질문 안에서 전문가가 더 많이 언급한 개념의 특징이 답을 더 많이 움직인다",
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
