"""Rows of a local file, with what is wrong with each row beside it: the one way in for every table that a user has.

    .jsonl            one JSON object a line
    .csv, .tsv        cells divided by comma, semicolon, tab or |: by whichever divides the header into most
    .parquet          as pandas, Hugging Face datasets and others write it
    .xlsx             the one sheet that holds something (extra `excel`)

Text files may be compressed (.csv.gz); capitals in an ending do not matter; encodings are those of `encoding`.

What spreadsheets and pandas add is taken out again, in every form: rows and columns that are blank, the column without
a name that numbers the rows, NaN in the place of nothing, and the fraction of a whole number (`1.0`) where the form
tells numbers from texts. A file whose columns are at fault is refused as a file.

Row numbers start at 1 and count the rows of data; for JSON lines they are line numbers of the file, so that an editor
finds them. Out of scope: what the fields mean (`rows`, `training.text`, `concepts.sets`).
"""

import csv
import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.data.encoding import decoded, require_encoding
from sae_lens_med.errors import DataError, MissingExtraError
from sae_lens_med.runs.files import is_file
from sae_lens_med.runs.parsing import NotTextError, ParseError, parse_json

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".xlsx")
ACCEPTED_FORMS = "a .jsonl, .csv, .tsv, .parquet or .xlsx file (the first three also with .gz)"
MAX_BYTES = 4 << 30
"""Of a text file, decompressed."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIVIDERS = (",", ";", "\t", "|")
_HEADER_CHARS = 1 << 16
_EXCEL_ERRORS = ("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!")
_UNNAMED = re.compile(r"\s*|Unnamed: \d+(?:[._]\S*)?|__index_level_\d+__")
"""Names of columns that have none: blank, or what pandas calls them."""
_OTHER_FORMS = {
    ".xls": "save it as .xlsx or .csv",
    ".xlsb": "save it as .xlsx or .csv",
    ".ods": "save it as .xlsx or .csv",
    ".json": "write one JSON object a line, as .jsonl",
    ".zip": "unpack it",
}


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file holds it: either `values`, or the `problem` that kept it from being read."""

    number: int
    values: dict[str, Any] | None
    problem: str | None = None


def read_rows(path: Path, encoding: str | None = None, *, encoding_option: str | None = None) -> list[RawRow]:
    """The rows of `path`, in order; a row that cannot be read comes as a `RawRow` with its problem.

    `encoding` is that of a text file that is not UTF-8; `encoding_option` is how a user gives it, up to its name
    (`--encoding `), for the error that names it. Raises `DataError` where the file as a whole cannot be read:
    absent, empty, damaged, of another kind or encoding, or with columns that cannot be told apart; and
    `MissingExtraError` for .xlsx without the extra `excel`.
    """
    name = path.name.lower()
    if encoding is not None:
        require_encoding(encoding)
    if not is_file(path):
        what = "this is a folder, not a file" if os.path.isdir(path) else "no such file"
        raise DataError(f"{path}: {what}; use {ACCEPTED_FORMS}.")
    if not name.endswith(SUFFIXES):
        hint = next((hint for ending, hint in _OTHER_FORMS.items() if name.endswith(ending)), None)
        raise DataError(f"{path}: this file type is not supported; {hint or f'use {ACCEPTED_FORMS}'}.")
    if name.endswith(".parquet"):
        rows = _read_parquet(path)
    elif name.endswith(".xlsx"):
        rows = _read_excel(path)
    else:
        text = decoded(_bytes(path), path, encoding, encoding_option)
        raw = _json_lines(path, text) if ".jsonl" in name[-9:] else _csv_rows(path, text)
        rows = [_require_text(row) for row in raw]
    rows = _as_written(path, rows)
    if not rows:
        raise DataError(f"{path}: the file has no rows; use a file with at least one.")
    return rows


def stem(path: Path) -> str:
    """The file's name without its ending, `.csv.gz` as a whole."""
    name = path.name.lower()
    return next((path.name[: -len(each)] for each in SUFFIXES if name.endswith(each)), path.name)


# --- the forms ----------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); copy or download it again.") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); copy it, or change its rights."
        ) from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES >> 30} GB of text; split it into several files.")
    return data


