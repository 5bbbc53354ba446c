"""Where the package keeps things on a user's machine, and the few helpers every writer of files shares.

`SAE_LENS_MED_CACHE` moves the cache folder (converted models, harvested activations); the default is
`$XDG_CACHE_HOME/sae_lens_med`, which is `~/.cache/sae_lens_med` on most machines.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

DISCLAIMER = "Research tool. Not for clinical use: nothing shown here is medical advice."
DISCLAIMER_KO = "연구용 도구입니다. 임상용이 아니며, 여기에 표시된 어떤 내용도 의학적 조언이 아닙니다."
LEAST_ROOM = 1 << 16
"""Bytes: a disk with less is full."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room for more."""
_PREFIX_BYTES = 200
_SURROGATE = re.compile("[\ud800-\udfff]")


def cache_dir() -> Path:
    """The user's cache folder for this package (not created)."""
    if (given := os.environ.get("SAE_LENS_MED_CACHE")) is not None:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sae_lens_med"


def configs_dir() -> Path:
    """The folder that holds `releases.yaml` and `recipes/`: `pretrained_configs/` of a checkout or of the wheel."""
    packaged = Path(str(files("sae_lens_med"))) / "pretrained_configs"
    return packaged if packaged.is_dir() else Path(str(files("sae_lens_med"))).parent / "pretrained_configs"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends without an error, removed otherwise.

    A reader never sees half a file, and an interrupted writer leaves the old one as it was. Raises `OSError` that names
    `path`, whatever library writes in the block.
    """
    with naming_what_fails(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of the name only what leaves room for what mkstemp adds.
        prefix = os.fsencode(f".{path.name}.")[:_PREFIX_BYTES].decode(errors="ignore")
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(fd)
        temporary = Path(name)
        try:
            yield temporary
            follow_umask(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_what_fails(path: Path) -> Iterator[None]:
    """Raise what fails to be written in the block as an `OSError` that names `path`.

    An error of the system may name no file, or a temporary one beside `path`; libraries put it into words of their own.
    """
    try:
        yield
    except Exception as error:
        named = error.filename if isinstance(error, OSError) else None
        if (number := system_error(error, path)) is None or (named and Path(os.fsdecode(named)).parent != path.parent):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def system_error(error: Exception, path: Path) -> int | None:
    """The number of the system's error behind `error`, which safetensors and torch put into words; None where there is
    none. `path` is what was written, or a folder on its disk."""
    if isinstance(error, OSError):
        return error.errno
    said = str(error)
    if found := re.search(r"\(os error (\d+)\)", said):
        return int(found[1])
    if isinstance(error, RuntimeError) and re.search(r"PytorchStreamWriter|inline_container|iostream error", said):
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        return errno.ENOSPC if shutil.disk_usage(there).free < LEAST_ROOM else errno.EIO
    return None


def is_file(path: Path | str) -> bool:
    """Whether there is a file: `Path.is_file`, but False too for a path that no file can have, such as a long one."""
    return os.path.isfile(path)


def follow_umask(path: Path) -> None:
    """Give a file that mkstemp or safetensors made private the permissions of any other file of this user."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (no NaN), indented, UTF-8, atomically."""
    write_text(path, _without_surrogates(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)) + "\n")


def json_line(value: Any) -> str:
    """`value` as strict JSON on one line, its end included."""
    return _without_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False)) + "\n"


def _without_surrogates(text: str) -> str:
    """JSON with lone surrogates, which a file's name holds that is not UTF-8, as the codes that JSON has for them."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value a line, UTF-8, atomically."""
    write_text(path, "".join(map(json_line, values)))


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form: the identity of settings and of data."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(_without_surrogates(text).encode("utf-8")).hexdigest()
