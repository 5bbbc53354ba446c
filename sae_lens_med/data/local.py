"""Local files of questions -> items, one or several at once; `tables` says which forms are read.

The two schemas and the rules for what a row leaves unsaid are in `rows`. A source is one path, or several separated
by commas; ids must be unique over all of them.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from sae_lens_med.data.rows import ItemCollector, LoadedItems
from sae_lens_med.data.tables import read_rows, stem
from sae_lens_med.errors import DataError
from sae_lens_med.runs.files import is_file, told_apart


def load_local(
    source: str,
    *,
    explanation_source: str | None = None,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    encoding: str | None = None,
    answers_from: int | None = None,
    extra_columns: str = "refuse",
    exclude: Collection[str] = (),
) -> LoadedItems:
    """The items of the file `source`, or of the files `PATH,PATH,...`, in order. The arguments are those of
    `load_items`."""
    collector = ItemCollector(
        skip_bad_rows=skip_bad_rows, answers_from=answers_from, extra_columns=extra_columns, exclude=exclude
    )
    paths = local_paths(source)
    require_different(paths)
    for path, name, prefix in zip(paths, told_apart(paths), told_apart(paths, stem), strict=True):
        collector.add(
            read_rows(path, encoding, encoding_option="--encoding "),
            str(path),
            id_prefix=prefix,
            explanation_source=explanation_source,
            provenance={"dataset": name},
        )
    return collector.loaded(source, None, limit)


def require_different(paths: Sequence[Path]) -> None:
    """Raise `DataError` when one file is given twice, also by another path."""
    seen: set[Path] = set()
    for path in filter(is_file, paths):  # what no file can be is told by who reads it
        if path.resolve() in seen:
            raise DataError(f"{path}: this file is named twice; name each file once.")
        seen.add(path.resolve())


def local_paths(source: str) -> list[Path]:
    """The files that a source names, whether they are there or not."""
    # A file may have a comma in its name.
    if is_file(_expanded(source)):
        return [_expanded(source)]
    return [_expanded(part.strip()) for part in source.split(",") if part.strip()]


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~ of a user that is not there
        return Path(path)
