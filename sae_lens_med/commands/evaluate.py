"""`evaluate` and `templates`: accuracy on multiple-choice questions. Heavy imports are inside the commands."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import (
    AsJson,
    BatchTokens,
    Data,
    Device,
    Dtype,
    ExplanationSource,
    Limit,
    Model,
    Output,
    Permutations,
    Shots,
    SkipBadRows,
    Split,
    load_data,
    open_model,
    print_json,
    print_tables,
)


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(evaluate)
    app.command()(templates)


def evaluate(
    model: Model,
    data: Data,
    output: Output,
    method: Annotated[
        str, typer.Option(help="letter, option-text, generate, cot or self-consistency; see the examples.")
    ] = "letter",
    split: Split = None,
    shots: Shots = 0,
    template: Annotated[
        str | None,
        typer.Option(
            help="Prompt: a packaged template (`sae-lens-med templates`) or a file; by default the method's own."
        ),
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option(help="Language of instructions and answer cue: ko or en; by default that of each question."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    thinking: Annotated[
        bool,
        typer.Option(
            "--thinking", help="With --chat, where text is generated: leave Qwen3's thinking on (it is off by default)."
        ),
    ] = False,
    normalise: Annotated[
        str | None,
        typer.Option(
            help="option-text: divide by the text's length in characters (character, the default), "
            "bytes (byte) or tokens (token)."
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="self-consistency: number of votes; 11 by default.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="self-consistency: sampling temperature; 0.7 by default.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a generated text; by default 1024, with --thinking 4096.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Text that ends a generated answer, instead of the template's own. Repeatable."),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option("--sae", "-s", help="Evaluate through this SAE: its reconstruction replaces the activation."),
    ] = None,
    error_term: Annotated[
        bool | None,
        typer.Option(
            "--error-term/--no-error-term",
            help="Keep or drop what the SAE fails to reconstruct; dropped by default, kept with --intervention.",
        ),
    ] = None,
    intervention: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of interventions on the features of --sae.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    permutations: Permutations = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and permutations.")] = 0,
    skip_bad_rows: SkipBadRows = False,
    limit: Limit = None,
    as_json: AsJson = False,
    explanation_source: ExplanationSource = None,
) -> None:
    """Accuracy on multiple-choice questions, by one of five methods.

    Writes report.html (read this; report.ko.html in Korean), report.md, items.jsonl (one result per item) and
    summary.json; an interrupted run continues when it is started again.

    letter: the option letter that the model holds likeliest in the answer slot.

    Example: sae-lens-med evaluate --model gemma-3-270m --data kormedmcqa:doctor --shots 5 --output eval-letter

    option-text: the option whose text is likeliest after the question, per character.

    Example: sae-lens-med evaluate -m gemma-3-270m -d kormedmcqa:nurse --method option-text --output eval-text

    generate: lm-evaluation-harness' protocol; greedy text, and the answer read out of it.

    Example: sae-lens-med evaluate -m gemma-3-270m -d kormedmcqa:doctor --shots 5 --method generate -o eval-generate

    cot: greedy reasoning that ends with the answer; shots show the professionals' explanations.

    Example: sae-lens-med evaluate -m hari-q3-8b -d kormedmcqa:doctor --method cot --chat --thinking -o eval-cot

    self-consistency: several sampled reasonings vote; also the accuracy when items with little agreement are deferred.

    Example: sae-lens-med evaluate -m hari-q3-8b -d kormedmcqa:doctor --shots 5 --method self-consistency --samples 11
    -o eval-vote

    A prompt of your own: copy a template, change it, and pass the file.

    Example: sae-lens-med templates cot.ko > mine.j2; sae-lens-med evaluate -m smollm2-135m-instruct -d sample
    --method cot --template mine.j2 --chat -o eval-mine

    Through an SAE, or with interventions on its features.

    Example: sae-lens-med evaluate -m gemma-3-270m -d sample --sae
    sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post --intervention steer.yaml -o eval-steered
    """
    from sae_lens_med.evaluation.methods import Method

    chosen = Method(
        method,
        template=template,
        language=instructions,
        chat=chat,
        enable_thinking=thinking,
        normalisation=normalise,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        stop=tuple(stop) if stop else None,
    )
    chosen.templates()
    from sae_lens_med.evaluation.hooks import splices
    from sae_lens_med.evaluation.run import evaluate as run_evaluation
    from sae_lens_med.evaluation.sentences import MEANINGS, reason_sentences
    from sae_lens_med.interventions import read_interventions
    from sae_lens_med.prompts.shots import choose_shots

    interventions = () if intervention is None else read_interventions(intervention)
    loaded = load_data(data, split, skip_bad_rows, limit, explanation_source)
    examples, loaded = choose_shots(loaded, shots)
    opened, attached = open_model(model, sae, device, dtype)
    splices(attached, error_term, interventions)
    result = run_evaluation(
        opened,
        loaded,
        chosen,
        shots=examples,
        sae=attached,
        error_term=error_term,
        interventions=interventions,
        output=output,
        batch_tokens=batch_tokens,
        permutations=permutations,
        seed=seed,
    )
    if as_json:
        print_json(output, result.metrics)
        return
    print_tables(f"{opened.provenance['name']} on {loaded.source}, {len(loaded.items)} items", result.metrics)
    for name in dict.fromkeys(metric.name for metric in result.metrics):
        typer.echo(f"{name}: {MEANINGS[name].en}.")
    for reason, n, what in reason_sentences(result.reasons):
        typer.echo(f"No answer, counted as wrong: {n} {reason} ({what.en}).")
    typer.echo(f"Results: {output}")
    typer.echo(f"Report: {output / 'report.html'}")
    typer.echo(f"        {output / 'report.md'}")
    typer.echo(f"        {output / 'report.ko.html'}")


def templates(
    name: Annotated[str | None, typer.Argument(help="Template to print; without a name, all are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the packaged prompt templates, or print one to copy.

    A template is a Jinja2 file. It may use question, options (each with letter and text), letters, language, subject
    and shots (each with question, options, answer, answer_text and, where the data has one, explanation), and may say
    what ends an answer with {% set stop = ["..."] %}.

    Example: sae-lens-med templates cot.ko > mine.j2
    """
    from sae_lens_med.prompts.templates import LANGUAGES, SHIPPED, find_templates, shipped, shipped_names

    if name is not None:
        wanted = f"{name}.{LANGUAGES[0]}" if name in SHIPPED else name
        text = shipped(wanted).decode("utf-8")
        if as_json:
            found = next(iter(find_templates(wanted).by_language.values()))
            typer.echo(json.dumps({"name": wanted, "sha256": found.sha256, "text": text}, ensure_ascii=False, indent=2))
        else:
            sys.stdout.write(text)
        return
    if as_json:
        listed = [{"name": each, "what": SHIPPED[each.rpartition(".")[0]]} for each in shipped_names()]
        typer.echo(json.dumps(listed, ensure_ascii=False, indent=2))
        return
    width = max(map(len, SHIPPED))
    for family, what in SHIPPED.items():
        typer.echo(f"{family:<{width}}  {', '.join(LANGUAGES)}  {what}")
