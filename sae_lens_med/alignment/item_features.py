"""The strongest features of each item: on both sides, in the question only, in the explanation only.

Out of scope: whether sharing them means anything (`overlap`), and what they do to the answer.
"""

from typing import TypedDict

import numpy as np
from scipy import sparse

from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import FloatArray, IntArray

TOP_FEATURES = 10
"""Features that each list of `ItemFeatures` holds at most."""


class SharedFeature(TypedDict):
    """One feature of an item; `stem` and `explanation` are its maximum on that side times its IDF weight, >= 0."""

    feature: int
    stem: float
    explanation: float


class ItemFeatures(TypedDict):
    """The strongest features of one item. All three lists are empty for an item without an explanation."""

    id: str
    shared: list[SharedFeature]
    """Active on both sides, by the smaller of the two values, largest first."""
    stem_only: list[SharedFeature]
    """Active on the stem side only."""
    explanation_only: list[SharedFeature]
    """Active on the explanation side only."""


def item_features(inputs: Inputs, top: int = TOP_FEATURES) -> list[ItemFeatures]:
    """One entry per item, in order; at most `top` features in each list."""
    pooled = inputs.pooled
    row_of = {int(i): row for row, i in enumerate(pooled.explained)}
    entries: list[ItemFeatures] = []
    for i, item in enumerate(inputs.items):
        entry: ItemFeatures = {"id": item.id, "shared": [], "stem_only": [], "explanation_only": []}
        if (row := row_of.get(i)) is not None:
            (left, stem), (right, explanation) = _positive(pooled.stems, row), _positive(pooled.explanations, row)
            both, at, to = np.intersect1d(left, right, assume_unique=True, return_indices=True)
            entry["shared"] = _top(both, stem[at], explanation[to], np.minimum(stem[at], explanation[to]), top)
            alone = ~np.isin(left, both)
            entry["stem_only"] = _top(left[alone], stem[alone], np.zeros(len(left)), stem[alone], top)
            alone = ~np.isin(right, both)
            entry["explanation_only"] = _top(
                right[alone], np.zeros(len(right)), explanation[alone], explanation[alone], top
            )
        entries.append(entry)
    return entries


def _positive(side: sparse.csr_array, row: int) -> tuple[IntArray, FloatArray]:
    """The features of a row and their values; without those that every text has, whose weight is 0."""
    start, end = side.indptr[row], side.indptr[row + 1]
    features = np.asarray(side.indices[start:end], dtype=np.int64)
    values = np.asarray(side.data[start:end], dtype=np.float64)
    return features[values > 0], values[values > 0]


def _top(
    features: IntArray, stem: FloatArray, explanation: FloatArray, rank_by: FloatArray, top: int
) -> list[SharedFeature]:
    """The `top` features with the largest `rank_by`; of equals the lower index."""
    order = np.lexsort((features, -rank_by))[:top]
    return [{"feature": int(features[k]), "stem": float(stem[k]), "explanation": float(explanation[k])} for k in order]
