"""Open a model for interpretability work: TransformerLens hooks, SAELens SAEs, one object.

`load_model` returns a `MedBridge`, SAELens' `SAETransformerBridge` with its hook problems fixed: alias names
(`blocks.9.hook_resid_post`) and canonical ones (`blocks.9.hook_out`) both work, for hooks, caches,
`ActivationsStore`, `run_evals` and SAEs, before and after SAEs are attached and reset; a hook name that does not
exist is an error that lists near ones, where upstream runs without it. Nothing here folds or centres weights:
logits are those of plain transformers.

`residuals` runs the bridge on a few texts; `reader` reads activations and `inference` scores and generates, faster.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.analysis.hooked_sae_transformer import _SAEWrapper, set_deep_attr
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.util import get_special_token_ids
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.tokenize_utils import get_attention_mask

from sae_lens_med.errors import ModelError, nearest
from sae_lens_med.models import catalogue
from sae_lens_med.models.opening import open_model
from sae_lens_med.models.passes import Input, handed, watch

SAE_HOOKS: dict[str, Callable[[Any], int]] = {
    "hook_resid_pre": lambda cfg: cfg.d_model,
    "hook_resid_mid": lambda cfg: cfg.d_model,
    "hook_resid_post": lambda cfg: cfg.d_model,
    "hook_mlp_out": lambda cfg: cfg.d_model,
    "hook_attn_out": lambda cfg: cfg.d_model,
    "attn.hook_z": lambda cfg: cfg.n_heads * cfg.d_head,
    "mlp.hook_post": lambda cfg: cfg.d_mlp,
}
"""Where `SAETransformerBridge` runs an attached SAE as it should, with the width there; elsewhere it raises, warns or
is skipped. A transcoder reads `mlp.hook_in` and writes `hook_mlp_out`."""


NONLINEAR_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of transformers' configs that change logits after the LM head's matrix."""


