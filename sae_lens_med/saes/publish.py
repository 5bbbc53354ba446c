"""Make, check, export and publish an SAE release.

`package_release` turns the folders that training wrote into the files of a release (layout: `saes.listing`);
`verify_release` checks them; `export_release` copies them as a Hub repository holds them, and `publish_release` uploads
them. In both, the folder of an SAE is its listed path, so that stock SAELens loads it with
`SAE.from_pretrained("OWNER/NAME", PATH)`.

What is stored: matrices in bf16 (or as asked), vectors in float32. The vectors are small, and `b_dec` of a centred SAE
is the residual's mean, which is many times larger than what is left after it is subtracted: rounded, it would be a
visible offset. `cfg.json` says float32 whatever is stored.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.errors import ReleaseError
from sae_lens_med.runs.files import atomic_path, file_sha256, write_json, write_text
from sae_lens_med.runs.folder import require_writable
from sae_lens_med.saes.listing import (
    CARD_FILE,
    CFG_FILE,
    LEFT_OUT_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    SPARSITY_FILE,
    WEIGHTS_FILE,
    Release,
    first_line,
    packaged_releases,
    read_json,
    safe_relative,
)
from sae_lens_med.saes.releases import LoadedSae, load_folder, read_exported_config

RUNNER_CFG_FILE = "runner_cfg.json"
CURVE_FILE = "curve.svg"
STORED_DTYPES = ("bfloat16", "float16", "float32")
MAX_WEIGHTS_BYTES = 16_000_000
"""What a release that ships inside the package may weigh per SAE."""

LEAST_COSINE = 0.999
"""Between what a tied feature reads and what it writes: both are rounded to 16 bits by themselves."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str
    """What was found; for a failed check, what is wrong."""


Recompute = Callable[[LoadedSae, Any], list[Check]]
"""Measures a loaded SAE again and compares with its `metrics.json` (the second argument; None where it has none)."""