def _json_lines(path: Path, text: str) -> Iterator[RawRow]:
    _require_lines(path, text)
    # Only \n and \r\n end a line of JSON; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except NotTextError as error:
            yield RawRow(number, None, f"field {error.key!r}: the text is not UTF-8")
            continue
        except ParseError as error:
            yield RawRow(number, None, f"not a JSON object ({_in_one_line(error)})")
            continue
        if not isinstance(values, dict):
            yield RawRow(number, None, f"not a JSON object but {_type_name(values)}")
        else:
            yield RawRow(number, values)


def _require_lines(path: Path, text: str) -> None:
    """Raise `DataError` for one JSON value in the place of one object a line: a list of rows, or an object over several
    lines."""
    first = text.lstrip()[:1]
    lines = text.strip().split("\n", 1)
    if first not in ("[", "{") or (first == "{" and (len(lines) == 1 or lines[0].rstrip().endswith("}"))):
        return
    try:
        value = parse_json(text)
    except ParseError:  # told of its rows
        return
    if isinstance(value, dict) or (value and all(isinstance(each, dict) for each in value)):
        what = "one JSON list" if isinstance(value, list) else "one JSON object over several lines"
        raise DataError(f"{path}: the file is {what}; write one JSON object a line, as `jq -c '.[]'` does of a list.")


def _csv_rows(path: Path, text: str) -> Iterator[RawRow]:
    stated = re.match(r"sep=(.)\r?\n", text)  # as Excel writes and reads it
    if stated:
        text = text[stated.end() :]
    records = _records(path, text, stated[1] if stated else _divider(path, text))
    number, header = 0, next((cells for cells in records if any(cell.strip() for cell in cells)), [])
    names = [name.strip() for name in header]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{path}: the header names a column twice ({', '.join(dict.fromkeys(twice))}); name each once.")
    # A column without a name gets one that tells it from others; blank ones are taken out later.
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    for cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        # Spreadsheets end a row with as many dividers as their widest row has.
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(names):
            yield RawRow(number, None, f"{len(cells)} cells where the header has {len(names)} columns")
        else:
            # An empty cell is how a CSV file says that there is no value.
            yield RawRow(number, {k: (v if v != "" else None) for k, v in zip(names, cells, strict=True)})


def _records(path: Path, text: str, divider: str) -> Iterator[list[str]]:
    before = csv.field_size_limit(2**31 - 1)  # of the whole process, so it is put back
    found: list[list[str]] = []
    try:
        # All at once, so that no other reader of CSV runs under this limit.
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True):
            found.append(cells)
    except csv.Error as error:
        raise DataError(f"{path}: row {len(found)}: not valid CSV ({error}); quote cells as RFC 4180 does.") from error
    finally:
        csv.field_size_limit(before)
    return iter(found)


def _divider(path: Path, text: str) -> str:
    """What divides the header into most cells; of several, the comma, or in a .tsv file the tab."""
    # Blank rows may stand before the header.
    start = text.lstrip(" \r\n" + "".join(_DIVIDERS))[:_HEADER_CHARS]
    first = "\t" if ".tsv" in path.name.lower()[-7:] else ","

    def n_cells(divider: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(start, newline=""), delimiter=divider), []))
        except csv.Error:
            return 0

    return max((first, *_DIVIDERS), key=n_cells)


def _read_parquet(path: Path) -> list[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ARROW reads text lazily: to_pylist is where bytes that are not UTF-8 come to light.
        table = pq.ParquetFile(path).read()
        if twice := [name for name in table.column_names if table.column_names.count(name) > 1]:
            raise DataError(f"{path}: two columns have one name ({twice[0]}); name each once.")
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: a text column contains bytes that are not UTF-8; save the file again as UTF-8."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({_in_one_line(error)}); write it again.") from error
    return [RawRow(number, values) for number, values in enumerate(rows, 1)]


