"""Votes, seeds, thinking and deferral, against numbers worked by hand and plain enumeration."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med import plots
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.evaluation.deferral import deferral_area, deferral_csv, deferral_curve
from sae_lens_med.evaluation.generation import cut_after_thinking, sample_seed, text_result, vote, vote_result
from sae_lens_med.evaluation.method import Method
from sae_lens_med.models.engine import Generated
from sae_lens_med.records import ItemResult, McqItem

ITEM = McqItem("q", "doctor", "ko", "질문?", ("폐렴", "천식", "위암", "결핵", "이석증"), 1)


def wrote(text: str, finish: str = "eos") -> Generated:
    return Generated(text, (1, 2), finish)  # type: ignore[arg-type]


def answered(i: int, confidence: float | None, correct: bool | None, subject: str = "doctor") -> ItemResult:
    gold = None if correct is None else "A"
    return ItemResult(
        f"q{i}", subject, gold, "A" if correct is not False else "B", None, correct, None, confidence=confidence
    )


# --- votes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "winner", "share"),
    [
        ("BBA", "B", 2 / 3),
        ("BA-", None, 1 / 3),
        ("AABB-", None, 2 / 5),
        ("B--", "B", 1 / 3),
        ("---", None, 0.0),
        ("C", "C", 1.0),
        ("ABABABABABB", "B", 6 / 11),
    ],
)
def test_votes_by_hand(letters: str, winner: str | None, share: float) -> None:
    assert vote([None if c == "-" else c for c in letters]) == (winner, pytest.approx(share))


def test_a_result_of_several_samples() -> None:
    voted = vote_result(ITEM, [wrote("정답: B"), wrote("정답: A"), wrote("따라서 정답은 B입니다.")])
    assert (voted.prediction, voted.correct, voted.reason) == ("B", True, None)
    assert voted.sample_predictions == ("B", "A", "B")
    assert voted.samples == ("정답: B", "정답: A", "따라서 정답은 B입니다.")
    assert voted.confidence == pytest.approx(2 / 3)
    assert (voted.paper_prediction, voted.text, voted.option_logprobs) == ("B", None, None)
    tied = vote_result(ITEM, [wrote("정답: B"), wrote("정답: A")])
    assert (tied.prediction, tied.correct, tied.reason, tied.confidence) == (None, False, "ambiguous", 0.5)
    none = vote_result(ITEM, [wrote("음", "length"), wrote("음", "length"), wrote("")])
    assert (none.prediction, none.reason, none.confidence) == (None, "truncated", 0.0)
    assert none.sample_predictions == (None, None, None)
    assert ItemResult.from_dict(none.to_dict()) == none


def test_a_result_of_one_text() -> None:
    right = text_result(ITEM, wrote(" B"))
    assert (right.prediction, right.paper_prediction, right.correct, right.text) == ("B", "B", True, " B")
    # The article: the paper's cascade reads an answer, the strict extractor none.
    none = text_result(ITEM, wrote("This is a difficult question"))
    assert (none.prediction, none.reason, none.correct, none.paper_prediction) == (None, "no_answer", False, "A")
    cut = text_result(ITEM, wrote("환자는 발열이 있고 그래서", "length"))
    assert cut.reason == "truncated"


def test_old_results_are_read_and_wrong_ones_refused() -> None:
    old = {"id": "q", "subject": "s", "gold": "A", "prediction": "A", "option_logprobs": [-1.0, -2.0], "correct": True}
    found = ItemResult.from_dict(old | {"reason": None, "text": None})
    assert (found.paper_prediction, found.samples, found.confidence) == (None, (), None)
    with pytest.raises(DataError, match="1 samples but 0 predictions"):
        ItemResult.from_dict(old | {"samples": ["x"]})
    with pytest.raises(DataError, match=r"confidence 1.5 is not in \[0, 1\]"):
        ItemResult.from_dict(old | {"confidence": 1.5})


# --- seeds and thinking ---------------------------------------------------------------------------------------------


def test_each_sample_has_a_seed_of_its_own() -> None:
    found = {sample_seed(seed, name, k) for seed in range(3) for name in ("a", "b", "a1") for k in range(11)}
    assert len(found) == 3 * 3 * 11
    assert all(0 <= seed < 2**63 for seed in found)
    assert sample_seed(0, "doctor-test-1", 0) == 5579074484341142658  # for ever: a resumed run draws the same


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>One. Two.\n\nThree</think>\n\n정답: B. 왜냐하면", "<think>One. Two.\n\nThree</think>\n\n정답: B"),
        ("<think>One. Two.", "<think>One. Two."),
        ("정답: B. 끝", "정답: B. 끝"),
        ("x</think>B", "x</think>B"),
        ("x</think>B\n\nC.", "x</think>B"),
    ],
)
def test_stop_strings_begin_after_the_thinking(text: str, kept: str) -> None:
    cut = cut_after_thinking(wrote(text, "length"), (".", "\n\n"))
    assert cut.text == kept
    assert cut.finish == ("length" if kept == text else "stop")


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"name": "leter"}, "there is no method 'leter'; use one of letter, option-text, generate, cot, self-consis"),
        ({"name": "letter", "samples": 3}, "the method letter does not use samples"),
        ({"name": "cot", "temperature": 0.5}, "the method cot does not use temperature"),
        ({"name": "generate", "normalisation": "byte"}, "the method generate does not use normalisation"),
        ({"name": "option-text", "stop": ("x",)}, "the method option-text does not use stop"),
        ({"name": "option-text", "normalisation": "word"}, "per character, byte or token, got 'word'"),
        ({"name": "letter", "chat": True, "enable_thinking": True}, "a thought, not an answer, so the method letter"),
        ({"name": "cot", "enable_thinking": True}, "use it together with chat"),
        ({"name": "self-consistency", "samples": 0}, "samples must be at least 1, got 0"),
        ({"name": "self-consistency", "temperature": 0.0}, "must be above 0, got 0.0"),
        ({"name": "self-consistency", "temperature": float("nan")}, "must be above 0, got nan"),
        ({"name": "cot", "max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"name": "cot", "stop": ("",)}, "a stop string must not be empty"),
    ],
)
def test_settings_that_make_no_sense(given_: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Method(**given_)  # type: ignore[arg-type]


def test_settings_for_the_provenance() -> None:
    said = Method("self-consistency").settings(["ko"])
    assert (said["samples"], said["temperature"], said["max_new_tokens"], said["stop"]) == (11, 0.7, 1024, None)
    assert (said["template"], list(said["template_sha256"])) == ("cot", ["ko"])
    assert Method("cot", chat=True, enable_thinking=True).settings([])["max_new_tokens"] == 4096
    assert Method("option-text").settings(["en"])["normalisation"] == "character"
    assert set(Method().settings(["ko"])) == {"method", "template", "template_sha256", "chat", "enable_thinking"}


# --- deferral -------------------------------------------------------------------------------------------------------


def test_the_curve_by_hand() -> None:
    # Confidence 1.0: right; 0.6: right, wrong; 0.2: wrong; no gold: not counted.
    given_ = [(0.6, False), (1.0, True), (0.2, False), (0.6, True), (0.9, None)]
    points = deferral_curve([answered(i, c, right) for i, (c, right) in enumerate(given_)])
    assert [(p.n, p.deferred) for p in points] == [(4, 0.0), (3, 0.25), (2, 0.5), (1, 0.75)]
    # Of 2 retained: the sure one, and one of the two at 0.6, right half of the time.
    assert [p.accuracy for p in points] == pytest.approx([2 / 4, 2 / 3, (1 + 0.5) / 2, 1.0])
    assert [p.least_confidence for p in points] == [0.2, 0.6, 0.6, 1.0]
    assert [p.null_mean for p in points] == [0.5] * 4
    # At random, 3 of 4 with 2 right: 1 or 2 right; 4 of 4: always 2.
    assert [p.null_interval for p in points] == [
        (0.5, 0.5),
        (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        (0, 1),
        (0, 1),
    ]
    metric = deferral_area([answered(i, c, right) for i, (c, right) in enumerate(given_)], permutations=50)
    assert metric is not None
    assert metric.value == pytest.approx((2 / 4 + 2 / 3 + 0.75 + 1.0) / 4)
    assert (metric.n, metric.masked, metric.extra["accuracy"]) == (4, {"gold_unknown": 1}, 0.5)


def mean_over_orders(confidence: list[int], right: list[bool], m: int) -> Fraction:
    """Accuracy of the first m over all orders by falling confidence, each as likely as the others."""
    total, n = Fraction(0), 0
    for order in itertools.permutations(range(len(right))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            total, n = total + Fraction(sum(right[i] for i in order[:m]), m), n + 1
    return total / n


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_ties_are_deferred_in_every_order(rows: list[tuple[int, bool]]) -> None:
    confidence, right = [c for c, _ in rows], [r for _, r in rows]
    results = [answered(i, c / 3, r) for i, (c, r) in enumerate(rows)]
    for point in deferral_curve(results):
        assert point.accuracy == pytest.approx(float(mean_over_orders(confidence, right, point.n)))
    metric = deferral_area(results, permutations=5)
    assert metric is not None
    n = len(rows)
    assert metric.value == pytest.approx(
        float(sum(mean_over_orders(confidence, right, m) for m in range(1, n + 1)) / n)
    )


def test_the_area_has_a_null_that_can_fail() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(200) < 0.5
    telling = [answered(i, float(np.clip(r * 0.5 + rng.random() / 2, 0, 1)), bool(r)) for i, r in enumerate(right)]
    silent = [answered(i, float(rng.random()), bool(r)) for i, r in enumerate(right)]
    # Confidence that only says which subject it is, and one subject is easy.
    by_subject = [answered(i, 0.9 if r else 0.1, bool(r), "easy" if r else "hard") for i, r in enumerate(right)]
    p = [deferral_area(each, permutations=500) for each in (telling, silent, by_subject)]
    values = [each.p for each in p if each is not None and each.p is not None]
    assert values[0] == pytest.approx(1 / 501)
    assert values[1] > 0.05
    assert values[2] == 1.0
    again = deferral_area(telling, permutations=500)
    assert again == p[0]


def test_table_and_picture() -> None:
    points = deferral_curve([answered(i, i / 40, i % 3 == 0) for i in range(40)])
    assert [round(p.deferred * 20) for p in points] == list(range(20))
    lines = deferral_csv(points).splitlines()
    assert lines[0] == "deferred,n,least_confidence,accuracy,null_mean,null_low,null_high"
    assert lines[1] == "0.0000,40,0.000000,0.350000,0.350000,0.350000,0.350000"
    assert len(lines) == 21
    assert "40 items. Accuracy 0.350 with none deferred" in plots.describe_deferral(points)
    drawn = [np.asarray(line.get_xydata()).tolist() for line in plots.deferral(points).lines]
    assert [[p.deferred, p.accuracy] for p in points] in drawn
    assert deferral_curve([answered(0, None, True)]) == []
    assert deferral_area([answered(0, 0.5, None)]) is None
