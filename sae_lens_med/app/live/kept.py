"""Edited questions that are kept: `STUDY/app/edited.jsonl`, one row a line, only ever added to.

Every command reads the file as questions (`--data STUDY/app/edited.jsonl`). A row has the columns of `data.rows`: an id
of its own, the subject and language of the original, and in `source` which question of which data it was edited from,
by whom and when. It has no explanation, because that of the original explains another question, and its answer is what
the person says who keeps it, or none.

A line is on the disk before it counts. Keeping again with the same id writes nothing.
"""

import fcntl
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError
from sae_lens_med.records import OPTION_LETTERS, McqItem
from sae_lens_med.runs.files import json_line, naming_what_fails
from sae_lens_med.runs.parsing import ParseError, parse_json

FILE = "edited.jsonl"
_guard = threading.Lock()


def keep(
    path: Path, original: McqItem, question: str, options: tuple[str, ...], answer: str | None, author: str, entry: str
) -> str:
    """Add an edited question; return its id.

    Args:
        path: of the file, which need not exist.
        original: the question that was edited.
        question, options: of the edited one.
        answer: letter of the right option; None where nobody says.
        author: who edited it, on one line.
        entry: made by the client, 8 characters or more.

    Raises `DataError` for an answer that no option has, or an author without a name.
    """
    if answer is not None and answer not in OPTION_LETTERS[: len(options)]:
        raise DataError(f"the right answer is one of {', '.join(OPTION_LETTERS[: len(options)])}, got {answer!r}.")
    who = " ".join(author.split())
    if not who:
        raise DataError("the author is empty; write a name.")
    name = f"{original.id}~edited-{entry}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kept = {key: value for key, value in original.provenance.items() if key in ("dataset", "split", "licence")}
    row: dict[str, Any] = {
        "id": name,
        "subject": original.subject,
        "lang": original.language,
        "question": question,
        "options": list(options),
        "answer": answer,
        **kept,
        "source": f"edited from {original.id} by {who}, {now}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard, naming_what_fails(path), path.open("a+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.seek(0)
        before = file.read()
        if name in _ids(before):
            return name
        unended = before and not before.endswith(b"\n")
        file.write((("\n" if unended else "") + json_line(row)).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    return name


def _ids(content: bytes) -> set[str]:
    found = set()
    for line in filter(None, content.split(b"\n")):
        try:
            found.add(parse_json(line)["id"])
        except (ParseError, KeyError, TypeError):
            continue  # a torn line, which the commands that read the file name
    return found
