"""Outcomes of ablation, saliency and steering -> `MetricValue`s with interval, null, z and p (#6 to #10, verdict).

Intervals are percentile bootstraps over items. Nulls of #7 and #8: with 200 random sets per item or more, each draw is
one set per item; with fewer, draws are recombined (`matched.recombined`). Nulls of #6: the harder of two (shifted and
random spans). Null of #10: directions and live features, recombined concept by concept; p is the larger of both.

Out of scope: running the model (`ablation_runs`, `feature_effects`, `saliency`, `steering`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import hypergeom

from sae_lens_med.alignment.ablation import Ablated
from sae_lens_med.alignment.agreement import MIN_CONCEPTS, concept_agreement
from sae_lens_med.alignment.causal import (
    FeatureVerdicts,
    against_draws,
    aopc,
    normalised_faithfulness,
    steering_specificity,
)
from sae_lens_med.alignment.causal_concepts import Effects, FeatureTests
from sae_lens_med.alignment.plausibility import SCORES, plausibility
from sae_lens_med.alignment.saliency import VARIANTS, Saliency
from sae_lens_med.alignment.similarity import SMALL_N
from sae_lens_med.alignment.steering import Steered
from sae_lens_med.features.matched import recombined
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import bootstrap_interval, null_z, permutation_p, quantile_interval

ENOUGH_SETS = 200
"""Random sets per item from which on each of them is a draw of the pooled null by itself."""

_MATCHED = (
    "null: random features of the same question, matched in firing rate and strength there and over the study; "
    "interval: percentile bootstrap over items"
)
_VARIANT = {"aligned": "sae", "all": "all_features", "activation": "activation", "residual": "raw"}


def comprehensiveness_value(
    runs: Ablated, *, draws: int, seed: int, group: str = "all", masked: Mapping[str, int] | None = None
) -> MetricValue:
    """#7: mean AOPC over items, in [-1, 1], against matched-random sets. `runs` holds at least one item."""
    own = aopc(runs.whole, runs.without)
    null = _draws(own, aopc(runs.whole, runs.random), draws, np.random.default_rng([seed, 7]))
    found = against_draws(own, null)
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
        extra=_with_z(found.z, extra | _about(runs, len(found.null))),
        notes="Drop of the probability of the model's own answer among the options, averaged over "
        f"{', '.join(map(str, runs.sizes))} removed features; {_MATCHED}" + _small(len(own)),
    )


def sufficiency_value(
    runs: Ablated, *, draws: int, seed: int, group: str = "all", masked: Mapping[str, int] | None = None
) -> tuple[MetricValue | None, str | None]:
    """#8: normalised faithfulness of the aligned features alone, on items whose answer is known; and a note where it
    cannot be measured, or where all features together move the margin too little to be shared out."""
    known = np.flatnonzero(np.isfinite(runs.margins).all(axis=1))
    whole, empty, kept = runs.margins[known].T
    value = normalised_faithfulness(whole, empty, kept)
    if not isinstance(value, float):
        return None, f"Group {group!r}: removing all features does not move the answers; sufficiency is not measured."
    null = _draws(kept, runs.kept_random[:, known], draws, np.random.default_rng([seed, 8]))
    random = normalised_faithfulness(whole, empty, null)
    assert isinstance(random, np.ndarray)  # the denominator is the same
    span = bootstrap_interval(whole - empty, seed=seed)
    unclear = span is None or span[0] <= 0 <= span[1]

    def ratio(rows: FloatArray) -> FloatArray:
        picked = rows.astype(np.int64)
        below = (whole - empty)[picked].mean(axis=1)
        return (kept - empty)[picked].mean(axis=1) / np.where(below == 0, np.nan, below)

    interval = None
    if len(known) > 1 and not unclear:  # a denominator around 0 has no mean and no useful interval
        interval = bootstrap_interval(np.arange(len(known), dtype=np.float64), statistic=ratio, seed=seed)
    metric = MetricValue(
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
        extra=_with_z(
            null_z(value, random),
            {
                "margin_all": float(whole.mean()),
                "margin_none": float(empty.mean()),
                "margin_kept": float(kept.mean()),
                "margin_random": float(runs.kept_random[:, known].mean()),
            }
            | _about(runs, len(random)),
        ),
        notes=f"1: as all features, 0: as none, of the right answer's margin over the other options; {_MATCHED}"
        + _small(len(known)),
    )
    note = None
    if span is not None and span[1] < 0:
        note = (
            f"Group {group!r}: all features together speak against the right answers (margin "
            f"{(whole - empty).mean():.3g} logits); sufficiency is then the share of that harm."
        )
    if unclear:
        note = (
            f"Group {group!r}: all features together move the right answer's margin by {(whole - empty).mean():.3g} "
            "logits on average, which is not told from 0; sufficiency is then a ratio to nothing and says nothing."
        )
    return metric, note


