"""TransformerLens hooks on a plain Hugging Face model, by torch's own module hooks.

    with hf_hooks(model, [("blocks.9.hook_resid_post", fn)]):
        model.generate(...)

`fn(activation, hook=point)` is what TransformerLens calls: `point.name` is the name that was asked for, and a tensor
that is returned takes the activation's place. The names are those of a `TransformerBridge`, aliases and canonical
ones, as far as the value there is what a module of the plain model takes in or gives out:

    blocks.N.  hook_resid_pre = hook_in, hook_resid_post = hook_out      the layer's input and output
               hook_attn_out, hook_mlp_out                               what is added to the residual stream: behind
                                                                         the norms that follow in Gemma's layers
               attn.hook_out, mlp.hook_in, mlp.hook_out                  the attention and MLP modules themselves
               attn.hook_z = attn.o.hook_in, mlp.hook_post = mlp.out.hook_in    what the two output matrices read
    hook_embed = embed.hook_out                                          token embeddings

`hook_resid_mid` is not among them: no module puts it out, and a change of what the second norm reads would leave the
residual stream as it is. Also out of scope: encoder-decoder models, and a second thread that runs the same model.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from sae_lens_med.errors import ModelError, nearest
from sae_lens_med.models.passes import watched

HookFn = Callable[..., torch.Tensor | None]
"""`fn(activation, hook=point)`, as TransformerLens calls it; None leaves the activation as it is."""

Place = tuple[nn.Module, Literal["in", "out"]]

_ATTENTION = ("self_attn", "attn", "attention")
_OUTPUT_MATRIX = ("o_proj", "out_proj", "c_proj", "dense")
_DOWN_MATRIX = ("down_proj", "c_proj", "fc2", "dense_4h_to_h")

_PRE_NORMS = ({"input_layernorm", "post_attention_layernorm"}, {"ln_1", "ln_2"})
_SANDWICH_NORMS = {
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
}


@dataclass(frozen=True, slots=True)
class Point:
    """What a hook function knows about where it stands; `HookPoint`'s reading half."""

    name: str
    """The name under which the hook was asked for."""
    ctx: dict[str, Any] = field(default_factory=dict)
    """A place for the function's own notes, kept while the hooks are on."""

    def layer(self) -> int:
        """Index of the layer. Raises `ModelError` at a point outside of the layers."""
        if not self.name.startswith("blocks."):
            raise ModelError(f"the hook {self.name!r} does not belong to a layer.")
        return int(self.name.split(".")[1])


@contextlib.contextmanager
def hf_hooks(hf_model: nn.Module, fwd_hooks: Sequence[tuple[str, HookFn]]) -> Iterator[nn.Module]:
    """Run `hf_model` with `fwd_hooks` inside of the block; they are gone after it, also after an exception.

    Args:
        hf_model: a causal language model of transformers, or `MedBridge.plain`.
        fwd_hooks: `(hook name, fn)` pairs; those of one point run in this order.

    Raises `ModelError` for a name that cannot be hooked, naming near ones, and for a model whose layers are not found.
    """
    places = hook_places(hf_model) if fwd_hooks else {}
    chosen = [(require_place(name, places), Point(name), fn) for name, fn in fwd_hooks]
    with contextlib.ExitStack() as stack:
        stack.enter_context(watched(hf_model))
        for (module, side), point, fn in chosen:
            if side == "in":
                handle = module.register_forward_pre_hook(_before(fn, point), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_after(fn, point))
            stack.callback(handle.remove)
        yield hf_model


@contextlib.contextmanager
def resumed(layers: Iterable[nn.Module], rows: torch.Tensor, *, as_tuple: bool) -> Iterator[None]:
    """Inside of the block `layers`, the first ones of a model, are not run: each gives `rows` (`[B, T, d_model]`), as a
    tuple of one where its family's layers do. Hooks on them run."""

    def give(*_args: Any, **_kwargs: Any) -> Any:
        return (rows,) if as_tuple else rows

    layers = list(layers)
    own = [layer.__dict__.get("forward") for layer in layers]  # accelerate keeps one there
    try:
        for layer in layers:
            layer.__dict__["forward"] = give
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            layer.__dict__.pop("forward", None)
            if before is not None:
                layer.__dict__["forward"] = before


