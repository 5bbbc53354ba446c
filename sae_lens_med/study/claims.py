"""One plain sentence for each confirmatory number, in English and Korean: what it allows to be said, and what not.

Each metric brings its own claim (`Metric.claims`). A claim is allowed only when the number stands out (`counted`),
`SMALL_N` items carry it, and the explanations are not illustrative. Against every claim stand the limits that hold
here: a control that has learned nothing gives as much, shared words do, the explanations are a model's, the model
answers the items of the claim no better than by chance.

Effects of different variants are compared on a common scale: MRR itself, d_z for the difference, otherwise the distance
from the null in units of the null's own spread.

Out of scope: the verdict of the study itself (`verdict`), and verdicts on single features.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.sentences import at_chance
from sae_lens_med.languages import KOREAN, Language, Sentence, number
from sae_lens_med.metrics.metric import Metric
from sae_lens_med.records import McqItem, MetricValue
from sae_lens_med.statistics import SMALL_N
from sae_lens_med.study import verdict
from sae_lens_med.study.counted import Confirmatory, confirmatory

LEARNED_NOTHING = ("shuffled_decoder", "random_model")
WORDS = ("tfidf", "bm25")
VARIANT_NAMES = verdict.VARIANT_NAMES | {
    "bm25": "BM25",
    "shuffled_decoder": "SAE with shuffled directions",
    "random_model": "model with random weights",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What limits every reading of a study."""

    model_written: bool
    """Some explanations were written by a language model."""
    illustrative: bool
    at_chance: frozenset[str] = frozenset()
    """The groups of items (`all`, `left_out`, ...) that the model answers no better than by guessing, or than its
    liking for letters alone would."""
    reference_texts: bool = False
    """Some explanations are published texts that were not written to explain the items."""


def value_name(name: str) -> str:
    """A value's name as it is read: `retrieval mrr`."""
    return name.removeprefix("alignment/").replace("_", " ")


def title_of(entry: Confirmatory, language: Language) -> str:
    """The metric's title and what its value is called, or one of them where they are the same."""
    names = (language.name(entry.metric.title), language.name(value_name(entry.value.name)))
    return ", ".join(dict.fromkeys(names))


def sentence_of(
    entry: Confirmatory, values: Sequence[MetricValue], limits: Limits, apart: Collection[Sentence] = ()
) -> Sentence:
    """The sentence of one confirmatory number; `values` are all of the study, for its controls. Reservations that are
    said `apart`, for several numbers at once, are left out of it."""
    value, claim = entry.value, entry.metric.claims[entry.value.name]
    facts_en, facts_ko = _facts(entry)
    few = _items(value) < SMALL_N
    shown = entry.stands_out and not few and not limits.illustrative
    if shown:
        may = Sentence(f"that {claim.may.en}", _that(claim.may.ko))
    elif few or limits.illustrative:
        may = Sentence("only what these texts gave", "이 글들에서 나온 수치 자체뿐")
    elif held := entry.held_back:
        en, ko = "; and ".join(each.en for each in held), "; ".join(each.ko for each in held)
        may = Sentence(f"only the number itself, because {en}", f"수치 자체뿐({ko})")
    else:
        may = Sentence(
            "that no such effect was shown here, which is no proof that there is none",
            "여기서 그런 효과가 확인되지 않았다는 것(없다는 증거는 아님)",
        )
    may_not = [] if shown else [Sentence(f"that {claim.may.en}", _that(claim.may.ko))]
    may_not += [each for each in reservations(entry, values, limits) if each not in apart]
    where_en, where_ko = _where(value.group)
    en = (
        f"{entry.metric.title}, {value_name(value.name)}: on {value.n} {value.unit}{where_en} {number(value.value)} "
        f"({facts_en}). May be concluded: {may.en}."
    )
    ko = (
        f"{title_of(entry, KOREAN)}: "
        f"{KOREAN.count(value.n, value.unit)}{where_ko}에서 {number(value.value)}({facts_ko}). "
        f"내릴 수 있는 결론: {may.ko}."
    )
    if may_not:
        en += f" May not: {'; '.join(each.en for each in may_not)}."
        ko += f" 내릴 수 없는 결론: {'; '.join(each.ko for each in may_not)}."
    return Sentence(en, ko)


