"""A data set of the Hugging Face Hub, through the `datasets` library: from its cache or the network."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens_med.errors import DataError

Rows = Sequence[Mapping[str, Any]]


def load_splits(hub_id: str, config: str | None, where: str, instead: str) -> Mapping[str, Rows]:
    """Every split of a data set, each a list of rows. `where` is what errors call it.

    Raises `DataError` when it cannot be reached and nothing is cached (`instead` says what to use then), or when the
    Hub returns something else than splits.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(hub_id, name=config)
    except (OSError, ValueError) as error:  # what `datasets` raises for no network, no cache, no such config
        raise DataError(
            f"{where}: could not reach {hub_id!r} on the Hugging Face Hub and no cached copy was found "
            f"({type(error).__name__}); connect to the network once, or use {instead} instead."
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"{where}: the Hub returned {type(loaded).__name__} instead of a set of splits.")
    return {str(split): rows.to_list() for split, rows in loaded.items()}
