"""Feature activations on disk: shards of whole items, in item order, and a manifest.

A folder of collected features holds

- `manifest.json` (`runs.folder`): the `settings` that the activations depend on, the `exclusion` rule with its
  numbers, how many items there are in all and in a shard, and per finished shard its counts and the SHA-256 of its two
  files;
- `shard-00000.safetensors`: the arrays of `FeatureActs` for that shard's items (`token_item` counts from the first item
  of the folder), `token_text`, and per item `raw_mean_stem`, `raw_mean_explanation` and `has_explanation`;
- `shard-00000.jsonl`: per item its id and the texts that were run, to which the character spans point.

The manifest is written after the shard it names, both atomically, so that at every moment the folder holds whole shards
only. Several processes that collect together each write shards of their own, and for each a `shard-00000.entry.json`
with what the manifest will say of it; `join_shards` moves the entries into the manifest, in order. Nothing depends on
the clock or on who wrote what: the same collection gives the same bytes, interrupted or not, by one process or many.

Out of scope: reading part of a collection (`part`), and deciding what a token counts as (`collect` does).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from sae_lens_med import distributed
from sae_lens_med.errors import StudyError
from sae_lens_med.records import FeatureActs
from sae_lens_med.runs import folder as runs
from sae_lens_med.runs.files import atomic_path, file_sha256, write_json, write_jsonl
from sae_lens_med.runs.parsing import parse_json, read_json

TEXTS = ("question", "explanation")
"""The texts of an item, each run on its own; `CollectedFeatures.token_text` holds the index."""

Arrays = dict[str, npt.NDArray[Any]]


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    shards = [(s["sha256"], s["texts_sha256"]) for s in manifest["shards"]]
    if not manifest["shard_items"] > 0 or len(shards) > -(-manifest["n_items"] // manifest["shard_items"]):
        raise ValueError("it names more shards than the items fill")
    return dict(manifest["settings"])


KIND = runs.Kind(
    "collected features",
    format=1,
    identity=_settings,
    bound=lambda folder, manifest: bool(manifest["shards"]) or any(folder.glob("shard-*")),
)

TOKEN_ARRAYS: dict[str, type[np.generic]] = {
    "token_item": np.int32,
    "token_part": np.uint8,
    "token_text": np.uint8,
    "token_id": np.int32,
    "char_start": np.int32,
    "char_end": np.int32,
    "norm": np.float32,
    "error_norm": np.float32,
    "excluded": np.bool_,
}
ITEM_ARRAYS: dict[str, type[np.generic]] = {
    "raw_mean_stem": np.float32,
    "raw_mean_explanation": np.float32,
    "has_explanation": np.bool_,
}
CSR_ARRAYS: dict[str, type[np.generic]] = {"data": np.float32, "indices": np.int32, "indptr": np.int64}
ARRAYS = CSR_ARRAYS | TOKEN_ARRAYS | ITEM_ARRAYS
"""Every array of a shard, with its type."""


@dataclass(frozen=True, slots=True, eq=False)
class CollectedFeatures:
    """What `collect` found out about a list of items, in memory."""

    acts: FeatureActs
    """Tokens in the order: item, then question before explanation, then position."""
    token_text: npt.NDArray[np.uint8]
    """`[n_tokens]`, index into `TEXTS`: the text that the token's character span points into."""
    texts: dict[str, dict[str, str]]
    """Item id -> `question`, and `explanation` where the item has one: what was run (the explanation masked)."""
    raw_mean_stem: npt.NDArray[np.float32]
    """`[n_items, d_in]`, mean of the residual over the stem tokens that are not excluded."""
    raw_mean_explanation: npt.NDArray[np.float32]
    """`[n_items, d_in]`, over the explanation tokens that are not excluded; zeros where `has_explanation` is False."""
    has_explanation: npt.NDArray[np.bool_]
    """`[n_items]`, True where the item has at least one explanation token that is not excluded."""
    manifest: dict[str, Any]


