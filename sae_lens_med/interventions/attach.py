"""One way to put hooks on any kind of model, for a while.

    with attached(model, steer(sae, {123: 5.0})):
        model.generate(...)

`model` is a `MedBridge`, another `TransformerBridge`, a `HookedTransformer` (`HookedSAETransformer`), or a plain
transformers model. Names of a point are those of TransformerLens, old (`blocks.9.hook_resid_post`) or canonical
(`blocks.9.hook_out`), on each of them.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_med.errors import ModelError, nearest
from sae_lens_med.interventions.hooks import Hook, Pair
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.hf_hooks import hf_hooks
from sae_lens_med.models.passes import Input, watched

_SAME = {
    "hook_in": "hook_resid_pre",
    "ln2.hook_in": "hook_resid_mid",
    "hook_out": "hook_resid_post",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "attn.o.hook_in": "attn.hook_z",
    "mlp.out.hook_in": "mlp.hook_post",
}
"""A bridge's canonical names, and what `HookedTransformer` calls these points."""


@contextlib.contextmanager
def attached(model: Any, pairs: Sequence[Pair]) -> Iterator[Any]:
    """Run `model` with these hooks inside of the block; they are gone after it, also after an exception.

    Interventions that count positions start again from 0, and see the padding of what the model is given. Raises
    `ModelError` for a hook that the model does not have,
    naming near ones, and for a model of another kind.
    """
    for _, fn in pairs:
        if isinstance(fn, Hook):
            fn.begin()
    if isinstance(model, TransformerBridge | HookedTransformer):
        resolved: list[Any] = [
            (name if isinstance(model, MedBridge) else _resolved(model, name), fn) for name, fn in pairs
        ]
        with model.hooks(fwd_hooks=resolved), _watched(model):
            yield model
    elif isinstance(model, nn.Module) and hasattr(model, "config"):
        with hf_hooks(model, pairs):
            yield model
    else:
        raise ModelError(
            f"hooks cannot be attached to a {type(model).__name__}; use a TransformerBridge, a HookedTransformer "
            "or a transformers model."
        )


def _watched(model: Any) -> contextlib.AbstractContextManager[None]:
    if isinstance(model, HookedTransformer):
        return watched(model, functools.partial(_hooked_input, model))
    return contextlib.nullcontext() if isinstance(model, MedBridge) else watched(model.original_model)


def _hooked_input(model: HookedTransformer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Input:
    """What a `HookedTransformer` is handed. It has no mask for a batch that somebody else padded: where some rows begin
    with the padding token, or else where some end with it, that is the padding."""
    given = kwargs.get("input", args[0] if args else None)
    if isinstance(given, str | list):
        chosen = {key: kwargs[key] for key in ("prepend_bos", "padding_side") if key in kwargs}
        given = model.to_tokens(given, **chosen)
    if not isinstance(given, torch.Tensor) or given.is_floating_point():
        return Input()
    tokens, mask = given[None] if given.ndim == 1 else given, kwargs.get("attention_mask")
    pad_id = getattr(model.tokenizer, "pad_token_id", None)
    if mask is None and pad_id is not None and min(tokens.shape) > 1:
        pad = tokens == pad_id
        at_left = pad.int().cumprod(1).bool()
        mask = ~(at_left if bool(at_left.any()) else pad.flip(1).int().cumprod(1).flip(1).bool())
    return Input(tokens, mask)


def _resolved(model: Any, name: str) -> str:
    """The name under which `model.hooks` finds the point."""
    own = model.hook_dict
    known = dict(own)
    if isinstance(model, TransformerBridge):
        model._add_aliases_to_hooks(known)
    parts = name.split(".", 2)
    other = ".".join([*parts[:2], _SAME.get(parts[2], parts[2])]) if len(parts) == 3 else name
    found = next((known[each] for each in (name, other) if each in known), None)
    if found is None:
        raise ModelError(f"this {type(model).__name__} has no hook {name!r}{nearest(name, known) or '.'}")
    if found.name not in own:
        raise ModelError(
            f"the hook {name!r} would not run: SAELens' bridge loses a point's name when an SAE there is reset; open "
            "the model with sae_lens_med.load_model, which does not."
        )
    return found.name
