"""A model with several SAEs: what stands at their hooks, gradients there, and runs in which some nodes are another
text's.

    x = sum_f a_f W_f + eps            a_f = s f: activation times the scale of an SAE that normalises each token
    spliced = dec(f) + eps + (x - stopgrad x)

The nodes at a hook are the features a_f and the error eps, one for each token. The splice equals x, and its last term
hands gradients on to earlier hooks, so that dm/da_f = W_f . dm/dx and dm/deps = dm/dx: the gradient of the model itself
says all of them, for all hooks in one backward pass, and no splice need be made.

Tokens that never count (special tokens, BOS among them, and activation sinks of either text, `models.sinks`) have no
nodes: what stands there flows on as it is. Runs resume at the layer of the hook, since nothing below it changes.

Out of scope: transcoders, SAEs at `hook_resid_mid` (no module of the plain model puts it out), padding.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.features.rules import require_sae, special_ids
from sae_lens_med.interventions.dictionary import Dictionary
from sae_lens_med.models.hf_hooks import decoder_layers, hf_hooks, hook_places, require_place, resumed
from sae_lens_med.models.residuals import ready

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

Edit = Callable[[Tensor], Tensor]
"""`[B, T, d_in]` at a hook -> what stands there instead."""


@dataclass(frozen=True, slots=True, eq=False)
class TextRun:
    """Texts of one length that were run."""

    tokens: Tensor
    """`[B, T]`"""
    logits: Tensor
    """`[B, n]`, of the tokens that were asked for, after the last token."""
    x: tuple[Tensor, ...]
    """`[B, T, d_in]` at each hook."""
    below: tuple[Tensor | None, ...]
    """`[B, T, d_model]`, what the last layer below each hook gives; None where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class _Hook:
    name: str
    dictionary: Dictionary
    decoder: Tensor
    """`[d_sae, d_in]`, what one unit of each feature adds."""
    n_below: int
    """Layers that need not run."""


