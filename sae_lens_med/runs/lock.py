"""One writer for each folder: a lock that ends with its process, however that ends.

The lock is the operating system's, on a hidden file in the folder (`.writing`), which says who holds it. It is of the
process: nested work in one process holds it together, a child that was forked does not inherit it, and a process that
is killed leaves a file that nobody holds. Reading asks for no lock.

Own code: `filelock` leaves its file behind, which a folder that is compared byte by byte must not have, and falls back
to a file that outlives a crash where the disk knows no locks. There, here, nothing is locked.

Out of scope: machines that share a disk without locks between them.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_med.errors import StudyError

LOCK = ".writing"
_TRIES, _PAUSE = 5, 0.05
"""Whoever only looks holds the lock for a moment."""
_BUSY = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a disk says that knows no locks."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(slots=True)
class _Held:
    folder: Path
    """As it was named."""
    descriptor: int | None
    """None where the disk knows no locks, or where this user may not write anyway."""
    made: list[Path] = field(default_factory=list)
    """Folders that were made for it, the innermost first."""
    times: int = 1


_held: dict[Path, _Held] = {}
"""By the resolved folder, in the order in which they were taken."""
_guard = threading.RLock()


def hold(folder: Path) -> Callable[[], None]:
    """Become the one that writes to `folder`, which is made where it is not there; return what ends it.

    Held again by the same process, it ends with the last. Raises `StudyError` where another process writes there.
    """
    key = Path(os.path.realpath(folder))
    with _guard:
        if (held := _held.get(key)) is not None:
            held.times += 1
        else:
            made = _make(folder)
            try:
                _held[key] = _Held(folder, _acquire(folder), made)
            except BaseException:
                _remove_empty(made)
                raise
    return lambda: _release(key)


def held() -> list[Path]:
    """The folders that this process writes to, in the order in which it began to."""
    with _guard:
        return [each.folder for each in _held.values()]


def require_no_other(folder: Path) -> None:
    """Check that no other process writes to `folder`; nothing is written. Raises `StudyError`."""
    with _guard:
        # Closing any descriptor of the file would end the own lock.
        if Path(os.path.realpath(folder)) in _held:
            return
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # not there, or not to be written to: then nobody who may write is kept out
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                raise _refusal(folder, descriptor) from None
        finally:
            os.close(descriptor)


def _make(folder: Path) -> list[Path]:
    """Make the folder and those above it; return the ones that were not there."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path) -> int | None:
    path = folder / LOCK
    for left in reversed(range(_TRIES)):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in _NOT_WRITABLE:
                return None
            raise
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):  # else its last holder has just removed it
                with suppress(OSError):  # on a full disk it is held all the same
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except OSError as error:
            if error.errno in _NO_LOCKS:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                return None
            if error.errno not in _BUSY:
                os.close(descriptor)
                raise
            if not left:
                refusal = _refusal(folder, descriptor)
                os.close(descriptor)
                raise refusal from None
        os.close(descriptor)
        time.sleep(_PAUSE)
    raise StudyError(f"{folder} changes hands; run the same command again.")


def _release(key: Path) -> None:
    with _guard:
        held = _held.get(key)
        if held is None:
            return
        held.times -= 1
        if held.times:
            return
        del _held[key]
        if held.descriptor is not None:
            with suppress(OSError):  # the folder may be gone, or not to be written to any more
                if _is_at(held.descriptor, held.folder / LOCK):
                    os.unlink(held.folder / LOCK)
            os.close(held.descriptor)
        _remove_empty(held.made)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # something lies there
        for each in folders:
            each.rmdir()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _refusal(folder: Path, descriptor: int) -> StudyError:
    said = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    who = f"another process (pid {said})" if said.isdecimal() else "another process"
    return StudyError(f"{who} is writing to {folder}; wait until it has ended, or choose another folder.")
