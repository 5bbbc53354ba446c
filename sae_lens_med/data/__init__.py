"""Rows -> `McqItem`: KorMedMCQA, named data sets, local files, the packaged sample; masks against leakage."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sae_lens_med.data.fields import short
from sae_lens_med.data.kormedmcqa import COUNTS, load_kormedmcqa
from sae_lens_med.data.leakage import MaskedText, mask_leakage
from sae_lens_med.data.local import load_local
from sae_lens_med.data.mappings import source_names
from sae_lens_med.data.named import is_named, load_named
from sae_lens_med.data.rows import LoadedItems
from sae_lens_med.data.sample import load_sample
from sae_lens_med.data.tables import ACCEPTED_FORMS
from sae_lens_med.errors import DataError, nearest
from sae_lens_med.records import EXPLANATION_SOURCES

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
    encoding: str | None = None,
    answers_from: int | None = None,
    extra_columns: str = "refuse",
    exclude: Collection[str] = (),
) -> LoadedItems:
    """The items that `source` names.

    - `kormedmcqa:doctor|nurse|pharm|dentist|all`: the Hub data set; `split` is train, dev, test (the
      default) or fewshot;
    - `sample`: the packaged illustrative questions;
    - a named data set (`medqa`, `medmcqa`, `pubmedqa`, `mmlu-clinical`, `mmmlu-ko-clinical`, `casimedicos:en|es|fr|it`,
      and, without options, `liveqa`, `medicationqa`, `healthsearchqa`): the Hub's copy, or NAME:FILE for local files
      with the same columns; its counts and licence are checked and noted (`LoadedItems.notes`);
    - a .jsonl, .csv, .tsv, .parquet or .xlsx file, or several separated by commas.

    Args:
        source: as above.
        split: of the Hub data set.
        skip_bad_rows: leave out rows that cannot be used and say so in `LoadedItems.bad_rows`.
        limit: keep only this many items, from the first.
        explanation_source: of a file: who wrote the explanations where the rows do not say, `expert`, `model`,
            `illustrative` or `reference`.
        encoding: of the files that are not UTF-8, such as `cp949`.
        answers_from: the number that a file gives to the first option, 0 or 1. None: 1, and a file that seems to count
            from 0 is refused.
        extra_columns: of a file: `refuse` columns that nothing reads, or `ignore` them and say so in
            `LoadedItems.ignored_columns`.
        exclude: ids of items that are left out.

    Raises `DataError`: for a file as a whole, or for all rows that cannot be used, naming file, row and field.
    """
    if explanation_source is not None and explanation_source not in EXPLANATION_SOURCES:
        raise DataError(
            f"explanations are by one of {', '.join(EXPLANATION_SOURCES)}, got {short(explanation_source)}"
            f"{nearest(explanation_source, EXPLANATION_SOURCES).rstrip('?')}."
        )
    prefix, _, config = source.partition(":")
    of_files = {
        "explanation_source": (explanation_source, None),
        "encoding": (encoding, None),
        "answers_from": (answers_from, None),
        "extra_columns": (extra_columns, "refuse"),
    }
    given: dict[str, Any] = {name: value for name, (value, default) in of_files.items() if value != default}
    both: dict[str, Any] = {"skip_bad_rows": True} if skip_bad_rows else {}
    if exclude:
        both["exclude"] = tuple(exclude)
    if prefix == "kormedmcqa":
        _refuse(given, source)
        loaded = load_kormedmcqa(config, split or "test", limit=limit, **both)
    elif source == "sample":
        _refuse({**({} if split is None else {"split": split}), **given}, source)
        loaded = load_sample(limit=limit, exclude=tuple(exclude))
    elif is_named(source):
        of_any_file = ("encoding", "answers_from")
        _refuse({name: value for name, value in given.items() if name not in of_any_file}, source)
        loaded = load_named(source, split, limit=limit, **given, **both)
    else:
        _refuse({} if split is None else {"split": split}, source)
        if not source.strip() or "." not in source:
            sources = ", ".join([*(f"kormedmcqa:{name}" for name in (*COUNTS, "all")), *source_names()])
            hint = nearest(source, ("sample", *sources.split(", ")))
            raise DataError(
                f"{source!r} is not a data source{hint.rstrip('?')}; use sample, {sources}, or {ACCEPTED_FORMS}."
            )
        loaded = load_local(source, limit=limit, **given, **both)
    return replace(loaded, reading={**given, **both})


def _refuse(given: dict[str, object], source: str) -> None:
    for name, value in given.items():
        raise DataError(f"{source}: this source does not take {name} (got {value!r}); leave it out.")
