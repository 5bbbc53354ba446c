"""Ratings -> the file that `align --ratings` reads, as JSONL or CSV.

Out of scope: reading it (`alignment.ratings_file`).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from sae_lens_med.alignment.ratings_file import FIELDS
from sae_lens_med.app.figures import FORMULA
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import ConfigError, DataError, NotFoundError
from sae_lens_med.runs.files import json_line, write_text

ENDINGS = (".jsonl", ".csv")


def ratings_text(rows: Sequence[Mapping[str, str]], ending: str) -> str:
    """The file's text.

    Raises `NotFoundError` without rows, `ConfigError` for another ending, and `DataError` for an id that a spreadsheet
    would take for a formula, which CSV cannot hold unchanged.
    """
    if ending not in ENDINGS:
        raise ConfigError(f"ratings are written as {' or '.join(ENDINGS)}, not as {ending!r}; choose one of them.")
    if not rows:
        raise refusal(NotFoundError, "refused.rated.none")
    if ending == ".jsonl":
        return "".join(json_line({name: row[name] for name in FIELDS}) for row in rows)
    if formula := next((row["item"] for row in rows if row["item"].startswith(FORMULA)), None):
        raise refusal(DataError, "refused.formula", item=repr(formula))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([row[name] for name in FIELDS] for row in rows)
    return buffer.getvalue()


def write_ratings(rows: Sequence[Mapping[str, str]], path: Path, *, force: bool = False) -> None:
    """Write the file, atomically. Raises as `ratings_text`, and `ConfigError` where there is a file and not `force`."""
    text = ratings_text(rows, path.suffix)
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; add --force to replace it, or choose another name.")
    write_text(path, text)
