"""Local files of questions -> items: .jsonl, .jsonl.gz, .csv and .parquet, one or several at once.

The two schemas and the rules for what a row leaves unsaid are in `rows`. A source is one path, or several separated
by commas; ids must be unique over all of them.
"""

from pathlib import Path

from sae_lens_med.data.rows import ItemCollector, LoadedItems
from sae_lens_med.data.tables import SUFFIXES, read_rows


def load_local(
    source: str, *, explanation_source: str | None = None, skip_bad_rows: bool = False, limit: int | None = None
) -> LoadedItems:
    """The items of the file `source`, or of the files `PATH,PATH,...`, in order.

    `explanation_source` says who wrote explanations where the rows do not. A bad row raises `DataError` naming file,
    row and field; with `skip_bad_rows` it is left out and reported in `bad_rows` instead.
    """
    collector = ItemCollector(skip_bad_rows=skip_bad_rows)
    for path in local_paths(source):
        collector.add(
            read_rows(path),
            str(path),
            id_prefix=_stem(path.name),
            explanation_source=explanation_source,
            provenance={"dataset": path.name},
        )
    return collector.loaded(source, None, limit)


def local_paths(source: str) -> list[Path]:
    """The files that a source names, whether they are there or not."""
    # A file may have a comma in its name.
    if Path(source).expanduser().is_file():
        return [Path(source).expanduser()]
    return [Path(part.strip()).expanduser() for part in source.split(",") if part.strip()]


def _stem(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
