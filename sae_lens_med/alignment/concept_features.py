"""Which features stand for a concept in what is done to a model (#9, #10, #11; labels of #13): those that fire on the
concept's own words.

Over the counted stem tokens of the study's questions, one of each cluster of near-duplicates, for concept c with n_c
mentions and feature f:

    recall     share of the mentions of c on which f fires, at any of their tokens
    precision  share of the tokens on which f fires that are tokens of c's mentions
    F1         their harmonic mean: the features of a concept are the `most` with the largest

of those that fire on the mentions more often than elsewhere: binomial p of the hits among n_c, with the chance of a
span of as many tokens at the firing rate outside of c's mentions, Benjamini-Hochberg over all pairs of concept and
feature.

A feature that fires elsewhere in the questions that name the concept (a cue that goes along with it, a place, a sex) is
not chosen, as it would be by which questions it fires in. The expert's words about the concept play no part.

Out of scope: how well features tell which questions name a concept (`concept_tests`, #4 and #5).
"""

from functools import cached_property

import numpy as np

from sae_lens_med.concepts.matching import mentions_in_spans
from sae_lens_med.features.concept_words import Words, features_of_words
from sae_lens_med.features.vectors import STEM_PARTS, counted_tokens
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import IntArray


class ConceptFeatures:
    """Of one study; `inputs.view(ConceptFeatures)`."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @cached_property
    def ranked(self) -> dict[str, tuple[int, ...]]:
        """Concept id -> all features that fire on its mentions more often than elsewhere, best first."""
        labels = self.inputs.concepts
        if labels is None:
            return {}
        mention, token, concept = self._mentions
        acts = self.inputs.features.acts
        counted = np.zeros(len(acts.token_item), dtype=bool)
        counted[counted_tokens(acts, STEM_PARTS)] = True
        counted &= np.isin(acts.token_item, self.inputs.distinct("all"))
        ids = labels.concepts.ids
        live = int(np.count_nonzero(np.bincount(self.inputs.pooled.stem_maxima.indices)))
        words = Words(mention, token, concept, self._questions)
        found = features_of_words(acts.acts, counted, words, self.inputs.pooled.mask.kept, live)
        return {ids[number]: features for number, features in found.items()}

    @cached_property
    def _questions(self) -> IntArray:
        """`[C]`, how many different questions name each concept."""
        labels = self.inputs.concepts
        assert labels is not None  # who asks has looked
        return labels.stem[self.inputs.distinct("all")].sum(axis=0).astype(np.int64)

    @cached_property
    def _mentions(self) -> tuple[IntArray, IntArray, IntArray]:
        """Pairs of a mention and one of its tokens (two arrays of equal length), and the concept of each mention."""
        labels, acts = self.inputs.concepts, self.inputs.features.acts
        assert labels is not None  # who asks has looked
        column = {name: k for k, name in enumerate(labels.concepts.ids)}
        tokens = np.flatnonzero(counted_tokens(acts, STEM_PARTS))
        tokens = tokens[np.argsort(acts.token_item[tokens], kind="stable")]
        bounds = np.searchsorted(acts.token_item[tokens], np.arange(len(acts.item_ids) + 1))
        matcher = labels.matcher()
        mention: list[int] = []
        token: list[int] = []
        concept: list[int] = []
        for i in self.inputs.distinct("all").tolist():
            item = self.inputs.items[i]
            found = matcher.find(item.question)
            own = tokens[bounds[i] : bounds[i + 1]]
            for each in mentions_in_spans(found, item.question_spans) if labels.annotated else found:
                touched = own[(acts.char_start[own] < each.end) & (acts.char_end[own] > each.start)]
                if len(touched):
                    mention += [len(concept)] * len(touched)
                    token += touched.tolist()
                    concept.append(column[each.concept_id])
        return np.array(mention, np.int64), np.array(token, np.int64), np.array(concept, np.int64)


def concept_features(inputs: Inputs, most: int | None = None) -> dict[str, tuple[int, ...]]:
    """Concept id -> at most `most` features that stand for it (the study's `concept_features` when not given), best
    first; concepts without one are left out."""
    most = inputs.settings.concept_features if most is None else most
    return {concept: ranked[:most] for concept, ranked in inputs.view(ConceptFeatures).ranked.items()}
