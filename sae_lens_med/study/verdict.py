"""What a study's numbers allow to be said, in plain English and Korean.

Pure functions of records. The rules are cautious on purpose; a study is called aligned only when all of these hold:
the explanations are not illustrative, at least `SMALL_N` items carry the number, the one-sided permutation p is
below `ALPHA` and the value lies above its null. Model-written explanations are never called an expert's. Where the SAE
does not exceed TF-IDF on the same items, it shows nothing beyond shared words, and that is said.

The headline is `alignment/matched_minus_mismatched` of the SAE on the items that its training text left out, where
there are such items, otherwise on all. Differences of cosine in different spaces are on different scales, so SAE and
TF-IDF are compared by the paired effect size d_z and by the retrieval MRR.

Out of scope: causal claims (similarity is not use) and any statement about a patient.
"""

from collections import Counter
from collections.abc import Sequence

from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.sentences import at_chance, find
from sae_lens_med.languages import KOREAN, Sentence, number
from sae_lens_med.records import ExplanationSource, McqItem, MetricValue
from sae_lens_med.statistics import ALPHA, SMALL_N

DIFFERENCE = "alignment/matched_minus_mismatched"
MRR = "alignment/retrieval_mrr"

VARIANT_NAMES = {"sae": "SAE features", "raw": "raw activations", "pca": "PCA", "tfidf": "TF-IDF", "model": "model"}

SOURCE_TEXT: dict[ExplanationSource, str] = {
    "expert": "written by a human expert, as the data source states",
    "model": "written by a language model, not by an expert",
    "illustrative": "illustrative: written to show the tool, not from any exam, not reviewed by a clinician",
    "reference": "a published text (abstract, textbook, reference answer) that was not written to explain the item",
}


def headline(metrics: Sequence[MetricValue]) -> MetricValue | None:
    """The alignment number that the verdict rests on, or None when alignment was not measured."""
    return find(metrics, DIFFERENCE, "left_out", "sae") or find(metrics, DIFFERENCE, "all", "sae")


def alignment_sentences(
    metrics: Sequence[MetricValue], items: Sequence[McqItem], *, has_sae: bool
) -> tuple[Sentence, ...]:
    """The headline alignment with its null, then the baselines; or one statement why there is none."""
    metric = headline(metrics)
    if metric is None:
        return (_why_no_alignment(items, has_sae=has_sae),)
    where_en, where_ko = _where(metric)
    en = (
        f"On {metric.n} items{where_en}, the similarity between a question's SAE features and those of its own "
        f"explanation, minus the similarity to other explanations of the same stratum, is {number(metric.value)}"
    )
    ko = (
        f"{KOREAN.name('Matched minus mismatched similarity')}: {KOREAN.count(metric.n)}{where_ko}에서 질문과 자기 "
        "해설의 SAE 특징 유사도에서, 같은 층에 속한 다른 해설과의 유사도 평균을 뺀 값은 "
        f"{number(metric.value)}"
    )
    facts_en, facts_ko = [], []
    if metric.interval is not None:
        facts_en.append(f"95 % interval {number(metric.interval[0])} to {number(metric.interval[1])}")
        facts_ko.append(f"95% 신뢰구간 {number(metric.interval[0])}~{number(metric.interval[1])}")
    if metric.null_mean is not None:
        facts_en.append(f"null mean {number(metric.null_mean)}")
        facts_ko.append(f"귀무분포 평균 {number(metric.null_mean)}")
    if metric.null_interval is not None:
        facts_en.append(f"95 % of the null in {number(metric.null_interval[0])} to {number(metric.null_interval[1])}")
        facts_ko.append(f"귀무분포의 95%는 {number(metric.null_interval[0])}~{number(metric.null_interval[1])}")
    facts_en.append("no permutation test" if metric.p is None else f"one-sided p = {number(metric.p)}")
    facts_ko.append("순열검정 없음" if metric.p is None else f"단측 p = {number(metric.p)}")
    sentences = [Sentence(f"{en} ({'; '.join(facts_en)}).", f"{ko}입니다({'; '.join(facts_ko)}).")]
    if (baselines := _baselines(metrics, metric.group)) is not None:
        sentences.append(baselines)
    return tuple(sentences)


def _why_no_alignment(items: Sequence[McqItem], *, has_sae: bool) -> Sentence:
    if not has_sae:
        return Sentence(
            "Alignment was not measured: no SAE took part.", "SAE를 쓰지 않아 해설과의 일치도를 측정하지 않았습니다."
        )
    if all(item.explanation is None for item in items):
        return Sentence(
            "Alignment was not measured: none of the items has an explanation.",
            "해설이 있는 문항이 없어 해설과의 일치도를 측정하지 않았습니다.",
        )
    return Sentence(
        "Alignment was not measured: the study folder has no value for it.",
        "연구 폴더에 해설과의 일치도 값이 없습니다.",
    )


