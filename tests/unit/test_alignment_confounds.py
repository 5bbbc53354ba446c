"""Studies whose only signal is no alignment: question length, language, shared option text. `align` must not call them
aligned; and each time the signal is there to be called: without the guard that is meant against it, it is.

Features are words: each word of the texts has one feature, which fires where the word stands.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.stats import binom

from sae_lens_med.alignment.align import align
from sae_lens_med.alignment.concept_features import concept_features
from sae_lens_med.alignment.feature_tests import mention_p
from sae_lens_med.alignment.feature_verdicts import _mentioned
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import Concept, ConceptSet
from sae_lens_med.data.leakage import PLACEHOLDER, mask_leakage
from sae_lens_med.metrics.inputs import Inputs, label_concepts
from sae_lens_med.records import PARTS, FeatureActs, McqItem, MetricValue

Array = np.ndarray
N, STUDIES, B = 48, 15, 99
AT_MOST = int(binom.ppf(0.999, STUDIES, 0.05))
"""Rejections at 5 % in `STUDIES` studies without alignment: more than that have a probability below 0.1 %."""
SYLLABLES = "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호"


@dataclass(frozen=True)
class Words:
    """Collected features of texts whose words are their features."""

    acts: FeatureActs
    texts: dict[str, dict[str, str]]
    raw_mean_stem: Array
    raw_mean_explanation: Array
    has_explanation: Array


def _collected(items: list[McqItem], rng: np.random.Generator, masked: bool = True) -> Words:
    vocabulary: dict[str, int] = {}
    rows: list[int] = []
    item_of, part_of, start, end = [], [], [], []
    texts: dict[str, dict[str, str]] = {}
    for i, item in enumerate(items):
        assert item.explanation is not None
        explanation = mask_leakage(item).text if masked else item.explanation
        texts[item.id] = {"question": item.question, "explanation": explanation}
        for part, text in (("stem", item.question), ("explanation", explanation)):
            for word in re.finditer(r"\S+", text):
                rows.append(vocabulary.setdefault(word[0], len(vocabulary)))
                item_of.append(i)
                part_of.append(PARTS.index("other" if PLACEHOLDER in word[0] else part))
                start.append(word.start())
                end.append(word.end())
    n = len(rows)
    strength = 1 + rng.gamma(2.0, size=n)
    acts = sparse.csr_array((strength, (np.arange(n), rows)), shape=(n, len(vocabulary)), dtype=np.float32)
    tokens = FeatureActs(
        item_ids=tuple(item.id for item in items),
        acts=acts,
        token_item=np.array(item_of, np.int32),
        token_part=np.array(part_of, np.uint8),
        token_id=np.array(rows, np.int32),
        char_start=np.array(start, np.int32),
        char_end=np.array(end, np.int32),
        norm=np.ones(n, np.float32),
        error_norm=np.zeros(n, np.float32),
        excluded=np.zeros(n, bool),
    )
    raw = rng.normal(size=(2, len(items), 8)).astype(np.float32)
    return Words(tokens, texts, raw[0], raw[1], np.ones(len(items), bool))


def _korean(k: int) -> str:
    return SYLLABLES[k % len(SYLLABLES)] + SYLLABLES[k // len(SYLLABLES) % len(SYLLABLES)] + "증"


def _english(k: int) -> str:
    return "".join(chr(97 + k // 26**power % 26) for power in range(3)) + "ia"


def _item(i: int, rng: np.random.Generator, stem: str, explanation: str, language: str = "en") -> McqItem:
    return McqItem(
        id=f"q{i}",
        subject=f"subject{i % 3}",
        language=language,
        question=stem,
        options=("alphaxin", "betaxin", "gammaxin", "deltaxin"),
        answer=int(rng.integers(4)),
        explanation=explanation,
        explanation_source="expert",
    )


def _words(rng: np.random.Generator, n: int, word: Callable[[int], str], of: int = 400) -> str:
    """`n` words of a vocabulary whose k-th word is 1 / (k + 2) as frequent as the first."""
    p = 1 / np.arange(2, of + 2)
    return " ".join(word(int(k)) for k in rng.choice(of, n, p=p / p.sum()))


NAMES = ("matched_minus_mismatched", "retrieval_mrr")


def _values(case: Words, items: list[McqItem], variant: str = "sae") -> list[MetricValue]:
    """Of `NAMES`."""
    metrics = align(case, items, permutations=B).metrics
    return [next(m for m in metrics if m.name.endswith(name) and m.variant == variant) for name in NAMES]


def _value(case: Words, items: list[McqItem]) -> MetricValue:
    return _values(case, items)[0]


def _rejected(studies: list[list[MetricValue]]) -> list[int]:
    """How many studies each of `NAMES` calls aligned."""
    return [sum(m.p is not None and m.p <= 0.05 for m in values) for values in zip(*studies, strict=True)]


def _rejected_unadjusted(studies: list[list[MetricValue]]) -> list[int]:
    return [sum(m.extra["unadjusted_p"] <= 0.05 for m in values) for values in zip(*studies, strict=True)]


def _long_with_long(seed: int) -> tuple[Words, list[McqItem]]:
    rng = np.random.default_rng([seed, 1])
    items = []
    for i in range(N):
        size = rng.normal()
        stem, explanation = (int(np.exp(3.3 + 1.0 * (size + 0.2 * rng.normal()))) + 3 for _ in range(2))
        items.append(_item(i, rng, _words(rng, stem, _english), _words(rng, explanation, _english)))
    return _collected(items, rng), items


def test_length_alone_is_not_alignment() -> None:
    measured = [_values(*_long_with_long(seed)) for seed in range(STUDIES)]
    assert max(_rejected(measured)) <= AT_MOST
    # Long stems do resemble long explanations: what is not adjusted is called aligned.
    assert _rejected_unadjusted(measured)[0] > AT_MOST


def _two_languages(seed: int) -> tuple[Words, list[McqItem]]:
    rng = np.random.default_rng([seed, 2])
    items = []
    for i in range(N):
        language, word = (("ko", _korean), ("en", _english))[int(rng.integers(2))]
        items.append(_item(i, rng, _words(rng, 40, word), _words(rng, 40, word), language))
    return _collected(items, rng), items


def test_language_alone_is_not_alignment() -> None:
    studies = [_two_languages(seed) for seed in range(STUDIES)]
    assert max(_rejected([_values(*study) for study in studies])) <= AT_MOST
    # Strata keep the languages apart; were all questions said to be in one language, plain similarity would be called
    # aligned.
    said = [_values(case, [replace(item, language="en") for item in items]) for case, items in studies[:5]]
    assert _rejected_unadjusted(said)[0] == 5


def test_features_of_a_script_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(0)
    case, items = _two_languages(0)
    hangul = np.array([case.texts[items[i].id]["question"][0] > "z" for i in case.acts.token_item])
    # One more feature: it fires on every third word of Korean texts, whatever they say.
    fires = sparse.csr_array((hangul & (rng.random(len(hangul)) < 0.33)).astype(np.float32)[:, None] * 5)
    joined = sparse.csr_array(sparse.hstack([case.acts.acts, fires]), dtype=np.float32)
    wider = replace(case, acts=replace(case.acts, acts=joined))
    assert _value(wider, items).masked["script_features"] == _value(case, items).masked["script_features"] + 1


def _option_in_both(seed: int, masked: bool) -> tuple[Words, list[McqItem]]:
    """The stem names one of its own options, and the explanation repeats it, with the letter of the answer."""
    rng = np.random.default_rng([seed, 3])
    items = []
    for i in range(N):
        options = tuple(f"{_english(1000 + 4 * i + k)} acid" for k in range(4))
        answer = int(rng.integers(4))
        named = options[int(rng.integers(4))]
        stem, explanation = (_words(rng, 40, _english).split() for _ in range(2))
        stem.insert(20, named)
        explanation.insert(20, f"{named}. The answer is {'ABCD'[answer]}.")
        plain = _item(i, rng, " ".join(stem), " ".join(explanation))
        items.append(replace(plain, options=options, answer=answer))
    return _collected(items, rng, masked), items


def test_shared_option_text_alone_is_not_alignment() -> None:
    measured = [_values(*_option_in_both(seed, masked=True)) for seed in range(STUDIES)]
    assert max(_rejected(measured)) <= AT_MOST
    masked = [value.masked for values in measured for value in values]
    assert all(m["option_text_chars"] >= N * 8 and m["answer_marks"] == N for m in masked)
    # Unmasked explanations are called aligned in every study, by the features and by the words, where the words are not
    # known for those of options: what is left of them would be left out of the measure, too.
    for variant in ("sae", "tfidf"):
        unmasked = []
        for seed in range(3):
            collected, items = _option_in_both(seed, masked=False)
            unmasked.append(
                _values(collected, [replace(item, options=("a", "b", "c", "d")) for item in items], variant)
            )
        assert min(_rejected(unmasked)) == 3


def test_the_words_baseline_is_masked_too() -> None:
    measured = [_values(*_option_in_both(seed, masked=True), "tfidf") for seed in range(STUDIES)]
    assert max(_rejected(measured)) <= AT_MOST


def test_what_the_expert_says_in_other_words_of_the_question_is_alignment() -> None:
    """The same studies with a shared word that is no option: found, so that the guards above cost no signal."""
    found = []
    for seed in range(5):
        rng = np.random.default_rng([seed, 4])
        items = []
        for i in range(N):
            stem, explanation = (f"{_words(rng, 40, _english)} {_english(5000 + i)}" for _ in range(2))
            items.append(_item(i, rng, stem, explanation))
        found.append(_value(_collected(items, rng), items).p)
    assert all(p == 1 / (B + 1) for p in found)


def test_a_cue_that_goes_along_with_a_concept_is_not_the_concepts_feature() -> None:
    """Every question that names asthma names Seoul, too. By which questions it fires in, the feature of Seoul would be
    as much one of asthma; and a feature that fires on every word of asthma and on a fifth of all others is less one."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(60):
        words = _words(rng, 30, _english).split()
        if i % 2:
            words[7], words[19] = "asthma", "Seoul"
        items.append(_item(i, rng, " ".join(words), _words(rng, 20, _english)))
    words = _collected(items, rng)
    matcher = ConceptMatcher(ConceptSet((Concept("asthma", "disease", ("asthma",)),), "by hand"))
    written = [
        words.texts[items[i].id]["question" if part == PARTS.index("stem") else "explanation"][a:b]
        for i, part, a, b in zip(
            words.acts.token_item, words.acts.token_part, words.acts.char_start, words.acts.char_end, strict=True
        )
    ]
    often = np.array([word == "asthma" for word in written]) | (rng.random(len(written)) < 0.2)
    acts = sparse.csr_array(sparse.hstack([sparse.csr_array(often[:, None].astype(np.float32)), words.acts.acts]))
    study = Inputs(
        items=tuple(items),
        features=replace(words, acts=replace(words.acts, acts=acts)),
        concepts=label_concepts(items, words.texts, matcher),
    )
    own = int(acts[[written.index("asthma")]].indices.max())
    assert concept_features(study) == {"asthma": (own, 0)}


def test_long_explanations_alone_do_not_mention_a_feature() -> None:
    """Long questions have long explanations, and both have more of everything."""
    p, unadjusted = [], []
    for seed in range(10):
        case, items = _long_with_long(seed)
        study = Inputs(items=tuple(items), features=case, permutations=B)
        stems, explanations = study.pooled.stems, study.pooled.explanations
        features = np.flatnonzero(np.bincount(stems.indices) >= 5)
        p += _mentioned(study, features, np.zeros(0, dtype=np.int64)).tolist()
        drawn = study.explained_groups[0].permutations
        unadjusted += mention_p(stems, explanations, features, drawn).tolist()
    assert np.mean(np.array(p) <= 0.05) <= 0.06
    assert np.mean(np.array(unadjusted) <= 0.05) > 0.15