class MedBridge(SAETransformerBridge):  # type: ignore[misc]  # its base is untyped
    """A TransformerLens bridge on which hooks and SAEs behave alike under alias and canonical names."""

    provenance: dict[str, Any]
    """For `Provenance.model`: name, source, identity of the weights, dtype."""
    text_tokenizer: Any
    """The tokenizer as its files define it. `tokenizer` is TransformerLens' copy, which invents a BOS for models
    that have none (Qwen)."""

    @property
    def plain(self) -> Any:
        """The transformers model as it was before the bridge wrapped its modules, on the bridge's own parameters; for
        `reader`. None for a model that is spread over several devices."""
        return self.__dict__.get("_plain")

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Every hook point, under its canonical name and under each of its aliases.

        Where an SAE is attached, the point comes after it: a hook there sees and changes what flows on. The SAE's own
        hooks are `POINT.hook_sae_acts_post` and so on, with any name of the point.
        """
        hooks = super().hook_dict
        self._add_aliases_to_hooks(hooks)
        outputs = {self._output_hook(name): wrapper for name, wrapper in self._acts_to_saes.items()}
        for name, hook in list(hooks.items()):
            if isinstance(hook, _SAEWrapper):
                hooks[name] = hook.__dict__["point"]
        for output, wrapper in outputs.items():
            inner = [n for n in hooks if n.startswith(output + ".")]
            for alias in [n for n, hook in hooks.items() if hook is wrapper.__dict__["point"] and n != output]:
                hooks.update({alias + name[len(output) :]: hooks[name] for name in inner})
        return hooks

    def _output_hook(self, act_name: str) -> str:
        return self._transcoder_output_hooks.get(act_name, self._resolve_hook_name(act_name))

    def add_sae(self, sae: SAE[Any], use_error_term: bool | None = None) -> None:
        """Attach `sae` at its `cfg.metadata.hook_name` until `reset_saes`, in the place of one attached there before.

        Raises `ModelError` for a hook that does not exist or at which the bridge cannot run an SAE, and for an SAE
        whose `d_in` is not the width there; upstream warns, skips, or fails in the forward pass.
        """
        metadata = sae.cfg.metadata
        for name in {metadata.hook_name, metadata.hook_name_out or metadata.hook_name}:
            if name is None:
                raise ModelError("this SAE does not name a hook; set sae.cfg.metadata.hook_name before attaching it.")
            self.require_hook(name)
        width = self._sae_width(metadata.hook_name)
        if metadata.hook_name_out is None and width is None:
            raise ModelError(
                f"an SAE cannot be attached at {metadata.hook_name!r} of a TransformerBridge; "
                f"the hooks that work are blocks.N. followed by one of {', '.join(SAE_HOOKS)}."
            )
        if width is not None and sae.cfg.d_in != width:
            raise ModelError(
                f"this SAE has d_in {sae.cfg.d_in}, but {metadata.hook_name} of {self.provenance['name']} has width "
                f"{width}; it was trained on {metadata.model_name!r}."
            )
        output = self._resolve_hook_name(metadata.hook_name_out or metadata.hook_name)
        for other in self._acts_to_saes:
            if other != metadata.hook_name and self._output_hook(other) == output:
                raise ModelError(
                    f"an SAE is already attached at {other!r}, the same point as {metadata.hook_name!r}; reset it "
                    "first, or attach both under the same name."
                )
        if metadata.hook_name in self._acts_to_saes:
            self._reset_sae(metadata.hook_name)
        point = self._hook_registry[output]
        super().add_sae(sae, use_error_term=use_error_term)
        # Upstream replaces the point by the SAE, and by a fresh point at reset, so that the user's hooks are lost and
        # the point's other names lead nowhere. Here the same point runs after the SAE, and comes back at reset.
        wrapper = self._acts_to_saes[metadata.hook_name]
        wrapper.__dict__["point"] = point  # not as a submodule: its hooks are not the SAE's
        wrapper.register_forward_hook(lambda _module, _inputs, activation: point(activation))
        for method in ("add_hook", "remove_hooks"):  # who finds the SAE where the point was: `reset_hooks`
            wrapper.__dict__[method] = getattr(point, method)
        self._hook_registry[output] = point

    def _sae_width(self, hook_name: str) -> int | None:
        """The width where an SAE can be attached, None where it cannot."""
        layer = hook_name.split(".")[1] if hook_name.startswith("blocks.") else "0"
        for suffix, width in SAE_HOOKS.items():
            name = f"blocks.{layer}.{suffix}"
            if hook_name in (name, self._resolve_hook_name(name)):
                return width(self.cfg)
        return None

    def _reset_sae(self, act_name: str, prev_wrapper: _SAEWrapper | None = None) -> None:
        wrapper = self._acts_to_saes.get(act_name)
        if wrapper is None:
            super()._reset_sae(act_name)  # warns
            return
        output, point = self._output_hook(act_name), wrapper.__dict__["point"]
        name = point.name
        super()._reset_sae(act_name)
        set_deep_attr(self, output, point)
        point.name = name  # its component has just renamed it to the last part of its path
        self._hook_registry[output] = point
        wrapper.sae.setup()  # its own hooks carry the model's names
        if prev_wrapper is not None:
            self.add_sae(prev_wrapper.sae, use_error_term=prev_wrapper.use_error_term)
            self._acts_to_saes[act_name].exclude_special_tokens = prev_wrapper.exclude_special_tokens

    def reset_saes(self, act_names: str | list[str] | None = None) -> None:
        """Detach the SAEs at these hooks (any name of the hook), or all. Raises `ModelError` where there is none."""
        if act_names is not None:
            wanted = [act_names] if isinstance(act_names, str) else act_names
            by_output = {self._output_hook(name): name for name in self._acts_to_saes}
            act_names = []
            for name in wanted:
                attached = name if name in self._acts_to_saes else by_output.get(self._resolve_hook_name(name))
                if attached is None:
                    raise ModelError(f"no SAE is attached at {name!r}{nearest(name, self._acts_to_saes) or '.'}")
                act_names.append(attached)
        super().reset_saes(act_names)

    @contextlib.contextmanager
    def saes(
        self,
        saes: SAE[Any] | list[SAE[Any]] | None = None,
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
    ) -> Iterator["MedBridge"]:
        """`SAETransformerBridge.saes`, plus `exclude_special_tokens` of `HookedSAETransformer.saes`.

        At excluded positions (True: the tokenizer's BOS, EOS, PAD, SEP and the like, not the marks of its chat
        template; or a list of token ids) the activation passes by the SAE unchanged. Needs token or text input.
        """
        attached = [saes] if isinstance(saes, SAE) else list(saes or [])
        with super().saes(attached, reset_saes_end=reset_saes_end, use_error_term=use_error_term):
            for sae in attached:
                self._acts_to_saes[sae.cfg.metadata.hook_name].exclude_special_tokens = exclude_special_tokens
            yield self

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """TransformerBridge's forward; lets attached SAEs know which positions to leave alone, and hooks which of a
        list of texts are padding."""
        if isinstance(input, list) and len(input) > 1 and kwargs.get("attention_mask") is None:
            tokens = self.to_tokens(input, kwargs.get("prepend_bos"), kwargs.get("padding_side"))
            bos, side = self.cfg.default_prepend_bos, kwargs.get("padding_side")
            with handed(Input(tokens, get_attention_mask(self.tokenizer, tokens, bos, side))):  # upstream knows, too
                return self._forward(input, *args, **kwargs)
        return self._forward(input, *args, **kwargs)

    def _forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        masked = [w for w in self._acts_to_saes.values() if w.exclude_special_tokens is not False]
        if not masked:
            return super().forward(input, *args, **kwargs)
        if isinstance(input, torch.Tensor):
            tokens = input
        else:
            tokens = self.to_tokens(input, kwargs.get("prepend_bos"), kwargs.get("padding_side"))
        if tokens.is_floating_point():
            raise ModelError("exclude_special_tokens needs tokens or text as the model's input, not embeddings.")
        if tokens.ndim == 1:
            tokens = tokens[None]
        for wrapper in masked:
            ids = wrapper.exclude_special_tokens
            if not isinstance(ids, list):
                ids = get_special_token_ids(self.text_tokenizer)
            wrapper.set_token_mask(torch.isin(tokens, torch.tensor(ids, device=tokens.device)))
        try:
            return super().forward(input, *args, **kwargs)
        finally:
            for wrapper in masked:
                wrapper.set_token_mask(None)

    def run_with_saes(
        self,
        *args: Any,
        saes: SAE[Any] | list[SAE[Any]] | None = None,
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
        **kwargs: Any,
    ) -> Any:
        """`forward` within `saes`."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self(*args, **kwargs)

    def run_with_cache_with_saes(
        self,
        *args: Any,
        saes: SAE[Any] | list[SAE[Any]] | None = None,
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
        **kwargs: Any,
    ) -> Any:
        """`run_with_cache` within `saes`."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_cache(*args, **kwargs)

    def run_with_hooks_with_saes(
        self,
        *args: Any,
        saes: SAE[Any] | list[SAE[Any]] | None = None,
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
        **kwargs: Any,
    ) -> Any:
        """`run_with_hooks` within `saes`."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_hooks(*args, **kwargs)

    def require_hook(self, name: str) -> str:
        """The canonical name of hook `name`. Raises `ModelError` naming near ones when there is none."""
        hooks = self.hook_dict
        if name not in hooks:
            hint = nearest(name, hooks) or "; hooks have names like blocks.0.hook_resid_post."
            raise ModelError(f"{self.provenance['name']} has no hook {name!r}{hint}")
        return hooks[name].name or name

    def add_hook(
        self,
        name: str | Callable[[str], bool],
        hook_fn: Any,
        dir: str = "fwd",
        is_permanent: bool = False,
    ) -> None:
        """TransformerBridge's `add_hook`; works under any name of a hook, also where an SAE is attached."""
        if not isinstance(name, str):
            super().add_hook(name, hook_fn, dir=dir, is_permanent=is_permanent)
            return
        self.require_hook(name)
        self.check_hooks_to_add(name)
        self.hook_dict[name].add_hook(hook_fn, dir=dir, is_permanent=is_permanent)  # type: ignore[arg-type]  # a str here

    def run_with_cache(  # type: ignore[override]  # upstream's overloads, in one
        self,
        input: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: str | list[str] | Callable[[str], bool] | None = None,
        **kwargs: Any,
    ) -> Any:
        """TransformerBridge's `run_with_cache`; a hook name that does not exist is a `ModelError`."""
        self._require_hooks([names_filter] if isinstance(names_filter, str) else names_filter)
        return super().run_with_cache(input, return_cache_object, remove_batch_dim, names_filter, **kwargs)  # type: ignore[call-overload]

    def run_with_hooks(  # type: ignore[override]  # upstream's other settings go through **kwargs
        self, input: Any, fwd_hooks: list[Any] | None = None, bwd_hooks: list[Any] | None = None, **kwargs: Any
    ) -> Any:
        """TransformerBridge's `run_with_hooks`; a hook name that does not exist is a `ModelError`."""
        self._require_hooks([name for name, _ in [*(fwd_hooks or []), *(bwd_hooks or [])]])
        return super().run_with_hooks(input, fwd_hooks=fwd_hooks or [], bwd_hooks=bwd_hooks or [], **kwargs)

    @contextlib.contextmanager
    def hooks(  # type: ignore[override]  # as run_with_hooks
        self, fwd_hooks: list[Any] | None = None, bwd_hooks: list[Any] | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """TransformerBridge's `hooks`; a hook name that does not exist is a `ModelError`."""
        self._require_hooks([name for name, _ in [*(fwd_hooks or []), *(bwd_hooks or [])]])
        with super().hooks(fwd_hooks=fwd_hooks or [], bwd_hooks=bwd_hooks or [], **kwargs) as hooked:
            yield hooked

    def _require_hooks(self, names: Any) -> None:
        """Names that are no strings are filters, which choose among the hooks that exist."""
        named = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
        known = self.hook_dict if named else {}
        for name in named:
            if name not in known:
                self.require_hook(name)


def load_model(
    name_or_path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    *,
    revision: str | None = None,
    device_map: str | None = None,
) -> MedBridge:
    """Open a causal language model.

    Args:
        name_or_path: an alias of the catalogue (`hari-q3`, `gemma-3-270m`), a Hub id, or a local folder in the Hub's
            layout. A catalogue model whose PyPI wheel is installed comes from the wheel. `organism/NAME`: a model
            organism (`models.organisms`). A folder with a LoRA adapter is its base with the adapter merged into it
            (`models.adapters`).
        device: where the model runs; ignored when `device_map` is given.
        dtype: `float32`, `bfloat16` or `float16`.
        revision: of the Hub repository.
        device_map: as in transformers (`auto` spreads a large model over the GPUs).

    Raises `ModelError` for a name that cannot be found, an unknown dtype, a device that is not there, files that are no
    causal language model, and a checkpoint that is not whole: a weight that is missing, of another shape, unexpected,
    quantised or not finite, no tokenizer, or one with ids beyond the model's embeddings (`opening`); and for an adapter
    that does not fit its base. `MissingExtraError` where an adapter needs peft and it is not installed.
    """
    return bridge(*open_model(str(name_or_path), device, dtype, revision=revision, device_map=device_map))


def bridge(hf_model: Any, tokenizer: Any, provenance: dict[str, Any]) -> MedBridge:
    """A `MedBridge` over a transformers model that is already in memory.

    `provenance` needs `name`. The tokenizer is copied, because booting changes the one it is given; the copy shares the
    vocabulary, of hundreds of megabytes, unless booting adds tokens to it.
    """
    plain = _on_the_same_weights(hf_model)
    # TransformerLens warns at its own old aliases, some of which are the catalogue's names: use the Hub id.
    entry = catalogue.find(provenance["name"])
    complete = None not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = MedBridge.boot_transformers(
        entry.hub_id if entry else provenance["name"],
        hf_model=hf_model,
        tokenizer=copy.copy(tokenizer) if complete else copy.deepcopy(tokenizer),
        dtype=hf_model.dtype,
    )
    assert isinstance(model, MedBridge)  # boot_transformers sets the class it is called on
    model.eval()
    model.requires_grad_(False)
    model.provenance = provenance
    model.text_tokenizer = tokenizer
    model.cfg.default_prepend_bos = adds_bos(tokenizer)
    watch(model.original_model)
    model.__dict__["_plain"] = plain  # not as a submodule: its weights are not there twice
    return model


def _on_the_same_weights(hf_model: Any) -> Any:
    """A second skeleton of modules over the same parameters and buffers; None where accelerate has spread the model.

    The bridge replaces modules in place and wraps each part, so that the model inside it is no plain one any more.
    """
    if len(set(getattr(hf_model, "hf_device_map", {}).values())) > 1:
        return None
    same = {id(tensor): tensor for tensor in (*hf_model.parameters(), *hf_model.buffers())}
    return copy.deepcopy(hf_model, same).eval()


def adds_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer itself puts its BOS before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]


