"""Rare words of options in explanations: which tokens do not count, in English and Korean; nothing else moves."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.data.leakage import PLACEHOLDER
from sae_lens_med.features.option_words import Compared, rare_option_words, without_option_words
from sae_lens_med.features.vectors import explained_items
from sae_lens_med.records import PARTS, FeatureActs, McqItem


def item(name: str, *options: str, language: str = "en") -> McqItem:
    return McqItem(name, "s", language, "Which is it?", options, 0, explanation="x")


def words(items: list[McqItem], texts: Sequence[str | None]) -> list[list[str]]:
    found = rare_option_words(items, texts)
    return [[(text or "")[a:b] for a, b in own] for own, text in zip(found, texts, strict=True)]


def test_rare_words_of_the_items_own_options_are_found_in_their_forms() -> None:
    items = [item("a", "Bronchial carcinoid tumour", "Gout"), item("b", "Iron tablets", "A cast")]
    texts = ["The CARCINOIDS, not a bronchial cyst; gouty.", "iron, tablet by tablet; carcinoid cast; castle."]
    assert words(items, texts) == [["CARCINOIDS", "bronchial"], ["iron", "tablet", "tablet", "cast"]]


def test_korean_words_are_found_before_a_particle_only() -> None:
    items = [item("a", "급성 심근경색", "와파린", language="ko"), item("b", "골절", "수혈", language="ko")]
    texts = ["심근경색이 의심되고 와파린은 급성기에 쓰지 않는다.", "심근경색에서는 골절을 보지 않으며 수혈도 않는다."]
    assert words(items, texts) == [["심근경색", "와파린"], ["골절", "수혈"]]


def test_a_word_that_many_explanations_hold_stays() -> None:
    items = [item(f"q{i}", f"Treatment with drug{'abcdefghij'[i]}", "None") for i in range(8)]
    texts: list[str | None] = [f"The treatment is drug{'abcdefghij'[i]}." for i in range(8)]
    assert words(items, texts) == [[f"drug{'abcdefghij'[i]}"] for i in range(8)]
    assert words(items[:3], texts[:3])[0] == ["treatment", "druga"]  # of three, each names its item
    assert words(items[:1], [None]) == [[]]


def _collected(texts: list[tuple[str, str]]) -> Compared:
    """Each word is a token; question and explanation of each item."""
    item_of, part, starts, ends = [], [], [], []
    for i, both in enumerate(texts):
        for kind, text in zip(("stem", "explanation"), both, strict=True):
            at = 0
            for word in text.split(" "):
                item_of.append(i)
                part.append(PARTS.index(kind))
                starts.append(at)
                ends.append(at + len(word))
                at += len(word) + 1
    n = len(item_of)
    acts = FeatureActs(
        item_ids=tuple("ab"),
        acts=sparse.csr_array(np.ones((n, 2), dtype=np.float32)),
        token_item=np.array(item_of, dtype=np.int32),
        token_part=np.array(part, dtype=np.uint8),
        token_id=np.zeros(n, dtype=np.int32),
        char_start=np.array(starts, dtype=np.int32),
        char_end=np.array(ends, dtype=np.int32),
        norm=np.ones(n, dtype=np.float32),
        error_norm=np.zeros(n, dtype=np.float32),
        excluded=np.arange(n) == 0,
    )
    own = {name: {"question": q, "explanation": e} for name, (q, e) in zip("ab", texts, strict=True)}
    means = np.zeros((2, 3), dtype=np.float32)
    return Compared(acts, own, means, means, np.ones(2, dtype=bool))


def test_their_tokens_do_not_count_and_their_wording_is_masked() -> None:
    features = _collected([("what carcinoid does", "a carcinoid, slow"), ("what does", "carcinoid gout")])
    items = [item("a", "The carcinoid", "None"), item("b", "Gout", "Carcinoid")]
    found = without_option_words(features, items)
    shown = [
        (int(i), int(p)) for i, p in zip(*np.array([features.acts.token_item, features.acts.token_part]), strict=True)
    ]
    stem, explanation = PARTS.index("stem"), PARTS.index("explanation")
    out = [pair for pair, excluded in zip(shown, found.acts.excluded, strict=True) if excluded]
    assert out == [(0, stem), (0, explanation), (1, explanation), (1, explanation)]
    assert found.acts.excluded[4]  # "carcinoid," and neither "a" nor "slow"
    assert found.texts["a"] == {"question": "what carcinoid does", "explanation": f"a {PLACEHOLDER * 9}, slow"}
    assert len(found.texts["b"]["explanation"]) == len("carcinoid gout")
    assert not features.acts.excluded[4] and features.texts["a"]["explanation"] == "a carcinoid, slow"
    # Of the second explanation nothing counts any more, so that the item is not compared.
    assert explained_items(features).tolist() == [True, True]
    assert explained_items(found).tolist() == [True, False]


@pytest.mark.parametrize("options", [("A", "B"), ("1", "20 mg"), ("가", "나"), ("The", "And")])
def test_options_without_content_words_mask_nothing(options: tuple[str, str]) -> None:
    features = _collected([("what", "the A and B of 20 mg"), ("what", "가 나 the and")])
    assert without_option_words(features, [item("a", *options), item("b", *options)]) is features
