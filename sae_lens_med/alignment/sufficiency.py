"""Do the features that the expert's words point at suffice for the answer? Sufficiency as normalised faithfulness
(domain metric #8; Marks et al. 2403.19647).

With F the margin of the right answer (its logit less the mean of the other options') averaged over items,

    (F(C) - F(0)) / (F(M) - F(0))

C the aligned features alone, 0 no feature, M all. 0: as good as none; 1: as good as all; it can leave [0, 1]. The
reconstruction error stays in all of them. Beside it stands the same number for their stand-ins kept alone (`ablation`),
as z and a one-sided p; large is more of the margin kept. The interval is a percentile bootstrap over items. Where the
denominator is not told from 0, or is negative (`span_gate`), or drive is not matched, there is no number, and a note
says why.

Out of scope: running the model (`ablation`).
"""

from collections.abc import Mapping

import numpy as np

from sae_lens_med.alignment.ablation import MATCHED_NULL, Ablated, AblationRuns
from sae_lens_med.alignment.span_gate import Span
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import FloatArray, MetricValue
from sae_lens_med.statistics import bootstrap_interval, permutation_p, quantile_interval


def measure_sufficiency(inputs: Inputs) -> Measured:
    """Of every group whose answers all features together support."""
    parts, notes = inputs.view(AblationRuns).comparable()
    metrics: list[MetricValue] = []
    for group, part, span in parts:
        found = sufficiency_value(part, span, seed=inputs.seed, group=group, masked=inputs.pooled.mask.counts)
        if found is None:
            notes.append(f"Group {group!r}: no measured item has a known answer; sufficiency is not measured.")
        else:
            metrics.append(found)
    return Measured(tuple(metrics), tuple(notes))


def normalised_faithfulness(whole: FloatArray, empty: FloatArray, kept: FloatArray) -> FloatArray | float | None:
    """`(mean F(C) - mean F(0)) / (mean F(M) - mean F(0))`, a ratio of means over items.

    Args:
        whole: F(M), `[n]`, margins with all features (the reconstruction error kept, as in the others).
        empty: F(0), `[n]`, without any feature.
        kept: F(C), `[n]`; or `[D, n]` for draws, then the result is `[D]`.

    None without items, or where the features together move the mean margin by less than 1e-9 of its size: there is then
    nothing to share out. Not bounded; draws that end near 0 say that few features do not suffice.
    """
    full, none, some = (np.asarray(v, np.float64) for v in (whole, empty, kept))
    if full.ndim != 1 or full.shape != none.shape or some.ndim not in (1, 2) or some.shape[-1] != len(full):
        raise DataError(
            f"faithfulness needs one margin per item from all, no and some features; got shapes {full.shape}, "
            f"{none.shape} and {some.shape}."
        )
    if len(full) == 0:
        return None
    span = float(full.mean() - none.mean())
    if abs(span) <= 1e-9 * max(1.0, float(np.abs(full).mean() + np.abs(none).mean())):
        return None
    ratio = (some.mean(axis=-1) - none.mean()) / span
    return float(ratio) if some.ndim == 1 else ratio


def sufficiency_value(
    runs: Ablated, span: Span, *, seed: int, group: str = "all", masked: Mapping[str, int] | None = None
) -> MetricValue | None:
    """Normalised faithfulness of the aligned features alone, on items whose answer is known; None where there are none,
    or the features together move nothing. `span` is open (`span_gate`), so that the ratio is of something."""
    known = np.flatnonzero(np.isfinite(runs.margins).all(axis=1))
    whole, empty, kept = runs.margins[known].T
    value = normalised_faithfulness(whole, empty, kept)
    random = normalised_faithfulness(whole, empty, runs.kept_random[:, known])
    if not isinstance(value, float) or not isinstance(random, np.ndarray):
        return None

    def ratio(rows: FloatArray) -> FloatArray:
        picked = rows.astype(np.int64)
        below = (whole - empty)[picked].mean(axis=1)
        return (kept - empty)[picked].mean(axis=1) / np.where(below == 0, np.nan, below)

    interval = None
    if len(known) > 1:
        interval = bootstrap_interval(np.arange(len(known), dtype=np.float64), statistic=ratio, seed=seed)
    extra = {
        "margin_all": float(whole.mean()),
        "margin_none": float(empty.mean()),
        "margin_kept": float(kept.mean()),
        "margin_random": float(runs.kept_random[:, known].mean()),
    }
    return MetricValue(
        name="alignment/sufficiency",
        value=value,
        range=(None, None),
        n=len(known),
        interval=interval,
        null_mean=float(random.mean()),
        null_interval=quantile_interval(random),
        # The sign of the denominator is the same in all draws; more of the margin kept is more.
        p=permutation_p(value, random),
        group=group,
        masked=dict(masked or {}),
        extra=with_z(value, random, extra | runs.matching | span.extra),
        notes=f"1: as all features, 0: as none, of the right answer's margin over the other options; {MATCHED_NULL}"
        + few(len(known)),
    )


SUFFICIENCY = Metric(
    name="sufficiency",
    number=8,
    family="causal",
    title="Sufficiency (normalised faithfulness)",
    meaning="Share of the answer's margin that the features shared with the explanation keep up alone.",
    range=(None, None),
    null="The same for other features of the question that fire as strongly; all features give 1, none give 0.",
    needs=("explanations", "model"),
    source="Marks et al. 2403.19647",
    values=("alignment/sufficiency",),
    confirmatory=("alignment/sufficiency",),
    claims={
        "alignment/sufficiency": Claim(
            may=Sentence(
                "the features shared with the explanation keep up more of the answer's margin than others that fire as "
                "strongly",
                "해설과 공유된 특징만으로 같은 세기로 활성화되는 다른 특징보다 답의 여유(margin)가 더 유지된다",
            ),
            may_not=Sentence("these features are all that the answer rests on", "답이 이 특징들에만 근거한다"),
            floor=0.05,
            least=0.0,
        )
    },
    depends_on=(on_model_runs,),
    measure=measure_sufficiency,
)
