"""Do the concepts that explanations name have features? Coverage (domain metric #5).

`(1 / |C|) sum_{c in C} F1(f_c, c)` over the concepts C that at least one explanation of the group names, with feature
f_c and its threshold chosen on half of the questions and F1 measured on the others (`concept_tests`); in [0, 1].

Null: concept labels permuted within strata and halves, feature and threshold chosen again each time.

Out of scope: whether the model uses these features (`causal_agreement`).
"""

import numpy as np

from sae_lens_med.alignment.concept_tests import ConceptTests, held_out_value, none_named
from sae_lens_med.metrics.depends import on_concepts, on_controls
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence
from sae_lens_med.records import MetricValue


def measure_coverage(inputs: Inputs) -> Measured:
    """Mean held-out F1 over the concepts that explanations name."""
    tests = inputs.view(ConceptTests)
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in inputs.feature_variants:
        for group in inputs.all_groups:
            scores = tests.scores(group, variant)
            chosen = None if scores is None else np.flatnonzero(scores.expert[scores.f1.concepts])
            if scores is None or chosen is None or not len(chosen):
                notes.append(none_named(group))
                continue
            metrics.append(held_out_value(tests, scores, group, variant, "alignment/concept_coverage", chosen))
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


COVERAGE = Metric(
    name="coverage",
    number=5,
    family="features",
    title="Coverage of the expert's concepts",
    meaning="Mean over the concepts that explanations name of the held-out F1 of the feature chosen for each.",
    range=(0.0, 1.0),
    null="Concept labels permuted; feature and threshold are chosen again each time.",
    needs=("concepts", "explanations"),
    source="Karvonen et al. 2408.00113",
    values=("alignment/concept_coverage",),
    confirmatory=("alignment/concept_coverage",),
    claims={
        "alignment/concept_coverage": Claim(
            may=Sentence(
                "concepts that explanations name have features that stand for them in questions not used to choose "
                "them",
                "해설에 나오는 개념들에 대응하는 특징이 있고, 선택에 쓰지 않은 질문에서도 확인된다",
            ),
            may_not=Sentence(
                "the model uses these concepts as the expert does", "모델이 전문가처럼 이 개념을 사용한다"
            ),
            floor=0.02,
        )
    },
    depends_on=(on_controls, on_concepts),
    measure=measure_coverage,
)
