"""From a reference to a loaded SAE: packaged releases, folders, and whatever SAELens knows.

`register_releases` makes `SAE.from_pretrained(RELEASE, ID)` load the packaged releases without a network. Their weights
are stored in bf16 and `cfg.json` says `float32`: SAELens converts what it reads to the configured dtype, so that every
way of loading gives float32 unless the caller asks for something else.

Importing this module is cheap: torch and SAELens are imported by the functions that load. What is listed and where it
lies is `saes.listing`; making, checking and publishing a release is `saes.publish`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from sae_lens_med.errors import ReleaseError, nearest
from sae_lens_med.models import catalogue, organisms
from sae_lens_med.saes.listing import (
    CFG_FILE,
    LEFT_OUT_FILE,
    SPARSITY_FILE,
    WEIGHTS_FILE,
    Release,
    Releases,
    first_line,
    packaged_releases,
    read_json_object,
    read_left_out_ids,
)

if TYPE_CHECKING:
    import torch
    from sae_lens import SAE

LOADER = "sae_lens_med"
"""The name under which the loader of packaged releases is known to SAELens."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSae:
    """An SAE ready to run, with its identity."""

    sae: "SAE[Any]"
    """float32, in SAELens' inference form."""
    source: str
    """What a `FeatureRef` calls it: `RELEASE/ID`, the folder's path, or `REL:ID`."""
    sae_id: str
    """Its id within the release; a folder's name."""
    sha256: str
    """Of the float32 weights (`weights_sha256`): the same whichever way the SAE was reached."""
    hook_name: str
    """Where in the model it reads."""
    left_out_ids: frozenset[str] | None
    """Exam items that were kept out of its training text; None when nothing says."""

    @property
    def settings(self) -> dict[str, Any]:
        """What of its configuration decides what it computes, beside the weights."""
        config = json.loads(json.dumps(self.sae.cfg.to_dict(), default=str))
        labels = ("metadata", "device", "dtype")
        return {key: value for key, value in sorted(config.items()) if key not in labels}

    @property
    def identity(self) -> dict[str, Any]:
        """For provenances and for the folders of runs: what it is called, and what decides its numbers."""
        return {
            "source": self.source,
            "sae_id": self.sae_id,
            "sha256": self.sha256,
            "settings": self.settings,
            "hook_name": self.hook_name,
        }

    def is_that_of(self, identity: Mapping[str, Any]) -> bool:
        """Whether it computes the same as the SAE that `identity` was written of. An identity without `settings`, as
        0.1.0 wrote them, is compared by what it has."""
        own = self.identity
        return all(identity.get(key, own[key]) == own[key] for key in ("sha256", "settings", "hook_name"))

    @property
    def trained_on(self) -> str | None:
        """The model that it says it was trained on."""
        name = self.sae.cfg.metadata.model_name
        return str(name) if name else None


def load_sae(ref: str, device: str = "cpu", *, releases: Releases | None = None) -> LoadedSae:
    """Load the SAE that `ref` names, in float32.

    `ref` is `RELEASE/ID` of a release listed here, a folder that SAELens or `sae-lens-med train` exported,
    `organism/NAME` for the SAE of a model organism, or `REL:ID` with a release or Hub repository that SAELens knows;
    they are tried in this order, so `./NAME` always means a folder. A packaged release is compared with its recorded
    hashes first. Releases whose files are pickles (Qwen-Scope's `.sae.pt`) are read by torch as tensors alone; a file
    with anything else in it is refused.

    Raises `ReleaseError` for an unknown release or id (near names are given), a folder without an SAE, a damaged file,
    a training checkpoint, or an SAE that cannot be fetched, and `ModelError` for a device that is not there.
    """
    from sae_lens_med.models.opening import require_device

    require_device(device)  # what fails for it is no fault of the SAE
    releases = releases or packaged_releases()
    known = releases.read()
    for separator in ("/", ":"):
        name, found, sae_id = ref.partition(separator)
        if found and name in known:
            return _load_released(known[name], sae_id, device, releases)
    if ref in known:
        raise ReleaseError(f"{ref!r} is a release; name one of its SAEs: {', '.join(_refs({ref: known[ref]}))}.")
    folder = Path(ref).expanduser()
    if os.path.isdir(folder):  # False also for what no folder can be called
        return load_folder(folder, device)
    if ref.startswith(organisms.PREFIX):
        return load_folder(organisms.organism_sae(ref), device, source=ref, sae_id=organisms.SAE_FOLDER)
    name, found, sae_id = ref.partition(":")
    if found:
        return _loaded(_from_saelens(name, sae_id, device), source=ref, sae_id=sae_id)
    raise ReleaseError(
        f"There is no SAE {ref!r}{nearest(ref, _refs(known))}: it is neither a listed release nor a folder; use "
        f"RELEASE/ID (`sae-lens-med releases list`), a folder with {CFG_FILE}, or REL:ID for a "
        f"release of SAELens."
    )