def plausibility_values(
    saliency: Sequence[Saliency],
    spans: Sequence[IntArray],
    *,
    draws: int,
    seed: int,
    group: str = "all",
    name: str = "alignment/plausibility",
    what: str = "premises that the expert marked in the question",
) -> tuple[list[MetricValue], list[str]]:
    """#6: token-F1, IOU-F1 and AUPRC of every saliency against the items' spans (tokens, `[k, 2]` each)."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in VARIANTS:
        found = plausibility(
            [each.tokens[variant] for each in saliency], spans, draws, np.random.default_rng([seed, 6])
        )
        n = len(found.positions)
        if n == 0:
            return [], [f"Group {group!r}: no item has {what}; plausibility is not measured."]
        for score in SCORES:
            value = found.value(score)
            shift, random = found.null_shift[score], found.null_random[score]
            harder = shift if permutation_p(value, shift) >= permutation_p(value, random) else random
            metrics.append(
                MetricValue(
                    name=f"{name}_{score}",
                    value=value,
                    range=(0.0, 1.0),
                    n=n,
                    interval=bootstrap_interval(found.per_item[score], seed=seed),
                    null_mean=float(harder.mean()),
                    null_interval=quantile_interval(harder),
                    p=found.p(score),
                    group=group,
                    variant=_VARIANT[variant],
                    extra=_with_z(
                        null_z(value, harder),
                        {
                            "prevalence": float(found.prevalence.mean()),
                            "shift_mean": float(shift.mean()),
                            "random_mean": float(random.mean()),
                            "permutations": float(draws),
                        },
                    ),
                    notes=f"Spans: {what}; null: the harder of shifted and random spans; interval: percentile "
                    "bootstrap over items" + _small(n),
                )
            )
    return metrics, notes


def agreement_values(
    found: Effects, weights: FloatArray, *, draws: int, seed: int, group: str = "all"
) -> tuple[list[MetricValue], list[str]]:
    """#9: do the concepts that the expert weighs more move the answer more? `weights` `[N]`, one per effect."""
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
                    extra=_with_z(
                        null_z(value, null), {"concepts": float(agreed.n_concepts), "permutations": float(draws)}
                    ),
                    notes=f"Spearman within items; {what}; null: the expert's weights permuted among the concepts of "
                    "each item" + _small(n),
                )
            )
    return metrics, []


def steering_values(found: Steered, strengths: Sequence[float], *, draws: int, seed: int) -> list[MetricValue]:
    """#10: specificity over all pairs and strengths together, against random directions and random live features.

    One ratio of means: at a single strength, a feature that does next to nothing has next to nothing below the line.
    """
    n = len(found.pairs)
    if n == 0:
        return []
    half = (len(found.shift) - 1) // 2
    number = {key: c for c, key in enumerate(dict.fromkeys((p.concept, p.feature) for p in found.pairs))}
    concept = np.array([number[p.concept, p.feature] for p in found.pairs])
    own = steering_specificity(found.shift[0], found.divergence[0])
    value = float(steering_specificity(found.shift[0].ravel(), found.divergence[0].ravel()))
    nulls: dict[str, FloatArray] = {}
    rng = np.random.default_rng([seed, 10])
    for kind, first in (("direction", 1), ("live", 1 + half)):
        # 0 is the concept's own feature: one of the choices, as in `recombined`.
        runs = np.array([0, *range(first, first + half)])
        choice = runs[rng.integers(len(runs), size=(draws, len(number)))][:, concept]
        # [draws, pairs, strengths]
        shift, divergence = (a.transpose(0, 2, 1)[choice, np.arange(n)[None]] for a in (found.shift, found.divergence))
        nulls[kind] = steering_specificity(shift.reshape(draws, -1), divergence.reshape(draws, -1))
    harder = max(nulls.values(), key=lambda null: permutation_p(value, null))
    extra = {f"at_{strength:g}": float(each) for strength, each in zip(strengths, own, strict=True)}
    extra |= {f"shift_at_{s:g}": float(each) for s, each in zip(strengths, found.shift[0].mean(axis=1), strict=True)}
    extra |= {f"kl_at_{s:g}": float(each) for s, each in zip(strengths, found.divergence[0].mean(axis=1), strict=True)}
    extra |= {f"p_{kind}": permutation_p(value, null) for kind, null in nulls.items()}
    return [
        MetricValue(
            name="alignment/steering_specificity",
            value=value,
            range=(None, None),
            n=n,
            unit="pairs",
            null_mean=float(harder.mean()),
            null_interval=quantile_interval(harder),
            p=permutation_p(value, harder),
            extra=_with_z(
                null_z(value, harder), extra | {"concepts": float(len(number)), "permutations": float(draws)}
            ),
            notes="Logits of the target's margin per nat of change of all other tokens, over all strengths; null: the "
            "harder of random directions of equal length and random live features; pairs of one concept share its "
            "feature" + _small(len(number)),
        )
    ]


