"""From `Inputs` to the numbers of concepts: features that stand for them (#4), coverage (#5), monosemanticity (#14).

Rows are questions: pooled stem features against "the question names the concept". A feature that fires on the concept's
own name scores highest; that a feature stands for a concept says that the model *reads* it, not that it *uses* it.

**Strata.** Long questions name more concepts and fire more features. Labels are therefore permuted among questions of
one language and subject and of like length (bins of about `PER_BIN` items); an item alone in its bin exchanges within
language and subject.

**Which concepts.** Those that at least `MIN_NAMED` questions of the group name, and not all of them. Coverage counts
those among them that at least one explanation names.

**Split.** Half of the strata, drawn by the seed, are held out whole; F1 is that of held-out items.

Out of scope: tokens as rows, and finding concepts in texts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sae_lens_med.alignment.baselines import tfidf
from sae_lens_med.alignment.concept_scores import ConceptAuroc, ConceptF1, concept_auroc, concept_f1, crossed_strata
from sae_lens_med.alignment.monosemanticity import monosemanticity, shuffled_mean
from sae_lens_med.alignment.similarity import SMALL_N, cosine_matrix
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.inputs import Inputs, Measured
from sae_lens_med.records import BoolArray, FloatArray, IntArray, McqItem, MetricValue
from sae_lens_med.statistics import (
    Strata,
    benjamini_hochberg,
    bootstrap_interval,
    coarsen_strata,
    null_z,
    permutation_p,
    quantile_interval,
    stratified_permutations,
)

MIN_NAMED = 6
"""Questions that must name a concept before it is scored."""
PER_BIN = 2
"""Items of one language and subject that share a bin of length: neighbours in length, two or three. In wider bins the
longer texts still have more of everything: of 1,000 simulated studies of 40 items in which long questions name more
concepts and fire more features, and nothing else, 30 % are rejected at 5 % with bins of ten, 8 % with bins of three."""
LISTED = 5
"""Features listed for each concept."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class ConceptScores:
    """What one variant gives for one group."""

    concepts: IntArray
    """`[c]`, the scored concepts as columns of `ConceptLabels`."""
    expert: BoolArray
    """`[c]`, at least one explanation of the group names it."""
    auroc: ConceptAuroc
    f1: ConceptF1
    """Its `concepts` are positions within `concepts`."""
    n_items: int
    n_alone: int
    live: IntArray
    """`[f]`, the features that fire on some stem: the columns of `auroc`."""


def length_strata(items: list[McqItem], lengths: FloatArray) -> Strata:
    """Strata of language, subject and bin of length; see the module. `lengths` `[n]` in any unit."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, item in enumerate(items):
        places.setdefault((item.language, item.subject), []).append(i)
    labels: list[list[tuple[Any, ...]]] = [[] for _ in items]
    for place, members in places.items():
        bins = max(1, len(members) // PER_BIN)
        order = np.argsort(lengths[members], kind="stable")
        for rank, j in enumerate(order.tolist()):
            labels[members[j]] = [(*place, rank * bins // len(members)), place]
    return coarsen_strata(labels)


def concept_scores(inputs: Inputs, group: str, variant: str) -> ConceptScores | None:
    """#4 and #5 of one group and variant, made once; None where no concept is named often enough."""
    return inputs.once(("concepts", group, variant), lambda: _concept_scores(inputs, group, variant))


def concept_features(inputs: Inputs, group: str = "all", most: int = LISTED) -> dict[str, tuple[int, ...]]:
    """Concept id -> the features that stand for it: at most `most`, by z, of those whose p, corrected over features,
    is at most 0.05. Concepts without one are left out. For tests of what ablating a concept's features does."""
    scores = concept_scores(inputs, group, "sae")
    if scores is None or inputs.concepts is None:
        return {}
    ids, p = inputs.concepts.concepts.ids, scores.auroc.p()
    found: dict[str, tuple[int, ...]] = {}
    for column, concept in enumerate(scores.concepts.tolist()):
        order = np.argsort(-scores.auroc.z[:, column], kind="stable")[:most]
        chosen = tuple(int(scores.live[f]) for f in order.tolist() if p[f, column] <= ALPHA)
        if chosen:
            found[ids[concept]] = chosen
    return found


