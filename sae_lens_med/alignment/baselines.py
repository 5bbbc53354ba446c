"""The same comparison without the SAE: raw activations, their principal components, and the words alone.

An alignment of SAE features says something about the features only where it differs from these:

- `raw`: the mean residual of each side, standardised per dimension over the items, stems and explanations each by their
  own mean and standard deviation. What sets the two kinds of text apart (style, language, exam format) is the same
  offset for every item and vanishes; so do the few huge dimensions of a residual stream.
- `pca`: `raw` on the first k principal components of both sides together. k is the median number of SAE features that
  fire on a counted token, so that the code has the SAE's size per token; it is capped by the rank.
- `tfidf`: the words: counts of character n-grams (2 to 4 characters; Korean inflects, so word tokens would split one
  noun into many), `(1 + ln tf) * ln((1 + M) / (1 + df))`. Alignment that TF-IDF already shows is shared wording.
- `bm25`: the words once more, as search engines weigh them (Robertson & Zaragoza 2009), on the same n-grams.

Out of scope: what needs a run of its own (`controls`: an SAE with shuffled directions, a model with random weights).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from sae_lens_med.data.leakage import PLACEHOLDER
from sae_lens_med.features.vectors import counted_tokens, idf_weights, n_columns, weighted
from sae_lens_med.records import FeatureActs, FloatArray

NGRAMS = (2, 3, 4)
"""Lengths of the character n-grams."""

_K1, _B = 1.5, 0.75


def token_code_size(acts: FeatureActs) -> int:
    """k of the `pca` baseline: the median number of features that fire on a counted token, at least 1."""
    fires = np.diff(acts.acts.indptr)[counted_tokens(acts)]
    return max(1, round(float(np.median(fires)))) if len(fires) else 1


def principal_components(stems: FloatArray, explanations: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Both sides (`[n, d]`, centred) on their first `min(size, rank)` common principal components."""
    both = np.concatenate([stems, explanations])
    # Not scikit-learn's `PCA`: the same decomposition, centred once more, which moves the cosines in the 14th digit.
    _, singular, directions = np.linalg.svd(both, full_matrices=False)
    rank = int(np.count_nonzero(singular > 1e-9 * singular[0]))
    basis = directions[: max(1, min(size, rank))].T
    return stems @ basis, explanations @ basis


def tfidf(stems: Sequence[str], explanations: Sequence[str]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Both sides as CSR `[n, n_ngrams]`, weighted; see the module's text for the formula.

    The weights are those of SAE features; scikit-learn's `TfidfVectorizer` adds 1 to the logarithm, so that an n-gram
    that every text has would count.

    Texts are compared after NFKC, case folding and joining of white space. The placeholder of masked text breaks
    n-grams: none goes across it.
    """
    n = len(stems)
    counts = _ngram_counts([*stems, *explanations])
    counts.data = 1.0 + np.log(counts.data)
    left, right = counts[:n], counts[n:]
    weights = idf_weights(left, right)
    return weighted(left, weights), weighted(right, weights)


def bm25(stems: Sequence[str], explanations: Sequence[str]) -> FloatArray:
    """`[n, n]` in [0, 1): BM25 of every stem as a query (its distinct n-grams) with every explanation as a document,

        sum_t idf_t tf_t / (tf_t + k1 (1 - b + b length / mean length))  /  sum_t idf_t,   k1 = 1.5, b = 0.75

    as a share of the most that a text could score for this stem, which leaves every ranking as it is. `idf_t = ln(1 +
    (n - df + 1/2) / (df + 1/2))` over the explanations. A stem without n-grams has 0 with all.
    """
    n = len(stems)
    counts = _ngram_counts([*stems, *explanations])
    query, document = counts[:n], sparse.csr_array(counts[n:])
    query.data = np.ones_like(query.data)
    frequency = np.bincount(document.indices, minlength=n_columns(counts))
    idf = np.log1p((n - frequency + 0.5) / (frequency + 0.5))
    length = np.asarray(document.sum(axis=1), dtype=np.float64)
    scale = _K1 * (1 - _B + _B * length / max(float(length.mean()), 1e-12))
    document.data = document.data / (document.data + np.repeat(scale, np.diff(document.indptr)))
    score = (weighted(query, idf) @ document.T).toarray()
    most = np.asarray(query @ idf)
    return np.divide(score, most[:, None], out=np.zeros_like(score), where=most[:, None] > 0)


def _ngram_counts(texts: Sequence[str]) -> sparse.csr_array:
    """CSR `[n_texts, n_ngrams]` of counts, columns in the order of length and characters."""
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(any(_ngrams(text)) for text in texts):  # refused by scikit-learn
        return sparse.csr_array((len(texts), 1))
    vectorizer = CountVectorizer(analyzer=_ngrams, dtype=np.float64)  # type: ignore[arg-type]  # inferred from defaults
    counts = sparse.csr_array(vectorizer.fit_transform(texts))
    counts.sort_indices()
    return counts


def _ngrams(text: str) -> Iterator[tuple[int, str]]:
    # Split before NFKC, which would write the placeholder as three full stops.
    for piece in text.split(PLACEHOLDER):
        plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", piece).casefold()).strip()
        for length in NGRAMS:
            for start in range(len(plain) - length + 1):
                yield length, plain[start : start + length]
