"""Two dictionaries matched through words: planted truth across tokenisations, chance, literal counterparts."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.match_run import corrected
from sae_lens_med.knowledge_map.matching import (
    MATCHED,
    Match,
    correlations,
    halves_of_texts,
    match,
    max_cosine,
    one_to_one,
    stable,
)
from sae_lens_med.knowledge_map.words import (
    WordActs,
    Words,
    largest_share,
    pooled,
    top_words,
    word_spans,
    words_of_tokens,
)
from sae_lens_med.records import FloatArray, IntArray

VOCABULARY = ("환자는", "발열과", "기침", "diabetes", "of", "50", "Ménière", "두통이", "mg", "혈압")
FEATURES, COMMON = 30, 18


def some_texts(n: int, rng: np.random.Generator, length: int = 60) -> list[str]:
    """Words in random order, with spaces and punctuation between them."""
    return [
        "".join(f"{word}{rng.choice([' ', ', ', '. '])}" for word in rng.choice(VOCABULARY, length)) for _ in range(n)
    ]


def in_pieces(text: str, size: int) -> list[tuple[int, int]]:
    """Character spans of tokens of at most `size` characters; the space before a word belongs to its first token."""
    spans, start = [], 0
    for piece in text.split(" "):
        end = start + len(piece) + (0 if start == 0 else 1)
        spans += [(at, min(at + size, end)) for at in range(start, end, size)]
        start = end
    return spans


def on_tokens(
    words: Words, at_words: FloatArray, size: int, rng: np.random.Generator
) -> tuple[sparse.csr_array, IntArray]:
    """Token activations whose largest of each word are `at_words`, on one of its tokens at random, less on others."""
    rows, pairs, n = [], [], 0
    for text, spans, start in zip(words.texts, words.spans, words.starts, strict=False):
        tokens = in_pieces(text, size)
        touching = words_of_tokens(tokens, spans)
        acts = np.zeros((len(tokens), at_words.shape[1]))
        for word in range(len(spans)):
            own = touching[touching[:, 1] == word, 0]
            acts[own] = 0.3 * at_words[start + word]
            features = np.arange(at_words.shape[1])
            acts[rng.choice(own, len(features)), features] = at_words[start + word]
        rows.append(acts)
        pairs.append(touching + [n, start])
        n += len(tokens)
    return sparse.csr_array(np.concatenate(rows)), np.concatenate(pairs)


def sparse_acts(n: int, d: int, rng: np.random.Generator, rate: float = 0.1) -> FloatArray:
    return np.where(rng.random((n, d)) < rate, rng.exponential(size=(n, d)), 0)


def dictionary(acts: Any, name: str = "one", **changed: Any) -> WordActs:
    table: Any = sparse.csr_array(acts)
    n, d = table.shape
    values: dict[str, Any] = {
        "read": np.ones(n, dtype=bool),
        "word_share": np.zeros(d),
        "token_share": np.zeros(d),
    } | changed
    return WordActs(name, table, **values)


def matched(a: WordActs, b: WordActs, text_of: IntArray, seed: int = 0, **more: object) -> Match:
    choosing = halves_of_texts(int(text_of.max()) + 1, np.random.default_rng([seed, 1]))
    made = match(a, b, text_of, choosing, rng=np.random.default_rng([seed, 2]), **more)  # type: ignore[arg-type]
    assert made is not None
    return made


class TestWords:
    def test_are_runs_of_letters_and_digits_of_any_script(self) -> None:
        text = "환자는 38.5도, He's (50세)_x e\u0301t"
        assert [text[a:b] for a, b in word_spans(text)] == ["환자는", "38", "5도", "He", "s", "50세", "x", "e\u0301t"]

    def test_tokens_touch_the_words_that_they_share_a_character_with(self) -> None:
        words = word_spans("ab cd, e")  # (0, 2) (3, 5) (7, 8)
        tokens = [(0, 0), (0, 1), (1, 4), (4, 6), (6, 7), (6, 8)]
        expected = [
            [t, w]
            for t, (a, b) in enumerate(tokens)
            for w, (first, behind) in enumerate(words)
            if set(range(a, b)) & set(range(first, behind))
        ]
        assert words_of_tokens(tokens, words).tolist() == expected

    def test_tokens_of_a_split_syllable_all_touch_its_word(self) -> None:
        # The last token of the first word and both of the next syllable have the same or an earlier start.
        assert words_of_tokens([(0, 1), (0, 1), (1, 3), (2, 3), (2, 3)], ((0, 1), (2, 3))).tolist() == [
            [0, 0], [1, 0], [2, 1], [3, 1], [4, 1]
        ]  # fmt: skip

    def test_the_largest_of_a_words_tokens_counts(self) -> None:
        rng = np.random.default_rng(0)
        acts = sparse_acts(7, 4, rng, 0.6)
        pairs = np.array([(0, 0), (1, 0), (2, 0), (2, 2), (4, 2), (6, 3)])
        got = pooled(sparse.csr_array(acts), pairs, 5).toarray()
        for word in range(5):
            own = [acts[t] for t, w in pairs if w == word]
            np.testing.assert_array_equal(got[word], np.max(own, axis=0) if own else np.zeros(4))

    def test_a_lexical_feature_has_most_of_its_sum_on_one_kind(self) -> None:
        acts = np.array([[3.0, 1, 0], [2, 1, 0], [1, 1, 0], [0, 1, 0]])
        np.testing.assert_allclose(largest_share(sparse.csr_array(acts), np.array([7, 7, 2, 9])), [5 / 6, 2 / 4, 0])
        shares: dict[str, Any] = {
            "word_share": np.array([0.5, 0.51, 0.0, 0.1]),
            "token_share": np.array([0.2, 0.0, 0.9, 0.5]),
        }
        assert dictionary(np.ones((3, 4)), **shares).lexical.tolist() == [False, True, True, False]

    def test_the_top_words_are_told_once_each(self) -> None:
        acts = sparse.csc_array(np.array([[0.5, 0], [3, 0], [2, 0], [1, 0], [0, 1]]))
        assert top_words(acts, ["a", "b", "b", "c", "d"], 0, most=2) == ("b", "c")


@pytest.fixture(scope="module")
def planted() -> tuple[Words, WordActs, WordActs, IntArray]:
    """Two dictionaries on the same texts in two tokenisations: some features in common, in another order."""
    rng = np.random.default_rng(4)
    words = Words.of(some_texts(30, rng))
    n = int(words.starts[-1])
    common = sparse_acts(n, COMMON, rng)
    first = np.concatenate([common, sparse_acts(n, FEATURES - COMMON, rng)], axis=1)
    order = rng.permutation(FEATURES)
    second = np.concatenate([common, sparse_acts(n, FEATURES - COMMON, rng)], axis=1)[:, order]
    made = []
    for at_words, size in ((first, 1), (2.5 * second, 3)):
        acts, pairs = on_tokens(words, at_words, size, rng)
        assert len(pairs) > n  # several tokens a word
        made.append(dictionary(pooled(acts, pairs, n), f"in pieces of {size}"))
    return words, *made, order


class TestPlanted:
    def test_the_common_features_are_matched_exactly_and_only_these(
        self, planted: tuple[Words, WordActs, WordActs, IntArray]
    ) -> None:
        words, first, second, order = planted
        found = matched(first, second, words.text_of)
        assert found.row.share == pytest.approx(COMMON / FEATURES)
        assert found.row.n_matched == COMMON
        for (i, j), r in zip(found.pairs, found.r, strict=True):
            if order[j] < COMMON:
                assert i == order[j] and r == pytest.approx(1)
            else:
                assert r < 0.3
        assert found.row.p == 1 / 200 and found.row.null_high == 0
        assert found.row.interval == pytest.approx((COMMON / FEATURES, COMMON / FEATURES))

    def test_a_word_that_one_of_them_did_not_read_is_left_out(
        self, planted: tuple[Words, WordActs, WordActs, IntArray]
    ) -> None:
        words, first, second, _ = planted
        read = np.arange(int(words.starts[-1])) % 7 > 0
        broken = sparse.csr_array(np.where(read[:, None], second.acts.toarray(), 99.0))
        found = matched(first, dictionary(broken, read=read), words.text_of)
        assert found.row.n_matched == COMMON
        choosing = halves_of_texts(30, np.random.default_rng([0, 1]))
        assert found.row.n_words == int((read & ~choosing[words.text_of]).sum())

    def test_lexical_features_of_both_are_removed(self, planted: tuple[Words, WordActs, WordActs, IntArray]) -> None:
        words, first, second, order = planted
        shares = np.zeros(FEATURES)
        shares[:5] = 0.9  # five of the common ones in the first
        of_second = np.zeros(FEATURES)
        of_second[np.flatnonzero(order == 5)] = 0.9  # and a sixth in the second
        one, other = (dictionary(each.acts, token_share=s) for each, s in ((first, shares), (second, of_second)))
        kept = matched(one, other, words.text_of)
        removed = matched(one, other, words.text_of, lexical="removed")
        assert (kept.row.n_matched, removed.row.n_matched) == (COMMON, COMMON - 6)
        assert (removed.row.n_first, removed.row.n_second) == (FEATURES - 5, FEATURES - 1)
        assert removed.row.share == pytest.approx((COMMON - 6) / (FEATURES - 5))
        assert not np.isin(removed.pairs[:, 0], np.arange(5)).any()
        everything = dictionary(first.acts, word_share=np.ones(FEATURES))
        choosing = halves_of_texts(30, np.random.default_rng(0))
        rng = np.random.default_rng(0)
        assert match(everything, second, words.text_of, choosing, lexical="removed", rng=rng) is None

    def test_a_part_of_a_large_dictionary_is_matched_with_all_of_the_other(
        self, planted: tuple[Words, WordActs, WordActs, IntArray]
    ) -> None:
        words, first, second, order = planted
        found = matched(first, second, words.text_of, most_features=12)
        assert (found.row.n_first, found.row.n_second, len(found.pairs)) == (12, FEATURES, 12)
        own = found.pairs[:, 0]
        assert len(np.unique(own)) == 12
        assert found.row.n_matched == np.count_nonzero(own < COMMON)


class TestChance:
    def test_random_dictionaries_match_nothing(self) -> None:
        rng = np.random.default_rng(1)
        text_of = np.repeat(np.arange(40), 30)
        a, b = (dictionary(sparse_acts(1200, 60, rng)) for _ in range(2))
        row = matched(a, b, text_of).row
        assert (row.share, row.p) == (0, 1)
        # Chosen among 60 on one half: r is high there, and not on the other.
        assert abs(row.mean_r) < 0.05 < matched(a, b, text_of).chosen_r.mean()

    def test_features_that_fire_in_runs_are_significant_as_seldom_as_p_says(self) -> None:
        """A feature of a whole stretch of text correlates with others by chance; the null keeps the stretches."""
        hits, shares = 0, []
        for study in range(40):
            rng = np.random.default_rng([7, study])
            text_of = np.repeat(np.arange(20), 12)
            a, b = (
                dictionary(np.repeat(rng.random((20, 12)) < 0.3, 12, axis=0) * (1 + 0.1 * rng.random((240, 12))))
                for _ in range(2)
            )
            row = matched(a, b, text_of, study, permutations=39).row
            shares.append(row.share)
            hits += row.p < 0.05
        assert np.mean(shares) > 0.005  # so few stretches do match by chance
        assert hits <= 6  # binomial(40, 0.05): 99.7 %

    def test_a_copy_in_the_choosing_texts_alone_is_no_match(self) -> None:
        rng = np.random.default_rng(3)
        text_of = np.repeat(np.arange(40), 30)
        choosing = halves_of_texts(40, np.random.default_rng([0, 1]))
        a = sparse_acts(1200, 20, rng)
        b = np.where(choosing[text_of][:, None], a, sparse_acts(1200, 20, rng))
        found = matched(dictionary(a), dictionary(b), text_of)
        assert found.chosen_r.min() == pytest.approx(1) and found.row.share == 0


class TestLiterally:
    def test_correlations_are_numpys(self) -> None:
        rng = np.random.default_rng(0)
        a, b = sparse_acts(200, 5, rng, 0.4), sparse_acts(200, 7, rng, 0.4)
        a[:, 2] = 0
        b[:, 1] = 3.3
        got = correlations(sparse.csr_array(a), sparse.csr_array(b))
        for i, j in itertools.product(range(5), range(7)):
            expected = 0 if i == 2 or j == 1 else np.corrcoef(a[:, i], b[:, j])[0, 1]
            assert got[i, j] == pytest.approx(expected, abs=1e-12)

    def test_one_to_one_has_the_largest_sum_of_all_ways(self) -> None:
        r = np.random.default_rng(5).uniform(-1, 1, size=(4, 6))
        best = max(itertools.permutations(range(6), 4), key=lambda way: sum(r[i, j] for i, j in enumerate(way)))
        assert one_to_one(r).tolist() == [[i, j] for i, j in enumerate(best)]

    def test_r_null_and_interval_are_those_of_the_other_half(self) -> None:
        rng = np.random.default_rng(8)
        text_of = np.repeat(np.arange(24), 20)
        a = sparse_acts(480, 12, rng, 0.3)
        b = a[:, ::-1] + rng.normal(size=(480, 12)).clip(0) * rng.uniform(0.2, 1.2, 12)
        found = matched(dictionary(a), dictionary(b), text_of, permutations=50)
        choosing = halves_of_texts(24, np.random.default_rng([0, 1]))
        one, other = (np.flatnonzero(choosing[text_of] == half) for half in (True, False))
        for (i, j), chosen, r in zip(found.pairs, found.chosen_r, found.r, strict=True):
            assert chosen == pytest.approx(np.corrcoef(a[one, i], b[one, j])[0, 1])
            assert r == pytest.approx(np.corrcoef(a[other, i], b[other, j])[0, 1])
        assert found.row.share == np.mean(found.r > MATCHED)
        assert 0 < found.row.share < 1
        for threshold, share in zip(found.row.thresholds, found.row.curve, strict=True):
            assert share == np.mean(found.r > threshold)
        # The bootstrap, the slow way: texts drawn, their words put together.
        texts = np.unique(text_of[other])
        draws = np.random.default_rng(0).choice(texts, (400, len(texts)))
        shares = []
        for draw in draws:
            rows = np.concatenate([np.flatnonzero(text_of == text) for text in draw])
            shares.append([np.corrcoef(a[rows, i], b[rows, j])[0, 1] for i, j in found.pairs])
        middle = np.quantile(np.mean(shares, axis=1), [0.025, 0.975])
        np.testing.assert_allclose(found.row.mean_r_interval, middle, atol=0.15 * np.ptp(middle))
        matching = np.quantile(np.mean(np.array(shares) > MATCHED, axis=1), [0.025, 0.975])
        np.testing.assert_allclose(found.row.interval, matching, atol=0.01 + 1 / 12)  # one pair more or less
        assert np.ptp(matching) > 2 / 12

    def test_the_null_moves_words_and_keeps_how_often_a_feature_fires(self) -> None:
        """One pair of features that fire in every second word: shifted by an even number they match as before."""
        text_of = np.repeat(np.arange(20), 10)
        acts = np.tile([[1.0], [0.0]], (100, 1))
        row = matched(dictionary(acts), dictionary(acts), text_of, permutations=300).row
        assert row.share == 1
        assert 0.35 < row.null_mean < 0.65
        assert row.p > 0.35

    def test_the_mean_largest_cosine(self) -> None:
        a = np.array([[1.0, 0], [0, 2], [1, 1]])
        b = np.array([[3.0, 0], [-1, 1]])
        assert max_cosine(a, b) == pytest.approx((1 + np.sqrt(0.5) + np.sqrt(0.5)) / 3)

    def test_cosines_are_told_within_one_space_only(self) -> None:
        rng = np.random.default_rng(0)
        text_of = np.repeat(np.arange(20), 30)
        acts, directions = sparse_acts(600, 5, rng), rng.normal(size=(5, 8))
        here = dictionary(acts, directions=directions, space="a model at a hook")
        there = dictionary(acts, directions=directions, space="another")
        assert matched(here, here, text_of).row.cosine == pytest.approx(1)
        assert matched(here, there, text_of).row.cosine is None
        assert matched(dictionary(acts), dictionary(acts), text_of).row.cosine is None


def test_a_claim_on_one_feature_needs_three_seeds() -> None:
    rng = np.random.default_rng(2)
    text_of = np.repeat(np.arange(30), 40)
    a = sparse_acts(1200, 9, rng)
    others = []
    for lacking in ((0, 1), (1, 2)):
        b = a.copy()
        b[:, lacking] = sparse_acts(1200, 2, rng)
        others.append(matched(dictionary(a), dictionary(b), text_of))
    assert stable(others[:1], np.arange(9)) is None
    steady = stable(others, np.arange(9))
    assert steady is not None and np.flatnonzero(~steady).tolist() == [0, 1, 2]


def test_what_stands_out_lies_above_its_own_bounds() -> None:
    rng = np.random.default_rng(2)
    text_of = np.repeat(np.arange(30), 40)
    a = sparse_acts(1200, 10, rng)

    def shares(n: int) -> WordActs:
        b = sparse_acts(1200, 10, rng)
        b[:, :n] = a[:, :n]
        return dictionary(b)

    def rows(*found: tuple[str, str, str, int]) -> Sequence[object]:
        made = [matched(dictionary(a), shares(n), text_of, what=what, of=of) for _, what, of, n in found]
        named = [type(m.row).from_dict(m.row.to_dict() | {"second": f[0]}) for m, f in zip(made, found, strict=True)]
        return corrected(named)

    high = ("b", "second", "b", 4), ("b, shuffled", "shuffled", "b", 1), ("b, pca", "pca", "b", 3)
    low = ("c", "seed", "c", 6), ("c, shuffled", "shuffled", "c", 1), ("c, pca", "pca", "c", 6)
    found = rows(*high, *low)
    assert [row.stands_out for row in found] == [True, None, None, False, None, None]  # type: ignore[attr-defined]
    assert [row.q for row in found] == [1 / 200, None, None, 1 / 200, None, None]  # type: ignore[attr-defined]


def test_a_lower_bound_that_is_silent_has_no_row_and_stops_nothing() -> None:
    rng = np.random.default_rng(3)
    text_of = np.repeat(np.arange(30), 40)
    a = sparse_acts(1200, 10, rng)
    silent = dictionary(sparse_acts(1200, 10, rng, 0.0))
    choosing = halves_of_texts(30, rng)
    assert match(dictionary(a), silent, text_of, choosing, what="pca", of="b", rng=rng) is None
    [row] = corrected([matched(dictionary(a), dictionary(a), text_of).row])
    assert row.stands_out and row.share == 1


@pytest.mark.parametrize(
    ("n_texts", "rate", "message"),
    [(19, 0.1, "at least 20 texts"), (20, 0.0, "two has no feature that fires at 10 of the 300 words")],
)
def test_too_little_is_refused(n_texts: int, rate: float, message: str) -> None:
    rng = np.random.default_rng(0)
    text_of = np.repeat(np.arange(n_texts), 30)
    a, b = (sparse_acts(len(text_of), 4, rng, r) for r in (0.5, rate))
    with pytest.raises(DataError, match=message):
        matched(dictionary(a), dictionary(b, "two"), text_of)
