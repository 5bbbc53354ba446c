"""`evaluate`: accuracy on multiple-choice questions. Heavy imports are inside the command."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    Output,
    Permutations,
    Reading,
    Shots,
    SkipBadItems,
    Split,
    leave_out_unfit,
    load_data,
    open_model,
    print_json,
    print_tables,
)
from sae_lens_med.commands.output import say

if TYPE_CHECKING:
    from sae_lens_med.data import LoadedItems
    from sae_lens_med.evaluation.method import Method
    from sae_lens_med.evaluation.results import Evaluation


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(evaluate)


def evaluate(
    data: Data,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A catalogue alias (`sae-lens-med models`), a Hub id, or a folder; or --endpoint."
        ),
    ] = None,
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
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Base URL of an OpenAI-compatible server (vLLM, SGLang, a cloud) that runs the model, up to and "
            "without /chat/completions; with --endpoint-model and a method that generates."
        ),
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="Name of the model at --endpoint.")] = None,
    endpoint_key_variable: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the key of --endpoint; without it none is sent."),
    ] = None,
    endpoint_concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests to --endpoint at a time.")] = 8,
    endpoint_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for a whole reply of --endpoint, before it is asked again.")
    ] = 600.0,
    endpoint_retries: Annotated[int, typer.Option(min=0, max=100, help="Tries after the first, for each request.")] = 4,
    endpoint_extra: Annotated[
        str | None,
        typer.Option(
            help='JSON object of further fields of each request, as {"reasoning_effort": "low"}; null leaves one out.'
        ),
    ] = None,
    endpoint_price_in: Annotated[
        float | None, typer.Option(min=0, help="Price of a million prompt tokens, for the cost.")
    ] = None,
    endpoint_price_out: Annotated[
        float | None, typer.Option(min=0, help="Price of a million generated tokens, for the cost.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    permutations: Permutations = 2000,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of sampling and permutations.")] = 0,
    skip_bad_items: SkipBadItems = False,
    exclude: Exclude = None,
    encoding: Encoding = None,
    answers_from: AnswersFrom = None,
    extra_columns: ExtraColumns = "refuse",
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

    Example: sae-lens-med templates cot.ko --output mine.j2; sae-lens-med evaluate -m smollm2-135m-instruct -d sample
    --method cot --template mine.j2 --chat -o eval-mine

    Through an SAE, or with interventions on its features.

    Example: sae-lens-med evaluate -m gemma-3-270m -d sample --sae
    sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post --intervention steer.yaml -o eval-steered

    A model that a server runs: several questions at a time, tried again, and continued where it stopped. The prompt is
    the user's message of a chat. `collect --answers` then reads the features of what it wrote.

    Example: sae-lens-med evaluate --endpoint http://localhost:8000/v1 --endpoint-model snuh/hari-q3
    -d kormedmcqa:doctor --method cot --thinking -o eval-served
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.evaluation.method import Method

    chosen = Method(
        method,
        template=template,
        language=instructions,
        chat=chat or endpoint is not None,
        enable_thinking=thinking,
        normalisation=normalise,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        stop=tuple(stop) if stop else None,
    )
    chosen.templates()
    reading = Reading(split, skip_bad_items, limit, explanation_source, exclude, encoding, answers_from, extra_columns)
    if endpoint is not None:
        for option, given in (
            ("--model", model),
            ("--sae", sae),
            ("--error-term", error_term),
            ("--intervention", intervention),
            ("--batch-tokens", batch_tokens),
        ):
            if given is not None:
                raise ConfigError(f"{option} is for a model that runs here; leave it out with --endpoint.")
        _evaluate_endpoint(
            endpoint,
            endpoint_model,
            lambda: load_data(data, reading),
            chosen,
            output,
            key_variable=endpoint_key_variable,
            concurrency=endpoint_concurrency,
            timeout=endpoint_timeout,
            retries=endpoint_retries,
            extra=endpoint_extra,
            prices=(endpoint_price_in, endpoint_price_out),
            shots=shots,
            permutations=permutations,
            seed=seed,
            as_json=as_json,
        )
        return
    for option, given in (
        ("--endpoint-model", endpoint_model),
        ("--endpoint-key-variable", endpoint_key_variable),
        ("--endpoint-extra", endpoint_extra),
        ("--endpoint-price-in", endpoint_price_in),
        ("--endpoint-price-out", endpoint_price_out),
    ):
        if given is not None:
            raise ConfigError(f"{option} is for a model behind an endpoint; give its address with --endpoint.")
    if model is None:
        raise ConfigError("no model is named; give one with --model, or a server that runs one with --endpoint.")
    from sae_lens_med.evaluation.hooks import splices
    from sae_lens_med.evaluation.methods import ask
    from sae_lens_med.evaluation.results import KIND
    from sae_lens_med.evaluation.run import evaluate as run_evaluation
    from sae_lens_med.interventions import read_interventions
    from sae_lens_med.prompts.shots import choose_shots
    from sae_lens_med.records import require_options
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    interventions = () if intervention is None else read_interventions(intervention)
    loaded = load_data(data, reading)
    require_options(loaded.items, "accuracy")
    examples, loaded = choose_shots(loaded, shots)
    opened, attached = open_model(model, sae, device, dtype)
    splices(attached, error_term, interventions)
    loaded = leave_out_unfit(loaded, skip_bad_items, lambda items: ask(opened, items, chosen, examples))
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
    _print(f"{opened.provenance['name']} on {loaded.source}, {len(loaded.items)} items", result, output, as_json)


def _evaluate_endpoint(
    url: str,
    model: str | None,
    load: "Callable[[], LoadedItems]",
    method: "Method",
    output: Path,
    *,
    key_variable: str | None,
    concurrency: int,
    timeout: float,
    retries: int,
    extra: str | None,
    prices: tuple[float | None, float | None],
    shots: int,
    permutations: int,
    seed: int,
    as_json: bool,
) -> None:
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.evaluation.endpoint import Endpoint
    from sae_lens_med.evaluation.endpoint_run import Prices, described_usage, evaluate_endpoint, require_generates
    from sae_lens_med.prompts.shots import choose_shots

    require_generates(method)
    if model is None:
        raise ConfigError("no model of the endpoint is named; give its name with --endpoint-model.")
    price_in, price_out = prices
    if (price_in is None) != (price_out is None):
        raise ConfigError("a cost needs both prices; give --endpoint-price-in and --endpoint-price-out.")
    endpoint = Endpoint(
        url,
        model,
        key_variable=key_variable,
        timeout=timeout,
        retries=retries,
        parallel=concurrency,
        extra=_fields(extra),
    )
    examples, data = choose_shots(load(), shots)
    result = evaluate_endpoint(
        endpoint,
        data,
        method,
        shots=examples,
        output=output,
        prices=None if price_in is None or price_out is None else Prices(price_in, price_out),
        permutations=permutations,
        seed=seed,
    )
    _print(f"{model} on {data.source}, {len(data.items)} items", result, output, as_json)
    if result.usage is not None and not as_json:
        say(described_usage(result.usage))


def _fields(text: str | None) -> dict[str, Any]:
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.runs.parsing import ParseError, parse_json

    try:
        values = {} if text is None else parse_json(text)
    except ParseError as error:
        raise ConfigError(f"--endpoint-extra is not JSON ({error}); give an object of fields.") from error
    if not isinstance(values, dict):
        raise ConfigError("--endpoint-extra must be a JSON object of fields of a request.")
    return values


def _print(title: str, result: "Evaluation", output: Path, as_json: bool) -> None:
    from sae_lens_med.evaluation.sentences import MEANINGS, reason_sentences

    if as_json:
        print_json(output, result.metrics)
        return
    print_tables(title, result.metrics)
    for name in dict.fromkeys(metric.name for metric in result.metrics):
        say(f"{name}: {MEANINGS[name].en}.")
    for reason, n, what in reason_sentences(result.reasons):
        say(f"No answer, counted as wrong: {reason} {n} ({what.en}).")
    say(f"Results: {output}")
    say(f"Report: {output / 'report.html'}")
    say(f"        {output / 'report.md'}")
    say(f"        {output / 'report.ko.html'}")
