"""Rows -> `McqItem`: KorMedMCQA, named data sets, local files, the packaged sample; masks against leakage."""

from sae_lens_med.data.kormedmcqa import COUNTS, load_kormedmcqa
from sae_lens_med.data.leakage import MaskedText, mask_leakage
from sae_lens_med.data.local import load_local
from sae_lens_med.data.mappings import source_names
from sae_lens_med.data.named import is_named, load_named
from sae_lens_med.data.rows import LoadedItems
from sae_lens_med.data.sample import load_sample
from sae_lens_med.data.tables import ACCEPTED_FORMS
from sae_lens_med.errors import DataError

__all__ = [
    "LoadedItems",
    "MaskedText",
    "load_items",
    "load_kormedmcqa",
    "load_local",
    "load_named",
    "load_sample",
    "mask_leakage",
]


def load_items(
    source: str,
    split: str | None = None,
    *,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    explanation_source: str | None = None,
) -> LoadedItems:
    """The items that `source` names.

    - `kormedmcqa:doctor|nurse|pharm|dentist|all`: the Hub data set; `split` is train, dev, test (the
      default) or fewshot;
    - `sample`: the packaged illustrative questions;
    - a named data set (`medqa`, `medmcqa`, `pubmedqa`, `mmlu-clinical`, `mmmlu-ko-clinical`, `casimedicos:en|es|fr|it`,
      and, without options, `liveqa`, `medicationqa`, `healthsearchqa`): the Hub's copy, or NAME:FILE for local files
      with the same columns; its counts and licence are checked and noted (`LoadedItems.notes`);
    - a .jsonl, .jsonl.gz, .csv or .parquet file, or several separated by commas; `explanation_source` (expert, model
      or illustrative) says who wrote the explanations where the rows do not.

    `limit` keeps only this many items, from the first. A bad row raises `DataError` naming file, row and field; with
    `skip_bad_rows` it is left out and reported in `LoadedItems.bad_rows`.
    """
    prefix, _, config = source.partition(":")
    if prefix == "kormedmcqa":
        _refuse(explanation_source, "explanation_source", source)
        return load_kormedmcqa(config, split or "test", skip_bad_rows=skip_bad_rows, limit=limit)
    if is_named(source):
        _refuse(explanation_source, "explanation_source", source)
        return load_named(source, split, skip_bad_rows=skip_bad_rows, limit=limit)
    _refuse(split, "split", source)
    if source == "sample":
        _refuse(explanation_source, "explanation_source", source)
        return load_sample(limit=limit)
    if not source.strip() or "." not in source:
        sources = ", ".join([*(f"kormedmcqa:{name}" for name in (*COUNTS, "all")), *source_names()])
        raise DataError(f"{source!r} is not a data source; use sample, {sources}, or {ACCEPTED_FORMS}.")
    return load_local(source, explanation_source=explanation_source, skip_bad_rows=skip_bad_rows, limit=limit)


def _refuse(value: str | None, name: str, source: str) -> None:
    if value is not None:
        raise DataError(f"{source}: this source does not take {name} (got {value!r}); leave it out.")
