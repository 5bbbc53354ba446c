"""Words of a text, and what a dictionary does at them: the common ground of two models whose tokenisers do not agree.

    text -> words (runs of letters, digits and what combines with them) -> tokens that share a character with a word
    token activations [n_tokens, d] -> word activations [n_words, d], the largest of the word's tokens

Every occurrence is a row of its own: the same word in two places is two rows. Korean words are what stands between
spaces and punctuation, endings included. Arrays and texts only: no model.

**Lexical features** fire for one word or one token: more than half of a feature's activation, summed over the text,
lies on one word form (case folded), or on one token of the vocabulary. They match across dictionaries whatever these
have learned, so matches are given with and without them.

Out of scope: stems and endings, words over a line break, scripts that write no spaces between words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, IntArray

_WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
LEXICAL = 0.5
"""Share of a feature's activation on one word or token above which it is lexical."""


def word_spans(text: str) -> tuple[tuple[int, int], ...]:
    """First and behind-last character of each word, in order."""
    return tuple(match.span() for match in _WORD.finditer(text))


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of several texts, numbered through."""

    texts: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    """Of each text."""

    @staticmethod
    def of(texts: Sequence[str]) -> "Words":
        """Raises `DataError` when there is no word in any of them."""
        spans = tuple(map(word_spans, texts))
        if not any(spans):
            raise DataError("the texts have no words; name texts with letters in them.")
        return Words(tuple(texts), spans)

    @property
    def starts(self) -> IntArray:
        """Number of the first word of each text, and of all words at the end."""
        return np.concatenate([[0], np.cumsum([len(each) for each in self.spans])]).astype(np.int64)

    @property
    def text_of(self) -> IntArray:
        """`[n_words]`, the text that each word stands in."""
        return np.repeat(np.arange(len(self.texts)), np.diff(self.starts))

    @property
    def forms(self) -> tuple[str, ...]:
        """`[n_words]`, case folded."""
        return tuple(text[a:b].casefold() for text, spans in zip(self.texts, self.spans, strict=True) for a, b in spans)


def words_of_tokens(char_spans: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]]) -> IntArray:
    """`[n_pairs, 2]`: token and word of one text that share a character. Both are in the order of the text; tokens of a
    syllable that is split over several have the whole of it. A token without characters belongs to no word."""
    pairs: list[tuple[int, int]] = []
    first = 0
    for token, (start, end) in enumerate(char_spans):
        while first < len(words) and words[first][1] <= start:
            first += 1
        at = first
        while at < len(words) and words[at][0] < end:
            pairs.append((token, at))
            at += 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def pooled(acts: Any, pairs: IntArray, n_words: int) -> Any:
    """Word activations, CSR `[n_words, d]`: the largest of each word's tokens.

    Args:
        acts: CSR `[n_tokens, d]`, every value >= 0.
        pairs: `[n_pairs, 2]`, token and word.
    """
    spread = acts[pairs[:, 0]].tocoo()
    width = acts.shape[1]
    key = pairs[spread.row, 1] * width + spread.col
    order = np.argsort(key, kind="stable")
    key, values = key[order], spread.data[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    largest = np.maximum.reduceat(values, first) if len(first) else values
    cell = key[first]
    return sparse.csr_array((largest, (cell // width, cell % width)), shape=(n_words, width))


def largest_share(acts: Any, kind: IntArray) -> FloatArray:
    """`[d]`, in [0, 1]: the largest part of each feature's summed activation that lies on rows of one kind; 0 for a
    feature that never fires.

    Args:
        acts: CSR `[n, d]`, every value >= 0.
        kind: `[n]`, any numbers from 0: word form, or token of the vocabulary.
    """
    _, own = np.unique(kind, return_inverse=True)
    n = len(own)
    group = sparse.csr_array((np.ones(n), (own, np.arange(n))), shape=(int(own.max(initial=-1)) + 1, n))
    sums = sparse.csc_array(group @ acts.astype(np.float64))
    total = np.asarray(sums.sum(axis=0)).ravel()
    most = sums.max(axis=0).toarray().ravel()
    return np.divide(most, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True, slots=True, eq=False)
class WordActs:
    """One dictionary at the words of texts."""

    name: str
    acts: Any
    """CSR `[n_words, d]`, >= 0; nothing at words that were not read."""
    read: BoolArray
    """`[n_words]`: whether all of the word was read, some of it at tokens that count."""
    word_share: FloatArray
    """`[d]`, of `largest_share` over word forms."""
    token_share: FloatArray
    """`[d]`, of `largest_share` over the model's own tokens."""
    directions: FloatArray | None = None
    """`[d, d_in]`, what each feature writes; None where nothing is compared with it."""
    space: str = ""
    """Model and hook: directions are compared only where both have the same."""

    @property
    def lexical(self) -> BoolArray:
        """`[d]`: features of one word or one token."""
        return np.maximum(self.word_share, self.token_share) > LEXICAL


def top_words(acts: Any, forms: Sequence[str], feature: int, most: int = 5) -> tuple[str, ...]:
    """The words at which a feature is largest, each form once; `acts` is CSC `[n_words, d]`."""
    rows = acts.indices[acts.indptr[feature] : acts.indptr[feature + 1]]
    values = acts.data[acts.indptr[feature] : acts.indptr[feature + 1]]
    found = dict.fromkeys(forms[int(rows[at])] for at in np.argsort(-values, kind="stable"))
    return tuple(found)[:most]