def shard_paths(folder: Path, index: int) -> tuple[Path, Path]:
    """The arrays' and the texts' file of a shard."""
    return folder / f"shard-{index:05d}.safetensors", folder / f"shard-{index:05d}.jsonl"


def open_collection(folder: Path, settings: Mapping[str, Any], n_items: int, shard_items: int) -> runs.RunFolder:
    """The folder of a collection that begins (nothing is written yet) or goes on; its `values` are the manifest.

    Raises `StudyError` when the folder holds something else, a damaged collection, or one with other settings.
    """
    values = {"settings": settings, "exclusion": None, "n_items": n_items, "shard_items": shard_items, "shards": []}
    run = runs.RunFolder(folder, KIND, values)
    if distributed.ranks().first:
        _require_whole(folder, run.values)
    return run


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises `StudyError` when it is missing, damaged or of another format."""
    return runs.read_manifest(folder, KIND)


def write_apart(folder: Path, index: int, arrays: Arrays, texts: list[dict[str, Any]], counts: dict[str, int]) -> None:
    """Write the shard `index` and its entry, for `join_shards`.

    `arrays` are those of `ARRAYS`; `texts` one `{"id", "question", "explanation"}` per item, explanation None where
    there is none.
    """
    arrays_path, texts_path = shard_paths(folder, index)
    with atomic_path(arrays_path) as temporary:
        save_file({name: np.ascontiguousarray(arrays[name], dtype=kind) for name, kind in ARRAYS.items()}, temporary)
    write_jsonl(texts_path, texts)
    entry = {
        "n_items": len(texts),
        **counts,
        "sha256": file_sha256(arrays_path),
        "texts_sha256": file_sha256(texts_path),
    }
    write_json(_entry_path(folder, index), entry)


def join_shards(run: runs.RunFolder) -> list[int]:
    """Bring the manifest, in memory and on disk, up to the shards that were written apart; return what is still to do.

    An entry waits on disk until all shards before it are there; what is to do are the shards with no entry at all.
    Raises `StudyError` when a shard is not what its entry says.
    """
    folder, manifest = run.path, run.values
    joined: list[Path] = []
    while (path := _entry_path(folder, len(manifest["shards"]))).is_file():
        manifest["shards"].append(_read_entry(path))
        joined.append(path)
    if joined:
        _require_whole(folder, manifest, len(joined))
        run.write()
    for path in joined:
        path.unlink()
    n_shards = -(-manifest["n_items"] // manifest["shard_items"])
    rest = range(len(manifest["shards"]), n_shards)
    return [index for index in rest if not _entry_path(folder, index).is_file()]


def _entry_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.entry.json"


def _read_entry(path: Path) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise StudyError(f"{path} is damaged; delete {path.parent} and collect again.") from error
    return entry


def repair(folder: Path) -> tuple[str, ...]:
    """Take out of a collection what is missing or was changed since it was written, so that `collect` makes it again.

    Shards that are whole stay: those behind a broken one wait for it as shards written apart do. Returns the names of
    the files that were not as written; a manifest that cannot be read costs all shards. For one process at a time.
    """
    if not folder.is_dir():
        return ()
    try:
        manifest = read_manifest(folder)
    except StudyError:
        found = sorted(path for path in folder.glob("shard-*") if path.is_file())
        for path in found:
            path.unlink()
        (folder / KIND.manifest).unlink(missing_ok=True)
        return (KIND.manifest,) if found else ()
    shards = manifest["shards"]
    broken = {
        index: names for index, shard in enumerate(shards) if (names := shard_not_as_written(folder, index, shard))
    }
    if not broken:
        return ()
    first = min(broken)
    for index, shard in enumerate(shards[first:], first):
        if index not in broken:
            write_json(_entry_path(folder, index), shard)
            continue
        for path in (*shard_paths(folder, index), _entry_path(folder, index)):
            path.unlink(missing_ok=True)
    write_json(folder / KIND.manifest, manifest | {"shards": shards[:first]})
    return tuple(name for names in broken.values() for name in names)


def is_complete(manifest: Mapping[str, Any]) -> bool:
    """Whether every item is in a shard."""
    return sum(shard["n_items"] for shard in manifest["shards"]) == manifest["n_items"]


def nothing_fires(folder: Path) -> str | None:
    """One sentence where no feature of the SAE fires on any token of a complete collection; None otherwise."""
    manifest = read_manifest(folder)
    if any(shard["n_active"] for shard in manifest["shards"]):
        return None
    sae = manifest["settings"]["sae"]
    return (
        f"No feature of the SAE {sae['source']} fires on any of these texts, so that nothing can be read from it: "
        f"check that it was trained on this model at {sae['hook_name']}, and its training."
    )


def load_features(folder: Path) -> CollectedFeatures:
    """Read what `collect` wrote.

    Raises `StudyError` when the folder holds no collection, an unfinished one, or one whose files were changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not is_complete(manifest):
        done = sum(shard["n_items"] for shard in manifest["shards"])
        raise StudyError(
            f"{folder} contains the features of {done} of {manifest['n_items']} items; "
            "run the same collection again to finish it."
        )
    _require_whole(folder, manifest)
    try:
        return _joined(folder, manifest)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise StudyError(f"the shards in {folder} are damaged; delete the folder and collect again.") from error