def require_place(name: str, places: dict[str, Place]) -> Place:
    """`places[name]`. Raises `ModelError` naming near ones where there is none."""
    if name in places:
        return places[name]
    layers = 1 + max(int(known.split(".")[1]) for known in places if known.startswith("blocks."))
    suffixes = sorted({known.split(".", 2)[2] for known in places if known.startswith("blocks.")})
    raise ModelError(
        f"a plain transformers model has no hook {name!r}{nearest(name, places) or '.'} Available: blocks.0 to "
        f"blocks.{layers - 1} with {', '.join(suffixes)}, and hook_embed."
    )


def hook_places(hf_model: nn.Module) -> dict[str, Place]:
    """Every hook name that `hf_hooks` knows on this model: the module, and whether its input or its output."""
    places: dict[str, Place] = {}
    for n, layer in enumerate(decoder_layers(hf_model)):
        places |= {f"blocks.{n}.{name}": place for name, place in _layer_places(layer).items()}
    embedding = hf_model.get_input_embeddings() if hasattr(hf_model, "get_input_embeddings") else None  # type: ignore[operator]  # a method of transformers' models
    if isinstance(embedding, nn.Module):
        places["hook_embed"] = places["embed.hook_out"] = (embedding, "out")
    return places


def decoder_layers(hf_model: nn.Module) -> nn.ModuleList:
    """The layers of the text decoder, in order. Raises `ModelError` where they are not found."""
    config: Any = getattr(hf_model, "config", None)
    wanted = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None) if config is not None else None
    found = {
        name: module
        for name, module in hf_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted
    }
    if len(found) > 1:  # a vision tower or a list inside of each layer may be as long
        text = {name: m for name, m in found.items() if not any(w in name for w in ("vision", "audio", "encoder"))}
        shortest = min((name.count(".") for name in text), default=0)
        found = {name: m for name, m in text.items() if name.count(".") == shortest}
    if len(found) != 1:
        raise ModelError(
            f"the decoder's layers were not found in {type(hf_model).__name__}; hooks by name need a causal language "
            "model of transformers, with one list of num_hidden_layers layers."
        )
    return next(iter(found.values()))


def _layer_places(layer: nn.Module) -> dict[str, Place]:
    places: dict[str, Place] = {}
    places["hook_resid_pre"] = places["hook_in"] = (layer, "in")
    places["hook_resid_post"] = places["hook_out"] = (layer, "out")
    attention, mlp = _child(layer, _ATTENTION), _child(layer, ("mlp",))
    if attention is not None:
        places["attn.hook_out"] = (attention, "out")
        output = _child(attention, _OUTPUT_MATRIX)
        if output is not None:
            places["attn.hook_z"] = places["attn.o.hook_in"] = (output, "in")
    if mlp is not None:
        places["mlp.hook_in"], places["mlp.hook_out"] = (mlp, "in"), (mlp, "out")
        down = _child(mlp, _DOWN_MATRIX)
        if down is not None:
            places["mlp.hook_post"] = places["mlp.out.hook_in"] = (down, "in")
    norms = {name for name, _ in layer.named_children() if "norm" in name or name.startswith("ln_")}
    if hasattr(layer, "residual_multiplier"):  # Granite: what is added is no module's output
        return places
    if norms in _PRE_NORMS:
        if attention is not None:
            places["hook_attn_out"] = (attention, "out")
        if mlp is not None:
            places["hook_mlp_out"] = (mlp, "out")
    elif norms == _SANDWICH_NORMS:
        after = (layer.get_submodule("post_attention_layernorm"), layer.get_submodule("post_feedforward_layernorm"))
        places["hook_attn_out"] = places["ln1_post.hook_out"] = (after[0], "out")
        places["hook_mlp_out"] = places["ln2_post.hook_out"] = (after[1], "out")
    return places


def _child(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _before(fn: HookFn, point: Point) -> Callable[..., Any]:
    def run(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        activation = args[0] if args else kwargs["hidden_states"]
        changed = fn(activation, hook=point)
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

    return run


def _after(fn: HookFn, point: Point) -> Callable[..., Any]:
    def run(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        activation = output[0] if isinstance(output, tuple) else output
        changed = fn(activation, hook=point)
        if changed is None or not isinstance(output, tuple):
            return changed
        return (changed, *output[1:])

    return run