def measure_concepts(inputs: Inputs) -> Measured:
    """#4: the strongest feature of each concept (mean z, AUROC), and held-out F1; a table of the concepts."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in inputs.feature_variants:
        for group in inputs.all_groups:
            scores = concept_scores(inputs, group, variant)
            if scores is None:
                notes.append(_none(group))
                continue
            metrics.append(_auroc_value(inputs, scores, group, variant))
            if len(scores.f1.concepts):
                metrics.append(_f1_value(inputs, scores, group, variant, "alignment/concept_f1", None))
    table = _table(inputs)
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)), {"concepts.json": table})


def measure_coverage(inputs: Inputs) -> Measured:
    """#5: mean held-out F1 over the concepts that explanations name."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in inputs.feature_variants:
        for group in inputs.all_groups:
            scores = concept_scores(inputs, group, variant)
            chosen = None if scores is None else np.flatnonzero(scores.expert[scores.f1.concepts])
            if scores is None or chosen is None or not len(chosen):
                notes.append(_none(group))
                continue
            metrics.append(_f1_value(inputs, scores, group, variant, "alignment/concept_coverage", chosen))
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def measure_monosemanticity(inputs: Inputs) -> Measured:
    """#14 over questions: stem features, and embeddings of the stems (TF-IDF where none are given)."""
    questions = [item.question for item in inputs.items]
    metrics: list[MetricValue] = []
    notes: list[str] = []
    if len(questions) < 2:
        return Measured(notes=("Monosemanticity needs at least two questions; it is not measured.",))
    if inputs.embedder is None:
        words, _ = tfidf(questions, questions)
        embedded = _same_cosines(cosine_matrix(words, words))
    else:
        embedded = np.asarray(inputs.embedder(questions), dtype=np.float64)
    for variant in inputs.feature_variants:
        pooled = inputs.sides_of(variant).pooled
        for group, chosen in inputs.all_groups.items():
            rows = np.flatnonzero(chosen)
            if len(rows) < 2:
                continue
            strata = length_strata([inputs.items[i] for i in rows], _lengths(inputs)[rows])
            result = monosemanticity(pooled[rows], embedded[rows])
            if not strata.exchangeable.any() or not len(result.measured):
                notes.append(f"Monosemanticity: nothing in the group {group!r} can be exchanged; not measured.")
                continue
            drawn = stratified_permutations(strata, inputs.permutations, inputs.rng(f"monosemanticity {group}"))
            null = shuffled_mean(result, drawn)
            metrics.append(
                MetricValue(
                    name="alignment/monosemanticity",
                    value=result.mean,
                    range=(-1.0, 1.0),
                    n=len(result.measured),
                    unit="features",
                    interval=bootstrap_interval(result.score[result.measured], seed=inputs.seed),
                    null_mean=float(null.mean()),
                    null_interval=quantile_interval(null),
                    p=permutation_p(result.mean, null),
                    group=group,
                    variant=variant,
                    masked=inputs.sides_of(variant).mask.counts,
                    extra=_with_z(
                        {
                            "corpus_mean": result.corpus_mean,
                            "texts": float(len(rows)),
                            "permutations": float(len(null)),
                        },
                        result.mean,
                        null,
                    ),
                    notes=f"Embedding: {inputs.embedder_name}; interval: percentile bootstrap over features, which "
                    "share texts, so it is too narrow; null: activations moved between questions within strata"
                    + _small(len(rows)),
                )
            )
    notes.append(
        "Monosemanticity: with TF-IDF embeddings, features that fire on a word make texts alike that hold that word."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def _concept_scores(inputs: Inputs, group: str, variant: str) -> ConceptScores | None:
    labels = inputs.concepts
    rows = np.flatnonzero(inputs.all_groups[group])
    if labels is None or len(rows) < 4:
        return None
    named = labels.stem[rows].sum(axis=0)
    concepts = np.flatnonzero((named >= MIN_NAMED) & (named < len(rows)))
    strata = length_strata([inputs.items[i] for i in rows], _lengths(inputs)[rows])
    if not len(concepts) or not strata.exchangeable.any():
        return None
    pooled = inputs.sides_of(variant).pooled[rows]
    live = np.flatnonzero(np.bincount(pooled.indices, minlength=n_columns(pooled)))
    acts = sparse.csr_array(pooled[:, live])
    chosen = labels.stem[rows][:, concepts]
    drawn = stratified_permutations(strata, inputs.permutations, inputs.rng(f"concepts {group}"))
    auroc = concept_auroc(acts, chosen, strata, drawn, threads=inputs.threads)
    held_out = half_of_strata(strata, inputs.rng(f"held out {group}"))
    crossed = crossed_strata(strata, held_out)
    redrawn = stratified_permutations(crossed, inputs.permutations, inputs.rng(f"concepts held out {group}"))
    f1 = concept_f1(acts, chosen, held_out, redrawn, threads=inputs.threads)
    expert = np.asarray(labels.explanation[rows][:, concepts].any(axis=0), dtype=bool)
    return ConceptScores(concepts, expert, auroc, f1, len(rows), strata.n_alone, live)


def half_of_strata(strata: Strata, rng: np.random.Generator) -> BoolArray:
    """`[n]`: half of the strata, whole, and half of the items without one. A bin that is cut by the split has next
    to nothing left to exchange."""
    groups = strata.members()
    held_out = np.zeros(len(strata.index), dtype=bool)
    for number in rng.permutation(len(groups))[: len(groups) // 2]:
        held_out[groups[number]] = True
    alone = rng.permutation(np.flatnonzero(~strata.exchangeable))
    held_out[alone[: len(alone) // 2]] = True
    return held_out


def _lengths(inputs: Inputs) -> FloatArray:
    return np.array([len(item.question) for item in inputs.items], dtype=np.float64)


def _best(scores: ConceptScores) -> tuple[IntArray, FloatArray, FloatArray]:
    """Per concept `[c]`: the column of the feature with the largest z, its z and its AUROC."""
    best = scores.auroc.z.argmax(axis=0)
    every = np.arange(len(scores.concepts))
    return best, scores.auroc.z[best, every], scores.auroc.auroc[best, every]


def _auroc_value(inputs: Inputs, scores: ConceptScores, group: str, variant: str) -> MetricValue:
    best, z, auroc = _best(scores)
    q = benjamini_hochberg(scores.auroc.p()[best, np.arange(len(best))])
    null = scores.auroc.null_max.mean(axis=1)
    value = float(np.maximum(z, 0.0).mean())
    return MetricValue(
        name="alignment/concept_auroc_z",
        value=value,
        range=(0.0, None),
        n=len(z),
        unit="concepts",
        null_mean=float(null.mean()),
        null_interval=quantile_interval(null),
        p=permutation_p(value, null),
        group=group,
        variant=variant,
        masked=_masked(inputs, scores, variant),
        extra={
            "mean_best_auroc": float(auroc.mean()),
            "median_best_auroc": float(np.median(auroc)),
            "concepts_with_feature": float(np.count_nonzero(q <= ALPHA)),
            "items": float(scores.n_items),
            "live_features": float(len(scores.live)),
            "permutations": float(len(null)),
        },
        notes="Mean over concepts of the largest standardised rank sum (the z of AUROC) over features; null: labels "
        "permuted within strata of subject and length, the largest chosen again; concepts_with_feature: "
        "Benjamini-Hochberg 5 % over concepts of the p corrected over features; concepts share questions, so no "
        "interval is given" + _small(scores.n_items),
    )


def _f1_value(
    inputs: Inputs, scores: ConceptScores, group: str, variant: str, name: str, chosen: IntArray | None
) -> MetricValue:
    """Mean held-out F1 over the positions `chosen` of `scores.f1` (None: all)."""
    take = np.arange(len(scores.f1.concepts)) if chosen is None else chosen
    f1, null = scores.f1.f1[take], scores.f1.null_f1[:, take].mean(axis=1)
    value = float(f1.mean())
    return MetricValue(
        name=name,
        value=value,
        range=(0.0, 1.0),
        n=len(take),
        unit="concepts",
        interval=bootstrap_interval(f1, seed=inputs.seed),
        null_mean=float(null.mean()),
        null_interval=quantile_interval(null),
        p=permutation_p(value, null),
        group=group,
        variant=variant,
        masked=_masked(inputs, scores, variant)
        | {"concepts_on_one_side": len(scores.concepts) - len(scores.f1.concepts)},
        extra=_with_z(
            {
                "prevalence_f1": float(scores.f1.prevalence_f1[take].mean()),
                "train_f1": float(scores.f1.train_f1[take].mean()),
                "items": float(scores.n_items),
                "permutations": float(len(null)),
            },
            value,
            null,
        ),
        notes="Feature and threshold chosen on half of the items, F1 on the others; interval: percentile bootstrap "
        "over concepts, which share questions, so it is a rough one; null: labels permuted within strata and halves, "
        "the choice made again; prevalence_f1: a feature that fires everywhere" + _small(scores.n_items),
    )


def _masked(inputs: Inputs, scores: ConceptScores, variant: str) -> dict[str, int]:
    total = 0 if inputs.concepts is None else len(inputs.concepts.concepts)
    return {
        "concepts_named_too_rarely": total - len(scores.concepts),
        "items_without_partner": scores.n_alone,
        **inputs.sides_of(variant).mask.counts,
    }


def _table(inputs: Inputs) -> list[dict[str, Any]]:
    """Per concept of the group `all`: how often it is named, its strongest features, and the held-out rule."""
    scores = concept_scores(inputs, "all", "sae")
    if scores is None or inputs.concepts is None:
        return []
    labels, concepts = inputs.concepts, inputs.concepts.concepts.concepts
    p, overall = scores.auroc.p(), scores.auroc.p(overall=True)
    best, _, _ = _best(scores)
    q = benjamini_hochberg(p[best, np.arange(len(best))])
    rule = {int(c): k for k, c in enumerate(scores.f1.concepts)}
    f1_p = scores.f1.p
    rows: list[dict[str, Any]] = []
    for column, concept in enumerate(scores.concepts.tolist()):
        order = np.argsort(-scores.auroc.z[:, column], kind="stable")[:LISTED]
        row: dict[str, Any] = {
            "concept": concepts[concept].id,
            "category": concepts[concept].category,
            "forms": list(concepts[concept].forms),
            "questions": int(labels.stem[:, concept].sum()),
            "explanations": int(labels.explanation[:, concept].sum()),
            "q": float(q[column]),
            "features": [
                {
                    "feature": int(scores.live[f]),
                    "auroc": float(scores.auroc.auroc[f, column]),
                    "z": float(scores.auroc.z[f, column]),
                    "p": float(p[f, column]),
                    "p_over_concepts": float(overall[f, column]),
                }
                for f in order.tolist()
            ],
            "held_out": None,
        }
        if (k := rule.get(column)) is not None and scores.f1.feature[k] >= 0:
            row["held_out"] = {
                "feature": int(scores.live[scores.f1.feature[k]]),
                "threshold": float(scores.f1.threshold[k]),
                "train_f1": float(scores.f1.train_f1[k]),
                "f1": float(scores.f1.f1[k]),
                "prevalence_f1": float(scores.f1.prevalence_f1[k]),
                "p": float(f1_p[k]),
            }
        rows.append(row)
    return sorted(rows, key=lambda row: (row["q"], -row["features"][0]["z"]))


def _same_cosines(similarity: FloatArray) -> FloatArray:
    """`[n, r]` vectors whose cosines are `similarity` `[n, n]`: far fewer columns than there are n-grams."""
    values, vectors = np.linalg.eigh((similarity + similarity.T) / 2)
    kept = values > 1e-12 * max(1.0, float(values[-1]))
    return vectors[:, kept] * np.sqrt(values[kept])


def _with_z(extra: dict[str, float], value: float, null: FloatArray) -> dict[str, float]:
    z = null_z(value, null)
    return extra if z is None else extra | {"z": z}


def _none(group: str) -> str:
    return (
        f"Concepts: no concept is named by {MIN_NAMED} questions of the group {group!r} and not by all; not measured."
    )


def _small(n: int) -> str:
    return f"; n = {n} items is small, so this cannot carry a claim." if n < SMALL_N else "."
