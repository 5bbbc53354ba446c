"""Rows of a local file: .jsonl, .jsonl.gz, .csv or .parquet, with what is wrong with each row beside it.

Out of scope: what the fields mean (`local`, `training_text`). Row numbers start at 1 and count the rows of data;
for JSON lines they are line numbers of the file, so that an editor finds them.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")
ACCEPTED_FORMS = "a .jsonl, .jsonl.gz, .csv or .parquet file"

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file holds it: either `values`, or the `problem` that kept it from being read."""

    number: int
    values: dict[str, Any] | None
    problem: str | None = None


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of `path`, in order; a row that cannot be read comes as a `RawRow` with its problem.

    Raises `DataError` where the file as a whole cannot be read: absent, empty, damaged, or of another kind.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; use {ACCEPTED_FORMS}.")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: this file type is not supported; use {ACCEPTED_FORMS}.")
    rows = _read_parquet(path) if path.name.endswith(".parquet") else _read_text(path)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: the file has no rows; use a file with at least one.")


def _read_text(path: Path) -> Iterator[RawRow]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); copy or download it again.") from error
    # Bytes that are not UTF-8 survive as surrogates, so that the row that holds them can be named (and skipped).
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    raw = _csv_rows(path, text) if path.name.endswith(".csv") else _json_lines(text)
    for row in raw:
        field = None if row.values is None else _field_not_text(row.values)
        yield row if field is None else RawRow(row.number, None, f"field {field!r}: the text is not UTF-8")


def _json_lines(text: str) -> Iterator[RawRow]:
    # Only \n and \r\n end a line of JSON; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield RawRow(number, None, f"not a JSON object ({error.msg} at column {error.colno})")
            continue
        except RecursionError:
            yield RawRow(number, None, "not a JSON object (nested too deeply)")
            continue
        if isinstance(values, dict):
            yield RawRow(number, values)
        else:
            yield RawRow(number, None, f"not a JSON object but {_type_name(values)}")


def _csv_rows(path: Path, text: str) -> Iterator[RawRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}: the header names a column twice ({', '.join(header)}); name each column once.")
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                yield RawRow(number, None, f"{len(cells)} cells where the header has {len(header)} columns")
            else:
                # An empty cell is how a CSV file says that there is no value.
                yield RawRow(number, {k: (v if v != "" else None) for k, v in zip(header, cells, strict=True)})
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1}: not valid CSV ({error}); quote cells as RFC 4180 does.") from error


def _read_parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ARROW reads text lazily: to_pylist is where bytes that are not UTF-8 come to light.
        rows = pq.read_table(path).to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: a text column contains bytes that are not UTF-8; save the file again as UTF-8."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}).") from error
    for number, values in enumerate(rows, 1):
        yield RawRow(number, values)


def _field_not_text(values: dict[str, Any]) -> str | None:
    for name, value in values.items():
        if _SURROGATE.search(name) or _has_surrogate(value):
            return name.encode("utf-8", "replace").decode("utf-8")
    return None


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, list):
        return any(_has_surrogate(v) for v in value)
    if isinstance(value, dict):
        return any(_has_surrogate(v) for v in value.values()) or any(_has_surrogate(k) for k in value)
    return False


def _type_name(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")
