"""Which items of a study the SAE has seen in training, as its release tells.

`left_out`: items whose id the SAE's release lists as kept out of its training text. `trained_on`: the other
items of a data set of which some are left out (that data set is then a source of the training text). Items of data sets
with no left-out item belong to neither: nothing says that the SAE has seen them.
"""

from collections.abc import Collection, Sequence

import numpy as np

from sae_lens_med.records import BoolArray, McqItem


def item_groups(
    items: Sequence[McqItem], left_out_ids: Collection[str] | None
) -> tuple[dict[str, BoolArray], list[str]]:
    """`left_out` and `trained_on` as `[n_items]` bools (see the module), each only where it has items; and notes.

    `left_out_ids` is the release's list; None where the SAE says nothing about it.
    """
    if left_out_ids is None:
        return {}, ["The SAE does not say which items its training text left out, so they are not reported apart."]
    left_out = np.array([item.id in left_out_ids for item in items], dtype=bool)
    sources = {_data_set(item) for item, is_out in zip(items, left_out, strict=True) if is_out}
    trained_on = np.array([_data_set(item) in sources for item in items], dtype=bool) & ~left_out
    groups = {name: mask for name, mask in (("left_out", left_out), ("trained_on", trained_on)) if mask.any()}
    if groups:
        return groups, []
    return {}, ["None of the items is listed as left out of the SAE's training text, so groups are not reported apart."]


def _data_set(item: McqItem) -> tuple[str | None, str | None]:
    return item.provenance.get("dataset"), item.provenance.get("split")