class SplicedModel:
    """A model and the SAEs whose features are nodes.

    Args:
        model: from `load_model`, in float32.
        saes: of different hooks of it, in any order; `hooks` are in the order in which they run.

    Raises `ConfigError` for two SAEs of one hook, `ModelError` for a model that is not run plainly or not in float32,
    for a hook that it does not have and for an SAE of another width, `ReleaseError` for a transcoder.
    """

    def __init__(self, model: "MedBridge", saes: Sequence["LoadedSae"]) -> None:
        plain = ready(model)
        if plain is None or plain.dtype != torch.float32:
            raise ModelError(
                "effects of features need a model as it was opened, on one device, in float32; open it in float32."
            )
        if not saes or len({sae.hook_name for sae in saes}) < len(saes):
            raise ConfigError("a circuit of features needs one SAE or more, each of another hook.")
        self.model, self._plain = model, plain
        self._layers = decoder_layers(plain)
        places = hook_places(plain)
        found = []
        for sae in saes:
            require_sae(sae)
            require_place(sae.hook_name, places)
            found.append((sae, _hook(sae)))
        self._tuple = False
        order = self._order([hook.name for _, hook in found])
        found.sort(key=lambda pair: order.index(pair[1].name))
        self.saes = tuple(sae for sae, _ in found)
        self._hooks = tuple(hook for _, hook in found)
        self._never = torch.as_tensor(special_ids(model), device=plain.device)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names, in the order in which they run."""
        return tuple(hook.name for hook in self._hooks)

    @property
    def d_sae(self) -> tuple[int, ...]:
        """Features at each hook."""
        return tuple(hook.dictionary.d_sae for hook in self._hooks)

    @property
    def device(self) -> torch.device:
        return self._plain.device

    def special(self, tokens: Tensor) -> Tensor:
        """`[B, T]`, bool: which tokens are no text."""
        return torch.isin(tokens, self._never)

    @torch.no_grad()
    def read(self, tokens: Tensor, wanted: Tensor) -> TextRun:
        """Run texts `[B, T]` as they are, for the logits of `wanted [B, n]`."""
        x: dict[int, Tensor] = {}
        below: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for h, hook in enumerate(self._hooks):
                if hook.n_below:
                    layer = self._layers[hook.n_below - 1]
                    note = layer.register_forward_hook(lambda _m, _a, out, h=h: below.update({h: _first(out)}))
                    stack.callback(note.remove)
            logits = self._run(tokens, wanted, {h: _noting(x, h) for h in range(len(self._hooks))})
        n = range(len(self._hooks))
        return TextRun(tokens, logits, tuple(x[h] for h in n), tuple(below.get(h) for h in n))

    def run(self, text: TextRun, wanted: Tensor, edits: Mapping[int, Edit]) -> Tensor:
        """`[B, n]`: logits with what stands at some hooks (by their number) edited, resumed at the first of them."""
        first = min(edits)
        hook, rows = self._hooks[first], text.below[first]
        given = nullcontext() if rows is None else resumed(self._layers[: hook.n_below], rows, as_tuple=self._tuple)
        with given:
            return self._run(text.tokens, wanted, edits)

    def gradient(self, text: TextRun, wanted: Tensor, h: int, x: Tensor) -> Tensor:
        """`[B, T, d_in]`: dm/dx at hook h, where `x` stands there and all below is as in `text`."""
        leaf = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self.run(text, wanted, {h: lambda _: leaf})
            return torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), leaf)[0]

    def gradients(self, text: TextRun, wanted: Tensor) -> tuple[Tensor, ...]:
        """`[B, T, d_in]` at each hook: dm/dx on the text as it is, in one backward pass."""
        held: dict[int, Tensor] = {}

        def hold(h: int) -> Edit:
            def edit(x: Tensor) -> Tensor:
                held[h] = x if x.requires_grad else x.detach().requires_grad_()
                return held[h]

            return edit

        with torch.enable_grad():
            logits = self.run(text, wanted, {h: hold(h) for h in range(len(self._hooks))})
            leaves = [held[h] for h in range(len(self._hooks))]
            return torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), leaves)

    @torch.no_grad()
    def acts(self, h: int, x: Tensor) -> Tensor:
        """`[B, T, d_sae]`: a_f of `x [B, T, d_in]` at hook h, the scale of the token multiplied in."""
        flat = x.reshape(-1, x.shape[-1])
        found, scale = self._hooks[h].dictionary.acts(flat)
        return (found if scale is None else found * scale).view(*x.shape[:-1], -1)

    def decoder(self, h: int) -> Tensor:
        """`[d_sae, d_in]`: W at hook h."""
        return self._hooks[h].decoder

    def _run(self, tokens: Tensor, wanted: Tensor, edits: Mapping[int, Edit]) -> Tensor:
        hooks = [(self._hooks[h].name, _flat(edit)) for h, edit in edits.items()]
        with hf_hooks(self._plain, hooks):
            out = self._plain(input_ids=tokens, use_cache=False, logits_to_keep=1)
        return out.logits[:, -1].gather(1, wanted)

    @torch.no_grad()
    def _order(self, names: Sequence[str]) -> list[str]:
        seen: list[str] = []
        note = self._layers[0].register_forward_hook(
            lambda _m, _a, out: setattr(self, "_tuple", isinstance(out, tuple))
        )
        try:
            with hf_hooks(self._plain, [(name, lambda _x, hook: seen.append(hook.name)) for name in names]):
                self._plain(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self._plain.device), use_cache=False)
        finally:
            note.remove()
        return seen


def _hook(sae: "LoadedSae") -> _Hook:
    dictionary = Dictionary(sae)
    dictionary.features((0,))  # refuses a decoder that does not add its rows
    n_below = 0
    if sae.hook_name.startswith("blocks."):
        _, layer, place = sae.hook_name.split(".", 2)
        n_below = int(layer) + (place in ("hook_resid_post", "hook_out"))
    rows = dictionary.rows(tuple(range(dictionary.d_sae))).detach()
    return _Hook(sae.hook_name, dictionary, rows, n_below)


def _noting(into: dict[int, Tensor], h: int) -> Edit:
    def edit(x: Tensor) -> Tensor:
        into[h] = x
        return x

    return edit


def _flat(edit: Edit) -> Callable[..., Tensor]:
    def run(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - TransformerLens' name
        return edit(x.flatten(2)).view_as(x)

    return run


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out
