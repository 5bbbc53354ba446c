"""Features that fire on the words of a concept, more often than elsewhere: what `alignment.concept_features` and
`circuits.expert` choose a concept's features by; the measure and its test are told there.

Works on arrays, of any texts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.records import BoolArray, IntArray
from sae_lens_med.statistics import ALPHA, benjamini_hochberg

MIN_NAMED = 6
"""Questions that must name a concept before features stand for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Where concepts are named."""

    mention: IntArray
    """With `token`, pairs of a mention and one of its tokens."""
    token: IntArray
    concept: IntArray
    """`[mentions]`, the concept of each."""
    questions: IntArray
    """`[C]`, how many different questions name each concept."""


def features_of_words(
    acts: sparse.csr_array, counted: BoolArray, words: Words, kept: BoolArray, live: int
) -> dict[int, tuple[int, ...]]:
    """Concept -> all features that fire on its mentions more often than elsewhere, best (F1) first.

    Args:
        acts: `[n_tokens, d_sae]`, of all texts.
        counted: `[n_tokens]`, tokens that count; those of mentions are among them.
        words: where concepts are named.
        kept: `[d_sae]`, features that may be chosen.
        live: features that fire at all, over which tests are corrected.
    """
    mention, token, concept = words.mention, words.token, words.concept
    if not len(mention):
        return {}
    fires = sparse.csr_array(acts > 0, dtype=np.float64)
    total = np.asarray(fires[np.flatnonzero(counted)].sum(axis=0)).ravel()
    n_concepts, n_mentions = len(words.questions), len(concept)
    per_mention = sparse.csr_array((np.ones(len(token)), (mention, token)), (n_mentions, len(counted))) @ fires
    per_mention = sparse.csr_array(per_mention > 0, dtype=np.float64)
    of_concept = sparse.csr_array((np.ones(n_mentions), (concept, np.arange(n_mentions))), (n_concepts, n_mentions))
    named = np.asarray(of_concept.sum(axis=1)).ravel()
    # A token of two mentions of one concept is one token.
    inside = sparse.csr_array((np.ones(len(token)), (concept[mention], token)), (n_concepts, len(counted)))
    inside.sum_duplicates()
    inside.data = np.ones_like(inside.data)
    n_inside = np.asarray(inside.sum(axis=1)).ravel()
    hits, tokens_in = sparse.coo_array(of_concept @ per_mention), sparse.csr_array(inside @ fires)
    c, f = hits.coords
    chosen = kept[f] & (words.questions[c] >= MIN_NAMED)
    c, f, hit = c[chosen].astype(np.int64), f[chosen].astype(np.int64), hits.data[chosen]
    if not len(c):
        return {}
    both = np.asarray(tokens_in[c, f]).ravel()
    recall, precision = hit / named[c], both / total[f]
    f1 = 2 * recall * precision / (recall + precision)
    outside = (total[f] - both + 0.5) / (counted.sum() - n_inside[c] + 1)
    pairs = max(len(c), live * int(np.count_nonzero(words.questions >= MIN_NAMED)))
    q = _corrected(hit, named[c], 1 - (1 - outside) ** (n_inside[c] / named[c]), pairs)
    found: dict[int, tuple[int, ...]] = {}
    for number in np.unique(c[q <= ALPHA]).tolist():
        own = np.flatnonzero((c == number) & (q <= ALPHA))
        best = own[np.lexsort((f[own], -f1[own]))]
        found[number] = tuple(f[best].tolist())
    return found


def _corrected(hit: np.ndarray, n: np.ndarray, chance: np.ndarray, pairs: int) -> np.ndarray:
    """Adjusted p of each pair that has a hit, over all pairs of a concept that counts and a live feature."""
    from scipy.stats import binom  # importing it takes a second

    p = binom.sf(hit - 1, n, chance)
    return benjamini_hochberg(np.concatenate([p, np.ones(pairs - len(p))]))[: len(p)]
