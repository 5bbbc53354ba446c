"""Options that several commands share, and what these commands do before and after their own work.

Heavy imports are inside the functions.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from sae_lens_med.commands.output import say, say_json
from sae_lens_med.escaping import plain
from sae_lens_med.runs.progress import console

if TYPE_CHECKING:
    from sae_lens_med.data import LoadedItems
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.records import McqItem, MetricValue
    from sae_lens_med.saes.releases import LoadedSae

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A catalogue alias (`sae-lens-med models`), a Hub id, or a folder, of a model or a LoRA adapter.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="kormedmcqa:doctor|nurse|pharm|dentist|all, sample, a named data set (medqa, medmcqa, pubmedqa, "
        "mmlu-clinical, mmmlu-ko-clinical, casimedicos:en|es|fr|it) from the Hub or as NAME:FILE, or a .jsonl, .csv, "
        ".tsv, .parquet or .xlsx file (several separated by commas).",
    ),
]
Sae = Annotated[str, typer.Option("--sae", "-s", help="RELEASE/ID, a folder, or REL:ID for a release of SAELens.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Output folder: new, empty, or that of the same run.")]
Split = Annotated[
    str | None,
    typer.Option(help="Split of KorMedMCQA: train, dev, test (the default) or fewshot; or of another set of the Hub."),
]
Shots = Annotated[
    int,
    typer.Option(
        min=0,
        help="Solved examples before every question: the data set's own few-shot rows for KorMedMCQA; otherwise the "
        "first items of the file, which are then left out.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto uses a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="Type of the model's weights: float32, bfloat16 or float16.")]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**31 - 1,
        help="Most tokens of one forward pass; by default what suits the device. Does not change the results.",
    ),
]
Permutations = Annotated[
    int,
    typer.Option(min=1, max=1_000_000, help="Permutations of every null; the smallest p is 1 / (this number + 1)."),
]
MAX_SEED = 2**32 - 1
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of permutations and bootstrap.")]
SkipBadItems = Annotated[
    bool,
    typer.Option(
        "--skip-bad-items",
        "--skip-bad-rows",
        help="Leave out rows that cannot be used and items that do not fit into the model's context, and report them.",
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Ids of items to leave out, separated by commas. Repeatable.")
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Of text files that are not UTF-8: cp949, utf-16, ...")
]
AnswersFrom = Annotated[
    int | None,
    typer.Option(
        "--answers-from", min=0, max=1, help="What a file's answers call the first option: 0 or 1 (the default)."
    ),
]
ExtraColumns = Annotated[
    str, typer.Option("--extra-columns", help="Columns of a file that nothing reads: refuse them, or ignore them.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only this many items, from the first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout instead of a table.")]
ExplanationSource = Annotated[
    str | None,
    typer.Option(
        help="Who wrote the explanations, where the rows do not say: expert, model, illustrative or reference. Only a "
        "study needs it."
    ),
]


def on_terminal() -> bool:
    """Whether stdout is a terminal: a person reads a table there, and a program in a pipe one name a line."""
    return sys.stdout.isatty()


@dataclass(frozen=True, slots=True)
class Reading:
    """How the data of a command are read, as its options say."""

    split: str | None = None
    skip_bad_items: bool = False
    limit: int | None = None
    explanation_source: str | None = None
    exclude: Sequence[str] | None = None
    """As given: each may hold several ids, separated by commas."""
    encoding: str | None = None
    answers_from: int | None = None
    extra_columns: str = "refuse"

    @property
    def given(self) -> set[str]:
        """The fields that are not as without any option."""
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name for name, (value, default) in values.items() if value not in (None, [], ()) and value != default}


def load_data(data: str, reading: Reading) -> "LoadedItems":
    """The items that the options name; rows, items and columns that were left out, and what a named data set says of
    itself, are reported on stderr."""
    from sae_lens_med.data import load_items

    loaded = load_items(
        data,
        reading.split,
        skip_bad_rows=reading.skip_bad_items,
        limit=reading.limit,
        explanation_source=reading.explanation_source,
        encoding=reading.encoding,
        answers_from=reading.answers_from,
        extra_columns=reading.extra_columns,
        exclude=[name.strip() for each in reading.exclude or () for name in each.split(",") if name.strip()],
    )
    _report_left_out(loaded.bad_rows)
    if loaded.ignored_columns:
        say(f"columns that nothing reads, ignored: {', '.join(loaded.ignored_columns)}.", err=True)
    for note in loaded.notes:
        say(note, err=True)
    return loaded


def leave_out_unfit(
    loaded: "LoadedItems", skip_bad_items: bool, check: "Callable[[Sequence[McqItem]], object]"
) -> "LoadedItems":
    """What remains of `loaded` without the items that `check` refuses for this model, which are reported on stderr;
    without `skip_bad_items` nothing is looked at: the run itself refuses them."""
    from sae_lens_med.errors import UnfitItemsError

    if not skip_bad_items:
        return loaded
    try:
        check(loaded.items)
    except UnfitItemsError as error:
        rest = loaded.without(error.reasons)
        _report_left_out(rest.bad_rows[len(loaded.bad_rows) :])
        return rest
    return loaded


def _report_left_out(lines: Sequence[str]) -> None:
    if lines:
        say(f"{len(lines)} rows or items were left out:", err=True)
    for line in lines:
        say(f"  {line}", err=True)


def open_model(model: str, sae: str | None, device: str, dtype: str) -> "tuple[MedBridge, LoadedSae | None]":
    """Model and SAE; one process of a machine fetches and converts them before the others look. An SAE of another
    model is reported on stderr."""
    import torch

    from sae_lens_med import distributed
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.saes.releases import load_sae

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = distributed.local_device(device)
    with distributed.first_before_the_others(of_machine=True):
        attached = None if sae is None else load_sae(sae, device=device)
        opened = load_model(model, device=device, dtype=dtype)
    if attached is not None:
        warn_other_model(opened, attached)
    return opened, attached


def warn_other_model(model: "MedBridge", sae: "LoadedSae") -> None:
    """Say on stderr where the SAE was trained on another model."""
    from sae_lens_med.saes.releases import other_model

    if sentence := other_model(sae, model.provenance["name"]):
        say(sentence, err=True)


def print_json(output: Path, metrics: "Sequence[MetricValue]") -> None:
    """The result for programs, on stdout."""
    value: dict[str, Any] = {"output": str(output), "metrics": [metric.to_dict() for metric in metrics]}
    say_json(value)


def print_tables(title: str, metrics: "Sequence[MetricValue]") -> None:
    """One narrow table per metric: with the names in a column, 80 characters would cut them."""
    say(title)
    out = console()
    for name in dict.fromkeys(metric.name for metric in metrics):
        table = Table(title=name, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False)
        for column in ("group", "variant"):
            table.add_column(column, overflow="fold")
        for column in ("n", "value", "95 % interval", "null", "p"):
            table.add_column(column, justify="right", no_wrap=True)
        for metric in metrics:
            if metric.name == name:
                table.add_row(
                    plain(metric.group),
                    plain(metric.variant),
                    str(metric.n),
                    f"{metric.value:.4f}",
                    "" if metric.interval is None else f"{metric.interval[0]:.4f} to {metric.interval[1]:.4f}",
                    "" if metric.null_mean is None else f"{metric.null_mean:.4f}",
                    "" if metric.p is None else f"{metric.p:.2g}",
                )
        out.print(table)
        out.print()
