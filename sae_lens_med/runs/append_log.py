"""A file of JSON objects, one a line, that is only ever added to: what people write, and what nothing may lose.

A line counts when it is on the disk (`flush`, `fsync`). Whoever writes is alone with the file (the operating system's
lock, so that several processes may), and has read what others wrote meanwhile: what a line may say is decided then.

A line that is no entry (torn by a full disk or a power cut, or written by something else) is skipped and counted in
`problem`; the next line begins behind it. A line that lacks its end alone is whole.

Out of scope: what an entry is; versions and ids of entries, which their owner keeps (`app.labels`, `app.rating`).
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError, ReadOnlyError
from sae_lens_med.runs.files import json_line
from sae_lens_med.runs.parsing import ParseError, parse_json

Note = Callable[[dict[str, Any]], None]
"""Takes the values of one line in. Raises `KeyError`, `TypeError`, `ValueError`, `AttributeError` or `DataError`, and
keeps nothing, where they are no entry."""

_guard = threading.Lock()
"""One thread of this process reads or writes such files at a time: closing a file ends the process' lock on it."""


class AppendLog:
    """One such file; it need not exist before the first line."""

    def __init__(self, path: Path, note: Note) -> None:
        """Read what is there: `note` is called for each line, in order."""
        self.path = path
        self._note = note
        self._read = 0
        """Bytes of the file that were read, whole lines."""
        self._damaged = 0
        self._torn = False
        self.refresh()

    @property
    def problem(self) -> str:
        """What of the file could not be read, in one sentence; empty where all could."""
        lost = self._damaged + self._torn
        return f"{lost} of the lines of {self.path} are damaged and are not shown." if lost else ""

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return self._read

    def refresh(self) -> None:
        """Read what other processes have written since."""
        with _guard:
            if self.path.is_file():
                with self.path.open("rb") as file:
                    self._take(file)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Alone with the file, all lines read; the callable that is given writes one more, and returns when it is on
        the disk and noted. Raises `ReadOnlyError` where the file cannot be written; the line then does not count."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _guard, self.path.open("a+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                self._take(file)
                yield lambda values: self._append(file, values)
        except OSError as error:
            raise ReadOnlyError(self.path, error.strerror or type(error).__name__) from error

    def _append(self, file: Any, values: Mapping[str, Any]) -> None:
        # Behind a line that has no end the next one begins a line of its own.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        unended = size > 0 and file.read() != b"\n"
        file.write((("\n" if unended else "") + json_line(values)).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
        self._take(file)

    def _take(self, file: Any) -> None:
        """Read the lines that have come since."""
        file.seek(self._read)
        *whole, rest = file.read().split(b"\n")
        for raw in whole:
            self._read += len(raw) + 1
            self._damaged += bool(raw) and not self._noted(raw)
        # A line without an end counts where it is whole: only its end was lost.
        self._torn = bool(rest) and not self._noted(rest)
        self._read += 0 if self._torn else len(rest)

    def _noted(self, raw: bytes) -> bool:
        """Whether a line is an entry."""
        try:
            self._note(parse_json(raw))
        except (ParseError, KeyError, TypeError, ValueError, AttributeError, DataError):
            return False
        return True
