"""What the metrics say of the packaged twins, which answer one exam equally well: `concepts` by the findings that the
expert's explanation names, `shortcut` by a place that it never names (`organisms check` proves it).

Read-out metrics cannot tell them apart and must not: both represent what the explanation says. The causal ones must.
"""

import json
from pathlib import Path

import pytest

from sae_lens_med import load_model, load_sae
from sae_lens_med.alignment import METRICS
from sae_lens_med.alignment.span_gate import SpanGate
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.controls.collect import activations, firing_rates
from sae_lens_med.controls.organisms.cases import concepts, exam
from sae_lens_med.controls.untrained import match_rates, shuffled_sae
from sae_lens_med.features.collect import collect
from sae_lens_med.features.store import load_features
from sae_lens_med.languages import number
from sae_lens_med.metrics.inputs import Inputs, ModelSide, label_concepts
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import MetricValue
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.twins import CAUSAL, FOLDER, PAGES, TWINS, run_twins, write_twins

N = 100
"""With fewer questions too few of them name one place for a feature to stand for it, and #9 has nothing to compare."""
SETTINGS = MetricSettings(causal_items=N, causal_sets=19)


def open_side(name: str) -> ModelSide:
    return ModelSide(load_model(name), load_sae(name), progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the demo makes, of fewer questions."""
    made = tmp_path_factory.mktemp("demo")
    run_twins(made, open_side, n_items=N, settings=SETTINGS)
    write_twins(made)
    return made


@pytest.fixture(scope="module")
def twins(folder: Path) -> list[dict[str, MetricValue]]:
    """The values of the SAE on all items, by name."""
    return [
        {
            value.name.removeprefix("alignment/"): value
            for value in AlignmentFolder(folder / FOLDER / name).metrics
            if (value.group, value.variant) == ("all", "sae")
        }
        for name in TWINS
    ]


def test_read_out_metrics_see_the_same_in_both(twins) -> None:
    by_findings, by_place = (twin["retrieval_mrr"] for twin in twins)
    assert by_findings.p == by_place.p == 1 / 1000
    assert by_findings.value == pytest.approx(by_place.value, abs=0.1)


def test_the_answers_of_both_go_through_their_features(twins) -> None:
    for twin in twins:
        assert twin["sufficiency"].extra["span_low"] > 5  # logits
        assert twin["sufficiency"].extra["alone_low"] > 0.9


def test_the_twin_that_answers_by_the_findings_looks_where_the_expert_looks_and_the_other_does_not(twins) -> None:
    by_findings, by_place = (twin["plausibility_auprc"] for twin in twins)
    assert by_findings.p is not None and by_findings.p < 0.01
    assert by_place.p is not None and by_place.p > 0.05


def test_shared_features_keep_up_the_answer_of_one_twin_only(twins) -> None:
    by_findings, by_place = (twin["sufficiency"] for twin in twins)
    assert by_findings.p == 1 / 20 and by_findings.value > 0.3
    assert by_place.p is not None and by_place.p > 0.5 and by_place.value < by_findings.value / 2


def test_without_shared_features_one_twin_only_is_less_sure_of_its_answer(twins) -> None:
    by_findings, by_place = (twin["comprehensiveness"] for twin in twins)
    assert by_findings.p == 1 / 20 and by_findings.value > 0.05
    assert by_place.p is not None and by_place.p > 0.1 and by_place.value < 0.02


def test_what_the_expert_names_moves_the_answer_of_one_twin_only(twins) -> None:
    by_findings, by_place = (twin["causal_agreement_excess"] for twin in twins)
    assert by_findings.p is not None and by_findings.p < 0.01 and by_findings.value > 0.2
    assert by_place.p is not None and by_place.p > 0.1


def test_reasoning_is_called_shared_in_one_twin_only(twins) -> None:
    by_findings, by_place = (twin["verdict_shared_reasoning"] for twin in twins)
    assert by_findings.extra["both_q_rejects"] >= 5
    assert by_place.extra["both_q_rejects"] == 0 and by_place.extra["n_hidden_driver"] > 0


@pytest.mark.parametrize("name", TWINS)
def test_of_a_dictionary_that_has_learned_nothing_no_causal_number_is_given(name: str, tmp_path: Path) -> None:
    """Its features fire as often as the trained ones. Removing them all costs the answer something, as noise does."""
    organism = TWINS[name]
    model, sae, items = load_model(organism), load_sae(organism), tuple(exam("ko", "natural", 40, seed=2))
    rates = firing_rates(load_features(collect(model, sae, items, output=tmp_path / "own", progress=False)))
    shuffled = shuffled_sae(sae)
    side = ModelSide(model, shuffled, progress=False)
    side = ModelSide(model, match_rates(shuffled, activations(side, items), rates), progress=False)
    features = load_features(collect(model, side.loaded_sae, items, output=tmp_path / "shuffled", progress=False))
    inputs = Inputs(
        items=items,
        features=features,
        concepts=label_concepts(items, features.texts, ConceptMatcher(concepts("ko"))),
        open_model=lambda: side,
        settings=MetricSettings(causal_items=len(items), causal_sets=19),
    )
    span = inputs.view(SpanGate).by_group["all"]
    assert span.interval is not None and span.interval[0] > 0
    assert span.alone_interval is not None and span.alone_interval[1] < 0.5 and not span.open
    for metric in CAUSAL:
        found = METRICS[metric].measure(inputs)
        assert not found.metrics and any("goes through what the SAE misses" in note for note in found.notes), metric


def test_the_page_has_both_twins_numbers(folder: Path, twins) -> None:
    by_findings, by_place = (twin["comprehensiveness"] for twin in twins)
    said = (folder / "twins.md").read_text(encoding="utf-8")
    numbers = (by_findings.value, by_findings.null_mean, by_place.value, by_place.null_mean)
    assert f"7 Comprehensiveness | {' | '.join(map(number, numbers))} |" in said
    assert "| Accuracy | **1.0000** | 0.2500 | **1.0000** | 0.2500 |" in said
    both = [f"{twin['verdict_shared_reasoning'].extra['both_q_rejects']:.0f}" for twin in twins]
    assert f"both at once | {' | '.join(both)} |" in said
    page = (folder / "twins.ko.html").read_text(encoding="utf-8")
    assert "소견으로 답함" in page and page.count("<svg") == 1 and number(by_place.value) in page


def test_what_is_measured_is_kept(folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / FOLDER).rglob("*.json")}
    told: list[tuple[str, str]] = []
    run_twins(folder, open_side, n_items=N, settings=SETTINGS, on_stage=lambda name, what: told.append((name, what)))
    assert {what for _, what in told} == {"skip"} and len(told) == 2 * (5 + 7)
    write_twins(folder)
    assert all(json.loads(path.read_bytes()) == json.loads(own) for path, own in before.items())
    assert all((folder / name).is_file() for name in PAGES)