def _read_excel(path: Path) -> list[RawRow]:
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise MissingExtraError("openpyxl", "excel", f"reading {path}") from error
    try:
        with path.open("rb") as file:
            values, formulas = (load_workbook(file, read_only=True, data_only=shown) for shown in (True, False))
            filled = {sheet.title: cells for sheet in values.worksheets if (cells := _cells(sheet))}
            if len(filled) > 1:
                raise DataError(f"{path}: several sheets hold something ({', '.join(filled)}); keep one of them.")
            if not filled:
                return []
            title, cells = next(iter(filled.items()))
            written = _cells(formulas[title])
            cells += [[]] * (len(written) - len(cells))
    except DataError:
        raise
    # openpyxl lets whatever its parsers raise through: a damaged workbook is any of zip, XML, key and value errors.
    except Exception as error:
        raise DataError(f"{path}: not a readable .xlsx file ({_in_one_line(error)}); save it again.") from error
    return list(_excel_rows(path, cells, written))


def _cells(sheet: Any) -> list[list[Any]]:
    """The sheet's values, row by row, without the blank rows at its end."""
    sheet.reset_dimensions()  # what the file says of its size need not be true
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    while rows and all(_is_blank(value) for value in rows[-1]):
        rows.pop()
    return rows


def _excel_rows(path: Path, cells: list[list[Any]], written: list[list[Any]]) -> Iterator[RawRow]:
    at = next(i for i, row in enumerate(cells) if not all(map(_is_blank, row)))
    names = ["" if _is_blank(name) else str(name).strip() for name in cells[at]]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{path}: the header names a column twice ({', '.join(dict.fromkeys(twice))}); name each once.")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    for number, (row, original) in enumerate(zip(cells[at + 1 :], written[at + 1 :], strict=True), 1):
        if all(map(_is_blank, row)) and not any(map(_is_formula, original)):
            continue
        names += [f"Unnamed: {place}" for place in range(len(names), len(row))]
        values: dict[str, Any] = dict.fromkeys(names)
        problem = None
        for name, value, source in zip(names, row, [*original, *[None] * len(row)], strict=False):
            values[name] = None if value == "" else value
            if value is None and _is_formula(source):
                problem = f"field {name!r}: a formula without a stored value; open the file in Excel and save it"
            elif isinstance(value, str) and value in (
                "#N/A",
                "#REF!",
                "#VALUE!",
                "#NAME?",
                "#DIV/0!",
                "#NULL!",
                "#NUM!",
            ):
                problem = f"field {name!r}: the cell shows the error {value}"
        yield RawRow(number, None, problem) if problem else RawRow(number, values)


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("=")


# --- what is no data ----------------------------------------------------------------------------------------------


def _as_written(path: Path, rows: list[RawRow]) -> list[RawRow]:
    """The rows without what tables of pandas and spreadsheets hold beside the data."""
    rows = [row if row.values is None else RawRow(row.number, _plain(row.values)) for row in rows]
    rows = [row for row in rows if not row.values or any(value is not None for value in row.values.values())]
    read = [row.values for row in rows if row.values is not None]
    for name in dict.fromkeys(name for values in read for name in values if _UNNAMED.fullmatch(name)):
        cells = [values.get(name) for values in read]
        if not all(map(_is_blank, cells)) and not _numbers_rows(cells):
            raise DataError(f"{path}: a column without a name holds {_short(cells)}; name it, or delete it.")
        for values in read:
            values.pop(name, None)
    return rows


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """NaN is nothing, and a number without a fraction is a whole one: pandas writes a column with gaps as floats."""
    found = {}
    for name, value in values.items():
        if isinstance(value, float):
            value = None if math.isnan(value) else int(value) if value.is_integer() else value
        found[str(name)] = value
    return found


def _numbers_rows(cells: Iterable[Any]) -> bool:
    """Whether a column only numbers the rows, as the index of a pandas table does, also of one that was filtered or put
    together of several."""
    return all(re.fullmatch(r"[0-9]{1,12}(?:\.0)?", str(cell).strip()) for cell in cells)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _require_text(row: RawRow) -> RawRow:
    for name, value in (row.values or {}).items():
        if _SURROGATE.search(name) or (isinstance(value, str) and _SURROGATE.search(value)):
            shown = name.encode("utf-8", "replace").decode("utf-8")
            return RawRow(row.number, None, f"field {shown!r}: the text is not UTF-8")
    return row


def _type_name(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _short(cells: list[Any]) -> str:
    text = repr(next(cell for cell in cells if not _is_blank(cell)))
    return text if len(text) <= 40 else f"{text[:37]}..."


def _in_one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
