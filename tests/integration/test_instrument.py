"""What the metrics say of the packaged twins, which answer one exam equally well: `concepts` by the findings that the
expert's explanation names, `shortcut` by a place that it never names (`organisms check` proves it).

Read-out metrics cannot tell them apart and must not: both represent what the explanation says. The causal ones must.
"""

from pathlib import Path

import pytest

from sae_lens_med import load_model, load_sae
from sae_lens_med.alignment import METRICS
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.controls.organisms.cases import concepts, exam
from sae_lens_med.features.collect import collect
from sae_lens_med.features.store import load_features
from sae_lens_med.metrics.inputs import Inputs, ModelSide, label_concepts
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import MetricValue

N = 60
SAYS = ("retrieval", "plausibility", "sufficiency", "verdicts")


def measured(twin: str, folder: Path) -> dict[str, MetricValue]:
    """The values of the SAE on all items, by name."""
    model, sae = load_model(f"organism/{twin}"), load_sae(f"organism/{twin}")
    items = tuple(exam("ko", "natural", N, seed=3))
    features = load_features(collect(model, sae, items, output=folder, progress=False))
    inputs = Inputs(
        items=items,
        features=features,
        permutations=999,
        concepts=label_concepts(items, features.texts, ConceptMatcher(concepts("ko"))),
        open_model=lambda: ModelSide(model, sae, progress=False),
        settings=MetricSettings(causal_items=N, causal_sets=39),
    )
    found = [value for name in SAYS for value in METRICS[name].measure(inputs).metrics]
    return {
        value.name.removeprefix("alignment/"): value
        for value in found
        if (value.group, value.variant) == ("all", "sae")
    }


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> tuple[dict[str, MetricValue], dict[str, MetricValue]]:
    folder = tmp_path_factory.mktemp("twins")
    return measured("ko-concepts-0", folder / "concepts"), measured("ko-shortcut-0", folder / "shortcut")


def test_read_out_metrics_see_the_same_in_both(twins) -> None:
    by_findings, by_place = (twin["retrieval_mrr"] for twin in twins)
    assert by_findings.p == by_place.p == 1 / 1000
    assert by_findings.value == pytest.approx(by_place.value, abs=0.1)


def test_the_answers_of_both_go_through_their_features(twins) -> None:
    for twin in twins:
        assert twin["sufficiency"].extra["span_low"] > 5  # logits


def test_the_twin_that_answers_by_the_findings_looks_where_the_expert_looks_and_the_other_does_not(twins) -> None:
    by_findings, by_place = (twin["plausibility_auprc"] for twin in twins)
    assert by_findings.p is not None and by_findings.p < 0.01
    assert by_place.p is not None and by_place.p > 0.05


def test_shared_features_keep_up_the_answer_of_one_twin_only(twins) -> None:
    by_findings, by_place = (twin["sufficiency"] for twin in twins)
    assert by_findings.p == 1 / 40 and by_findings.value > 0.3
    assert by_place.p is not None and by_place.p > 0.5 and by_place.value < 0.15


def test_reasoning_is_called_shared_in_one_twin_only(twins) -> None:
    by_findings, by_place = (twin["verdict_shared_reasoning"] for twin in twins)
    assert by_findings.p is not None and by_findings.p < 0.05 and by_findings.extra["n_shared_reasoning"] >= 5
    assert by_place.extra["n_shared_reasoning"] == 0