def shared_reservations(
    entries: Sequence[Confirmatory], values: Sequence[MetricValue], limits: Limits
) -> dict[Sentence, tuple[Metric, ...]]:
    """The reservations that hold for more than one metric, each with the metrics that it holds for."""
    held: dict[Sentence, dict[str, Metric]] = {}
    for entry in entries:
        for each in reservations(entry, values, limits):
            held.setdefault(each, {})[entry.metric.name] = entry.metric
    return {each: tuple(metrics.values()) for each, metrics in held.items() if len(metrics) > 1}


def limits_of(metrics: Sequence[MetricValue], items: Sequence[McqItem]) -> Limits:
    """From the study's own metrics (accuracy) and items."""
    sources = verdict.explanation_sources(items)
    groups = frozenset(m.group for m in metrics if m.name == ACCURACY and at_chance(metrics, items, m.group))
    return Limits(sources["model"] > 0, sources["illustrative"] > 0, groups, sources["reference"] > 0)


def warnings(values: Sequence[MetricValue], limits: Limits) -> tuple[Sentence, ...]:
    """What stands above all numbers: the material, the accuracy, too few items."""
    sentences: list[Sentence] = []
    if limits.illustrative:
        sentences.append(
            Sentence(
                "The explanations are illustrative: written to show the tool, reviewed by no clinician. No number here "
                "says anything about medicine.",
                "해설은 예시용이며 임상의의 검토를 받지 않았습니다. 여기의 어떤 수치도 의학에 관해 말하지 않습니다.",
            )
        )
    if limits.model_written:
        sentences.append(
            Sentence(
                "Explanations were written by a language model: alignment with them is not alignment with an expert.",
                "해설을 언어 모델이 작성했습니다. 이와의 일치는 전문가와의 일치가 아닙니다.",
            )
        )
    if limits.reference_texts:
        sentences.append(
            Sentence(
                "Explanations are published texts that were not written to explain these questions: alignment with "
                "them is not alignment with an expert.",
                "해설은 이 문항을 설명하려고 쓴 글이 아니라 공개된 문헌입니다. 이와의 일치는 전문가와의 일치가 "
                "아닙니다.",
            )
        )
    for group in sorted(limits.at_chance & {"all", "left_out"}):
        where_en, where_ko = ("", "") if group == "all" else (f" the items{_where(group)[0]}", _where(group)[1])
        sentences.append(
            Sentence(
                f"The model does not answer{where_en} above chance (guessing, or its liking for letters alone). "
                "Alignment can still say what it reads and represents; it cannot say that it answers rightly, or for "
                "the right reasons.",
                f"모델의 정확도가 무작위 추측이나 글자 선호만으로 얻는 수준보다 높지 않습니다{where_ko}. 일치도는 "
                "모델이 무엇을 읽고 표상하는지는 말할 수 있지만, 옳게 답한다거나 옳은 이유로 답한다고는 말할 수 "
                "없습니다.",
            )
        )
    few = sorted({_items(entry.value) for entry in confirmatory(values) if _items(entry.value) < SMALL_N})
    if few:
        sentences.append(
            Sentence(
                f"Some numbers rest on as few as {few[0]} items; fewer than {SMALL_N} carry no claim.",
                f"일부 수치는 {KOREAN.count(few[0])}에만 근거합니다. {KOREAN.count(SMALL_N)} 미만은 결론의 근거가 되지 "
                "못합니다.",
            )
        )
    return tuple(sentences)


def effect(value: MetricValue) -> float | None:
    """The size of an effect on the scale that variants are compared on (see the module); None where there is none."""
    if value.name == verdict.MRR:
        return value.value
    if "d_z" in value.extra:
        return value.extra["d_z"]
    if value.null_mean is None or value.null_interval is None:
        return None
    spread = (value.null_interval[1] - value.null_interval[0]) / 3.92
    return (value.value - value.null_mean) / spread if spread > 0 else None


def _that(clause: str) -> str:
    """A Korean clause in the form that stands for "that ..."."""
    return f"{clause[:-1]}라는 것" if clause.endswith("이다") else f"{clause}는 것"


def _items(value: MetricValue) -> int:
    """Items that a number rests on: concepts and features are counted over items or texts."""
    if value.unit == "items":
        return value.n
    return int(value.extra.get("items", value.extra.get("texts", value.n)))


