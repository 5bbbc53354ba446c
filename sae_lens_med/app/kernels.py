"""The loops of `index` over the tokens of a shard, compiled.

Everything is kept per feature, in arrays that the loops add to. The strongest cases and the sample are heaps whose root
is the entry that goes first when a better one comes; of equals the earlier item stays, so that nothing depends on how
the items were cut into shards.
"""

import numba
import numpy as np
import numpy.typing as npt

from sae_lens_med.records import BoolArray, IntArray

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Uint32 = npt.NDArray[np.uint32]

_jit = numba.njit(nogil=True, cache=True)


@_jit
def priority(seed: int, feature: int, item: int) -> int:
    """A number in [0, 2^32) that looks drawn at random, always the same for the same three (SplitMix64)."""
    x = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(feature) * np.uint64(0xBF58476D1CE4E5B9)
    x = x + np.uint64(item) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((x ^ (x >> np.uint64(31))) >> np.uint64(32))  # type: ignore[return-value]  # to numba they are alike


@_jit
def _goes_first(value: float, item: int, other: float, other_item: int) -> bool:
    """Whether an entry of this value is given up before the other: the weaker, of equals the later item."""
    return value < other or (value == other and item > other_item)


@_jit
def _down(value: Float32, item: Int32, token: Int32, at: int, size: int) -> None:
    """Let the entry at `at` sink to its place in a heap of `size` entries."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _goes_first(value[child + 1], item[child + 1], value[child], item[child]):
            child += 1
        if not _goes_first(value[child], item[child], value[at], item[at]):
            return
        value[at], value[child] = value[child], value[at]
        item[at], item[child] = item[child], item[at]
        token[at], token[child] = token[child], token[at]
        at = child


@_jit
def _heap(value: Float32, item: Int32, token: Int32, size: int) -> None:
    """Make a heap of the first `size` entries."""
    for at in range(size // 2 - 1, -1, -1):
        _down(value, item, token, at, size)


@_jit
def _keep(value: Float32, item: Int32, token: Int32, size: int, v: float, i: int, t: int) -> None:
    """Add an entry to the `size` that there are; where all places are taken, which makes them a heap, in that of the
    one that goes first."""
    if size < len(value):
        value[size], item[size], token[size] = v, i, t
        if size + 1 == len(value):
            _heap(value, item, token, size + 1)
    elif _goes_first(value[0], item[0], v, i):
        value[0], item[0], token[0] = v, i, t
        _down(value, item, token, 0, size)


@_jit
def _last(key: Uint32, item: Int32) -> int:
    """Where the largest key is, of equals that of the latest item."""
    at = 0
    for j in range(1, len(key)):
        if key[j] > key[at] or (key[j] == key[at] and item[j] > item[at]):
            at = j
    return at


@_jit
def _draw(key: Uint32, value: Float32, item: Int32, token: Int32, size: int, k: int, v: float, i: int, t: int) -> None:
    """Keep the entries with the smallest keys; where all places are taken, the largest stands first."""
    if size < len(key):
        at = size
    elif key[0] > k:
        at = 0
    else:
        return
    key[at], value[at], item[at], token[at] = k, v, i, t
    if size + 1 >= len(key):
        at = _last(key, item)
        key[0], key[at] = key[at], key[0]
        value[0], value[at] = value[at], value[0]
        item[0], item[at] = item[at], item[0]
        token[0], token[at] = token[at], token[0]


@_jit
def add_tokens(
    indptr: IntArray,
    indices: Int32,
    data: Float32,
    bounds: IntArray,
    first: int,
    seed: int,
    shown: BoolArray,
    counted: BoolArray,
    hangul: BoolArray,
    latin: BoolArray,
    explanation: BoolArray,
    explained: BoolArray,
    count: IntArray,
    total: npt.NDArray[np.float64],
    maximum: Float32,
    n_items: Int32,
    fires: IntArray,
    vectors: IntArray,
    top_value: Float32,
    top_item: Int32,
    top_token: Int32,
    sample_key: Uint32,
    sample_value: Float32,
    sample_item: Int32,
    sample_token: Int32,
    cases: npt.NDArray[np.uint8],
    least: Float32,
    limit: IntArray,
) -> None:
    """Add the tokens of a shard.

    `bounds` `[n + 1]`: where each item's tokens begin; `first`: number of the first item. Per token (bool): `shown`
    counts for what is shown of a feature; `counted`, `hangul`, `latin` for the mask; `explanation` says of which side a
    counted token is. Per item (bool): `explained` counts for the weights. The rest is per feature, see `index.Sums`.
    """
    d_sae = len(count)
    touched = np.empty(d_sae, dtype=np.int64)
    best = np.zeros(d_sae, dtype=np.float32)
    # All that an activation adds to lies in one line of the cache: the counts of this shard, then the items in which
    # the feature was last seen (in the stem, in the explanation, shown), and its strongest token of this item.
    near = np.zeros((d_sae, 16), dtype=np.int32)
    near[:, 5:8] = -1
    for item in range(len(bounds) - 1):
        n_touched = 0
        for t in range(bounds[item], bounds[item + 1]):
            is_shown, is_counted, is_hangul, is_latin = shown[t], counted[t], hangul[t], latin[t]
            side = 6 if explanation[t] else 5
            weighs = is_counted and explained[item]
            for k in range(indptr[t], indptr[t + 1]):
                f, v = np.uint64(indices[k]), data[k]
                if not v > 0:
                    continue
                own = near[f]
                if is_shown:
                    own[0] += 1
                    total[f] += v
                    if own[7] != item:
                        own[7] = item
                        touched[n_touched] = f
                        n_touched += 1
                        best[f] = v
                        own[8] = t - bounds[item]
                    elif v > best[f]:
                        best[f] = v
                        own[8] = t - bounds[item]
                if is_counted:
                    own[1] += 1
                    own[2] += is_hangul
                    own[3] += is_latin
                    if weighs and own[side] != item:
                        own[side] = item
                        own[4] += 1
        number = first + item
        for j in range(n_touched):
            f = touched[j]
            size = n_items[f]
            v, t = float(best[f]), int(near[f, 8])
            maximum[f] = max(maximum[f], best[f])
            cases[number >> 3, f] |= np.uint8(1 << (number & 7))
            # Most cases are neither among the strongest nor drawn: what says so lies close together, the lists do not.
            if v > least[f]:
                k = top_value.shape[1]
                _keep(top_value[f], top_item[f], top_token[f], min(size, k), v, number, t)
                if size + 1 >= k:
                    least[f] = top_value[f, 0]
            key = priority(seed, f, number)
            if key < limit[f]:
                k = sample_key.shape[1]
                _draw(sample_key[f], sample_value[f], sample_item[f], sample_token[f], min(size, k), key, v, number, t)
                if size + 1 >= k:
                    limit[f] = sample_key[f, 0]
            n_items[f] = size + 1
    for f in range(d_sae):
        count[f] += near[f, 0]
        for kind in range(3):
            fires[kind, f] += near[f, 1 + kind]
        vectors[f] += near[f, 4]


@_jit
def sort_heaps(value: Float32, item: Int32, token: Int32, sizes: Int32) -> None:
    """Bring each feature's entries into order, the strongest first, of equals the earlier item; they need not be heaps
    before."""
    for f in range(len(value)):
        size = min(sizes[f], value.shape[1])
        _heap(value[f], item[f], token[f], size)
        for end in range(size - 1, 0, -1):
            value[f, 0], value[f, end] = value[f, end], value[f, 0]
            item[f, 0], item[f, end] = item[f, end], item[f, 0]
            token[f, 0], token[f, end] = token[f, end], token[f, 0]
            _down(value[f], item[f], token[f], 0, end)


@_jit
def add_histogram(
    indptr: IntArray, indices: Int32, data: Float32, shown: BoolArray, maximum: Float32, histogram: Uint32
) -> None:
    """Count the activations of the `shown` tokens in bins of equal width from 0 to each feature's maximum."""
    bins = histogram.shape[1]
    for t in range(len(shown)):
        if shown[t]:
            for k in range(indptr[t], indptr[t + 1]):
                f, v = indices[k], data[k]
                if v > 0:
                    place = int(np.float64(v) * bins / np.float64(maximum[f]))
                    histogram[f, min(place, bins - 1)] += 1
