"""What an evaluation's numbers say, in plain English and Korean. Pure functions of records.

Out of scope: alignment (`study.verdict`, `study.claims`).
"""

from collections.abc import Mapping, Sequence

from sae_lens_med.evaluation.accuracy import ACCURACY, ACCURACY_PAPER
from sae_lens_med.evaluation.deferral import AREA
from sae_lens_med.languages import KOREAN, Sentence, number
from sae_lens_med.records import ItemResult, McqItem, MetricValue
from sae_lens_med.statistics import ALPHA

MEANINGS = {
    ACCURACY: Sentence(
        "share of questions answered correctly; a question without a readable answer counts as wrong",
        "맞힌 문항의 비율. 답을 읽을 수 없는 문항은 오답으로 셉니다",
    ),
    ACCURACY_PAPER: Sentence(
        "the same texts read by the rules of KorMedMCQA's authors, to compare with published numbers; these rules "
        "misread some Korean forms of an answer, so accuracy is the number to trust",
        "같은 글을 KorMedMCQA 저자들의 규칙으로 읽은 정확도로, 발표된 수치와 비교하기 위한 값입니다. 이 규칙은 한국어 "
        "답 표현을 일부 잘못 읽으므로 신뢰할 값은 accuracy입니다",
    ),
    AREA: Sentence(
        "mean accuracy of the questions that are left when the least confident ones are handed to a human, over all "
        "shares handed over; above its null, the model is right more often where its samples agree",
        "확신이 낮은 문항부터 사람에게 넘길 때 남은 문항의 정확도를 넘기는 비율 전체에 걸쳐 평균한 값. "
        "귀무값보다 높으면 표본들이 일치할 때 모델이 더 자주 맞힌다는 뜻입니다",
    ),
}
"""What each metric of an evaluation is."""

REASONS = {
    "no_answer": Sentence("the text names no option", "글에서 어떤 보기도 답으로 고르지 않음"),
    "truncated": Sentence(
        "the token limit cut the text off before an answer; raise --max-new-tokens",
        "답이 나오기 전에 토큰 한도에서 글이 잘림. --max-new-tokens를 늘리십시오",
    ),
    "ambiguous": Sentence("several options are claimed, none finally", "여러 보기를 답으로 들고 하나로 정하지 않음"),
    "refused": Sentence("the model declined to answer", "모델이 답하기를 거부함"),
}
"""Why an item has no answer, and what to do about it."""


def reason_sentences(reasons: Mapping[str, int]) -> list[tuple[str, int, Sentence]]:
    """Each reason with how many items have it, and what it means."""
    return [(reason, n, REASONS.get(reason, Sentence(reason, reason))) for reason, n in reasons.items()]


def deferral_sentence(metric: MetricValue) -> Sentence:
    """Whether agreement among the samples tells right answers from wrong ones."""
    null = number(metric.null_mean or 0.0)
    p = number(metric.p if metric.p is not None else 1.0)
    above = metric.p is not None and metric.p < ALPHA
    en = f"Mean accuracy when the least confident items are deferred: {number(metric.value)}, against {null} when "
    en += f"confidence says nothing (p = {p}): agreement among the samples "
    ko = (
        f"확신이 낮은 문항부터 유보할 때의 평균 정확도는 {number(metric.value)}이며, 확신에 아무 정보가 없을 때의 값은 "
    )
    ko += f"{null}입니다(p = {p}). 표본 간 일치는 정답과 오답을 "
    return Sentence(
        en + ("tells right answers from wrong ones." if above else "was not shown to tell right answers from wrong."),
        ko + ("구별해 줍니다." if above else "구별한다고 확인되지 않았습니다."),
    )


def find(metrics: Sequence[MetricValue], name: str, group: str, variant: str | None = None) -> MetricValue | None:
    """The metric of that name, group and (where given) variant, or None."""
    return next(
        (m for m in metrics if m.name == name and m.group == group and (variant is None or m.variant == variant)), None
    )


def chance_level(metric: MetricValue, items: Sequence[McqItem]) -> float | None:
    """Accuracy of guessing, in (0, 1]: the metric's own null mean or `chance`, else the mean of 1/options over `items`.

    `items` are the scored items of the metric's group; None when there are none and the metric does not say.
    """
    if metric.null_mean is not None:
        return metric.null_mean
    if "chance" in metric.extra:
        return metric.extra["chance"]
    return sum(1 / len(item.options) for item in items) / len(items) if items else None


def at_chance(metrics: Sequence[MetricValue], items: Sequence[McqItem], group: str = "all") -> bool:
    """Whether the model answers the items of a group no better than by guessing among the options (the interval of its
    accuracy reaches down to that), or than its liking for letters alone would (`letter_p`); False where no accuracy of
    the group says so."""
    metric = find(metrics, ACCURACY, group)
    if metric is None or metric.interval is None:
        return False
    chance = chance_level(metric, [item for item in items if item.answer is not None])
    guesses = chance is not None and metric.interval[0] <= chance
    return guesses or metric.extra.get("letter_p", 0.0) >= ALPHA


def accuracy_sentence(
    model: str, metrics: Sequence[MetricValue], items: Sequence[McqItem], results: Sequence[ItemResult]
) -> Sentence:
    """Accuracy over all items with its interval, and whether it differs from guessing or a liking for letters."""
    metric = find(metrics, ACCURACY, "all")
    scored = [r for r in results if r.correct is not None]
    if metric is None or not scored:
        return Sentence(
            "Accuracy was not measured: no item has a known gold answer.",
            "정답이 알려진 문항이 없어 정확도를 측정하지 않았습니다.",
        )
    with_gold = [item for item in items if item.answer is not None]
    chance = chance_level(metric, with_gold)
    right = sum(r.correct is True for r in scored)
    en = f"{model} answered {right} of {len(scored)} questions correctly: accuracy {number(metric.value)}"
    ko = (
        f"정확도: 모델({model})은 {KOREAN.count(len(scored))} 가운데 {right:,}개를 맞혔습니다. "
        f"정확도는 {number(metric.value)}"
    )
    if metric.interval is None or chance is None:
        en, ko = (
            f"{en}; without an interval it is not compared with guessing.",
            f"{ko}이며, 신뢰구간이 없어 무작위 추측과 비교하지 않습니다.",
        )
    else:
        low, high = metric.interval
        en += f" (95 % interval {number(low)} to {number(high)}), "
        ko += f"이며(95% 신뢰구간 {number(low)}~{number(high)}), 무작위 추측의 기댓값({number(chance)})"
        if low > chance:
            en, ko = f"{en}above the {number(chance)} that guessing would give.", f"{ko}보다 높습니다."
        elif high < chance:
            en, ko = f"{en}below the {number(chance)} that guessing would give.", f"{ko}보다 낮습니다."
        else:
            en = f"{en}not distinguishable from the {number(chance)} that guessing would give."
            ko = f"{ko}과 구별되지 않습니다."
    null, p = metric.extra.get("letter_null"), metric.extra.get("letter_p")
    if null is not None and p is not None:
        verb, verb_ko = ("above", "보다 높습니다") if p < ALPHA else ("not above", "보다 높지 않습니다")
        en += f" It is {verb} the {number(null)} that its liking for letters alone would give (p = {number(p)})."
        ko += f" 또한 특정 글자를 선호하는 것만으로 얻을 값({number(null)}){verb_ko}(p = {number(p)})."
    missing = sum(r.prediction is None for r in scored)
    if missing:
        en += f" Without an answer, counted as wrong: {missing}."
        ko += f" 답하지 않은 {KOREAN.count(missing)}은 오답으로 셉니다."
    return Sentence(en, ko)