def _joined(folder: Path, manifest: dict[str, Any]) -> CollectedFeatures:
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ARRAYS}
    texts: dict[str, dict[str, str]] = {}
    stored = 0
    for index in range(len(manifest["shards"])):
        arrays_path, texts_path = shard_paths(folder, index)
        arrays = load_file(arrays_path)
        for name in TOKEN_ARRAYS | ITEM_ARRAYS:
            parts[name].append(arrays[name])
        parts["data"].append(arrays["data"])
        parts["indices"].append(arrays["indices"])
        # Each indptr starts at 0; the first entry stands once for the whole.
        parts["indptr"].append(arrays["indptr"][1 if index else 0 :] + stored)
        stored += len(arrays["data"])
        # Not splitlines(): a text may hold U+2028.
        for line in texts_path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            row = parse_json(line)
            texts[row["id"]] = {name: row[name] for name in TEXTS if row[name] is not None}
    whole = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    shape = (len(whole["token_item"]), manifest["settings"]["sae"]["d_sae"])
    acts = FeatureActs(
        item_ids=tuple(texts),
        acts=sparse.csr_array((whole["data"], whole["indices"], whole["indptr"]), shape),
        **{name: whole[name] for name in TOKEN_ARRAYS if name != "token_text"},
    )
    return CollectedFeatures(
        acts=acts,
        token_text=whole["token_text"],
        texts=texts,
        **{name: whole[name] for name in ITEM_ARRAYS},
        manifest=manifest,
    )


def _require_whole(folder: Path, manifest: dict[str, Any], last: int | None = None) -> None:
    """Check the hashes of all shards, or of the `last` ones."""
    start = 0 if last is None else len(manifest["shards"]) - last
    for index, shard in enumerate(manifest["shards"][start:], start):
        for name in shard_not_as_written(folder, index, shard):
            state = "was changed" if (folder / name).is_file() else "is missing"
            raise StudyError(f"{folder / name} {state} since it was written; delete {folder} and collect again.")


def shard_not_as_written(folder: Path, index: int, shard: Mapping[str, Any]) -> list[str]:
    """Names of the files of a shard that are missing or have another hash than its entry says."""
    written = zip(shard_paths(folder, index), (shard["sha256"], shard["texts_sha256"]), strict=True)
    return [path.name for path, sha256 in written if not path.is_file() or file_sha256(path) != sha256]
