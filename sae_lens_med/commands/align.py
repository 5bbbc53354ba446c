"""`align`, `list-metrics` and `compare`: the alignment metrics of finished studies. Heavy imports are inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Permutations, Seed, open_model, print_tables
from sae_lens_med.commands.output import say, say_json, write
from sae_lens_med.escaping import plain
from sae_lens_med.runs.progress import console

if TYPE_CHECKING:
    from sae_lens_med.metrics.inputs import ModelSide
    from sae_lens_med.records import McqItem, Provenance
    from sae_lens_med.study.counted import Confirmatory
    from sae_lens_med.study.measure import AlignmentRun

Study = Annotated[Path, typer.Argument(help="Folder of a finished study (`sae-lens-med study`).")]


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(align)
    app.command("list-metrics")(list_metrics)
    app.command()(compare)


def align(
    study: Study,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="Names from `sae-lens-med list-metrics`, comma-separated or repeated; all: every "
            "metric that can be measured."
        ),
    ] = None,
    permutations: Permutations = 2000,
    seed: Seed = 0,
    concepts: Annotated[
        str,
        typer.Option(
            help="Concepts: lexicon (packaged), annotated (the lexicon within the spans that an expert marked in the "
            "questions), or a concept file (.jsonl, .csv, .tsv, .parquet, .xlsx), MedQuAD's among them."
        ),
    ] = "lexicon",
    analyser: Annotated[
        str,
        typer.Option(
            help="Analyser of Korean endings after a concept's name: rules (a table) or kiwi (needs "
            "the extra 'korean')."
        ),
    ] = "rules",
    controls: Annotated[
        list[str] | None,
        typer.Option(
            help="Controls to collect and measure by the same code: shuffled_decoder (an SAE that has learned "
            "nothing), "
            "random_model (a model that has learned nothing), or all."
        ),
    ] = None,
    run_model: Annotated[
        bool,
        typer.Option("--model-metrics/--no-model", help="Measure the metrics that run the model, or leave them out."),
    ] = True,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the study's model is now; by default, where the study found it."),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option("--sae", "-s", help="Where the study's SAE is now; by default, where the study found it."),
    ] = None,
    ratings: Annotated[Path | None, typer.Option(help="CSV or JSON file of clinicians' ratings.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="JSON or CSV file of feature labels; by default they are made from concepts.")
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint that judges labels, with --judge-model (key: OPENAI_API_KEY); by default "
            "the study's own model judges."
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model at --judge-url.")] = None,
    reasoning: Annotated[
        bool,
        typer.Option(
            "--reasoning", help="Let the model reason (for models that can) to measure the metric 'reasoning'."
        ),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=N: a setting of the metrics that run the model (see list-metrics). Repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure finished metrics again.")] = False,
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Threads for the concept scores; does not change the results.")
    ] = 1,
    device: Device = "auto",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Measure the alignment metrics of a finished study: does the model compute with what the explanations name?

    Writes STUDY/alignment/: report.html (read this; report.ko.html in Korean), report.md, features.md, metrics.json.
    Every number stands beside its null; q is p corrected over all numbers that count. A metric that was measured with
    the same settings is not measured again.

    Example: sae-lens-med align my-study --metrics overlap,concepts,rsa --no-model

    Example: sae-lens-med align my-study --controls all
    """
    from sae_lens_med.alignment.labels.judges import OpenAiJudge
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.metrics.metric import ALL
    from sae_lens_med.metrics.settings import read_settings
    from sae_lens_med.study.measure import run_alignment

    def opener(provenance: "Provenance") -> "ModelSide":
        return open_side(provenance, model, sae, device, batch_tokens)

    def show(name: str, what: str) -> None:
        state = {"measure": "", "skip": ": done before, skipped"}.get(what, f": {what}")
        say(f"{name}{state}", err=True)

    if (judge_url is None) != (judge_model is None):
        raise ConfigError("a judge needs both --judge-url and --judge-model; pass both or neither.")
    judge = None
    if judge_url is not None and judge_model is not None:
        judge = OpenAiJudge(judge_url, judge_model, on_wait=lambda sentence: say(sentence, err=True))
    result = run_alignment(
        study,
        _split(metrics) or [ALL],
        permutations=permutations,
        seed=seed,
        concepts=concepts,
        analyser=analyser,
        controls=_split(controls),
        open_model=opener if run_model else None,
        sae=sae,
        ratings=ratings,
        labels=labels,
        judge=judge,
        reasoning=reasoning,
        settings=read_settings(_split(setting)),
        force=force,
        threads=threads,
        on_metric=show,
    )
    _print(study, result, as_json=as_json)


def list_metrics(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/metrics.md.")] = False,
) -> None:
    """List the alignment metrics: what each means, its range, its null, what it needs, where it comes from.

    Example: sae-lens-med list-metrics --json
    """
    from sae_lens_med.alignment import METRICS
    from sae_lens_med.metrics.reference import reference
    from sae_lens_med.metrics.settings import meanings

    if markdown:
        write(reference(METRICS))
        return
    if as_json:
        say_json([metric.to_dict() for metric in METRICS])
        return
    for metric in METRICS:
        low, high = ("unbounded" if bound is None else f"{bound:g}" for bound in metric.range)
        say(f"{metric.name}  (#{metric.number}) {metric.title}")
        say(f"    {metric.meaning}")
        say(f"    range: {low} to {high}; null: {metric.null}")
        say(f"    needs: {', '.join(metric.needs)}; source: {metric.source}")
    say("Settings of the metrics that run the model (align --set NAME=N; several numbers joined by +):")
    for name, (default, meaning) in meanings().items():
        shown = "+".join(map(str, default)) if isinstance(default, tuple) else default
        say(f"    {name}={shown}: {meaning}")