def _where(metric: MetricValue) -> tuple[str, str]:
    if metric.group == "left_out":
        return " left out of the SAE's training text", "(SAE 학습에서 제외된 문항)"
    return "", ""


def _baselines(metrics: Sequence[MetricValue], group: str) -> Sentence | None:
    listed: list[tuple[str, str]] = []
    for variant in ("sae", "raw", "pca", "tfidf"):
        difference, mrr = find(metrics, DIFFERENCE, group, variant), find(metrics, MRR, group, variant)
        facts = []
        if difference is not None:
            d_z = difference.extra.get("d_z")
            facts.append(f"difference {number(difference.value)}" if d_z is None else f"d_z {number(d_z)}")
        if mrr is not None:
            facts.append(f"MRR {number(mrr.value)}")
        if facts:
            listed.append((variant, ", ".join(facts)))
    if len(listed) < 2:
        return None
    en = "; ".join(f"{VARIANT_NAMES[variant]} {facts}" for variant, facts in listed)
    ko = "; ".join(f"{KOREAN.name(VARIANT_NAMES[variant])} {facts}" for variant, facts in listed)
    mrr = find(metrics, MRR, group, "sae")
    if mrr is not None and mrr.null_mean is not None:
        en += f" (MRR by chance {number(mrr.null_mean)})"
        ko += f" (무작위일 때 MRR {number(mrr.null_mean)})"
    return Sentence(
        f"Beside its baselines, on the scales that can be compared: {en}.",
        f"기준선 비교(서로 비교할 수 있는 척도): {ko}.",
    )


def beats_shared_words(metrics: Sequence[MetricValue], group: str) -> bool | None:
    """Whether the SAE exceeds TF-IDF on every number that compares them; None when no TF-IDF value is at hand."""
    sae, words = find(metrics, DIFFERENCE, group, "sae"), find(metrics, DIFFERENCE, group, "tfidf")
    sae_mrr, words_mrr = find(metrics, MRR, group, "sae"), find(metrics, MRR, group, "tfidf")
    pairs = []
    if sae_mrr is not None and words_mrr is not None:
        pairs.append((sae_mrr.value, words_mrr.value))
    if sae is not None and words is not None:
        if "d_z" in sae.extra and "d_z" in words.extra:
            pairs.append((sae.extra["d_z"], words.extra["d_z"]))
        elif not pairs:
            pairs.append((sae.value, words.value))
    return all(ours > theirs for ours, theirs in pairs) if pairs else None


def is_aligned(metric: MetricValue, sources: Counter[ExplanationSource]) -> bool:
    """Whether the headline number may be called alignment at all (module docstring)."""
    return (
        sources["illustrative"] == 0
        and metric.n >= SMALL_N
        and metric.p is not None
        and metric.p < ALPHA
        and metric.value > (metric.null_mean or 0.0)
    )


def explanation_sources(items: Sequence[McqItem]) -> Counter[ExplanationSource]:
    """How many explanations each kind of author wrote; empty when there are none."""
    return Counter(item.explanation_source for item in items if item.explanation_source is not None)


def conclusion(metrics: Sequence[MetricValue], items: Sequence[McqItem], *, has_sae: bool) -> Sentence:
    """One sentence: what may be concluded, and what may not."""
    metric, sources = headline(metrics), explanation_sources(items)
    illustrative = sources["illustrative"] > 0
    may_not: list[Sentence] = []
    if illustrative:
        may_not.append(
            Sentence(
                "any claim about medical reasoning: none is made, because the material is illustrative and no "
                "clinician reviewed it",
                "의학적 추론에 관한 모든 주장(예시용 자료이며 임상의의 검토를 받지 않음)",
            )
        )
    if metric is None:
        measured = find(metrics, ACCURACY, "all") is not None
        may = Sentence("only the accuracy above", "위의 정확도뿐") if measured else Sentence("nothing", "없음")
        why = _why_no_alignment(items, has_sae=has_sae)
        may_not.append(
            Sentence(
                f"anything about agreement with explanations ({why.en[0].lower()}{why.en[1:].rstrip('.')})",
                "해설과의 일치 여부(측정하지 않음)",
            )
        )
        return _sentence(may, may_not)
    may = _may(metric, sources, illustrative=illustrative)
    may_not += _may_not(metric, metrics, items, sources)
    return _sentence(may, may_not)


