"""Edited questions that are kept: `STUDY/app/edited.jsonl`, one row a line, only ever added to.

Every command reads the file as questions (`--data STUDY/app/edited.jsonl`). A row has the columns of `data.rows`: an id
of its own, the subject and language of the original, and in `source` which question of which data it was edited from,
by whom and when. It has no explanation, because that of the original explains another question, and its answer is what
the person says who keeps it, or none.

A line is on the disk before it counts. Keeping again with the same id writes nothing.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sae_lens_med.app.refusals import Words, refusal
from sae_lens_med.errors import DataError
from sae_lens_med.records import OPTION_LETTERS, McqItem
from sae_lens_med.runs.append_log import AppendLog

FILE = "edited.jsonl"


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

    Raises `DataError` for an answer that no option has, or an author without a name, `ReadOnlyError` where the file
    cannot be written.
    """
    if answer is not None and answer not in OPTION_LETTERS[: len(options)]:
        letters = ", ".join(OPTION_LETTERS[: len(options)])
        raise refusal(DataError, "refused.kept.answer", letters=letters, answer=repr(answer))
    who = " ".join(author.split())
    if not who:
        raise refusal(DataError, "refused.line.empty", what=Words("refused.line.author"))
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
    written: set[str] = set()
    log = AppendLog(path, lambda values: written.add(values["id"]))
    with log.writing() as write:
        if name not in written:
            write(row)
    return name