def compare(
    study_a: Study,
    study_b: Annotated[
        Path | None,
        typer.Argument(help="Another study of the same items; leave it out to compare two variants of one study."),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            help="What is compared: sae, raw, pca, tfidf, bm25 or a collected control. One for both studies, or two, "
            "separated by a comma: for the first and the second study, or both of one study."
        ),
    ] = None,
    permutations: Permutations = 10_000,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for comparison.md and .json: new, empty, or of the same."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two studies (two layers, two models), or two variants of one study, on the items that they share.

    Paired over items: matched minus mismatched similarity, reciprocal rank, and the share of other explanations of its
    stratum that are less similar than its own. Two-sided sign-flip p and bootstrap interval of the difference A - B.

    Example: sae-lens-med compare layer-9-study layer-14-study --output compared

    Example: sae-lens-med compare my-study --variants sae,raw
    """
    from sae_lens_med.runs.folder import require_output
    from sae_lens_med.study.compare import KIND, compare_studies, write_comparison

    if output is not None:
        require_output(output, KIND)
    result = compare_studies(study_a, study_b, variants=_split(variants), permutations=permutations, seed=seed)
    written = None if output is None else write_comparison(result, output)
    if as_json:
        say_json(result.to_dict())
        return
    print_tables(f"A: {result.name_a}; B: {result.name_b}; {result.n_items} items; values are A - B", result.metrics)
    for note in result.notes:
        say(note)
    say(result.summary.en)
    say(result.summary.ko)
    if written is not None:
        say(f"Report: {written}")


def open_side(
    provenance: "Provenance", model: str | None, sae: str | None, device: str, batch_tokens: int | None
) -> "ModelSide":
    """The model and the SAE of a study, where they are now, with its shots. Raises `StudyError` for a study without an
    SAE."""
    from sae_lens_med.data import load_items
    from sae_lens_med.errors import StudyError
    from sae_lens_med.metrics.inputs import ModelSide
    from sae_lens_med.prompts.shots import same_shots

    if provenance.sae is None:
        raise StudyError(
            "the study was made without an SAE, so nothing can be measured with one; run a study with --sae."
        )
    opened, attached = open_model(
        model or str(provenance.model["name"]),
        sae or str(provenance.sae["source"]),
        device,
        str(provenance.model.get("dtype", "float32")),
    )
    assert attached is not None
    shots: tuple[McqItem, ...] = ()
    if ids := provenance.settings.get("shots", []):
        # The folder keeps their ids alone.
        data = provenance.data
        loaded = load_items(str(data["source"]), data.get("split"), **data.get("reading", {}))
        shots = same_shots(loaded, ids)
    return ModelSide(opened, attached, batch_tokens, shots=shots)


def _print_table(study: Path, entries: "Sequence[Confirmatory]") -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from sae_lens_med.metrics.metric import FAMILIES
    from sae_lens_med.study.counted import by_family

    say(f"Alignment of {study}: the numbers that count; q is over each table")
    for family, own in by_family(entries):
        table = Table(box=SIMPLE, show_edge=False, pad_edge=False, title=FAMILIES[family].en, title_justify="left")
        table.add_column("value of", overflow="fold")
        for column in ("n", "value", "null", "null, 95 %", "p", "q"):
            table.add_column(column, justify="right", no_wrap=True)
        for entry in own:
            value = entry.value
            table.add_row(
                plain(value.name.removeprefix("alignment/")),
                str(value.n),
                f"{value.value:.4f}",
                "" if value.null_mean is None else f"{value.null_mean:.4f}",
                "" if value.null_interval is None else f"{value.null_interval[0]:.4f} to {value.null_interval[1]:.4f}",
                "" if value.p is None else f"{value.p:.2g}",
                "" if entry.q is None else f"{entry.q:.2g}",
            )
        console().print(table)


def _split(values: list[str] | None) -> list[str]:
    """Options that may be repeated or separated by commas."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _print(study: Path, result: "AlignmentRun", *, as_json: bool) -> None:
    from sae_lens_med.runs.files import DISCLAIMER
    from sae_lens_med.study.alignment_report import gave_nothing
    from sae_lens_med.study.counted import confirmatory
    from sae_lens_med.study.measured import AlignmentFolder

    entries = confirmatory(result.metrics)
    if as_json:
        value: dict[str, Any] = {
            "output": str(result.folder),
            "measured": list(result.measured),
            "skipped": list(result.skipped),
            "absent": result.absent,
            "changed": {name: list(what) for name, what in result.changed.items()},
            "confirmatory": [
                {
                    "metric": e.metric.name,
                    "family": e.metric.family,
                    "name": e.value.name,
                    "group": e.value.group,
                    "variant": e.value.variant,
                    "q": e.q,
                    "stands_out": e.stands_out,
                }
                for e in entries
            ],
            "metrics": [metric.to_dict() for metric in result.metrics],
        }
        say_json(value)
        return
    _print_table(study, entries)
    if nothing := gave_nothing(AlignmentFolder(study), result.absent):
        say("Metrics that gave nothing, and why:")
        for name, reason in nothing.items():
            say(f"  {name}: {reason}")
    say(DISCLAIMER)
    say(f"Report: {result.report_html}")
    say(f"        {result.report_md}")
    say(f"        {result.folder / 'report.ko.html'}")
