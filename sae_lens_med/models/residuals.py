"""Residuals of many texts, fast: the plain transformer up to the deepest wanted layer, several layers in one pass.

    token ids -> right-padded batch -> decoder layers 0 .. L -> {hook: [n_tokens_i, d_model] per sequence}

A TransformerLens bridge computes every intermediate value that somebody may hook: attention patterns in full, each
norm twice. Reading the residual stream needs none of that. `ResidualReader` runs the transformers model inside the
bridge as it was before the bridge wrapped it (`MedBridge.plain`: the same parameters, not a copy of them) and reads
`blocks.L.hook_resid_pre` and `blocks.L.hook_resid_post` where they pass; neither the layers after the deepest one nor
the LM head are run. At other hooks (`hook_mlp_out`, `attn.hook_z`, ...) it runs the bridge.

The residuals equal the bridge's up to rounding. No attention mask is needed: padding is at the right and attention is
causal, so a real token never sees padding. In the families of `OWN_ATTENTION` attention runs as `causal_attention`,
in others as transformers' `sdpa` with its own masks, or eager where a model has no other.

Texts that begin alike may have their beginning run once (`beginning`): what it leaves to later tokens is kept as keys
and values.

Hooks and SAEs attached to the bridge are not seen. Not for: generation, gradients, models of which the bridge was
given other weights after it was opened (then the bridge itself runs).
"""

import contextlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from transformers import AttentionInterface

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import MedBridge, Reached, activations_at, padded
from sae_lens_med.models.kv_cache import on_prefix

OWN_ATTENTION = ("gemma3", "gemma3_text", "llama", "qwen2", "qwen3")
"""`model_type`s whose attention is causal, plainly or within a sliding window, and nothing else."""

CAUSAL = "sae_lens_med_causal"
"""Name of `causal_attention` among transformers' attention implementations. It asks for no mask and is given none."""

QUERY_BLOCK = 64
"""Queries at a time on the CPU: their scores stay in the cache, and keys after them are never looked at."""

_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(in|out)")  # the canonical names of hook_resid_pre and hook_resid_post
_one_at_a_time = threading.Lock()  # the hooks of a pass would also catch that of another thread


