"""The files that a finished part of a run wrote, by their hashes: what is missing or was changed is made again, not
taken for done."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sae_lens_med.runs.files import file_sha256


def hashes(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """File, relative to `folder` -> SHA-256, of those there that match one of the glob patterns."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in found}


def not_as_written(folder: Path, written: Mapping[str, str]) -> dict[str, str]:
    """File -> `is missing` or `was changed since it was written`, for those that are not as `hashes` found them."""
    found = {}
    for name, sha256 in written.items():
        path = folder / name
        if not path.is_file():
            found[name] = "is missing"
        elif file_sha256(path) != sha256:
            found[name] = "was changed since it was written"
    return found
