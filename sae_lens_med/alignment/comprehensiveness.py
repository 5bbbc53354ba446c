"""Does the answer rest on the features that the expert's words point at? Comprehensiveness (domain metric #7; ERASER).

Per item, with p_M(y) the probability of the model's own answer y among the options, T_k the first k aligned features,

    AOPC = (1 / |K|) sum_k [p_M(y) - p_{M without T_k}(y)]      in [-1, 1]

averaged over items. Positive: without these features the model is less sure of its answer. Ablating *any* features
moves an answer, so it stands beside the same number for their stand-ins (`ablation`), as z and a one-sided p; large is
more effect. The interval is a percentile bootstrap over items. Where the span is closed (`span_gate`) or drive is not
matched, there is no number, and a note says why.

Out of scope: running the model (`ablation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_lens_med.alignment.ablation import MATCHED_NULL, Ablated, AblationRuns
from sae_lens_med.alignment.span_gate import Span
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, MetricValue
from sae_lens_med.statistics import bootstrap_interval, null_z, permutation_p, quantile_interval


def measure_comprehensiveness(inputs: Inputs) -> Measured:
    """Of every group, and item by item in `causal_items.json`."""
    runs = inputs.view(AblationRuns)
    parts, notes = runs.comparable()
    if not parts:
        return Measured(notes=tuple(notes))
    masked = inputs.pooled.mask.counts
    metrics = [
        comprehensiveness_value(part, span, seed=inputs.seed, group=group, masked=masked) for group, part, span in parts
    ]
    return Measured(tuple(metrics), tuple(notes), {"causal_items.json": _item_table(runs.outcomes)})


def aopc(whole: FloatArray, ablated: FloatArray) -> FloatArray:
    """Per item, `[n]` in [-1, 1]: mean over the last axis of `whole[:, None] - ablated`.

    Args:
        whole: `[n]`, probability of the model's own answer.
        ablated: `[..., n, K]`, the same without the first k features, for each of K sizes; leading axes (draws) stay:
            `aopc(whole, draws)` of `[D, n, K]` is `[D, n]`.

    Raises `DataError` when a value is no probability, the items differ, or K is 0.
    """
    full, without = np.asarray(whole, np.float64), np.asarray(ablated, np.float64)
    if full.ndim != 1 or without.ndim < 2 or without.shape[-2] != len(full) or without.shape[-1] == 0:
        raise DataError(f"AOPC needs [n] and [..., n, K] probabilities, got {full.shape} and {without.shape}.")
    for values in (full, without):
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError("AOPC needs probabilities between 0 and 1.")
    return full - without.mean(axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class AgainstDraws:
    """A mean over items beside the same mean for each of D draws of stand-ins."""

    value: float
    """Mean over items; 0 without items."""
    null: FloatArray
    """`[D]`."""

    @property
    def z(self) -> float | None:
        """`(value - mean) / sd` of the draws; None for fewer than two draws or where they do not differ."""
        return null_z(self.value, self.null)

    @property
    def p(self) -> float:
        """`(1 + #{draws >= value}) / (D + 1)`."""
        return permutation_p(self.value, self.null)


def against_draws(per_item: FloatArray, draws: FloatArray) -> AgainstDraws:
    """Mean of `per_item` `[n]` beside the means of `draws` `[D, n]`, the same measure for stand-ins.

    p is exact where the features in question could as well have been any of the draws; one draw has one set of features
    for every item, in which features recur as those in question do.
    """
    own, random = np.asarray(per_item, np.float64), np.asarray(draws, np.float64)
    if own.ndim != 1 or random.ndim != 2 or random.shape[1] != len(own):
        raise DataError(f"the draws have shape {random.shape}, expected (D, {len(own)}): every item in every draw.")
    if not (np.isfinite(own).all() and np.isfinite(random).all()):
        raise DataError("some effects are not finite; leave these items out of the value and of all draws.")
    if len(own) == 0:
        return AgainstDraws(0.0, np.zeros(len(random)))
    return AgainstDraws(float(own.mean()), random.mean(axis=1))


def comprehensiveness_value(
    runs: Ablated, span: Span, *, seed: int, group: str = "all", masked: Mapping[str, int] | None = None
) -> MetricValue:
    """Mean AOPC over items against its draws of stand-ins. `runs` holds at least one item."""
    own = aopc(runs.whole, runs.without)
    found = against_draws(own, aopc(runs.whole, runs.random))
    extra = {f"drop_at_{k}": float((runs.whole - runs.without[:, j]).mean()) for j, k in enumerate(runs.sizes)}
    extra |= {
        f"random_at_{k}": float((runs.whole - runs.random[:, :, j].mean(axis=0)).mean())
        for j, k in enumerate(runs.sizes)
    }
    return MetricValue(
        name="alignment/comprehensiveness",
        value=found.value,
        range=(-1.0, 1.0),
        n=len(own),
        interval=bootstrap_interval(own, seed=seed),
        null_mean=float(found.null.mean()),
        null_interval=quantile_interval(found.null),
        p=found.p,
        group=group,
        masked=dict(masked or {}),
        extra=with_z(found.value, found.null, extra | runs.matching | span.extra),
        notes="Drop of the probability of the model's own answer among the options, averaged over "
        f"{', '.join(map(str, runs.sizes))} removed features; {MATCHED_NULL}" + few(len(own)),
    )


def _item_table(runs: Ablated) -> list[dict[str, Any]]:
    """Item by item: value, mean of its random sets, z and p among them."""
    own, random = aopc(runs.whole, runs.without), aopc(runs.whole, runs.random)
    rows = []
    for i, name in enumerate(runs.ids):
        among = AgainstDraws(float(own[i]), random[:, i])
        rows.append(
            {
                "id": name,
                "comprehensiveness": among.value,
                "random_mean": float(random[:, i].mean()),
                "z": among.z,
                "p": among.p,
                "features": int(runs.n_features[i]),
                "fresh": float(runs.fresh[i]),
            }
        )
    return rows


COMPREHENSIVENESS = Metric(
    name="comprehensiveness",
    number=7,
    family="causal",
    title="Comprehensiveness (AOPC)",
    meaning="How much of the answer's probability goes when the features shared with the explanation are removed.",
    range=(-1.0, 1.0),
    null="The same for other features of the question that fire as strongly, drawn over the whole study.",
    needs=("explanations", "model"),
    source="ERASER 1911.03429; Marks et al. 2403.19647",
    values=("alignment/comprehensiveness",),
    confirmatory=("alignment/comprehensiveness",),
    claims={
        "alignment/comprehensiveness": Claim(
            may=Sentence(
                "removing the features shared with the explanation takes more from the answer than removing "
                "others that fire as strongly",
                "해설과 공유된 특징을 제거하면 같은 세기로 활성화되는 다른 특징을 제거할 때보다 답의 확률이 더 "
                "줄어든다",
            ),
            may_not=Sentence("the answer is right for the expert's reasons", "정답의 이유가 전문가의 이유와 같다"),
            floor=0.005,
            least=0.0,
        )
    },
    depends_on=(on_model_runs,),
    measure=measure_comprehensiveness,
)