def package_release(
    trained: Mapping[str, Path],
    release: str,
    *,
    card: str,
    left_out_ids: Iterable[str],
    recipes: Mapping[str, Mapping[str, Any]],
    target: Path | None = None,
    dtype: str = "bfloat16",
    extra_files: Iterable[Path] = (),
    max_bytes: int | None = MAX_WEIGHTS_BYTES,
    force: bool = False,
) -> Path:
    """Write a release, and return its folder.

    Args:
        trained: per SAE id, which is also its path in the release, what training exported: cfg.json,
            sae_weights.safetensors, and where there are any, sparsity.safetensors, runner_cfg.json, metrics.json,
            curve.svg.
        release: its name in `releases.yaml`; the folder is `target/release`.
        card: the model card, Markdown.
        left_out_ids: ids of the items that were kept out of training.
        recipes: per SAE id, how it was trained; may lack some.
        target: the folder with one folder per release; None for the package's own.
        dtype: what matrices are stored as: bfloat16, float16 or float32.
        extra_files: files to put beside the card (a plot).
        max_bytes: refuse a larger weights file; None for no limit.
        force: replace a release of that name; without it, one that exists is an error.

    Paths in the JSON files that are absolute or lead upwards are cut to their last part: a release does not name the
    machine that made it. Nothing is changed when anything fails. Raises `ReleaseError`, and `StudyError` for a target
    that cannot be written to.
    """
    if dtype not in STORED_DTYPES:
        raise ReleaseError(f"Weights cannot be stored as {dtype!r}; use one of {', '.join(STORED_DTYPES)}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", release):
        raise ReleaseError(f"{release!r} is not a release name; use letters, digits, '.', '_' and '-'.")
    target = packaged_releases().weights if target is None else target
    folder, staging = target / release, target / f".{release}.{os.getpid()}.new"
    if folder.exists() and not force:
        raise ReleaseError(f"{folder} already exists; choose another name or --target, or add --force to replace it.")
    require_writable(target)
    target.mkdir(parents=True, exist_ok=True)
    try:
        saes: dict[str, str] = {}
        for sae_id, source in trained.items():
            path = safe_relative(sae_id, folder)
            _write_sae(source, staging / path, dtype, max_bytes)
            saes[sae_id] = str(path)
        for extra in extra_files:
            if not extra.is_file():
                raise ReleaseError(f"The file {extra}, which should go with the release, does not exist.")
            shutil.copyfile(extra, staging / extra.name)
        write_text(staging / CARD_FILE, card)
        write_json(staging / LEFT_OUT_FILE, sorted(set(left_out_ids)))
        write_json(
            staging / MANIFEST_FILE,
            {
                "format": 2,
                "release": release,
                "saes": saes,
                "stored_dtype": dtype,
                "left_out_ids": LEFT_OUT_FILE,
                "recipes": {sae_id: portable(dict(recipe)) for sae_id, recipe in recipes.items()},
                "files": {name: file_sha256(staging / name) for name in _files(staging)},
            },
        )
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _write_sae(source: Path, target: Path, dtype: str, max_bytes: int | None) -> None:
    config = read_exported_config(source)
    target.mkdir(parents=True)
    _write_weights(source / WEIGHTS_FILE, target / WEIGHTS_FILE, dtype, max_bytes)
    write_json(target / CFG_FILE, portable(config | {"dtype": "float32", "device": "cpu"}))
    for name in (RUNNER_CFG_FILE, METRICS_FILE):
        if (source / name).is_file():
            write_json(target / name, portable(read_json(source / name)))
    for name in (SPARSITY_FILE, CURVE_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    load_folder(target)


def verify_release(release: Release, recompute: Recompute | None = None) -> list[Check]:
    """Check a packaged release: hashes of all files, nothing unlisted, configurations, that every SAE loads.

    `recompute` adds checks of its own per SAE. Raises `ReleaseError` when the release is not packaged or its manifest
    cannot be read; everything else that is wrong is a failed check.
    """
    checks = [
        Check(
            f"sha256 {name}",
            problem is None,
            "as recorded" if problem is None else f"{release.folder / name} {problem}",
        )
        for name, problem in release.damage().items()
    ]
    unlisted = sorted(set(_files(release.folder)) - set(release.manifest()["files"]))
    checks.append(Check("no unlisted files", not unlisted, ", ".join(unlisted) or "none"))
    for sae in release.saes:
        checks += _check_sae(release, sae.id, recompute)
    return checks


def _check_sae(release: Release, sae_id: str, recompute: Recompute | None) -> list[Check]:
    import torch

    folder = release.folder / release.sae(sae_id).path
    try:
        config = read_exported_config(folder)
        loaded = load_folder(folder, source=f"{release.name}/{sae_id}", sae_id=sae_id)
    except ReleaseError as error:
        return [Check(f"load {sae_id}", False, str(error))]
    checks = [
        Check(
            f"config {sae_id}",
            config.get("dtype") == "float32",
            f"{config.get('architecture')}, d_in {config.get('d_in')}, d_sae {config.get('d_sae')}, dtype "
            f"{config.get('dtype')} (float32 expected), {loaded.hook_name}",
        )
    ]
    state = loaded.sae.state_dict()
    wrong = [name for name, tensor in state.items() if tensor.dtype != torch.float32 or not tensor.isfinite().all()]
    with torch.no_grad():
        out = loaded.sae(torch.ones(2, loaded.sae.cfg.d_in))
    if not out.isfinite().all():
        wrong.append("the output")
    detail = f"not finite float32: {', '.join(wrong)}" if wrong else f"weights sha256 {loaded.sha256[:12]}…"
    checks.append(Check(f"load {sae_id}", not wrong, detail))
    checks += [*_check_tied(loaded), *_check_listed(release, sae_id)]
    return checks if recompute is None else checks + recompute(loaded, release.metrics(sae_id))


def _check_tied(loaded: LoadedSae) -> list[Check]:
    """Whether an SAE that was trained tied reads along what it writes: by the same unit rows, or, where gains
    (`training.unshrink`) change the lengths, in the same directions. The product of both lengths is the gain."""
    import torch

    sae = loaded.sae
    if sae.cfg.metadata.training_architecture != "tied_l1":
        return []
    reads, writes = sae.state_dict()["W_enc"].T, sae.state_dict()["W_dec"]
    along = torch.nn.functional.cosine_similarity(reads, writes, dim=1).min().item()
    gains = reads.norm(dim=1) * writes.norm(dim=1)
    detail = f"smallest cosine {along:.5f}, gains {gains.min():.2f} to {gains.max():.2f}"
    if torch.equal(reads, writes):
        lengths = writes.norm(dim=1)
        detail = f"one matrix, rows of norm {lengths.min():.4f} to {lengths.max():.4f}"
    return [Check(f"encoder along decoder {loaded.sae_id}", along > LEAST_COSINE, detail)]


def _check_listed(release: Release, sae_id: str) -> list[Check]:
    """Whether the list says what was measured, to within 1 %; nothing where either is silent."""
    sae, metrics = release.sae(sae_id), release.metrics(sae_id)
    measured = metrics.get("heldout", {}) if isinstance(metrics, dict) else {}
    return [
        Check(f"{name} {sae_id}", abs(listed - value) <= 0.01 * abs(value), f"listed {listed:g}, measured {value:g}")
        for name, listed, value in (
            ("l0", sae.l0, measured.get("l0")),
            ("variance_explained", sae.variance_explained, measured.get("explained_variance")),
        )
        if listed is not None and value is not None
    ]


def export_release(release: Release, folder: Path, *, force: bool = False) -> Path:
    """Copy a packaged release to `folder` as a Hub repository holds it, and return `folder`.

    Raises `ReleaseError` when the release is damaged, or when `folder` holds anything and `force` is False, and
    `StudyError` when it cannot be written to; with `force`, files of the same names are replaced and others are left
    alone.
    """
    plan = publish_plan(release)
    require_writable(folder)  # before a link to itself is followed
    if folder.resolve() == release.folder.resolve():
        raise ReleaseError(f"{folder} is the packaged release itself; choose another folder.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ReleaseError(f"The folder {folder} is not empty; choose another one, or add --force to write into it.")
    for planned in plan:
        (folder / planned.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(release.folder / planned.path, folder / planned.path)
    return folder


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that would be uploaded."""

    path: str
    """In the repository."""
    size: int
    """Bytes."""


def publish_plan(release: Release) -> tuple[PlannedFile, ...]:
    """The files that publishing uploads; touches nothing. Raises `ReleaseError` when the release is damaged."""
    release.require_intact()
    names = [*release.manifest()["files"], MANIFEST_FILE]
    return tuple(PlannedFile(name, (release.folder / name).stat().st_size) for name in sorted(names))


def check_repo_id(repo_id: str) -> None:
    """Raise `ReleaseError` unless `repo_id` is OWNER/NAME as the Hub accepts it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ReleaseError(f"{repo_id!r} is not a Hub repository name: {first_line(error)}.") from error
    if "/" not in repo_id:
        raise ReleaseError(f"{repo_id!r} has no owner; write OWNER/{repo_id}.")


def publish_release(release: Release, repo_id: str, *, private: bool = True) -> str:
    """Upload a release, model card and metrics included, to a Hub model repository, and return its address.

    The repository is made when it does not exist. One that exists must have the visibility asked for. The token is the
    one that `hf auth login` saved, or `HF_TOKEN`; `HF_ENDPOINT` names another Hub than huggingface.co.
    Raises `ReleaseError` for a damaged release, no token, a refused or unreachable Hub.
    """
    from huggingface_hub import HfApi, get_token

    # Of whichever HTTP library this version of the Hub client uses.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    check_repo_id(repo_id)
    plan = publish_plan(release)
    if get_token() is None:
        raise ReleaseError("Publishing needs a Hugging Face token; run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if bool(api.model_info(repo_id).private) != private:
            asked, there = ("private", "public") if private else ("public", "private")
            raise ReleaseError(
                f"The repository {repo_id} exists and is {there}, not {asked}; pass --{there}, or change it on the Hub."
            )
        api.upload_folder(
            repo_id=repo_id,
            folder_path=release.folder,
            allow_patterns=[planned.path for planned in plan],
            commit_message=f"Release {release.name}",
        )
    except (OSError, HTTPError, ValueError) as error:
        raise ReleaseError(
            f"The release {release.name!r} was not published to {repo_id} on {api.endpoint} ({first_line(error)}); "
            f"check the network, and that the token may write there."
        ) from error
    return str(url)


def _write_weights(source: Path, target: Path, dtype: str, max_bytes: int | None) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    stored: torch.dtype = getattr(torch, dtype)
    state = {
        name: tensor.to(stored if tensor.ndim >= 2 else torch.float32).contiguous()
        for name, tensor in load_file(source).items()
    }
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ReleaseError(
                f"{name} of {source} contains values that {tensor.dtype} cannot represent; store it as bfloat16 "
                "or float32."
            )
    with atomic_path(target) as temporary:
        save_file(state, temporary)
    if max_bytes is not None and (size := target.stat().st_size) > max_bytes:
        raise ReleaseError(
            f"The weights would take {size:,} bytes, more than the {max_bytes:,} allowed; use a 16-bit dtype."
        )


def portable(value: Any) -> Any:
    """A JSON value with paths that are absolute or lead upwards cut to their last part."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and re.match(r"(/|~/|\.\./|[A-Za-z]:[\\/])[^\n]*$", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _files(folder: Path) -> list[str]:
    """What the manifest of a release in `folder` lists: every file but itself."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - {MANIFEST_FILE})


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, which is put back when that fails."""
    old = new.with_suffix(".old")
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
