"""A LoRA adapter in a folder -> the model that it makes of its base, as one model.

    W' = W + (alpha / r) B A        for each matrix that the adapter changes; peft computes it

The folder is what peft's `save_pretrained` writes: `adapter_config.json`, which names the base, and
`adapter_model.safetensors`. The base is opened like any model, by what the config calls it: an alias of the catalogue,
a Hub id, or a folder, seen from the adapter's own where its path is relative. The adapter is merged into it, so that
every hook, SAE and pass sees one plain model. Its tokenizer is the adapter's own where the folder holds one.

Adding is done in the dtype in which the model is opened: bfloat16 keeps three digits of a weight, and rounds away what
is smaller. Open an adapter whose training changed little in float32.

`base.json`, which this package writes beside the adapters that it trains, holds the identity of the base: another one
under the same name is refused. Without it, a wrong base is told only by names and shapes.

Out of scope: several adapters at once, adapters from the Hub, other methods than LoRA, adapters of adapters.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from sae_lens_med.errors import MissingExtraError, ModelError, listed
from sae_lens_med.runs.files import file_sha256, is_file, json_sha256, write_json
from sae_lens_med.runs.parsing import ParseError, read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BASE_FILE = "base.json"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
EXTRA = "peft"
UNMERGED = {
    "alora_invocation_tokens": "works from certain tokens on, so that there is no merged model",
    "megatron_config": "is of Megatron's own layers",
    "layer_replication": "repeats layers, so that hooks would not be where their names say",
    "loftq_config": "was trained on a quantised base",
}
"""Settings under which an adapter and its base are not one plain model."""
SHOWN = 4
"""Weights that an error names."""
IDENTITY = ("sha256", "revision", "config_sha256", "tokenizer_sha256")
"""What tells one base from another under the same name."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder, looked at."""

    folder: Path
    base: str
    """As `load_model` takes it."""
    revision: str | None
    """Of the base on the Hub."""
    expected: Mapping[str, str]
    """The part of the base's identity that `base.json` records; empty without one."""
    sha256: str
    """Of the weights."""
    config_sha256: str


def is_adapter(folder: Path) -> bool:
    """Whether a folder says that it holds an adapter."""
    return is_file(folder / CONFIG_FILE)


def find_adapter(folder: Path) -> Adapter:
    """What a folder with `adapter_config.json` holds. Raises `ModelError` where it is not an adapter that can be
    merged, in safetensors, with a base that it names."""
    settings = _json(folder / CONFIG_FILE)
    if is_file(folder / "config.json") and any(p.name != WEIGHTS_FILE for p in folder.glob("*.safetensors")):
        raise ModelError(
            f"the folder {folder} contains an adapter ({CONFIG_FILE}) and a whole model (config.json); move one of "
            "them to a folder of its own."
        )
    method = settings.get("peft_type")
    if method != "LORA":
        raise ModelError(
            f"the adapter in {folder} is of peft_type {method!r}, and only LORA is opened here; merge it into its base "
            "with peft, save that, and open the merged folder."
        )
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"the adapter in {folder} was trained for {settings['task_type']}, not for a causal language model."
        )
    for key, why in UNMERGED.items():
        if settings.get(key):
            raise ModelError(f"the adapter in {folder} cannot be merged into its base: with {key} it {why}.")
    if not is_file(folder / WEIGHTS_FILE):
        for name in PICKLES:
            if is_file(folder / name):
                raise ModelError(
                    f"the adapter in {folder} has its weights in {name}, a pickle, which is not opened here because it "
                    f"can run code; save it again with peft's save_pretrained, which writes {WEIGHTS_FILE}."
                )
        raise ModelError(f"the adapter in {folder} has no {WEIGHTS_FILE}; copy all that peft's save_pretrained wrote.")
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise ModelError(
            f"{CONFIG_FILE} in {folder} does not name the base model; write its name or folder there, under "
            "base_model_name_or_path."
        )
    if not Path(base).is_absolute() and (folder / base).is_dir():
        base = str(folder / base)
    if Path(base).is_dir() and is_adapter(Path(base)):
        raise ModelError(
            f"the base {base!r} of the adapter in {folder} is itself an adapter; merge that one with peft first, and "
            "name the merged folder as the base."
        )
    revision = settings.get("revision")
    return Adapter(
        folder,
        base,
        revision if isinstance(revision, str) else None,
        _expected(folder),
        file_sha256(folder / WEIGHTS_FILE),
        json_sha256(settings),
    )


