"""Which features are both named by explanations and moving the answer? The verdict per feature (#16).

Per feature: is it mentioned (p of alignment) and is it causal (p of ablation; both in `feature_tests`), each after the
Benjamini-Hochberg correction over the features tested:

    mentioned and causal: shared reasoning        mentioned, not causal: knowledge present, not used
    causal, not mentioned: hidden driver          neither: no evidence

**Split.** The measured items are halved by the seed. On the first half features are chosen: those most often among an
item's best aligned features, and as many others with the largest first-order effect. On the second half both p are
made; the one of being mentioned on all explained items outside of the first half, because it costs no pass.
Explanations are exchanged among questions whose explanations are of like length: long questions have long explanations,
and both have more of everything.

**Value**: the share of tested features that are shared reasoning. Null: as many features of each kind, unrelated,
*among those chosen alike*: the ones chosen for being mentioned are mentioned more often, and the ones chosen for their
effect move more, whatever the two have to do with one another (a sum of two hypergeometric counts). Where nearly all
features are mentioned, unrelated columns share as many, and the count tells nothing; `both_q` of each feature, its
larger p corrected, does not depend on that.

Out of scope: the two p, and choosing the features (`feature_tests`).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.effects import EffectSettings, effects, removal_plan
from sae_lens_med.alignment.feature_tests import (
    LEAST_COMPARATORS,
    FeatureTests,
    causal_tests,
    choose_comparators,
    choose_features,
    items_of_features,
    mention_p,
)
from sae_lens_med.alignment.saliency import Saliency
from sae_lens_med.alignment.span_gate import Span, SpanGate
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.metrics.depends import on_model_runs
from sae_lens_med.metrics.inputs import Inputs, length_strata
from sae_lens_med.metrics.metric import Measured, Metric, few
from sae_lens_med.records import BoolArray, FloatArray, IntArray, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, stratified_permutations

Verdict = Literal["shared_reasoning", "present_unused", "hidden_driver", "neither", "untested"]


def measure_verdicts(inputs: Inputs) -> Measured:
    """The 2 x 2 of features chosen on one half of the items and tested on the other; `verdicts.csv`."""
    items, pooled, settings = inputs.view(CausalItems), inputs.pooled, inputs.settings
    span = inputs.view(SpanGate).by_group["all"]
    if not span.open:
        return Measured(notes=(span.closed("all"),))
    order = np.random.default_rng([inputs.seed, *b"verdict"]).permutation(len(items.texts))
    choosing, testing = ([items.texts[k] for k in sorted(half.tolist())] for half in np.array_split(order, 2))
    mentioned, others = choose_features(
        {text.id: items.aligned[text.id] for text in choosing},
        {text.id: _first_order(items.saliency[text.id], pooled.mask.kept) for text in choosing},
        settings.tested_features,
    )
    features = np.concatenate([mentioned, others])
    effort = EffectSettings(comparators=settings.comparators, items=settings.feature_items, seed=inputs.seed)
    rows = [items.position[text.id] for text in testing]
    comparators = choose_comparators(items.drive[rows], features, effort)
    fires = {text.id: _firing(items.drive, row) for text, row in zip(testing, rows, strict=True)}
    wanted = items_of_features(fires, np.concatenate([features, comparators]), effort)
    removals = {name: {str(f): ((f,),) for f in own} for name, own in wanted.items()}
    results, _ = items.run(
        "features",
        [text for text in testing if text.id in removals],
        removal_plan(removals),
        {**effort.to_dict(), "sets": json_sha256(removals)},
        label="single features",
    )
    found = effects(results, beside=0)
    drive = np.array([items.drive[items.position[i], int(f)] for i, f in zip(found.items, found.names, strict=True)])
    tests = causal_tests(found, drive, features, effort.min_items)
    if tests.comparators < LEAST_COMPARATORS:
        return Measured(
            notes=(
                f"{tests.comparators} features that are not tested fire in {effort.min_items} of the items that were "
                f"not used to choose, fewer than the {LEAST_COMPARATORS} that a test needs; no verdicts.",
            )
        )
    p = _mentioned(inputs, features, np.array([items.position[text.id] for text in choosing], dtype=np.int64))
    verdicts = feature_verdicts(p, tests.p)
    chosen_by = ["mentioned"] * len(mentioned) + ["effect"] * len(others)
    notes = (
        f"Verdicts: {len(features)} features chosen on {len(choosing)} items, tested on {len(testing)} others; causal "
        "means that removing the feature moves the answer more than removing others does that fire as strongly there; "
        f"{tests.comparators} of those were removed.",
    )
    table = verdict_csv(features, chosen_by, p, tests, verdicts)
    return Measured(tuple(verdict_values(verdicts, tests, chosen_by, span)), notes, {"verdicts.csv": table})


def _firing(drive: sparse.csr_array, row: int) -> IntArray:
    return drive.indices[drive.indptr[row] : drive.indptr[row + 1]].astype(np.int64)


def _mentioned(inputs: Inputs, features: IntArray, used: IntArray) -> FloatArray:
    """`[len(features)]`, p of being mentioned on the explained items that are not among `used`, nor near-duplicates of
    theirs or of one another; NaN for a feature that fires in none of their questions."""
    pooled, cluster = inputs.pooled, inputs.clusters
    fresh = np.isin(pooled.explained, inputs.distinct("all")) & ~np.isin(cluster[pooled.explained], cluster[used])
    rows = np.flatnonzero(fresh)
    members = [inputs.items[i] for i in pooled.explained[rows]]
    lengths = np.array([len(item.explanation or "") for item in members], dtype=np.float64)
    strata = length_strata(members, lengths)
    drawn = stratified_permutations(strata, inputs.permutations, np.random.default_rng([inputs.seed, *b"mention"]))
    stems = pooled.stems[rows]
    p = mention_p(stems, pooled.explanations[rows], features, drawn)
    silent = [not stems[:, [feature]].nnz for feature in features.tolist()]
    p[np.array(silent, dtype=bool)] = np.nan
    return p


def _first_order(each: Saliency, kept: BoolArray) -> tuple[IntArray, FloatArray]:
    """The item's features that are not masked, with the size of their first-order effect."""
    chosen = kept[each.features]
    return each.features[chosen], np.abs(each.effects[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class FeatureVerdicts:
    """The 2 x 2 of every feature."""

    mentioned_q: FloatArray
    """`[F]`, p of alignment after correction; NaN where not tested."""
    causal_q: FloatArray
    """`[F]`, p of ablation after correction; NaN where not tested."""
    both_q: FloatArray
    """`[F]`, the larger p of the two after correction over the features tested for both; NaN elsewhere."""
    verdict: tuple[Verdict, ...]
    """`[F]`; `untested` where either p is missing."""

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many features have each verdict, all five named."""
        names: tuple[Verdict, ...] = ("shared_reasoning", "present_unused", "hidden_driver", "neither", "untested")
        return {name: self.verdict.count(name) for name in names}


def feature_verdicts(mentioned_p: FloatArray, causal_p: FloatArray, q: float = ALPHA) -> FeatureVerdicts:
    """The 2 x 2 of each feature from two p values `[F]`, NaN where not tested; see the module's text.

    Each column is corrected over the features that it tested. Without any effect in either column, the chance that any
    feature is called shared reasoning is at most q, since both columns must reject. Where many features are mentioned
    only or causal only, the share of false ones *among those called shared reasoning* can exceed q. `both_q <= q` keeps
    that share at q (the larger p tests "both"; Benjamini & Heller 2008); where both columns tested the same features
    it implies that both reject. Raises `DataError` for different lengths, `ConfigError` unless 0 < q < 1.
    """
    mentioned, causal = np.asarray(mentioned_p, np.float64), np.asarray(causal_p, np.float64)
    if mentioned.ndim != 1 or mentioned.shape != causal.shape:
        raise DataError(f"verdicts need two p values per feature, got shapes {mentioned.shape} and {causal.shape}.")
    if not 0 < q < 1:
        raise ConfigError(f"the false discovery rate lies between 0 and 1, got {q}.")
    mentioned_q, causal_q = _corrected(mentioned), _corrected(causal)
    names: dict[tuple[bool, bool], Verdict] = {
        (True, True): "shared_reasoning",
        (True, False): "present_unused",
        (False, True): "hidden_driver",
        (False, False): "neither",
    }
    tested = np.isfinite(mentioned_q) & np.isfinite(causal_q)
    pairs = zip((mentioned_q <= q).tolist(), (causal_q <= q).tolist(), tested.tolist(), strict=True)
    both_q = _corrected(np.where(tested, np.maximum(mentioned, causal), np.nan))
    verdict: list[Verdict] = [names[m, c] if known else "untested" for m, c, known in pairs]
    return FeatureVerdicts(mentioned_q=mentioned_q, causal_q=causal_q, both_q=both_q, verdict=tuple(verdict))


def verdict_values(
    verdicts: FeatureVerdicts, tests: FeatureTests, chosen_by: Sequence[str], span: Span, q: float = ALPHA
) -> list[MetricValue]:
    """Share of the features tested both ways that are mentioned *and* causal after correction, with the share that two
    unrelated columns would give among features chosen alike (`chosen_by` `[F]`)."""
    tested = np.isfinite(verdicts.mentioned_q) & np.isfinite(verdicts.causal_q)
    n = int(np.count_nonzero(tested))
    if n == 0:
        return []
    mentioned, causal = tested & (verdicts.mentioned_q <= q), tested & (verdicts.causal_q <= q)
    both = verdicts.counts["shared_reasoning"]
    kinds = [np.array([each == kind for each in chosen_by]) & tested for kind in dict.fromkeys(chosen_by)]
    by_chance = unrelated_counts([(int(k.sum()), int((k & mentioned).sum()), int((k & causal).sum())) for k in kinds])
    at = np.arange(len(by_chance))
    low, high = (float(np.searchsorted(by_chance.cumsum(), t)) / n for t in (0.025, 0.975))
    counts = {f"n_{name}": float(count) for name, count in verdicts.counts.items()}
    return [
        MetricValue(
            name="alignment/verdict_shared_reasoning",
            value=both / n,
            range=(0.0, 1.0),
            n=n,
            unit="features",
            null_mean=float(by_chance @ at) / n,
            null_interval=(low, high),
            p=min(1.0, float(by_chance[both:].sum())),
            extra={
                "q": q,
                "n_mentioned": float(mentioned.sum()),
                "n_causal": float(causal.sum()),
                "both_q_rejects": float(np.count_nonzero(verdicts.both_q[tested] <= q)),
                "items_per_feature": float(tests.n[tested].mean()),
                "comparators": float(tests.comparators),
                **span.extra,
                **counts,
            },
            notes="Features chosen on one half of the items and tested on the other; null: as many features of each "
            "kind, unrelated, among those chosen alike. A share of 0 with few causal features is no evidence of "
            "absence" + few(n),
        )
    ]


def unrelated_counts(kinds: Sequence[tuple[int, int, int]]) -> FloatArray:
    """`[m + 1]`, the probability of each number of features that are in both columns when the columns are unrelated
    within each kind `(features, in the first column, in the second)`."""
    from scipy.stats import hypergeom  # importing it takes a second

    total = np.ones(1, dtype=np.float64)
    for n, first, second in kinds:
        own = np.asarray(hypergeom.pmf(np.arange(min(first, second) + 1), n, first, second), dtype=np.float64)
        total = np.asarray(np.convolve(total, own), dtype=np.float64)
    return total


def verdict_csv(
    features: IntArray,
    chosen_by: Sequence[str],
    mentioned_p: FloatArray,
    tests: FeatureTests,
    verdicts: FeatureVerdicts,
) -> str:
    """One line per feature; empty cells where nothing was tested."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["feature", "chosen_by", "verdict", "mentioned_p", "mentioned_q", "causal_p", "causal_q", "both_q"]
        + ["effect", "expected_effect", "ratio", "signed_effect", "band_low", "band_high", "items", "comparators"]
    )
    numbers = (
        mentioned_p,
        verdicts.mentioned_q,
        tests.p,
        verdicts.causal_q,
        verdicts.both_q,
        tests.effect,
        tests.expected,
        tests.ratio,
        tests.signed,
        *tests.bands.T,
    )
    for k, feature in enumerate(features.tolist()):
        cells = ["" if np.isnan(each[k]) else f"{each[k]:.6g}" for each in numbers]
        writer.writerow([feature, chosen_by[k], verdicts.verdict[k], *cells, int(tests.n[k]), tests.comparators])
    return out.getvalue()


def _corrected(p: FloatArray) -> FloatArray:
    adjusted = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    adjusted[tested] = benjamini_hochberg(p[tested])
    return adjusted


VERDICTS = Metric(
    name="verdicts",
    number=16,
    family="causal",
    title="Verdict per feature",
    meaning="Which features are both named by explanations and moving the answer: mentioned x causal, feature by "
    "feature.",
    range=(0.0, 1.0),
    null="Mentioned: explanations of like length permuted within strata; causal: the feature's rank among others that "
    "fire as strongly; both corrected over features.",
    needs=("explanations", "model"),
    source="The conclusion of 2 and 7; Benjamini & Heller 2008 for both at once",
    values=("alignment/verdict",),
    confirmatory=(),
    claims={},
    depends_on=(on_model_runs,),
    measure=measure_verdicts,
)
