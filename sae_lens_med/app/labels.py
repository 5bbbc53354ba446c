"""Labels of features that people write: `STUDY/app/labels.jsonl`, one JSON object a line, only ever added to.

    {"id": "...", "feature": 12, "label": "...", "author": "...", "time": "2026-...", "revision": 3}

A label is changed by another line, and taken back by an empty one; the last line of a feature counts. Each line has an
id that its client made, so that sending it again is not a second label, and the revision that it makes: whoever saw an
older one is refused (`ConflictError`) and can look at the newer one first. A line is on the disk before it counts.

A line that is no entry (torn by a full disk or a power cut) is skipped and counted in `problem`.

Under the labels of people lies the file that `align` was given, as revision 0.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_lens_med.app.views import LabelEntry
from sae_lens_med.errors import ConflictError, DataError, ReadOnlyError
from sae_lens_med.runs.files import json_line, naming_what_fails
from sae_lens_med.runs.parsing import ParseError, parse_json

FILE = "labels.jsonl"
MAX_LABEL = 500
"""Characters of a label, as many as a judge of labels is shown."""
MAX_NAME = 100
"""Characters of an author's name, and of an entry's id."""

_guard = threading.Lock()
"""One thread of this process writes or reads the lines at a time: closing a file ends the process' lock on it."""


class Labels:
    """The labels of one study's features."""

    def __init__(self, path: Path, given: Mapping[int, str]) -> None:
        """`given`: feature -> label of the file that `align` was given. The file at `path` need not exist."""
        self.path = path
        self._given = {
            feature: LabelEntry(feature, label, "", "", 0, "file") for feature, label in given.items() if label
        }
        self._entries: dict[int, list[LabelEntry]] = {}
        self._by_id: dict[str, LabelEntry] = {}
        self._read = 0
        """Bytes of the file that were read, whole lines."""
        self._damaged = 0
        self._torn = False
        with _guard:
            if path.is_file():
                with path.open("rb") as file:
                    self._take(file)

    @property
    def problem(self) -> str:
        """What of the file could not be read, in one sentence; empty where all could."""
        lost = self._damaged + self._torn
        return f"{lost} of the lines of {self.path} are damaged and are not shown." if lost else ""

    def of(self, feature: int) -> tuple[LabelEntry, ...]:
        """All versions, newest first."""
        given = self._given.get(feature)
        return (*reversed(self._entries.get(feature, [])), *([] if given is None else [given]))

    def current(self, feature: int) -> str | None:
        """What the feature is called; None without a label, or where it was taken back."""
        entries = self.of(feature)
        return entries[0].label or None if entries else None

    def all(self) -> dict[int, str]:
        """Feature -> label, of all that have one."""
        features = sorted({*self._given, *self._entries})
        return {feature: label for feature in features if (label := self.current(feature)) is not None}

    def add(self, feature: int, text: str, author: str, revision: int, entry_id: str) -> LabelEntry:
        """Write a label.

        Args:
            feature: index, known to exist.
            text: one line; empty takes the label back.
            author: who says so.
            revision: of the label that this one replaces; 0 where there was none, or that of a file.
            entry_id: made by the client; an id that was written before gives that entry, and nothing is written.

        Raises `ConflictError` where `revision` is not the newest, `DataError` for a text, author or id that cannot be,
        `ReadOnlyError` where the file cannot be written.
        """
        text, author = _line(text, "label", MAX_LABEL, empty=True), _line(author, "author", MAX_NAME)
        entry_id = _line(entry_id, "id", MAX_NAME)
        try:
            return self._added(feature, text, author, revision, entry_id)
        except OSError as error:
            raise ReadOnlyError(
                f"{self.path} cannot be written ({error.strerror}), so that the label was not kept; serve a copy of "
                "the study that you may write to."
            ) from error

    def _added(self, feature: int, text: str, author: str, revision: int, entry_id: str) -> LabelEntry:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _guard, naming_what_fails(self.path), self._locked() as file:
            self._take(file)
            if (known := self._by_id.get(entry_id)) is not None:
                return known
            newest = len(self._entries.get(feature, []))
            if revision != newest:
                raise ConflictError(
                    f"feature {feature} has a newer label than revision {revision} (it is {newest} now); look at it, "
                    "then write yours again."
                )
            now = datetime.now(UTC).isoformat(timespec="seconds")
            entry = LabelEntry(feature, text, author, now, newest + 1)
            values = {"id": entry_id, **entry.to_dict()}
            del values["source"]
            # Behind a line that has no end the next one begins a line of its own.
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            unended = size > 0 and file.read() != b"\n"
            file.write((("\n" if unended else "") + json_line(values)).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
            self._take(file)
            return entry

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        with self.path.open("a+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield file

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

    def _note(self, values: dict[str, Any]) -> None:
        entry_id = values.pop("id")
        entry = LabelEntry.from_dict(values)
        own = self._entries.setdefault(entry.feature, [])
        if not isinstance(entry_id, str) or not isinstance(entry.label, str) or entry.revision != len(own) + 1:
            raise ValueError("it is not the next label of its feature")
        own.append(entry)
        self._by_id[entry_id] = entry


def _line(text: str, what: str, most: int, *, empty: bool = False) -> str:
    """`text` on one line. Raises `DataError`."""
    line = " ".join(str(text).split())
    if not line and not empty:
        raise DataError(f"the {what} is empty; write one.")
    if len(line) > most:
        raise DataError(f"the {what} has {len(line)} characters, and {most} are allowed; shorten it.")
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"the {what} has half of a surrogate pair, which no file can hold; write it again.") from error
    return line
