"""Collected features + items -> metrics #1 and #2 in memory, without a study folder.

For workflows that have features already (`features.collect`) and want the two similarity metrics with their nulls and
baselines. A finished study is measured by `study.measure.run_alignment`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.alignment.difference import MatchedMismatched, difference_by_item, measure_difference
from sae_lens_med.alignment.item_features import TOP_FEATURES, ItemFeatures, item_features
from sae_lens_med.alignment.retrieval import measure_retrieval
from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.features.vectors import Collected
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import BoolArray, McqItem, MetricValue


@dataclass(frozen=True, slots=True, eq=False)
class AlignmentResult:
    """What `align` returns."""

    metrics: tuple[MetricValue, ...]
    """Matched minus mismatched, MRR and R@k, for every variant and group that has enough items."""
    detail: MatchedMismatched | None
    """Metric #2 of the variant `sae` on the group `all`, item by item; None when no two items can be exchanged."""
    detail_ids: tuple[str, ...]
    """The items of `detail.matched` and `detail.mismatched_mean`, in order."""
    item_features: tuple[ItemFeatures, ...]
    """One entry per item, in order."""
    notes: tuple[str, ...]
    """What was not measured, and why; the sizes that the rules led to."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Those of `detail`; empty without it."""
        return {} if self.detail is None else self.detail.arrays


def align(
    features: Collected,
    items: Sequence[McqItem],
    *,
    groups: dict[str, BoolArray] | None = None,
    permutations: int = 2000,
    seed: int = 0,
    top_features: int = TOP_FEATURES,
) -> AlignmentResult:
    """Metrics #1 and #2 of collected features.

    Args:
        features: activations of `items`; `features.acts.item_ids` must be their ids, in order.
        items: the questions, with gold letter, subject and explanation.
        groups: name -> `[n_items]` bool; `all` is always measured and need not be given.
        permutations: B of every null, >= 1. The least p is 1 / (B + 1).
        seed: of permutations and bootstrap; equal inputs and seed give equal results.
        top_features: the most features in each list of an item.

    Raises `DataError` when items and features do not belong together or a group has the wrong length, `ConfigError`
    when B < 1. Groups with fewer than two explained items give no metric and a note.
    """
    inputs = Inputs(items=tuple(items), features=features, groups=groups or {}, permutations=permutations, seed=seed)
    ids, detail = difference_by_item(inputs) or ((), None)
    return AlignmentResult(
        metrics=(*measure_difference(inputs).metrics, *measure_retrieval(inputs).metrics),
        detail=detail,
        detail_ids=ids,
        item_features=tuple(item_features(inputs, top_features)),
        notes=inputs.view(Similarities).notes,
    )