def verdict_values(verdicts: FeatureVerdicts, tests: FeatureTests, q: float = 0.05) -> list[MetricValue]:
    """Share of the features tested both ways that are mentioned *and* causal after correction, with the share that two
    unrelated columns would give (hypergeometric)."""
    tested = np.isfinite(verdicts.mentioned_q) & np.isfinite(verdicts.causal_q)
    n = int(np.count_nonzero(tested))
    if n == 0:
        return []
    mentioned, causal = (int(np.count_nonzero(c[tested] <= q)) for c in (verdicts.mentioned_q, verdicts.causal_q))
    both = verdicts.counts["shared_reasoning"]
    by_chance = hypergeom(n, mentioned, causal)
    low, high = (by_chance.ppf([0.025, 0.975]) / n).tolist() if mentioned and causal else (0.0, 0.0)
    counts = {f"n_{name}": float(count) for name, count in verdicts.counts.items()}
    return [
        MetricValue(
            name="alignment/verdict_shared_reasoning",
            value=both / n,
            range=(0.0, 1.0),
            n=n,
            unit="features",
            null_mean=mentioned * causal / n / n,
            null_interval=(low, high),
            p=float(by_chance.sf(both - 1)) if mentioned and causal else 1.0,
            extra={
                "q": q,
                "n_mentioned": float(mentioned),
                "n_causal": float(causal),
                "both_q_rejects": float(np.count_nonzero(verdicts.both_q[tested] <= q)),
                "items_per_feature": float(tests.n[tested].mean()),
                **counts,
            },
            notes="Features chosen on one half of the items and tested on the other; null: as many features of each "
            "kind, unrelated. A share of 0 with few causal features is no evidence of absence" + _small(n),
        )
    ]


def subset(runs: Ablated, rows: IntArray) -> Ablated:
    """The items `rows`."""
    return Ablated(
        tuple(runs.ids[i] for i in rows),
        runs.sizes,
        runs.whole[rows],
        runs.without[rows],
        runs.random[:, rows],
        runs.margins[rows],
        runs.kept_random[:, rows],
        runs.removed[rows],
        runs.fold[rows],
        runs.n_features[rows],
    )


def _draws(own: FloatArray, sets: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[B, n]`."""
    return sets if len(sets) >= ENOUGH_SETS else recombined(own, sets, max(draws, ENOUGH_SETS), rng)


def _about(runs: Ablated, draws: int) -> dict[str, float]:
    own, random = runs.removed.T
    together = float(random.mean())
    return {
        "sets_per_item": float(len(runs.random)),
        "draws": float(draws),
        "features_per_item": float(runs.n_features.mean()),
        "match_fold": float(np.median(runs.fold)),
        "removed_length_ratio": float(own.mean()) / together if together else 1.0,
    }


def _with_z(z: float | None, extra: dict[str, float]) -> dict[str, float]:
    return extra if z is None else {"z": z, **extra}


def _small(n: int) -> str:
    return f"; n = {n} is small, so this cannot carry a claim." if n < SMALL_N else "."
