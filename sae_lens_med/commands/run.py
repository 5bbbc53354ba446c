"""`evaluate`, `study` and `demo`: run a model on questions. Heavy imports are inside the commands."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sae_lens_med.data import LoadedItems
    from sae_lens_med.models import MedBridge
    from sae_lens_med.records import MetricValue
    from sae_lens_med.saes.releases import LoadedSae
    from sae_lens_med.study import StudyResult

DEMO_MODEL = "gemma-3-270m"
DEMO_SAE = "sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post"
DEMO_DATA = "sample"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Alias of the catalogue (`sae-lens-med models`), Hub id, or folder.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="kormedmcqa:doctor|nurse|pharm|dentist|all, sample, or a .jsonl, .jsonl.gz, .csv or .parquet file "
        "(several separated by commas).",
    ),
]
Sae = Annotated[
    str, typer.Option("--sae", "-s", help="RELEASE/ID, a folder, or REL:ID of a release that SAELens knows.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new, empty, or that of the same run.")]
Split = Annotated[str | None, typer.Option(help="Split of KorMedMCQA: train, dev, test (the default) or fewshot.")]
Shots = Annotated[
    int,
    typer.Option(
        min=0,
        help="Solved examples before every question: the data set's own few-shot rows for KorMedMCQA; otherwise the "
        "first items of the file, which are then left out.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16: of the model's weights.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most tokens of one forward pass; does not change the results.")]
Permutations = Annotated[int, typer.Option(min=1, help="Permutations of every null; the least p is 1 / (this + 1).")]
Seed = Annotated[int, typer.Option(min=0, help="Of permutations and bootstrap.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that are wrong, and report them.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout instead of a table.")]
ExplanationSource = Annotated[
    str | None,
    typer.Option(help="Who wrote the explanations where the rows do not say: expert, model or illustrative."),
]


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(evaluate)
    app.command()(study)
    app.command()(demo)


def evaluate(
    model: Model,
    data: Data,
    output: Output,
    sae: Annotated[
        str | None,
        typer.Option("--sae", "-s", help="Evaluate through this SAE: its reconstruction replaces the activation."),
    ] = None,
    split: Split = None,
    shots: Shots = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the question into the model's chat template.")] = False,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="With --chat: leave Qwen3's thinking on; off otherwise.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = 8192,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    skip_bad_rows: SkipBadRows = False,
    limit: Limit = None,
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
) -> None:
    """Accuracy on multiple-choice questions, by the option-letter method.

    The model's answer is the option letter that it holds likeliest in the answer slot. Writes items.jsonl (one result
    an item) and summary.json; an interrupted run goes on when it is started again.

    Example: sae-lens-med evaluate --model gemma-3-270m --data kormedmcqa:doctor --shots 5 --output eval-doctor
    """
    from sae_lens_med.evaluation.run import evaluate as run_evaluation
    from sae_lens_med.evaluation.shots import choose_shots

    loaded = _load_data(data, split, skip_bad_rows, limit, explanation_source)
    examples, loaded = choose_shots(loaded, shots)
    opened, attached = _open(model, sae, device, dtype)
    result = run_evaluation(
        opened,
        loaded,
        output,
        shots=examples,
        chat=chat,
        enable_thinking=thinking,
        batch_tokens=batch_tokens,
        sae=attached,
        permutations=permutations,
        seed=seed,
    )
    if as_json:
        _print_json(output, result.metrics)
    else:
        _print_tables(f"{opened.provenance['name']} on {loaded.source}, {len(loaded.items)} items", result.metrics)
        typer.echo(f"Results: {output}")


def study(
    model: Model,
    sae: Sae,
    data: Data,
    output: Output,
    split: Split = None,
    shots: Shots = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = 4096,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    n_shown: Annotated[int, typer.Option(min=0, help="Items that the report shows in full.")] = 6,
    skip_bad_rows: SkipBadRows = False,
    limit: Limit = None,
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
) -> None:
    """The main job: answers, SAE features, and their alignment with the explanations, in one folder with a report.

    Started again on the same folder, it skips what is finished; with another model, SAE, data or setting it refuses
    and says what changed.

    Example: sae-lens-med study --model gemma-3-270m --sae sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post
    --data sample --output my-study
    """
    loaded = _load_data(data, split, skip_bad_rows, limit, explanation_source)
    _run_study(
        model,
        sae,
        loaded,
        output,
        shots=shots,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        permutations=permutations,
        seed=seed,
        n_shown=n_shown,
        as_json=as_json,
    )


def demo(
    output: Output = Path("demo-study"),
    device: Device = "auto",
    batch_tokens: BatchTokens = 4096,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The study on the packaged sample with gemma-3-270m and the shipped SAE: minutes on two cores, no network.

    The sample's questions are illustrative: written for this package, from no exam, reviewed by no clinician. The demo
    shows how the tool works, not what a model knows.

    Example: sae-lens-med demo
    """
    loaded = _load_data(DEMO_DATA, None, False, None, None)
    _run_study(
        DEMO_MODEL,
        DEMO_SAE,
        loaded,
        output,
        shots=0,
        device=device,
        dtype="float32",
        batch_tokens=batch_tokens,
        permutations=permutations,
        seed=seed,
        n_shown=6,
        as_json=as_json,
    )