def merge(hf_model: Any, adapter: Adapter, base: Mapping[str, Any]) -> Any:
    """The base with the adapter merged into it, a plain transformers model again; `hf_model` is changed.

    `base` is the base's provenance. Raises `ModelError` for a base that is not the adapter's and for weights that are
    damaged, missing or left over, and `MissingExtraError` without peft.
    """
    _require_base(adapter, base)
    peft = import_peft(f"opening the adapter in {adapter.folder}")
    weights = _weights(adapter)
    try:
        config = peft.LoraConfig.from_pretrained(str(adapter.folder))
        config.inference_mode = True
        config.base_model_name_or_path = hf_model.config.name_or_path  # of another name, peft warns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft calls
            wrapped = peft.get_peft_model(hf_model, config)
        found = peft.set_peft_model_state_dict(wrapped, weights)
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"the adapter in {adapter.folder} does not fit its base {adapter.base!r} ({_first(error)}); "
            "open it with the base that it was trained on."
        ) from error
    left_over = sorted(found.unexpected_keys)
    own = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    missing = sorted(own - set(weights)) if not left_over else []
    if left_over or missing:
        what = f"holds weights that the base has no place for: {_some(left_over)}"
        if missing:
            what = f"lacks weights: {_some(missing)}"
        raise ModelError(
            f"the adapter in {adapter.folder} does not fit its base {adapter.base!r}: it {what}; open it with the base "
            "that it was trained on, or copy it again."
        )
    try:
        return wrapped.merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"the adapter in {adapter.folder} cannot be merged into its base {adapter.base!r} ({_first(error)})."
        ) from error


def identity_of(adapter: Adapter, base: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the merged model, for its provenance: that of the base, and the adapter's hashes beside it.

    `sha256` covers the weights of both, so that what compares models by it takes no adapter for its base.
    """
    both = {"base": base.get("sha256", base.get("revision")), "adapter": adapter.sha256}
    kept = {key: base[key] for key in ("config_sha256", "tokenizer_sha256") if key in base}
    return {
        **kept,
        "sha256": json_sha256({**both, "adapter_config": adapter.config_sha256}),
        "adapter": {"sha256": adapter.sha256, "config_sha256": adapter.config_sha256},
        "base": {key: base[key] for key in ("name", "source", *IDENTITY, "dequantised_from") if key in base},
    }


def write_base(folder: Path, base: Mapping[str, Any]) -> None:
    """Write beside an adapter which base it belongs to; `base` is the provenance of the opened base."""
    write_json(folder / BASE_FILE, {key: base[key] for key in ("name", "source", *IDENTITY) if key in base})


def import_peft(purpose: str) -> Any:
    """The package peft. Raises `MissingExtraError` where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", EXTRA, purpose) from error
    return peft


def _expected(folder: Path) -> dict[str, str]:
    if not is_file(folder / BASE_FILE):
        return {}
    recorded = _json(folder / BASE_FILE)
    return {key: str(recorded[key]) for key in IDENTITY if key in recorded}


def _require_base(adapter: Adapter, base: Mapping[str, Any]) -> None:
    """Check what both sides say of the base; a copy from the Hub has a revision, one from a wheel or folder hashes."""
    for key in ("sha256", "revision", "config_sha256"):
        if key in adapter.expected and key in base and adapter.expected[key] != base[key]:
            raise ModelError(
                f"the base {adapter.base!r} here is not the one that the adapter in {adapter.folder} was trained on: "
                f"its {key} is {str(base[key])[:12]}…, {BASE_FILE} says {adapter.expected[key][:12]}…; open it where "
                "that base is."
            )


def _weights(adapter: Adapter) -> dict[str, Any]:
    path = adapter.folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({_first(error)}); copy or download it again.") from error
    if not weights:
        raise ModelError(f"{path} holds no weights; save the adapter again.")
    return weights


def _json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except (ParseError, OSError) as error:
        raise ModelError(f"{path} is damaged ({_first(error)}); copy or download it again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged (it is not a JSON object); copy or download it again.")
    return values


def _some(names: list[str]) -> str:
    return listed(names, SHOWN).replace("; ", ", ")


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")[:200]
