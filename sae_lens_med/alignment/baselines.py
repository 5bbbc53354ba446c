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
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sae_lens_med.data.leakage import PLACEHOLDER
from sae_lens_med.errors import DataError
from sae_lens_med.features.vectors import counted_tokens, idf_weights, n_columns, weighted
from sae_lens_med.records import FeatureActs, FloatArray

NGRAMS = (2, 3, 4)
"""Lengths of the character n-grams; at most 4, so that an n-gram of 16-bit characters fits 64 bits."""

_K1, _B = 1.5, 0.75


def standardised(means: npt.NDArray[np.floating]) -> FloatArray:
    """`[n, d]`, per dimension mean 0 and standard deviation 1 over the items; a dimension that does not vary is 0.

    Raises `DataError` when a value is not finite.
    """
    array = np.asarray(means, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DataError(f"the mean activations of row {bad} are not finite; collect the features again.")
    centred = array - array.mean(axis=0)
    spread = centred.std(axis=0)
    # Rounding of a constant column is not a spread.
    spread = np.where(spread > 1e-9 * np.abs(array).max(axis=0, initial=0.0), spread, 0.0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def token_code_size(acts: FeatureActs) -> int:
    """k of the `pca` baseline: the median number of features that fire on a counted token, at least 1."""
    fires = np.diff(acts.acts.indptr)[counted_tokens(acts)]
    return max(1, round(float(np.median(fires)))) if len(fires) else 1


def principal_components(stems: FloatArray, explanations: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Both sides (`[n, d]`, centred) on their first `min(size, rank)` common principal components."""
    both = np.concatenate([stems, explanations])
    _, singular, directions = np.linalg.svd(both, full_matrices=False)
    rank = int(np.count_nonzero(singular > 1e-9 * singular[0]))
    basis = directions[: max(1, min(size, rank))].T
    return stems @ basis, explanations @ basis


def tfidf(stems: Sequence[str], explanations: Sequence[str]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Both sides as CSR `[n, n_ngrams]`, weighted; see the module's text for the formula.

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
    """CSR `[n_texts, n_ngrams]` of counts, columns in the order of the packed n-grams."""
    keys, rows = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for row, text in enumerate(texts):
        # Split before NFKC, which would write the placeholder as three full stops.
        for piece in text.split(PLACEHOLDER):
            plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", piece).casefold()).strip()
            # Characters outside the first plane (rare: emoji) share 16-bit codes with others; 0 is never a character.
            codes = np.frombuffer(plain.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64) & np.uint64(0xFFFF)
            for length in NGRAMS:
                if len(codes) < length:
                    continue
                packed = np.zeros(len(codes) - length + 1, dtype=np.uint64)
                for offset in range(length):
                    packed = (packed << np.uint64(16)) | codes[offset : len(codes) - length + 1 + offset]
                keys.append(packed)
                rows.append(np.full(len(packed), row, dtype=np.int64))
    vocabulary, columns = np.unique(np.concatenate(keys), return_inverse=True)
    every_row = np.concatenate(rows)
    shape = (len(texts), max(1, len(vocabulary)))
    counts = sparse.coo_array((np.ones(len(every_row)), (every_row, columns)), shape).tocsr()
    counts.sum_duplicates()
    return counts
