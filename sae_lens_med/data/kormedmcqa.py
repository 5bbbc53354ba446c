"""KorMedMCQA from the Hugging Face Hub: `sean0042/KorMedMCQA` (arXiv 2403.01469), checked when it is loaded.

| config  | train | dev | test | fewshot |
|---------|-------|-----|------|---------|
| doctor  |  1890 | 164 |  435 |       5 |
| nurse   |   582 | 291 |  878 |       5 |
| pharm   |   632 | 300 |  885 |       5 |
| dentist |   297 | 304 |  811 |       5 |

The five few-shot rows of a config repeat rows of its dev split, so a config has five fewer questions than rows (doctor:
2,489 questions, the paper's count, in 2,494 rows). Only few-shot rows carry `cot`, an explanation by professionals: 20
in all. Licence CC BY-NC 2.0: nothing of it is in this package. Out of scope: the image questions of KorMedMCQA-V.
"""

from collections.abc import Callable, Collection, Mapping

from sae_lens_med.data.hub import Rows, load_splits
from sae_lens_med.data.rows import KORMEDMCQA_LETTERS, ItemCollector, LoadedItems
from sae_lens_med.data.tables import ACCEPTED_FORMS, RawRow
from sae_lens_med.errors import DataError, nearest

HUB_ID = "sean0042/KorMedMCQA"
LICENCE = "CC BY-NC 2.0"
SPLITS = ("train", "dev", "test", "fewshot")
COUNTS: dict[str, dict[str, int]] = {
    "doctor": {"train": 1890, "dev": 164, "test": 435, "fewshot": 5},
    "nurse": {"train": 582, "dev": 291, "test": 878, "fewshot": 5},
    "pharm": {"train": 632, "dev": 300, "test": 885, "fewshot": 5},
    "dentist": {"train": 297, "dev": 304, "test": 811, "fewshot": 5},
}
_KEY = ("subject", "year", "period", "q_number")
_COLUMNS = (*_KEY, "question", *KORMEDMCQA_LETTERS, "answer", "cot")

Loader = Callable[[str], Mapping[str, Rows]]
"""Config -> its splits, each a sequence of rows (`datasets.load_dataset` without a split gives this)."""


def load_kormedmcqa(
    config: str,
    split: str = "test",
    *,
    skip_bad_rows: bool = False,
    limit: int | None = None,
    exclude: Collection[str] = (),
    loader: Loader | None = None,
) -> LoadedItems:
    """The items of one split of `config` (doctor, nurse, pharm, dentist, or all: these four joined, in this order).
    The subject of an item is its config.

    Schema, counts and the repeated few-shot rows are checked on every load. `loader` replaces the download (a mirror,
    a copy on disk); the rest as in `load_items`. Raises `DataError` when the Hub cannot be reached and nothing is
    cached, when the data set is not the one described above, or when config or split is unknown.
    """
    known = (*COUNTS, "all")
    if config not in known:
        raise DataError(
            f"KorMedMCQA has no config {config!r}; use one of {', '.join(known)}{nearest(config, known) or '.'}"
        )
    if split not in SPLITS:
        raise DataError(
            f"KorMedMCQA has no split {split!r}; use one of {', '.join(SPLITS)}{nearest(split, SPLITS) or '.'}"
        )
    collector = ItemCollector(skip_bad_rows=skip_bad_rows, exclude=exclude)
    for name in COUNTS if config == "all" else (config,):
        splits = (loader or _load_from_hub)(name)
        check_config(name, splits)
        rows = [RawRow(number, {**row, "subject": name, "lang": "ko"}) for number, row in enumerate(splits[split], 1)]
        provenance = {"dataset": HUB_ID, "config": name, "split": split, "licence": LICENCE}
        if split == "fewshot":
            provenance["repeats"] = "dev"
        collector.add(rows, f"kormedmcqa:{name} {split}", id_prefix=f"{name}-{split}", provenance=provenance)
    return collector.loaded(f"kormedmcqa:{config}", split, limit)


def check_config(config: str, splits: Mapping[str, Rows]) -> None:
    """Raise `DataError` unless `splits` has the splits, columns, counts and repeated rows of the module's table."""
    where = f"kormedmcqa:{config}"
    remedy = "the data set on the Hub has changed, or this copy is incomplete"
    if set(splits) != set(SPLITS):
        raise DataError(f"{where}: has the splits {', '.join(splits)} instead of {', '.join(SPLITS)}; {remedy}.")
    for split, expected in COUNTS[config].items():
        rows = splits[split]
        if len(rows) != expected:
            raise DataError(f"{where}: split {split} has {len(rows)} rows instead of {expected}; {remedy}.")
        columns = set(rows[0])
        if columns != set(_COLUMNS):
            odd = sorted(columns ^ set(_COLUMNS))
            raise DataError(f"{where}: split {split} has missing or extra columns: {', '.join(odd)}; {remedy}.")
    dev = {tuple(row[k] for k in _KEY): row["question"] for row in splits["dev"]}
    questions = set(dev.values())
    for number, row in enumerate(splits["fewshot"], 1):
        if tuple(row[k] for k in _KEY) not in dev and row["question"] not in questions:
            raise DataError(f"{where}: split fewshot: row {number} is not a row of dev; {remedy}.")


def _load_from_hub(config: str) -> Mapping[str, Rows]:
    instead = (
        f"{ACCEPTED_FORMS} in the KorMedMCQA schema (question, A to E, answer) or the generic one (question, options, "
        "answer)"
    )
    return load_splits(HUB_ID, config, f"kormedmcqa:{config}", instead)
