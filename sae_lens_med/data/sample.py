"""The packaged sample: Korean five-option questions with explanations, written for this package.

They come from no exam and no clinician has reviewed them: every explanation is marked `illustrative`, and a number
computed on them shows how the tools work, not what a model knows.
"""

from collections.abc import Collection
from importlib.resources import as_file, files

from sae_lens_med.data.rows import ItemCollector, LoadedItems
from sae_lens_med.data.tables import read_rows
from sae_lens_med.errors import DataError

_PROVENANCE = {
    "dataset": "sae-lens-med sample (illustrative: from no exam, reviewed by no clinician)",
    "licence": "MIT",
}


def load_sample(*, limit: int | None = None, exclude: Collection[str] = ()) -> LoadedItems:
    """The packaged items, without those of the ids in `exclude`. Raises `DataError` when one is not marked illustrative
    or the file is not whole."""
    collector = ItemCollector(skip_bad_rows=False, exclude=exclude)
    with as_file(files("sae_lens_med") / "data" / "sample_ko.jsonl") as path:
        collector.add(read_rows(path), "sample", id_prefix="sample", provenance=_PROVENANCE)
    for item in collector.items:
        if item.explanation_source != "illustrative":
            raise DataError(
                f"sample: the item {item.id!r} is not marked illustrative; the package is damaged; install it again."
            )
    return collector.loaded("sample", None, limit)
