"""The contexts of features, as `FeatureRecord` has them: read around the strongest tokens that the index knows.

A context is at most `CONTEXT` whole characters' tokens of one text as it was run (the explanation masked), with the
strongest in its middle. Values are those of shown tokens (stem, options, explanation; none excluded), which every other
number of the index is over: no value is above the feature's maximum. The intervals are the tenths of the range from 0
to the maximum.

A piece at the edge of what was read may miss tokens that share its characters, and is left out.

Out of scope: which contexts (`feature_view.chosen_contexts`).
"""

import numpy as np

from sae_lens_med.app.feature_view import chosen_contexts
from sae_lens_med.app.index import BINS, TENTHS, shown_tokens
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.neuronpedia.form import CONTEXT, storable
from sae_lens_med.app.neuronpedia.record import Context
from sae_lens_med.app.neuronpedia.tokens import whole_tokens
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.features.store import TEXTS

READ = 192
"""Tokens that are read on either side of the strongest: a syllable may be three of them."""


def contexts_of(part: FeaturePart, index: Index, feature: int, datasets: list[str]) -> list[Context]:
    """The contexts of a feature that fires; `datasets`: of each case, what its texts belong to.

    A strongest token without characters has no context. Raises `StudyError` for a shard that cannot be read.
    """
    histogram = np.array(index.histogram(feature), dtype=np.int64)
    maximum, total = float(index.maximum[feature]), max(int(histogram.sum()), 1)
    counts = histogram.reshape(TENTHS, BINS // TENTHS).sum(axis=1)
    found = []
    for number, token, _ in chosen_contexts(index, feature):
        pieces = _around(part, feature, number, token)
        if pieces is None:
            continue
        item, tokens, values, peak, value = pieces
        tenth = min(int(value * BINS / maximum), BINS - 1) // (BINS // TENTHS)
        low, high = maximum * tenth / TENTHS, maximum * (tenth + 1) / TENTHS
        found.append(
            Context(
                item=item,
                token=token,
                dataset=datasets[number],
                tokens=tuple(tokens),
                values=tuple(values),
                peak=peak,
                interval=(min(low, value), max(high, value)),
                share=float(counts[tenth]) / total,
            )
        )
    return found


def _around(
    part: FeaturePart, feature: int, number: int, token: int
) -> tuple[str, list[str], list[float], int, float] | None:
    """The case's id, tokens, values, the piece of the strongest token, and its value."""
    first = max(0, token - READ)
    found = part.item(number, first, token + READ + 1)
    acts, at = found.acts, token - first
    kind = found.token_text[at]
    own = np.flatnonzero((found.token_text == kind) & (acts.char_end > acts.char_start))
    if at not in own:
        return None
    begin, end = int(acts.char_start[own].min()), int(acts.char_end[own].max())
    text = storable(found.texts[acts.item_ids[0]][TEXTS[kind]])[begin:end]
    rows, shown = acts.acts, shown_tokens(acts)
    fires = np.flatnonzero(rows.indices == feature)
    of_token = np.searchsorted(rows.indptr, fires, side="right") - 1
    value = dict(zip(of_token.tolist(), rows.data[fires].astype(np.float64).tolist(), strict=True))
    ranges = [(int(acts.char_start[t]) - begin, int(acts.char_end[t]) - begin, t) for t in own.tolist()]
    pieces, values, places = whole_tokens(text, ranges, {t: v for t, v in value.items() if shown[t] and v > 0})
    peak = places[at]
    goes_on = len(found.token_text) == token + READ + 1 - first and found.token_text[-1] == kind
    low = int(first > 0 and found.token_text[0] == kind and peak > 0)
    high = len(pieces) - int(goes_on and peak < len(pieces) - 1)
    start = max(low, min(peak - CONTEXT // 2, high - CONTEXT))
    stop = min(high, start + CONTEXT)
    return acts.item_ids[0], pieces[start:stop], values[start:stop], peak - start, value[at]