def _may(metric: MetricValue, sources: Counter[ExplanationSource], *, illustrative: bool) -> Sentence:
    n, (where_en, where_ko) = metric.n, _where(metric)
    if illustrative:
        return Sentence(
            f"only that the whole path runs and gave these numbers on {n} items",
            f"전체 과정이 실행되어 {KOREAN.count(n)}에서 이 수치가 나왔다는 것뿐",
        )
    if n < SMALL_N:
        return Sentence(f"only what these {n} items gave", f"이 {KOREAN.count(n)}에서 나온 수치 자체뿐")
    if not is_aligned(metric, sources):
        p_en = "no permutation test" if metric.p is None else f"p = {number(metric.p)}"
        p_ko = "순열검정 없음" if metric.p is None else f"p = {number(metric.p)}"
        return Sentence(
            f"that no alignment was shown on these {n} items{where_en} ({p_en}), which is no proof that there is none",
            f"이 {KOREAN.count(n)}{where_ko}에서 일치가 확인되지 않았다는 것({p_ko}; 일치가 없다는 증거는 아님)",
        )
    return Sentence(
        f"that on these {n} items{where_en} a question's SAE features resemble those of its own explanation more than "
        f"those of re-paired explanations (p = {number(metric.p or 0.0)})",
        f"이 {KOREAN.count(n)}{where_ko}에서 질문의 SAE 특징이 다시 짝지은 해설보다 자기 해설의 특징과 더 비슷하다는 것"
        f"(p = {number(metric.p or 0.0)})",
    )


def _may_not(
    metric: MetricValue, metrics: Sequence[MetricValue], items: Sequence[McqItem], sources: Counter[ExplanationSource]
) -> list[Sentence]:
    sentences: list[Sentence] = []
    if sources["model"] > 0:
        sentences.append(
            Sentence(
                "agreement with an expert, because the explanations were written by a language model, not an expert",
                "전문가와의 일치(해설은 전문가가 아니라 언어 모델이 작성함)",
            )
        )
    if sources["reference"] > 0:
        sentences.append(
            Sentence(
                "agreement with an expert, because the explanations are published texts that were not written to "
                "explain these questions",
                "전문가와의 일치(해설이 이 문항을 설명하려고 쓴 글이 아니라 공개된 문헌임)",
            )
        )
    if metric.n < SMALL_N:
        sentences.append(
            Sentence(
                f"anything general, because {metric.n} items are too few",
                f"일반적인 결론({KOREAN.count(metric.n)}은 너무 적음)",
            )
        )
    if metric.p is None or metric.p >= ALPHA or metric.value <= (metric.null_mean or 0.0):
        p_en = (
            "was not tested against a null"
            if metric.p is None
            else f"does not stand out from its null (p = {number(metric.p)})"
        )
        p_ko = "귀무분포와 비교하지 않음" if metric.p is None else f"귀무분포와 구별되지 않음, p = {number(metric.p)}"
        sentences.append(
            Sentence(
                f"that the model is aligned with the explanations, because the number {p_en}",
                f"모델이 해설과 일치한다는 것({p_ko})",
            )
        )
    if (beats := beats_shared_words(metrics, metric.group)) is False:
        sentences.append(
            Sentence(
                "that SAE features add anything beyond shared words, because plain TF-IDF does as well or better",
                "SAE 특징이 공통 단어 이상의 것을 보여 준다는 것(단순 TF-IDF가 같거나 더 나음)",
            )
        )
    elif beats is None:
        sentences.append(
            Sentence(
                "that SAE features add anything beyond shared words, because no TF-IDF baseline was measured",
                "SAE 특징이 공통 단어 이상의 것을 보여 준다는 것(TF-IDF 기준선을 측정하지 않음)",
            )
        )
    else:
        sentences.append(
            Sentence(
                "that the lead over shared words is more than chance, because the difference to TF-IDF was not tested",
                "공통 단어(TF-IDF)보다 나은 정도가 우연을 넘는다는 것(그 차이는 검정하지 않음)",
            )
        )
    if metric.group == "all" and find(metrics, DIFFERENCE, "trained_on", "sae") is not None:
        sentences.append(
            Sentence(
                "that this holds for text that the SAE has not been trained on",
                "SAE가 학습하지 않은 글에서도 그렇다는 것",
            )
        )
    if at_chance(metrics, items, metric.group):
        sentences.append(
            Sentence(
                "that these features serve the right answer, because the model does not answer above chance",
                "이 특징이 정답에 쓰인다는 것(모델의 정확도가 무작위 추측보다 높지 않음)",
            )
        )
    sentences.append(
        Sentence(
            "that the model uses these features to answer, because similarity is not a causal test",
            "모델이 답할 때 이 특징을 사용한다는 것(유사도는 인과 검정이 아님)",
        )
    )
    return sentences


def _sentence(may: Sentence, may_not: Sequence[Sentence]) -> Sentence:
    en = "; ".join(f"({i}) {each.en}" for i, each in enumerate(may_not, 1))
    ko = "; ".join(f"({i}) {each.ko}" for i, each in enumerate(may_not, 1))
    return Sentence(
        f"What may be concluded: {may.en}; what may not: {en}.",
        f"내릴 수 있는 결론: {may.ko}; 내릴 수 없는 결론: {ko}.",
    )