def _facts(entry: Confirmatory) -> tuple[str, str]:
    value, en, ko = entry.value, [], []
    if value.interval is not None:
        low, high = (number(x) for x in value.interval)
        en.append(f"95 % interval {low} to {high}")
        ko.append(f"95% 신뢰구간 {low}~{high}")
    if value.null_mean is not None:
        en.append(f"null {number(value.null_mean)}")
        ko.append(f"귀무 평균 {number(value.null_mean)}")
    if value.p is not None and entry.q is not None:
        en.append(f"p = {number(value.p)}, q = {number(entry.q)}")
        ko.append(f"p = {number(value.p)}, q = {number(entry.q)}")
    else:
        en.append("no test")
        ko.append("검정 없음")
    return "; ".join(en), "; ".join(ko)


def _where(group: str) -> tuple[str, str]:
    if group == "left_out":
        return " left out of the SAE's training text", "(SAE 학습에서 제외)"
    return ("", "") if group == "all" else (f" ({group})", f"({group})")


def reservations(entry: Confirmatory, values: Sequence[MetricValue], limits: Limits) -> list[Sentence]:
    """What a number does not show, whatever it says: what limits it here, and what its metric never shows."""
    found: list[Sentence] = []
    value = entry.value
    if (n := _items(value)) < SMALL_N:
        found.append(
            Sentence(
                f"anything general, because {n} items are too few",
                f"일반적인 결론({KOREAN.count(n)}은 너무 적음)",
            )
        )
    if limits.illustrative:
        found.append(
            Sentence(
                "anything about medical reasoning, because the material is illustrative",
                "의학적 추론에 관한 주장(예시용 자료)",
            )
        )
    if limits.model_written and "explanations" in entry.metric.needs:
        found.append(
            Sentence(
                "agreement with an expert, because a language model wrote explanations",
                "전문가와의 일치(해설을 언어 모델이 작성함)",
            )
        )
    if limits.reference_texts and "explanations" in entry.metric.needs:
        found.append(
            Sentence(
                "agreement with an expert, because explanations are published texts not written to explain the items",
                "전문가와의 일치(해설이 문항을 설명하려고 쓴 글이 아니라 공개된 문헌임)",
            )
        )
    same = {v.variant: v for v in values if v.name == value.name and v.group == value.group}
    if as_much := _as_much(value, same, LEARNED_NOTHING):
        en, ko = _named(as_much)
        found.append(
            Sentence(
                f"that this was learned, because what has learned nothing gives at least as much ({en})",
                f"학습의 결과라는 것(학습하지 않은 {ko}도 같거나 더 큼)",
            )
        )
    if as_much := _as_much(value, same, WORDS):
        en, ko = _named(as_much)
        found.append(
            Sentence(
                f"that features add anything to shared words, because the words alone give at least as much ({en})",
                f"특징이 공통 단어 이상의 것을 보여 준다는 것({ko}만으로도 같거나 더 큼)",
            )
        )
    if entry.stands_out and not any(v in same for v in LEARNED_NOTHING) and "model" not in entry.metric.needs:
        found.append(
            Sentence(
                "that it takes training, because no control that has learned nothing was measured",
                "학습이 필요하다는 것(학습하지 않은 대조군을 측정하지 않음)",
            )
        )
    if value.group in limits.at_chance:
        found.append(
            Sentence(
                "that it serves right answers, because the model answers at chance",
                "정답에 쓰인다는 것(정확도가 무작위 수준)",
            )
        )
    never = entry.metric.claims[value.name].may_not
    return [*found, Sentence(f"that {never.en}", _that(never.ko))]


def _named(variants: Sequence[str]) -> tuple[str, str]:
    names = [VARIANT_NAMES[variant] for variant in variants]
    return ", ".join(names), ", ".join(KOREAN.name(name) for name in names)


def _as_much(value: MetricValue, same: dict[str, MetricValue], names: Sequence[str]) -> list[str]:
    """Those of `names` whose effect is at least that of `value`."""
    own = effect(value)
    found = []
    for name in names:
        other = effect(same[name]) if name in same else None
        if own is not None and other is not None and other >= own:
            found.append(name)
    return found
