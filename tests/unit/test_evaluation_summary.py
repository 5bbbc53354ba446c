"""Accuracy with its nulls, few-shot splits, results on disk: against enumeration and hand-worked numbers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.evaluation.accuracy import accuracy_metrics, guessing_distribution
from sae_lens_med.prompts.shots import choose_shots, split_shots
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.provenance import changes, identity, make_provenance
from sae_lens_med.statistics import wilson_interval


def make_item(i: int, answer: int | None = 0, n_options: int = 5, subject: str = "doctor") -> McqItem:
    options = tuple(f"option {i} {letter}" for letter in OPTION_LETTERS[:n_options])
    return McqItem(f"q{i}", subject, "ko", f"question {i}?", options, answer)


def make_result(item: McqItem, letter: str | None) -> ItemResult:
    gold = item.gold_letter
    return ItemResult(
        id=item.id,
        subject=item.subject,
        gold=gold,
        prediction=letter,
        option_logprobs=tuple(-1.0 - k for k in range(len(item.options))),
        correct=None if gold is None else letter == gold,
        reason=None if letter is not None else "ambiguous",
    )


def loaded(items: list[McqItem], source: str = "sample", split: str | None = None) -> LoadedItems:
    return LoadedItems(items, source, split, json_sha256([i.to_dict() for i in items]), (), None)


def by_group(metrics: list[MetricValue]) -> dict[str, MetricValue]:
    return {metric.group: metric for metric in metrics}


def test_accuracy_by_hand() -> None:
    # Gold A A B C ?, predicted A B B - A: 2 of 4 right, the unanswered one wrong, the one without gold not scored.
    items = [
        make_item(0),
        make_item(1),
        make_item(2, 1, subject="nurse"),
        make_item(3, 2, subject="nurse"),
        make_item(4, None),
    ]
    results = [make_result(i, p) for i, p in zip(items, ["A", "B", "B", None, "A"], strict=True)]
    metrics = by_group(accuracy_metrics(items, results, groups={"left_out": np.array([1, 1, 0, 0, 0], bool)}))
    assert list(metrics) == ["all", "left_out", "subject=doctor", "subject=nurse", "gold=A", "gold=B", "gold=C"]
    whole = metrics["all"]
    assert (whole.name, whole.value, whole.n, whole.variant) == ("accuracy", 0.5, 4, "model")
    assert whole.interval == wilson_interval(2, 4)
    assert whole.masked == {"gold_unknown": 1}
    assert whole.null_mean == whole.extra["chance"] == pytest.approx(0.2)
    assert whole.p == pytest.approx(binomtest(2, 4, 0.2, alternative="greater").pvalue)
    assert whole.extra["unanswered"] == 1
    assert whole.extra["majority_letter"] == 0.5
    assert whole.extra["predicted_A"] == 0.25
    assert whole.extra["predicted_B"] == 0.5
    assert metrics["left_out"].value == 0.5
    assert metrics["left_out"].n == 2
    assert metrics["subject=doctor"].value == metrics["subject=nurse"].value == 0.5
    assert metrics["gold=A"].value == 0.5
    assert "letter_p" not in metrics["gold=A"].extra
    assert "Only 4 items" in whole.notes
    assert "(binomial)" in whole.notes


def test_letter_null_against_all_permutations() -> None:
    items = [make_item(i, answer) for i, answer in enumerate([0, 0, 1, 2, 4])]
    predicted = ["A", "B", "B", "A", None]
    metric = accuracy_metrics(
        items, [make_result(i, p) for i, p in zip(items, predicted, strict=True)], permutations=4000
    )[0]
    gold = [i.gold_letter for i in items]
    null = [np.mean([p == g for p, g in zip(order, gold, strict=True)]) for order in itertools.permutations(predicted)]
    assert metric.extra["letter_null"] == pytest.approx(np.mean(null))
    assert metric.extra["letter_p"] == pytest.approx(np.mean(np.array(null) >= metric.value - 1e-9), abs=0.03)


def test_one_letter_always_is_letter_bias_and_nothing_else() -> None:
    items = [make_item(i, i % 2) for i in range(20)]
    metric = accuracy_metrics(items, [make_result(i, "A") for i in items])[0]
    assert metric.value == metric.extra["letter_null"] == metric.extra["majority_letter"] == 0.5
    assert metric.p is not None and metric.p < 0.01  # guessing alone would call this a success
    assert metric.extra["letter_p"] == 1


def test_different_numbers_of_options() -> None:
    counts = [2, 4, 5, 5]
    items = [make_item(i, 0, n) for i, n in enumerate(counts)]
    metric = accuracy_metrics(items, [make_result(i, "A") for i in items])[0]
    assert metric.null_mean == pytest.approx((1 / 2 + 1 / 4 + 1 / 5 + 1 / 5) / 4)
    assert metric.p == pytest.approx(1 / (2 * 4 * 5 * 5))
    assert "Poisson-binomial" in metric.notes


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=8))
def test_guessing_distribution_against_enumeration(counts: list[int]) -> None:
    expected = np.zeros(len(counts) + 1)
    for outcome in itertools.product([0, 1], repeat=len(counts)):
        expected[sum(outcome)] += np.prod([1 / k if hit else 1 - 1 / k for hit, k in zip(outcome, counts, strict=True)])
    np.testing.assert_allclose(guessing_distribution(counts), expected, atol=1e-12)


def test_null_interval_covers_95_percent_of_guessing() -> None:
    items = [make_item(i) for i in range(200)]
    metric = accuracy_metrics(items, [make_result(i, "B") for i in items])[0]
    assert metric.null_interval is not None
    low, high = metric.null_interval
    pmf = guessing_distribution([5] * 200)
    assert pmf[round(low * 200) : round(high * 200) + 1].sum() >= 0.95
    assert low < 0.2 < high
    assert metric.value == 0
    assert metric.p == pytest.approx(1)


def test_no_gold_answers_give_no_metric() -> None:
    items = [make_item(0, None), make_item(1, None)]
    assert accuracy_metrics(items, [make_result(i, "A") for i in items]) == []


def test_foreign_results_and_wrong_groups_are_refused() -> None:
    items = [make_item(0), make_item(1)]
    results = [make_result(i, "A") for i in items]
    with pytest.raises(DataError, match="same order"):
        accuracy_metrics(items, results[::-1])
    with pytest.raises(DataError, match=r"'left_out' has shape \(3,\), expected \(2,\)"):
        accuracy_metrics(items, results, groups={"left_out": np.ones(3, bool)})


def test_split_shots() -> None:
    items = [make_item(i) for i in range(4)]
    assert split_shots(items, 0) == ((), items)
    assert split_shots(items, 3) == (tuple(items[:3]), items[3:])
    with pytest.raises(ConfigError, match="4 shots leave nothing to evaluate: the data has 4 items"):
        split_shots(items, 4)
    with pytest.raises(ConfigError, match="0 or more, got -1"):
        split_shots(items, -1)
    with pytest.raises(DataError, match="'q9' cannot be a few-shot example"):
        split_shots([make_item(9, None), *items], 1)


def test_local_shots_leave_the_data() -> None:
    data = loaded([make_item(i) for i in range(4)])
    assert choose_shots(data, 0) == ((), data)
    shots, rest = choose_shots(data, 1)
    assert [s.id for s in shots] == ["q0"]
    assert [i.id for i in rest.items] == ["q1", "q2", "q3"]
    assert rest.sha256 == json_sha256([i.to_dict() for i in rest.items]) != data.sha256


def test_kormedmcqa_shots_come_from_their_split_and_take_their_repeats_along() -> None:
    dev = [make_item(i) for i in range(4)]
    fewshot = [replace(dev[2], id="few-1"), replace(dev[0], id="few-2")]
    asked: list[tuple[str, str]] = []

    def load(source: str, split: str) -> LoadedItems:
        asked.append((source, split))
        return loaded(fewshot, source, split)

    shots, rest = choose_shots(loaded(dev, "kormedmcqa:doctor", "dev"), 1, load=load)
    assert asked == [("kormedmcqa:doctor", "fewshot")]
    assert [s.id for s in shots] == ["few-1"]
    assert [i.id for i in rest.items] == ["q0", "q1", "q3"]
    with pytest.raises(ConfigError, match="2 few-shot examples, got 3"):
        choose_shots(loaded(dev, "kormedmcqa:doctor", "dev"), 3, load=load)
    with pytest.raises(ConfigError, match="one by one"):
        choose_shots(loaded(dev, "kormedmcqa:all", "dev"), 1, load=load)


def test_identity_ignores_names_and_batch_size_but_names_them_beside_a_change() -> None:
    items = [make_item(0)]
    model = {"name": "m", "source": "local", "sha256": "a", "dtype": "float32"}
    old = make_provenance(
        model, None, loaded(items, "here/a.jsonl"), {"shots": [], "batch_tokens": 1, "device": "cpu"}, 0
    )
    moved = make_provenance(
        model, None, loaded(items, "there/a.jsonl"), {"shots": [], "batch_tokens": 9, "device": "cuda"}, 0
    )
    assert changes(identity(old), identity(moved)) == []
    other = make_provenance(model, None, loaded([make_item(1)], "b.jsonl"), {"shots": ["q9"], "batch_tokens": 1}, 0)
    found = changes(identity(old), identity(other))
    assert [line.split(":")[0] for line in found] == ["data.sha256", "data.source", "settings.shots"]
    assert 'data.source: "here/a.jsonl" -> "b.jsonl"' in found
    assert 'settings.shots: [] -> ["q9"]' in found
    assert old.versions["sae-lens"].startswith("6.")
