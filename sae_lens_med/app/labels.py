"""Labels of features that people write: `STUDY/app/labels.jsonl`, one JSON object a line, only ever added to.

    {"id": "...", "feature": 12, "label": "...", "author": "...", "time": "2026-...", "revision": 3}

A label is changed by another line, and taken back by an empty one; the last line of a feature counts. Each line has an
id that its client made, so that sending it again is not a second label, and the revision that it makes: whoever saw an
older one is refused (`ConflictError`) and can look at the newer one first. How lines are kept: `runs.append_log`.

Under the labels of people lies the file that `align` was given, as revision 0.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sae_lens_med.app.refusals import Words, refusal
from sae_lens_med.app.views import LabelEntry
from sae_lens_med.errors import ConflictError, DataError
from sae_lens_med.runs.append_log import AppendLog

FILE = "labels.jsonl"
MAX_LABEL = 500
"""Characters of a label, as many as a judge of labels is shown."""
MAX_NAME = 100
"""Characters of an author's name, and of an entry's id."""


class Labels:
    """The labels of one study's features."""

    def __init__(self, path: Path, given: Mapping[int, str]) -> None:
        """`given`: feature -> label of the file that `align` was given. The file at `path` need not exist."""
        self._given = {
            feature: LabelEntry(feature, label, "", "", 0, "file") for feature, label in given.items() if label
        }
        self._entries: dict[int, list[LabelEntry]] = {}
        self._by_id: dict[str, LabelEntry] = {}
        self._log = AppendLog(path, self._note)

    @property
    def problem(self) -> str:
        """What of the file could not be read, in one sentence; empty where all could."""
        return self._log.problem

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
        with self._log.writing() as write:
            if (known := self._by_id.get(entry_id)) is not None:
                return known
            newest = len(self._entries.get(feature, []))
            if revision != newest:
                raise refusal(ConflictError, "refused.label.newer", feature=feature, revision=revision, newest=newest)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            entry = LabelEntry(feature, text, author, now, newest + 1)
            values = {"id": entry_id, **entry.to_dict()}
            del values["source"]
            write(values)
            return entry

    def _note(self, values: dict[str, Any]) -> None:
        entry_id = values.pop("id")
        entry = LabelEntry.from_dict(values)
        own = self._entries.setdefault(entry.feature, [])
        if not isinstance(entry_id, str) or not isinstance(entry.label, str) or entry.revision != len(own) + 1:
            raise ValueError("it is not the next label of its feature")
        own.append(entry)
        self._by_id[entry_id] = entry


def _line(text: str, what: Literal["label", "author", "id"], most: int, *, empty: bool = False) -> str:
    """`text` on one line. Raises `DataError`."""
    words, line = Words(f"refused.line.{what}"), " ".join(str(text).split())
    if not line and not empty:
        raise refusal(DataError, "refused.line.empty", what=words)
    if len(line) > most:
        raise refusal(DataError, "refused.line.long", what=words, n=len(line), most=most)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        raise refusal(DataError, "refused.line.surrogate", what=words) from error
    return line
