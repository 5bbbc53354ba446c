"""Which questions are the same case told again: clusters of near-duplicates.

Collections of exam questions hold one vignette with two closing questions, in another year, or under another subject.
Such items agree in features, in concepts and in explanations at once, so that to count them apart is to count one thing
twice: a permutation that parts them breaks what no null may break, and a split that parts them tests a choice on what
it was made on. One item of a cluster is measured where items exchange (`one_of_each`), and a cluster lies on one side
of every split (`statistics.halves`).

Two questions are near-duplicates when their folded texts share at least `NEAR` of the weight of their n-grams of
characters,

    J = sum over shared n-grams of idf / sum over all n-grams of either of idf,    idf = ln(n / items that hold it)

so that wording that every question of a set has ("which of the following is correct?") weighs little. Clusters are the
connected components (single linkage). Of the 94,830 pairs of 436 CasiMedicos cases 71 lie above 0.5 and one between 0.2
and 0.5: the threshold stands in a gap. They make 47 clusters of 106 cases. It finds copies and light edits; a case told
in other words, or translated, it does not find.

Out of scope: options and explanations, which near-duplicates share or not.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import FloatArray, IntArray

NGRAM = 5
"""Characters of an n-gram."""
NEAR = 0.5
"""Share of the n-grams' weight that two questions must have in common."""

_ROWS = 512
"""Questions that are compared with all others at once."""


def near_duplicates(texts: Sequence[str]) -> IntArray:
    """`[n]`: the cluster of each text, numbered from 0 in the order of their first texts. A text that nothing
    resembles is a cluster of its own. Does not depend on the order of the texts, apart from the numbering."""
    from scipy.sparse.csgraph import connected_components

    n = len(texts)
    if n < 2:
        return np.zeros(n, dtype=np.int64)
    holds = _ngrams(texts)
    frequency = np.bincount(holds.indices, minlength=n_columns(holds))
    weights = np.log(n / np.maximum(frequency, 1))
    heavy = holds.copy()
    heavy.data = weights[holds.indices]
    total = np.asarray(heavy.sum(axis=1), dtype=np.float64)
    rows, columns = [], []
    for start in range(0, n, _ROWS):
        common = np.asarray((heavy[start : start + _ROWS] @ holds.T).toarray(), dtype=np.float64)
        near = _jaccard(common, total[start : start + _ROWS], total) >= NEAR
        row, column = np.nonzero(near)
        rows.append(row + start)
        columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    edges = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(n, n))
    _, labels = connected_components(edges, directed=False)
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[number]


def one_of_each(clusters: IntArray) -> IntArray:
    """Positions of the first item of each cluster, ascending; `clusters` `[n]` of the items at hand."""
    return np.sort(np.unique(clusters, return_index=True)[1])


def _jaccard(common: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """0 where neither text holds an n-gram that tells any texts apart: nothing says that they are one case."""
    either = left[:, None] + right[None] - common
    return np.divide(common, either, out=np.zeros_like(common), where=either > 1e-9)


def _ngrams(texts: Sequence[str]) -> sparse.csr_array:
    """CSR `[n, n_ngrams]` of ones: which n-grams each folded text holds; a shorter text is one n-gram."""
    number: dict[str, int] = {}
    rows: list[IntArray] = []
    for text in texts:
        plain = re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
        held = {plain[i : i + NGRAM] for i in range(max(1, len(plain) - NGRAM + 1))}
        rows.append(np.array(sorted(number.setdefault(gram, len(number)) for gram in held), dtype=np.int64))
    pointers = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows)
    return sparse.csr_array((np.ones(len(indices)), indices, pointers), shape=(len(texts), len(number)))