def _run_study(
    model: str,
    sae: str,
    data: "LoadedItems",
    output: Path,
    *,
    shots: int,
    device: str,
    dtype: str,
    batch_tokens: int,
    permutations: int,
    seed: int,
    n_shown: int,
    as_json: bool,
) -> None:
    from sae_lens_med.errors import ReleaseError
    from sae_lens_med.evaluation.shots import choose_shots
    from sae_lens_med.study import run_study

    examples, data = choose_shots(data, shots)
    opened, attached = _open(model, sae, device, dtype)
    if attached is None:
        raise ReleaseError("a study needs an SAE; give one with --sae (`sae-lens-med releases list`).")
    err = Console(stderr=True)
    result = run_study(
        opened,
        attached,
        data,
        output,
        shots=examples,
        permutations=permutations,
        seed=seed,
        n_shown=n_shown,
        batch_tokens=batch_tokens,
        on_stage=lambda name, done: err.print(f"[bold]{name}[/bold]{': done before, skipped' if done else ''}"),
    )
    if as_json:
        _print_json(output, result.metrics)
        return
    title = f"{opened.provenance['name']} with {attached.source} on {data.source}, {len(data.items)} items"
    # By subject and by gold letter are in the report: dozens of rows of few items say little here.
    _print_tables(title, [m for m in result.metrics if "=" not in m.group])
    _print_end(result)


def _print_end(result: "StudyResult") -> None:
    from sae_lens_med.config import DISCLAIMER

    typer.echo(DISCLAIMER)
    # Not through rich, which would wrap a long path.
    typer.echo(f"Report: {result.report_html}")
    typer.echo(f"        {result.report_md}")


def _load_data(
    data: str, split: str | None, skip_bad_rows: bool, limit: int | None, explanation_source: str | None
) -> "LoadedItems":
    from sae_lens_med.data import load_items

    loaded = load_items(data, split, skip_bad_rows=skip_bad_rows, limit=limit, explanation_source=explanation_source)
    if loaded.bad_rows:
        typer.echo(f"{len(loaded.bad_rows)} bad rows were left out:", err=True)
        for reason in loaded.bad_rows:
            typer.echo(f"  {reason}", err=True)
    return loaded


def _open(model: str, sae: str | None, device: str, dtype: str) -> "tuple[MedBridge, LoadedSae | None]":
    import torch

    from sae_lens_med import distributed
    from sae_lens_med.models import load_model
    from sae_lens_med.saes.releases import load_sae

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = distributed.local_device(device)
    with distributed.first_before_the_others(of_machine=True):
        attached = None if sae is None else load_sae(sae, device=device)
        return load_model(model, device=device, dtype=dtype), attached


def _print_json(output: Path, metrics: "Sequence[MetricValue]") -> None:
    value: dict[str, Any] = {"output": str(output), "metrics": [metric.to_dict() for metric in metrics]}
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_tables(title: str, metrics: "Sequence[MetricValue]") -> None:
    """One narrow table per metric: with the names in a column, 80 characters would cut them."""
    typer.echo(title)
    console = Console()
    for name in dict.fromkeys(metric.name for metric in metrics):
        table = Table(title=name, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False)
        for column in ("group", "variant"):
            table.add_column(column, overflow="fold")
        for column in ("n", "value", "95 % interval", "null", "p"):
            table.add_column(column, justify="right", no_wrap=True)
        for metric in metrics:
            if metric.name == name:
                table.add_row(
                    metric.group,
                    metric.variant,
                    str(metric.n),
                    f"{metric.value:.4f}",
                    "" if metric.interval is None else f"{metric.interval[0]:.4f} to {metric.interval[1]:.4f}",
                    "" if metric.null_mean is None else f"{metric.null_mean:.4f}",
                    "" if metric.p is None else f"{metric.p:.2g}",
                )
        console.print(table)
        console.print()