class ResidualReader:
    """Reads the activations at `hook_names` of a model, all in one pass.

    Raises `ModelError` for a hook that the model does not have.
    """

    def __init__(self, model: MedBridge, hook_names: Sequence[str]) -> None:
        self.model = model
        self.hook_names = tuple(hook_names)
        self._layers: Any = None
        self._text_model: Any = None
        found = {name: _RESIDUAL.fullmatch(model.require_hook(name)) for name in self.hook_names}
        places = {name: (int(match[1]), match[2]) for name, match in found.items() if match}
        self._places = places
        if len(places) == len(self.hook_names) and ready(model) is not None:
            path: str = model.adapter.component_mapping["blocks"].name  # type: ignore[index,assignment]  # None by type alone
            self._layers = model.plain.get_submodule(path)
            self._text_model = model.plain.get_submodule(path.rpartition(".")[0])

    @property
    def fast(self) -> bool:
        """Whether the plain model is run, not the bridge."""
        return self._layers is not None

    @torch.no_grad()
    def beginning(self, token_ids: Sequence[int]) -> "Beginning":
        """Run what several texts begin with, once, for `read`."""
        if not self.fast or not token_ids:
            return Beginning(tuple(token_ids), None)
        cache = on_prefix(None, grow=True)
        tokens, _ = padded(self.model, [token_ids])
        self._text_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return Beginning(tuple(token_ids), cache)

    @torch.no_grad()
    def read(
        self, token_ids: Sequence[Sequence[int]], after: "Beginning | None" = None
    ) -> dict[str, list[torch.Tensor]]:
        """Per hook, one tensor `[n_tokens_i, d_in]` per sequence, in the model's dtype, on its device; one batch.

        With `after`, the sequences stand after that beginning, and the tensors are of their own tokens alone. The
        tensors of a hook are views of one, so keep a copy of what is to outlive the others.
        """
        first = after.token_ids if after is not None else ()
        if not self.fast:
            whole = activations_at(self.model, [(*first, *ids) for ids in token_ids], self.hook_names)
            return {name: [rows[len(first) :] for rows in found] for name, found in whole.items()}
        tokens, _ = padded(self.model, token_ids)
        found: dict[tuple[int, str], torch.Tensor] = {}
        last = max(self._places.values())

        def keep(place: tuple[int, str], hidden: Any) -> None:
            found[place] = hidden[0] if isinstance(hidden, tuple) else hidden
            if place == last:
                raise Reached

        with _one_at_a_time, contextlib.ExitStack() as stack:
            for place in set(self._places.values()):
                layer = self._layers[place[0]]
                if place[1] == "in":
                    handle = layer.register_forward_pre_hook(
                        lambda _layer, args, kwargs, at=place: keep(at, args[0] if args else kwargs["hidden_states"]),
                        with_kwargs=True,
                    )
                else:
                    handle = layer.register_forward_hook(lambda _layer, _args, out, at=place: keep(at, out))
                stack.callback(handle.remove)
            stack.enter_context(contextlib.suppress(Reached))
            cache = on_prefix(after.cache, grow=False) if after is not None else None
            self._text_model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        return {
            name: [found[place][row, : len(ids)] for row, ids in enumerate(token_ids)]
            for name, place in self._places.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """What several texts begin with."""

    token_ids: tuple[int, ...]
    cache: Any
    """Its keys and values; None where the bridge runs, or there are no tokens."""


def ready(model: MedBridge) -> Any | None:
    """The plain transformers model of a bridge, on its device, with the fastest attention that is right for it; None
    where it cannot stand for the bridge (spread over devices, or the bridge was given other weights)."""
    plain = model.plain
    if plain is None:
        return None
    device = model.cfg.device or "cpu"
    of_bridge = {id(p) for p in model.parameters()}
    if not all(id(p) in of_bridge for p in plain.parameters()):
        return None
    plain.to(device)  # buffers: parameters are already there, with the bridge's
    if plain.config._attn_implementation == "eager":
        _choose_attention(plain)
    return plain


def _choose_attention(plain: Any) -> None:
    text_config = plain.config.get_text_config()
    bidirectional = getattr(text_config, "use_bidirectional_attention", False)
    if text_config.model_type in OWN_ATTENTION and not bidirectional:
        AttentionInterface.register(CAUSAL, causal_attention)
        plain.set_attn_implementation(CAUSAL)
    elif getattr(text_config, "attn_logit_softcapping", None) is None:  # sdpa does not support soft capping
        with contextlib.suppress(ValueError):  # a model without sdpa stays eager
            plain.set_attn_implementation("sdpa")


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over right-padded sequences, as transformers' `AttentionInterface` calls it.

    Args:
        query: `[batch, heads, n, d_head]`; `key`, `value`: `[batch, groups, m, d_head]`, heads a multiple of groups,
            m >= n: the queries are of the last n of m tokens, those before come from a cache.
        attention_mask: must be None.
        scaling: of the scores; `d_head ** -0.5` by default.
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it; None: all.

    Returns `[batch, n, heads, d_head]` and None. On a GPU this is `scaled_dot_product_attention`. On a CPU its kernel
    spends 2 to 3 times as long as the products alone on a few wide bfloat16 heads (measured: 4 heads of 256), so
    there blocks of queries are multiplied with the keys that they may see; scores are in the model's dtype, the
    softmax in float32 inside, as in eager attention.
    """
    del module
    if attention_mask is not None:
        raise ModelError("causal_attention does not take an attention mask; it reads right-padded sequences only.")
    n, m, scale = query.shape[2], key.shape[2], query.shape[-1] ** -0.5 if scaling is None else scaling
    window = m if sliding_window is None else min(sliding_window, m)
    if query.device.type == "cpu":
        return _in_blocks(query, key, value, scale, window), None
    mask = None
    if window < m or n < m:
        mask = torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n).triu(m - n + 1 - window)
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int) -> torch.Tensor:
    batch, heads, n, width = query.shape
    groups, cached = key.shape[1], key.shape[2] - n
    out = query.new_empty(batch, n, heads, width)
    for start in range(0, n, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, n)
        first, last = max(0, cached + start - window + 1), cached + end  # of the keys
        rows = (heads // groups) * (end - start)
        # All heads of a group as rows of one product.
        block = query[:, :, start:end].reshape(batch, groups, rows, width)
        scores = (block @ key[:, :, first:last].transpose(2, 3)).mul_(scale)
        scores = scores.view(batch, heads, end - start, last - first)
        seen = torch.ones(end - start, last - first, dtype=torch.bool, device=query.device)
        itself = cached + start - first  # column of the first query's own key
        seen = seen.tril(itself).triu(itself - window + 1)
        weights = scores.masked_fill_(~seen, -torch.inf).softmax(-1)
        found = weights.view(batch, groups, rows, last - first) @ value[:, :, first:last]
        out[:, start:end] = found.view(batch, heads, end - start, width).transpose(1, 2)
    return out