def default_batch_tokens(model: MedBridge) -> int:
    """Tokens of one forward pass, padding included: on a CPU few, so that what one layer hands to the next stays in
    the cache and the memory of one operation serves the next."""
    return 1024 if torch.device(model.cfg.device or "cpu").type == "cpu" else 32768


class Reached(Exception):
    """Ends a forward pass at the last hook that was wanted."""


def padded(model: MedBridge, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and attention mask, `[batch, longest]`, on the model's device."""
    pad = model.text_tokenizer.pad_token_id
    longest = max(len(ids) for ids in token_ids)
    tokens = torch.full((len(token_ids), longest), 0 if pad is None else pad, dtype=torch.long)
    mask = torch.zeros((len(token_ids), longest), dtype=torch.long)
    for row, ids in enumerate(token_ids):
        tokens[row, : len(ids)] = torch.as_tensor(ids)
        mask[row, : len(ids)] = 1
    device = model.cfg.device or "cpu"
    return tokens.to(device), mask.to(device)


@torch.no_grad()
def residuals(model: MedBridge, token_ids: Sequence[Sequence[int]], hook_name: str) -> list[torch.Tensor]:
    """The activation at `hook_name` for each token of each sequence, in one batch.

    Returns one tensor `[n_tokens_i, d_in]` per sequence, in the model's dtype, on its device. The pass ends at the
    hook: later layers and the LM head are not run. Right padding keeps every real token's context as it is alone.
    """
    return activations_at(model, token_ids, [hook_name])[hook_name]


@torch.no_grad()
def activations_at(
    model: MedBridge, token_ids: Sequence[Sequence[int]], hook_names: Sequence[str]
) -> dict[str, list[torch.Tensor]]:
    """`residuals` at several hooks in one pass, which ends when all of them have run."""
    for name in hook_names:
        model.require_hook(name)
    tokens, mask = padded(model, token_ids)
    found: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: HookPoint, name: str) -> None:  # noqa: ARG001 - TransformerLens' signature
        found[name] = activation
        if len(found) == len(set(hook_names)):
            raise Reached

    hooks = [(name, functools.partial(keep, name=name)) for name in set(hook_names)]
    with contextlib.suppress(Reached), model.hooks(fwd_hooks=hooks):
        model(tokens, attention_mask=mask, return_type=None)
    for name in hook_names:
        if name not in found:
            raise ModelError(
                f"the hook {name!r} exists but did not run in a forward pass of {model.provenance['name']}."
            )
    return {
        name: [activation[row, : len(ids)].clone() for row, ids in enumerate(token_ids)]
        for name, activation in found.items()
    }


def shape_at(model: MedBridge, hook_name: str) -> tuple[int, ...]:
    """Shape of the activation of one token at `hook_name`: `(d_model,)` of a residual. Runs the model on one token."""
    [activation] = residuals(model, [[model.text_tokenizer.eos_token_id or 0]], hook_name)
    return tuple(activation.shape[1:])