def load_folder(
    folder: Path, device: str = "cpu", *, source: str | None = None, sae_id: str | None = None
) -> LoadedSae:
    """Load the exported SAE in `folder`, in float32. Raises `ReleaseError` when it cannot be loaded."""
    from sae_lens import SAE
    from safetensors import SafetensorError

    read_exported_config(folder)
    try:
        sae = SAE.load_from_disk(folder, device=device, dtype="float32")
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ReleaseError(
            f"The SAE in {folder} cannot be loaded: {first_line(error)}; export it again, with the SAELens "
            f"that trained it."
        ) from error
    left_out = folder / LEFT_OUT_FILE
    ids = read_left_out_ids(left_out) if left_out.is_file() else None
    return _loaded(sae, source=source or str(folder), sae_id=sae_id or folder.resolve().name, left_out_ids=ids)


def other_model(loaded: LoadedSae, model: str) -> str | None:
    """One sentence where the SAE was trained on another model than `model` (alias, Hub id or folder, as
    `MedBridge.provenance` names it); None where it is the same one or the SAE does not say.

    Whether a folder holds the model that the SAE names is not known unless the folder has its name.
    """
    name = loaded.trained_on
    if name is None or _full_name(name) == _full_name(model) or _last_name(name) == _last_name(model):
        return None
    entry = catalogue.find(model)
    if entry is not None and entry.base is not None and _full_name(entry.base) == _full_name(name):
        return f"The SAE {loaded.source} was trained on {name}, from which {model} was tuned, not on it itself."
    return f"The SAE {loaded.source} was trained on {name}; here it reads {model}."


def weights_sha256(sae: "SAE[Any]") -> str:
    """Hex SHA-256 of an SAE's weights: over the parameters by name, each as name, shape and float32 bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def read_exported_config(folder: Path) -> dict[str, Any]:
    """`cfg.json` of an exported SAE. Raises `ReleaseError` when `folder` does not hold one that can run."""
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    if not (folder / CFG_FILE).is_file():
        below = sorted(str(path.parent.relative_to(folder)) for path in folder.glob(f"*/{CFG_FILE}"))
        hint = f"name one of the folders in it: {', '.join(below)}" if below else "use the folder of an exported SAE"
        raise ReleaseError(f"The folder {folder} has no {CFG_FILE}; {hint}.")
    config = read_json_object(folder / CFG_FILE)
    architecture = config.get("architecture", "standard")
    if architecture not in SAE_CLASS_REGISTRY:
        # tied_l1 is known by name too: where the package's registration did not run, it is still no unknown thing.
        if architecture in SAE_TRAINING_CLASS_REGISTRY or architecture == "tied_l1":
            raise ReleaseError(
                f"The folder {folder} is a training checkpoint (architecture {architecture!r}), not an exported SAE; "
                f"use the folder that training writes when it ends, or export the checkpoint with "
                f"TrainingSAE.load_from_disk(FOLDER).save_inference_model(NEW_FOLDER)."
            )
        raise ReleaseError(
            f"{folder / CFG_FILE} names the architecture {architecture!r}, which SAELens does not know"
            f"{nearest(str(architecture), SAE_CLASS_REGISTRY)}."
        )
    if not isinstance(config.get("metadata", {}), dict):
        raise ReleaseError(
            f"{folder / CFG_FILE} is damaged: metadata must be an object with hook_name, but is "
            f"{type(config['metadata']).__name__}; export the SAE again."
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise ReleaseError(f"The folder {folder} has {CFG_FILE} but no {WEIGHTS_FILE}; copy the weights into it.")
    return config


def register_releases(releases: Releases | None = None) -> None:
    """Make SAELens know the listed releases (those of this package by default); a second call changes nothing.

    SAELens reads its own list of releases, which takes over a second, only when it is first asked for one; this
    function does not make it do so earlier.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.loading import pretrained_saes_directory as module

    _REGISTERED.update((releases or packaged_releases()).read())
    loaders.NAMED_PRETRAINED_SAE_LOADERS[LOADER] = _load_for_saelens
    loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[LOADER] = _config_for_saelens
    if isinstance(module.get_pretrained_saes_directory, _Directory):
        return
    original = module.get_pretrained_saes_directory
    directory = _Directory(original)
    # Modules that imported the function by name keep their own reference to it.
    for holder in list(sys.modules.values()):
        if getattr(holder, "__dict__", {}).get("get_pretrained_saes_directory") is original:
            holder.__dict__["get_pretrained_saes_directory"] = directory
    if original.cache_info().currsize:
        directory()


_REGISTERED: dict[str, Release] = {}


