"""`intervene`: interventions on SAE features compared with the plain model. Heavy imports are inside the command."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from sae_lens_med.commands.options import (
    MAX_SEED,
    AnswersFrom,
    AsJson,
    BatchTokens,
    Data,
    Device,
    Dtype,
    Encoding,
    Exclude,
    ExplanationSource,
    ExtraColumns,
    Limit,
    Model,
    Output,
    Reading,
    Shots,
    SkipBadItems,
    Split,
    leave_out_unfit,
    load_data,
    open_model,
    warn_other_model,
)
from sae_lens_med.commands.output import say, say_json, write
from sae_lens_med.escaping import plain
from sae_lens_med.runs.progress import console

if TYPE_CHECKING:
    from sae_lens_med.evaluation.conditions.compare import Comparison, ConditionResult

EXAMPLE = """\
# Conditions that `sae-lens-med intervene` compares with the plain model, on the same questions.
# These features fire on every question of `--data sample`, with the SAE
# sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post. With another SAE or other questions, name others:
# `sae-lens-med align STUDY` lists in features.md which ones stand for which concepts.
conditions:
  # The SAE's reconstruction instead of the activation: what is lost by looking through the SAE.
  # not_special leaves tokens such as BOS alone, on which SAEs are not trained.
  - {name: splice, kind: splice, positions: not_special}
  # The same with what the SAE misses added back: it must change nothing, which checks the machinery.
  - {name: splice-with-error, kind: splice, error_term: true, positions: not_special}
  # Features switched off together. mode: zero, mean (over these questions), resample.
  - {name: ablate-two, kind: ablate, features: [10, 248], mode: zero, positions: not_special}
  # A feature's direction added, in units of the feature's maximum on these questions (unit: max, norm or raw).
  # strengths: one condition each; they multiply the value of each feature.
  - name: steer-1285
    kind: steer
    features: {1285: 1.0}
    unit: max
    positions: not_special
    strengths: [-2, -1, -0.5, 0.5, 1, 2]
# Beside each condition on features: the same on this many random feature sets that fire as often and as strongly.
# p cannot be below 1 / (this number + 1). 0 leaves the null out.
matched_random: 20
"""
"""What `--example` prints; here, so that it is printed at once."""


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(intervene)


def _print_example(asked: bool) -> None:
    if asked:
        write(EXAMPLE)
        raise typer.Exit


def intervene(
    model: Model,
    data: Data,
    conditions: Annotated[
        Path, typer.Option("--conditions", "-c", help="YAML file of what to compare; --example prints one.")
    ],
    output: Output,
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            "-s",
            help="SAE of the features: RELEASE/ID, a folder, or REL:ID. Repeatable; entries of the file then say which "
            "one with `sae: REF`.",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="How an answer is read: letter or option-text.")] = "letter",
    template: Annotated[
        str | None, typer.Option(help="Prompt: a packaged template (`sae-lens-med templates`) or a file.")
    ] = None,
    split: Split = None,
    shots: Shots = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    statistics_data: Annotated[
        str | None,
        typer.Option(
            help="Data, named as in --data, for the features' maxima, means and firing rates; by default the data of "
            "--data."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of random feature sets and bootstrap.")] = 0,
    skip_bad_items: SkipBadItems = False,
    exclude: Exclude = None,
    encoding: Encoding = None,
    answers_from: AnswersFrom = None,
    extra_columns: ExtraColumns = "refuse",
    limit: Limit = None,
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
    example: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option("--example", callback=_print_example, is_eager=True, help="Print a conditions file and exit."),
    ] = False,
) -> None:
    """Compare interventions on SAE features with the plain model, on the same questions.

    Runs the plain model, then each condition of the file: the SAE's reconstruction instead of the activation,
    features ablated, clamped or steered at several strengths. Beside each condition on features the same is done to
    random feature sets that fire as often and as strongly: an effect no larger than theirs says nothing about the
    features.

    Writes comparison.md (read this), .csv and .json: accuracy with intervals, exact McNemar tests against plain, the
    change of the gold option's margin, both within the random sets, by subject; flips.csv, item by item; and
    steering.svg. An interrupted run continues when it is started again.

    Example: sae-lens-med intervene --example > conditions.yaml

    Example: sae-lens-med intervene --model gemma-3-270m --sae sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post
    --data sample --conditions conditions.yaml --output compared

    The number of runs over the data is 1 + the conditions + matched_random for each condition on features. Maxima,
    means and firing rates are measured once, over the questions without shots, and kept in the folder.
    """
    from sae_lens_med.evaluation.conditions.spec import load_conditions

    wanted = load_conditions(conditions)
    from sae_lens_med.evaluation.conditions.run import KIND, run_conditions
    from sae_lens_med.evaluation.method import Method
    from sae_lens_med.evaluation.methods import ask
    from sae_lens_med.prompts.shots import choose_shots
    from sae_lens_med.runs.folder import require_output
    from sae_lens_med.saes.releases import load_sae

    require_output(output, KIND)
    chosen = Method(method, template=template, chat=chat)
    reading = Reading(split, skip_bad_items, limit, explanation_source, exclude, encoding, answers_from, extra_columns)
    loaded = load_data(data, reading)
    examples, loaded = choose_shots(loaded, shots)
    others = None
    if statistics_data is not None:
        others = load_data(statistics_data, replace(reading, split=None, limit=None, exclude=None))
    refs = list(sae or [])
    opened, attached = open_model(model, refs[0] if refs else None, device, dtype)
    saes = attached
    if attached is not None and len(refs) > 1:
        place = str(attached.sae.device)
        saes = {refs[0]: attached, **{ref: load_sae(ref, device=place) for ref in refs[1:]}}
        for ref in refs[1:]:
            warn_other_model(opened, saes[ref])
    loaded = leave_out_unfit(loaded, skip_bad_items, lambda items: ask(opened, items, chosen, examples))
    if others is not None:
        others = leave_out_unfit(others, skip_bad_items, lambda items: ask(opened, items, chosen))
    result = run_conditions(
        opened,
        loaded,
        wanted,
        output,
        saes=saes,
        method=chosen,
        shots=examples,
        statistics_items=None if others is None else others.items,
        batch_tokens=batch_tokens,
        seed=seed,
    )
    if as_json:
        say_json({"output": str(output), **result.to_dict()})
        return
    _print_table(f"{opened.provenance['name']} on {loaded.source}, {result.n_gold} items", result)
    say(f"Report: {output / 'comparison.md'}")


def _print_table(title: str, comparison: "Comparison") -> None:
    say(title)
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("condition", overflow="fold", min_width=20)
    for column in ("accuracy", "p (FDR)", "margin", "random sets", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in comparison.results:
        table.add_row(plain(result.condition.name), f"{result.accuracy:.3f}", *_cells(result))
    console().print(table)
    say("p (FDR): exact McNemar against plain. margin: mean change of ln P(gold option) - ln P(best other).")
    say(
        "random sets: 95 % of the margin changes from the same intervention on matched random features, "
        "and p among them."
    )


def _cells(result: "ConditionResult") -> list[str]:
    from sae_lens_med.evaluation.conditions.tables import signed

    if not result.condition.interventions:
        return []
    cells = [f"{result.p_fdr:.2g}", signed(result.margin_change)]
    if result.random is not None:
        low, high = result.random.margin_change.interval
        cells += [f"{signed(low)} to {signed(high)}", f"{result.random.margin_change.p:.3f}"]
    return cells
