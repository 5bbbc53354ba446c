"""How well do single features tell which questions name a concept? AUROC and held-out F1 (domain metric #4).

For each concept the feature with the largest standardised rank sum is taken (`concept_scores`), the largest of
all features; the value is the mean of these z over concepts. Beside it stands the F1 of a feature and threshold chosen
on half of the questions and measured on the others.

Null: labels permuted within strata of subject and length, and the largest, or the rule, chosen again each time.

Out of scope: what a feature does to the answer (`causal_agreement`).
"""

from typing import Any

import numpy as np

from sae_lens_med.alignment.concept_tests import LISTED, ConceptScores, ConceptTests, held_out_value, none_named
from sae_lens_med.metrics.depends import on_concepts, on_controls
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, permutation_p, quantile_interval


def measure_concepts(inputs: Inputs) -> Measured:
    """The strongest feature of each concept (mean z, AUROC), and held-out F1; a table of the concepts."""
    tests = inputs.view(ConceptTests)
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in inputs.feature_variants:
        for group in inputs.all_groups:
            scores = tests.scores(group, variant)
            if scores is None:
                notes.append(none_named(group))
                continue
            metrics.append(_auroc_value(tests, scores, group, variant))
            if len(scores.f1.concepts):
                metrics.append(held_out_value(tests, scores, group, variant, "alignment/concept_f1", None))
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)), {"concepts.json": _table(inputs)})


def _auroc_value(tests: ConceptTests, scores: ConceptScores, group: str, variant: str) -> MetricValue:
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
        masked=tests.left_out(scores, variant),
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
        "interval is given" + few(scores.n_items, " items"),
    )


def _best(scores: ConceptScores) -> tuple[IntArray, FloatArray, FloatArray]:
    """Per concept `[c]`: the column of the feature with the largest z, its z and its AUROC."""
    best = scores.auroc.z.argmax(axis=0)
    every = np.arange(len(scores.concepts))
    return best, scores.auroc.z[best, every], scores.auroc.auroc[best, every]


def _table(inputs: Inputs) -> list[dict[str, Any]]:
    """Per concept of the group `all`: how often it is named, its strongest features, and the held-out rule."""
    scores = inputs.view(ConceptTests).scores("all", "sae")
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


_MAY_NOT = Sentence(
    "such a feature means the concept rather than its name, or that it moves an answer",
    "그 특징이 단어가 아닌 개념을 뜻하거나 답을 움직인다",
)

CONCEPTS = Metric(
    name="concepts",
    number=4,
    family="features",
    title="Features that stand for concepts (AUROC, held-out F1)",
    meaning="How well single features tell which questions name a concept, the best of all features for each.",
    range=(0.0, None),
    null="Concept labels permuted within strata of subject and length; the best feature is chosen again each time.",
    needs=("concepts",),
    source="Gurnee et al. 2305.01610; InterPLM 2412.12101; Westfall & Young 1993",
    values=("alignment/concept_auroc", "alignment/concept_f1"),
    confirmatory=("alignment/concept_auroc_z", "alignment/concept_f1"),
    claims={
        "alignment/concept_auroc_z": Claim(
            may=Sentence(
                "some single features tell which questions name a concept better than chance choice among all features",
                "일부 단일 특징이 어떤 질문에 개념이 나오는지를 우연한 선택보다 잘 구별한다",
            ),
            may_not=_MAY_NOT,
            floor=0.1,
        ),
        "alignment/concept_f1": Claim(
            may=Sentence(
                "features chosen on half of the questions tell, in the other half, which questions name a concept",
                "질문의 절반에서 고른 특징이 나머지 절반에서 어떤 질문에 개념이 나오는지를 구별한다",
            ),
            may_not=_MAY_NOT,
            floor=0.02,
        ),
    },
    depends_on=(on_controls, on_concepts),
    measure=measure_concepts,
)