class _Directory:
    """SAELens' `get_pretrained_saes_directory`, with the registered releases in what it returns, also after a
    `cache_clear`."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self) -> dict[str, Any]:
        directory = self._original()
        for release in _REGISTERED.values():
            directory[release.name] = _lookup(release)
        return directory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _lookup(release: Release) -> Any:
    from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup

    return PretrainedSAELookup(
        release=release.name,
        repo_id=release.repo_id,
        model=release.model,
        conversion_func=LOADER,
        saes_map={sae.id: sae.path for sae in release.saes},
        # The stand-ins for unknown values are SAELens' own.
        expected_var_explained={
            s.id: 1.0 if s.variance_explained is None else s.variance_explained for s in release.saes
        },
        expected_l0={s.id: 0.0 if s.l0 is None else s.l0 for s in release.saes},
        neuronpedia_id={s.id: s.neuronpedia for s in release.saes},  # type: ignore[arg-type]  # SAELens stores None too
        norm_scaling_factor={},
        config_overrides=None,
    )


def _packaged_folder(repo_id: str, path: str, force_download: bool) -> Path | None:
    """The folder of a packaged SAE, its files checked, or None when the Hub must be asked."""
    if force_download:
        return None
    for release in _REGISTERED.values():
        if release.repo_id == repo_id and release.packaged and any(sae.path == path for sae in release.saes):
            release.require_intact(path)
            return release.folder / path
    return None


def _load_for_saelens(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> "tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]":
    """SAELens' loader protocol: the packaged files; the Hub when there are none, or when a download is forced."""
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader, sae_lens_huggingface_loader
    from safetensors.torch import load_file

    folder = _packaged_folder(repo_id, folder_name, force_download)
    if folder is None:
        return sae_lens_huggingface_loader(repo_id, folder_name, device, force_download, cfg_overrides)
    config, state = sae_lens_disk_loader(folder, device, cfg_overrides)
    sparsity = folder / SPARSITY_FILE
    return config, state, load_file(sparsity, device=device)["sparsity"] if sparsity.is_file() else None


def _config_for_saelens(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """SAELens' protocol for the configuration alone."""
    from sae_lens.loading.pretrained_sae_loaders import get_sae_lens_config_from_disk, get_sae_lens_config_from_hf

    folder = _packaged_folder(repo_id, folder_name, force_download)
    if folder is None:
        return get_sae_lens_config_from_hf(repo_id, folder_name, device, force_download, cfg_overrides)
    return get_sae_lens_config_from_disk(folder, device, cfg_overrides)


def _load_released(release: Release, sae_id: str, device: str, releases: Releases) -> LoadedSae:
    sae = release.sae(sae_id)
    if release.packaged:
        release.require_intact(sae.path)
        loaded = load_folder(release.folder / sae.path, device, source=f"{release.name}/{sae_id}", sae_id=sae_id)
        return replace(loaded, left_out_ids=release.left_out_ids())
    register_releases(releases)
    return _loaded(_from_saelens(release.name, sae_id, device), source=f"{release.name}/{sae_id}", sae_id=sae_id)


def _from_saelens(name: str, sae_id: str, device: str) -> "SAE[Any]":
    # Of whichever HTTP library this version of the Hub client uses.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if name not in directory and "/" not in name:
        raise ReleaseError(
            f"SAELens has no release {name!r}{nearest(name, directory)}; a Hub repository is written OWNER/NAME:ID."
        )
    if name in directory and sae_id not in directory[name].saes_map:
        ids = directory[name].saes_map
        raise ReleaseError(
            f"SAELens' release {name!r} has no SAE {sae_id!r}{nearest(sae_id, ids)}; its first ids are "
            f"{', '.join(list(ids)[:5])}."
        )
    try:
        return SAE.from_pretrained(name, sae_id, device=device)
    except UnpicklingError as error:
        raise ReleaseError(
            f"The SAE {name}:{sae_id} was not opened: its file is a pickle with more in it than tensors, or a damaged "
            f"one; do not load it by other means unless you trust who made it."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, HTTPError) as error:
        raise ReleaseError(
            f"The SAE {name}:{sae_id} could not be downloaded through SAELens ({first_line(error)}); check the "
            "name and "
            f"the network, or pass the folder of a local copy."
        ) from error


def _loaded(sae: "SAE[Any]", *, source: str, sae_id: str, left_out_ids: frozenset[str] | None = None) -> LoadedSae:
    import torch

    broken = [name for name, tensor in sae.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ReleaseError(
            f"The SAE {source!r} has weights that are not finite: {', '.join(broken)}; export it again from a "
            "checkpoint before training diverged."
        )
    hook_name = sae.cfg.metadata.hook_name
    if not isinstance(hook_name, str) or not hook_name:
        raise ReleaseError(
            f"The SAE {source!r} does not say which hook it reads: {CFG_FILE} has no metadata.hook_name."
        )
    return LoadedSae(sae, source, sae_id, weights_sha256(sae), hook_name, left_out_ids)


def _full_name(model: str) -> str:
    entry = catalogue.find(model)
    return (entry.hub_id if entry else model).lower()


def _last_name(model: str) -> str:
    return _full_name(model).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _refs(known: Mapping[str, Release]) -> list[str]:
    return [f"{release.name}/{sae.id}" for release in known.values() for sae in release.saes]
