"""What must not be said: for each claim, numbers that can be reached and do not carry it, in English and Korean.

Every claim is made of one number that does carry it, so that a case fails for its own reason. Families, the correction
and the group of "answers at chance" stand at the end.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sae_lens_med.alignment import METRICS
from sae_lens_med.errors import ConfigError
from sae_lens_med.evaluation.accuracy import accuracy_metrics
from sae_lens_med.languages import Sentence
from sae_lens_med.metrics.metric import Claim, Metric
from sae_lens_med.records import OPTION_LETTERS, ItemResult, McqItem, MetricValue
from sae_lens_med.study.claims import Limits, limits_of, sentence_of, warnings
from sae_lens_med.study.counted import confirmatory
from sae_lens_med.study.verdict import conclusion

FREE = Limits(model_written=False, illustrative=False)
SPAN = {"span_low": 0.4, "span_high": 0.9, "alone_low": 0.8, "items": 100.0, "texts": 100.0}
CLAIMS = {name: metric for metric in METRICS for name in metric.confirmatory}


def carries(name: str, **changed: Any) -> MetricValue:
    """A value that the claim of `name` may be made of: twice the floor above its null, which is `least` or 0."""
    claim = CLAIMS[name].claims[name]
    null = claim.least or 0.0
    about: dict[str, Any] = {
        **{"value": null + 2 * claim.floor, "range": (None, None), "n": 100, "p": 0.001, "null_mean": null},
        **{"null_interval": (null - 0.01, null + 0.01), "extra": SPAN},
    }
    return MetricValue(name, **(about | changed))


def parts(value: MetricValue, limits: Limits = FREE) -> tuple[tuple[str, str], tuple[str, str]]:
    """(may, may not) of the sentence, in English and in Korean."""
    (entry,) = confirmatory([value])
    said = sentence_of(entry, [value], limits)
    en, ko = said.en.split(" May not: "), said.ko.split(" 내릴 수 없는 결론: ")
    return (en[0].split("May be concluded: ")[1], en[1]), (ko[0].split("내릴 수 있는 결론: ")[1], ko[1])


def is_claimed(value: MetricValue, limits: Limits = FREE) -> bool:
    """Whether it is, the same in both languages; where it is not, it stands among what may not be concluded."""
    claim = CLAIMS[value.name].claims[value.name]
    (may_en, not_en), (may_ko, not_ko) = parts(value, limits)
    stem = claim.may.ko[:-2]
    assert (claim.may.en in may_en) != (claim.may.en in not_en)
    assert (stem in may_ko) != (stem in not_ko)
    assert (claim.may.en in may_en) == (stem in may_ko)
    return claim.may.en in may_en


EVERY: dict[str, dict[str, Any]] = {
    "not significant": {"p": 0.2},
    "no test": {"p": None},
    "just not significant": {"p": 0.05},
    "49 items": {"n": 49, "extra": SPAN | {"items": 49.0, "texts": 49.0}},
}


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_needs_a_p_and_items(name: str, case: str) -> None:
    assert is_claimed(carries(name))
    changed = dict(EVERY[case])
    assert not is_claimed(carries(name, **changed))


@pytest.mark.parametrize("name", CLAIMS)
def test_an_effect_below_the_floor_is_not_claimed_whatever_its_p(name: str) -> None:
    claim = CLAIMS[name].claims[name]
    assert claim.floor > 0
    null = claim.least or 0.0
    for value, null_mean in ((null + 0.9 * claim.floor, null), (null + 1.5e-5, null - 1.0), (null + 5.0, null + 5.0)):
        if claim.least is None and null_mean < null:
            continue  # only the null says what no effect is
        assert not is_claimed(carries(name, value=value, null_mean=null_mean, p=0.0005)), (value, null_mean)
    (may, _), (may_ko, _) = parts(carries(name, value=null + 0.9 * claim.floor))
    assert "below the smallest that is claimed" in may
    assert "최소 크기" in may_ko


@pytest.mark.parametrize("name", [name for name, m in CLAIMS.items() if m.claims[name].least is not None])
def test_no_effect_above_a_null_that_is_less_than_none_is_not_claimed(name: str) -> None:
    least = CLAIMS[name].claims[name].least
    assert least is not None
    for value, null_mean in ((least - 0.0023, least - 0.5), (least, least - 0.5), (least - 1.0, least - 2.0)):
        value = carries(name, value=value, null_mean=null_mean, p=0.0005)
        assert not is_claimed(value)
        (may, _), (may_ko, _) = parts(value)
        assert "shows no such effect" in may
        assert "그런 효과가 아님" in may_ko


CAUSAL = [name for name, metric in CLAIMS.items() if metric.family == "causal"]


def span(low: float, high: float, alone: float) -> dict[str, float]:
    return {"span_low": low, "span_high": high, "alone_low": alone}


SPANS: dict[str, tuple[dict[str, float], str, str]] = {
    "an old study": ({}, "measure it again", "다시 측정해야 함"),
    "half a span": ({"span_high": 0.3, "alone_low": 0.8}, "measure it again", "다시 측정해야 함"),
    "features alone never tried": ({"span_low": 0.4, "span_high": 0.9}, "measure it again", "다시 측정해야 함"),
    "around 0": (span(-0.2, 0.17, 0.9), "do not move the answer here", "답을 움직이지 않음"),
    "from 0": (span(0.0, 0.17, 0.9), "may have left these tokens before", "이미 이 토큰들을 떠났을"),
    "negative": (span(-0.9, -0.2, 0.9), "speak against the answer", "반대로 작용함"),
    "through the error term": (span(0.4, 0.9, -0.1), "what the SAE misses", "재구성하지 못한 부분"),
    "half of it through the error term": (span(0.4, 0.9, 0.5), "what the SAE misses", "재구성하지 못한 부분"),
}


@pytest.mark.parametrize("case", SPANS)
@pytest.mark.parametrize("name", CAUSAL)
def test_no_cause_is_claimed_where_all_features_together_move_nothing(name: str, case: str) -> None:
    given, en, ko = SPANS[case]
    extra = {key: value for key, value in SPAN.items() if not key.startswith(("span", "alone"))} | given
    for p in (0.0005, 0.6):
        value = carries(name, extra=extra, p=p)
        assert not is_claimed(value)
        (may, _), (may_ko, _) = parts(value)
        assert en in may
        assert ko in may_ko


@pytest.mark.parametrize(
    ("ratio", "fits"), [((1.0, 1.1), True), ((0.8, 1.25), True), ((0.79, 1.0), False), ((1.1, 1.26), False)]
)
@pytest.mark.parametrize("name", CAUSAL)
def test_no_cause_is_claimed_of_features_that_met_no_match(name: str, ratio: tuple[float, float], fits: bool) -> None:
    value = carries(name, extra=SPAN | {"matched_ratio_min": ratio[0], "matched_ratio_max": ratio[1]})
    assert is_claimed(value) is fits
    if not fits:
        (may, _), (may_ko, _) = parts(value)
        assert "not compared with their like" in may
        assert "대등한 비교가 아님" in may_ko


FALSE_ONCE = {
    "sufficiency of a negative span": (
        "alignment/sufficiency",
        {"value": 0.4, "null_mean": 0.1, "extra": SPAN | {"span_low": -0.08, "span_high": -0.01}},
    ),
    "sufficiency of a span around 0": (
        "alignment/sufficiency",
        {"value": 31.0, "null_mean": 2.0, "extra": SPAN | {"span_low": -0.05, "span_high": 0.02}},
    ),
    "comprehensiveness negative on both sides": (
        "alignment/comprehensiveness", {"value": -0.0003, "null_mean": -0.02}
    ),
    "a drop of 0.000015": ("alignment/comprehensiveness", {"value": 0.000015, "null_mean": -0.02}),
    "a drop of 0.0011 against 0.0009": ("alignment/comprehensiveness", {"value": 0.0011, "null_mean": 0.0009}),
    "a negative partial RSA above its null": ("alignment/rsa_partial", {"value": -0.0023, "null_mean": -0.0464}),
    "an MRR of chance": ("alignment/retrieval_mrr", {"value": 0.0594, "null_mean": 0.059}),
    "monosemanticity of a corpus": ("alignment/monosemanticity", {"value": 0.063, "null_mean": 0.060}),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE_ONCE)
def test_what_was_once_said_falsely_is_not_said(case: str) -> None:
    name, changed = FALSE_ONCE[case]
    assert not is_claimed(carries(name, p=0.0005, **changed))


@pytest.mark.parametrize("name", CLAIMS)
def test_nothing_is_claimed_of_illustrative_material(name: str) -> None:
    assert not is_claimed(carries(name), replace(FREE, illustrative=True))


def test_a_number_that_is_not_significant_is_not_called_small() -> None:
    (may, _), _ = parts(carries("alignment/rsa_partial", value=0.001, p=0.6))
    assert may.startswith("that no such effect was shown here, which is no proof that there is none")
    assert "nothing is left" not in may


def test_a_claim_refuses_a_floor_below_zero() -> None:
    with pytest.raises(ConfigError, match="smallest effect that is claimed must be 0 or more, got -0.1"):
        Claim(Sentence("a", "가다"), Sentence("b", "나다"), floor=-0.1)


# --- families -------------------------------------------------------------------------------------------------------


def _family(name: str) -> str:
    metric: Metric = CLAIMS[name]
    return metric.family


def test_what_is_nearly_certain_of_features_does_not_lower_the_bar_for_causes() -> None:
    causal = [carries(name, p=p) for name, p in zip(CAUSAL[:5], (0.03, 0.9, 0.8, 0.7, 0.6), strict=True)]
    others = [carries(name, p=0.0005) for name in CLAIMS if _family(name) != "causal"]
    alone = {e.value.name: e.q for e in confirmatory(causal)}
    beside = {e.value.name: e.q for e in confirmatory([*others, *causal])}
    assert alone[CAUSAL[0]] == pytest.approx(0.15)
    assert {name: beside[name] for name in alone} == alone
    assert all(beside[name] == pytest.approx(0.0005) for name in beside if name not in alone)


def test_numbers_that_no_permutation_of_explanations_changes_stand_apart() -> None:
    apart = {metric.number for metric in METRICS if metric.family == "features"}
    assert apart == {4, 5, 13, 14}
    order = [e.metric.family for e in confirmatory([carries(name) for name in CLAIMS])]
    assert order == sorted(order, key=["readout", "causal", "features"].index)


# --- at chance ------------------------------------------------------------------------------------------------------


def _study(right: list[bool], says: str) -> tuple[list[McqItem], list[ItemResult]]:
    """Items whose gold letters take turns; an answer is right where `right` says so, else the first other of `says`."""
    items = [McqItem(f"q{i}", "s", "en", f"Which is {i}?", tuple("abcd"), i % 4) for i in range(len(right))]
    results = []
    for i, (item, is_right) in enumerate(zip(items, right, strict=True)):
        gold = OPTION_LETTERS[i % 4]
        letter = gold if is_right else next(x for x in says if x != gold)
        results.append(ItemResult(item.id, "s", gold, letter, None, letter == gold))
    return items, results


def test_chance_is_that_of_the_group_of_the_claim() -> None:
    # The first 100 items are answered well, the 100 left out are guessed.
    right = [i % 10 < 9 for i in range(100)] + [i % 4 == 0 for i in range(100)]
    items, results = _study(right, "ABCD")
    metrics = accuracy_metrics(items, results, groups={"left_out": np.arange(200) >= 100}, permutations=99)
    limits = limits_of(metrics, items)
    assert limits.at_chance == {"left_out"}
    values = {group: carries("alignment/retrieval_mrr", group=group) for group in ("all", "left_out")}
    for group, expected in (("all", False), ("left_out", True)):
        (_, may_not), (_, may_not_ko) = parts(values[group], limits)
        assert ("the model answers at chance" in may_not) is expected
        assert ("무작위 수준" in may_not_ko) is expected
    (warned,) = [w for w in warnings([values["left_out"]], limits) if "above chance" in w.en]
    assert "the items left out of the SAE's training text" in warned.en
    difference = carries("alignment/matched_minus_mismatched", group="left_out")
    assert "does not answer above chance" in conclusion([*metrics, difference], items, has_sae=True).en
    everywhere = replace(difference, group="all")
    assert "does not answer above chance" not in conclusion([*metrics, everywhere], items, has_sae=True).en


def test_what_a_liking_for_letters_gives_is_chance_too() -> None:
    # Half of the gold letters are A, and the model says A: right in half of the items, and nothing but its liking.
    items = [
        McqItem(f"q{i}", "s", "en", f"Which is {i}?", tuple("abcd"), 0 if i % 2 else 1 + i % 3) for i in range(200)
    ]
    results = [ItemResult(item.id, "s", item.gold_letter, "A", None, item.answer == 0) for item in items]
    metrics = accuracy_metrics(items, results, permutations=99)
    accuracy = next(m for m in metrics if m.group == "all")
    assert accuracy.interval is not None and accuracy.interval[0] > 0.25
    assert "all" in limits_of(metrics, items).at_chance
