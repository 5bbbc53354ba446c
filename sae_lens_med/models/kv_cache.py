"""Key-value caches for texts that begin alike: the beginning is encoded once and lent to every row of every batch.

    shared prefix  [1, heads, p, d]   --on_prefix-->   a cache whose first p columns are it, for any number of rows
    right-padded rows [p | row | pad] --to_the_right-> [pad | p | row], so that what is generated follows on the row

Layers keep every token, also those of a sliding window (transformers then masks by distance, which is exact here,
because the columns of a row are contiguous). Own code on transformers' `DynamicCache`, whose classes keep a prefix for
each row by itself and know no move from right to left padding; out of scope: caches on disk.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from transformers.cache_utils import DynamicCache, DynamicLayer

GROWTH = 32
"""Columns by which a cache that grows is enlarged."""


class _LentPrefix(DynamicLayer):
    """A layer that puts the prefix before what it is given and keeps nothing: for a single pass over whole rows."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prefix and rows, `[batch, heads, p + n, d]`."""
        del args, kwargs
        rows = key_states.shape[0]
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)


class _KeptPrefix(_LentPrefix):
    """A layer that begins with the prefix and then grows.

    `DynamicLayer` copies all that it holds for each token; here there is room for `GROWTH` tokens more each time.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__(keys, values)
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prefix and all that came since, `[batch, heads, p + n, d]`."""
        del args, kwargs
        held, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2]:
            self._room = _roomier(self.keys, key_states, end), _roomier(self.values, value_states, end)
        self._room[0][:, :, held:end], self._room[1][:, :, held:end] = key_states, value_states
        self.keys, self.values = self._room[0][:, :, :end], self._room[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        _hold(self, self.keys[indices], self.values[indices])


def _roomier(held: torch.Tensor, new: torch.Tensor, end: int) -> torch.Tensor:
    """Columns for `end + GROWTH` tokens of each row of `new`, of which the first are those held."""
    room = new.new_zeros(new.shape[0], new.shape[1], end + GROWTH, new.shape[3])
    room[:, :, : held.shape[-2]] = held
    return room


def _hold(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Put these in the place of what the layer holds, whose memory is free then."""
    layer.keys, layer.values = keys, values
    if isinstance(layer, _KeptPrefix):
        layer._room = None


def _held(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys, layer.values


def on_prefix(prefix: DynamicCache | None, *, grow: bool) -> DynamicCache | None:
    """A cache that begins with `prefix` (of one row) in each row. With `grow` it keeps what passes, for generation;
    without, it serves one pass and its memory is that of a layer. `prefix` itself never changes.

    None means no cache at all, where there is neither prefix nor growth.
    """
    if prefix is None and not grow:
        return None
    cache = DynamicCache()
    if prefix is None:
        return cache
    layer_type = _KeptPrefix if grow else _LentPrefix
    cache.layers.extend(layer_type(*_held(layer)) for layer in prefix.layers)
    return cache


def cut(prefix: DynamicCache, n: int) -> DynamicCache:
    """The first `n` columns of a prefix, which stays as it is."""
    cache = DynamicCache()
    cache.layers.extend(_LentPrefix(*(held[:, :, :n] for held in _held(layer))) for layer in prefix.layers)
    return cache


def joined(caches: Sequence[DynamicCache], columns: int) -> DynamicCache:
    """One cache of the rows of several, whose columns end together: shorter ones are padded at the left.

    `caches` are emptied layer by layer, so that no more than one layer is held twice.
    """
    whole = DynamicCache()
    while caches[0].layers:
        layers = [cache.layers.pop(0) for cache in caches]
        keys, values = (
            torch.cat([F.pad(held, (0, 0, columns - held.shape[2], 0)) for held in every])
            for every in zip(*map(_held, layers), strict=True)
        )
        whole.layers.append(_KeptPrefix(keys, values))
    return whole


def to_the_right(cache: DynamicCache, lengths: torch.Tensor) -> torch.Tensor:
    """Shift each row's first `lengths[i]` columns to the right end, in place; what was padding wraps to the left.

    Returns which columns are real, `[rows, columns]` bool.
    """
    columns = cache.get_seq_length()
    at = torch.arange(columns, device=lengths.device)
    pad = columns - lengths
    source = (at[None, :] - pad[:, None]) % columns
    for layer in cache.layers:
        keys, values = _held(layer)
        index = source.to(keys.device)[:, None, :, None]
        _hold(layer, *(held.gather(2, index.expand(-1, held.shape[1], -1, held.shape[3])) for held in (keys, values)))
    return at[None, :] >= pad[:, None]


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What one token of one row takes in the cache of a model with this transformers config."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width * dtype.itemsize
