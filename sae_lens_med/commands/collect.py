"""`collect`: the features of questions, explanations and generated answers in a folder. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import (
    AnswersFrom,
    AsJson,
    BatchTokens,
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
    Sae,
    Shots,
    SkipBadItems,
    Split,
    leave_out_unfit,
    load_data,
    open_model,
)
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(collect)


def collect(
    model: Model,
    sae: Sae,
    output: Output,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="As for evaluate; with --answers, by default the data of that evaluation."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Folder of a finished evaluation by generate or cot: also the features of what was written."),
    ] = None,
    split: Split = None,
    shots: Shots = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    limit: Limit = None,
    skip_bad_items: SkipBadItems = False,
    exclude: Exclude = None,
    encoding: Encoding = None,
    answers_from: AnswersFrom = None,
    extra_columns: ExtraColumns = "refuse",
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
) -> None:
    """SAE features of every token of questions and explanations; open questions too.

    Writes shards and a manifest that `load_features` reads; an interrupted collection continues when it is started
    again.

    Example: sae-lens-med collect -m gemma-3-270m -d sample -s sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post
    -o my-features

    With --answers, one pass over each question and what was written after it, in the layout of that evaluation: the
    text may come from a model behind an endpoint, and its tokens are the part 'reasoning'.

    Example: sae-lens-med collect -m hari-q3 -s MY-SAE --answers eval-served -o features-of-reasoning
    """
    from sae_lens_med.data import load_items
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.evaluation.results import read_evaluation
    from sae_lens_med.evaluation.written import about, items_of, written_prompts
    from sae_lens_med.features.store import KIND, read_manifest
    from sae_lens_med.prompts.shots import choose_shots
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    reading = Reading(split, skip_bad_items, limit, explanation_source, exclude, encoding, answers_from, extra_columns)
    if answers is not None and data is None and (given := reading.given - {"limit"}):
        option = f"--{min(given).replace('_', '-')}"
        raise ConfigError(
            f"the data are read as that evaluation read them; leave out {option}, or name the questions with --data."
        )
    run = None if answers is None else read_evaluation(answers)
    if run is None:
        if data is None:
            raise ConfigError("there is nothing to collect from; name the questions with --data.")
        examples, loaded = choose_shots(load_data(data, reading), shots)
    else:
        if shots:
            raise ConfigError("the shots are those of the evaluation; leave out --shots with --answers.")
        if data is None:
            about_data = run.provenance.data
            found = load_items(
                str(about_data["source"]), about_data["split"], limit=limit, **about_data.get("reading", {})
            )
        else:
            found = load_data(data, reading)
        examples, loaded = items_of(run, found)
    from sae_lens_med.features.collect import collect as run_collection
    from sae_lens_med.features.collect import require_fit

    opened, attached = open_model(model, sae, device, dtype)
    assert attached is not None  # an SAE was named
    if run is None:
        loaded = leave_out_unfit(loaded, skip_bad_items, lambda items: require_fit(opened, items, examples))
    run_collection(
        opened,
        attached,
        loaded.items,
        output=output,
        batch_tokens=batch_tokens,
        shots=examples,
        prompts=None if run is None else written_prompts(run, loaded.items, examples, opened.text_tokenizer),
        about_prompts=None if run is None else about(run),
    )
    shards = read_manifest(output)["shards"]
    counts = {name: sum(shard[name] for shard in shards) for name in ("n_items", "n_tokens", "n_active")}
    if as_json:
        say_json({"output": str(output), **counts})
        return
    say(f"{counts['n_items']:,} items, {counts['n_tokens']:,} tokens, {counts['n_active']:,} activations: {output}")
