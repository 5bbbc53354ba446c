"""The texts on which each feature is strongest: how a feature is shown to a person.

For each feature, the tokens are ranked by activation; of each item and part only the strongest token counts, so that
the contexts come from different texts. Ties go to the earlier item, then the earlier part (question before explanation,
then the order of `PARTS`), then the earlier token. Excluded tokens (special tokens, activation sinks) do not count.

One pass: the k best so far of every feature are kept while the item parts go by, so that the cost does not grow with
the number of features looked at.

Out of scope: naming features, and ranking by anything but the activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.data.leakage import joins_previous
from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.features.store import TEXTS, CollectedFeatures
from sae_lens_med.records import PARTS, Record


@dataclass(frozen=True, slots=True)
class Context(Record):
    """One token on which a feature is strong, in its text: `before + token + after` is a piece of what was run."""

    feature: int
    value: float
    """Activation, > 0."""
    item_id: str
    part: str
    """One of `PARTS`."""
    before: str
    token: str
    """Whole characters: of a syllable that is split over tokens, all of it."""
    after: str


def top_contexts(
    features: CollectedFeatures, k: int = 8, window_chars: int = 60, parts: Sequence[str] = PARTS
) -> dict[int, list[Context]]:
    """The `k` strongest contexts of every feature that fires on a counted token of `parts`.

    Args:
        features: what `collect` wrote.
        k: most contexts of a feature, >= 1; at most one per item and part of a text.
        window_chars: characters shown on either side, >= 0; one or two more where a written character would be cut.
        parts: parts of the items to look at; `other` is scaffold (option letters, the answer slot).

    Returns feature -> contexts, strongest first; features by index. Raises `ConfigError` for a value out of range.
    """
    if k < 1 or window_chars < 0:
        raise ConfigError(f"k must be at least 1 and window_chars at least 0, got {k} and {window_chars}.")
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"{part!r} is not a part of an item{nearest(part, PARTS) or '; use ' + ', '.join(PARTS)}")
    values, rows = _best(features, k, [PARTS.index(part) for part in parts])
    found: dict[int, list[Context]] = {}
    for feature in np.flatnonzero(rows[:, 0] >= 0).tolist():
        tokens = rows[feature][rows[feature] >= 0].tolist()
        found[feature] = [
            _context(features, feature, value, token, window_chars)
            for value, token in zip(values[feature].tolist(), tokens, strict=False)
        ]
    return found


def _best(
    features: CollectedFeatures, k: int, parts: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """`[d_sae, k]` values, descending, and the tokens they are at; -1 where there are fewer than k."""
    acts = features.acts
    n_features = int(acts.acts.shape[1])  # type: ignore[index]  # SciPy's own annotations leave the shape of an array open
    values = np.zeros((n_features, k), dtype=np.float32)
    tokens = np.full((n_features, k), -1, dtype=np.int64)
    group = (acts.token_item.astype(np.int64) * len(TEXTS) + features.token_text) * len(PARTS) + acts.token_part
    counted = np.flatnonzero(~acts.excluded & np.isin(acts.token_part, parts))
    counted = counted[np.argsort(group[counted], kind="stable")]
    ends = np.flatnonzero(np.diff(group[counted])) + 1
    strongest = np.zeros(n_features, dtype=np.float32)
    first = np.zeros(n_features, dtype=np.int64)
    for rows in np.split(counted, ends):
        own = acts.acts[rows]
        row_of = np.repeat(rows, np.diff(own.indptr))
        np.maximum.at(strongest, own.indices, own.data)
        at_most = np.flatnonzero(own.data == strongest[own.indices])[::-1]
        # Backwards: where several tokens tie, the assignment that stays is the first token's.
        first[own.indices[at_most]] = row_of[at_most]
        # Strictly above: what came earlier wins ties.
        better = np.flatnonzero(strongest > values[:, -1])
        pool = np.concatenate([values[better], strongest[better, None]], axis=1)
        at = np.concatenate([tokens[better], first[better, None]], axis=1)
        order = np.argsort(-pool, axis=1, kind="stable")[:, :k]
        values[better] = np.take_along_axis(pool, order, axis=1)
        tokens[better] = np.take_along_axis(at, order, axis=1)
        strongest[own.indices] = 0
    return values, tokens


def _context(features: CollectedFeatures, feature: int, value: float, token: int, window: int) -> Context:
    acts = features.acts
    item_id = acts.item_ids[acts.token_item[token]]
    text = features.texts[item_id][TEXTS[features.token_text[token]]]
    start, end = int(acts.char_start[token]), int(acts.char_end[token])
    left, right = max(0, start - window), min(len(text), end + window)
    # A window must not begin or end inside a written character (decomposed syllables, combining marks).
    while 0 < left < start and joins_previous(text[left]):
        left -= 1
    while end < right < len(text) and joins_previous(text[right]):
        right += 1
    part = PARTS[acts.token_part[token]]
    return Context(feature, value, item_id, part, text[left:start], text[start:end], text[end:right])
