"""Alignment of the model's features with the explanation: similarity, retrieval, nulls and baselines.

`align` makes every number of a study; the functions beneath it work on plain arrays.
"""

from sae_lens_med.alignment.retrieval import AlignmentResult, ItemFeatures, SharedFeature, align

__all__ = ["AlignmentResult", "ItemFeatures", "SharedFeature", "align"]
