"""`labels`: labels of features, proposed by a model behind an endpoint. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import AsJson, Seed
from sae_lens_med.commands.output import say, say_json

KEY_VARIABLE = "OPENAI_API_KEY"


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(labels)


def labels(
    study: Annotated[Path, typer.Argument(help="Folder of a study whose features are collected.")],
    url: Annotated[str, typer.Option("--url", help="OpenAI-compatible endpoint, up to and without /chat/completions.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model at --url that writes the labels.")],
    judge_model: Annotated[
        str | None, typer.Option(help="Model at --url that scores them; by default the one that writes them.")
    ] = None,
    features: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Features at most; each costs up to 6 requests."),
    ] = 50,
    feature: Annotated[
        list[str] | None,
        typer.Option(help="These features, separated by commas; by default those without a label. Repeatable."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the labels, ko or en; by default the one of most questions.")
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the key; without it none is sent.")
    ] = KEY_VARIABLE,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for each try.")] = 60.0,
    retries: Annotated[int, typer.Option(min=0, max=100, help="Tries after the first.")] = 4,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")] = 4,
    accept_licence: Annotated[
        bool,
        typer.Option(
            "--accept-licence",
            help="You may send the texts to --url, though their licence does not allow everybody to pass them on.",
        ),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Have a model propose labels for features, and score them on texts that they were not made from.

    Pieces of questions and explanations are sent to --url. Proposals are added to STUDY/app/proposed.jsonl; the page of
    a feature (`serve`) shows them as proposed until somebody accepts or rejects them. An interrupted command goes on
    when it is started again: what was answered is not asked for, or paid for, twice.

    Example: sae-lens-med labels my-study --url http://localhost:8000/v1 --model Qwen/Qwen3-32B --features 20
    """
    import sys
    from typing import Any

    from sae_lens_med.alignment.labels.judges import OpenAiJudge
    from sae_lens_med.alignment.labels.writers import LABEL_LANGUAGES
    from sae_lens_med.app.index import build_index
    from sae_lens_med.app.labelling import LabelSettings, n_requests, propose_labels
    from sae_lens_med.app.opened import OpenStudy
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.study.folder import require_study

    if language is not None and language not in LABEL_LANGUAGES:
        raise ConfigError(f"labels are written in {' or '.join(LABEL_LANGUAGES)}, not in {language!r}.")
    only = _numbers(feature)
    asked: dict[str, Any] = {
        "key_variable": key_variable, "timeout": timeout, "retries": retries, "parallel": parallel,
        "on_wait": lambda sentence: say(sentence, err=True),
    }  # fmt: skip
    writer = OpenAiJudge(url, model, **asked)
    judge = writer if judge_model is None else OpenAiJudge(url, judge_model, **asked)
    require_study(study)
    build_index(study)
    opened = OpenStudy.open(study)
    settings = LabelSettings(features, only, language, seed, accept_licence)
    most = min(features, len(only)) if only else features
    say(f"at most {n_requests(most)} requests to {url}, for {most} features", err=True)
    shown = sys.stderr is not None and sys.stderr.isatty()
    done = propose_labels(opened, writer.endpoint(), judge, settings, progress=shown)
    if as_json:
        say_json(done.to_dict())
        return
    say(f"{done.proposed} labels proposed by {done.model} for {done.asked} features, scored by {done.judge}.")
    if done.detection["value"] is not None:
        null, p = done.detection["null"], done.detection["p"]
        beside = "" if null is None or p is None else f"; with labels of other features {null:.3f}, p {p:.2g}"
        say(f"Detection: {done.detection['value']:.3f} over {done.detection['n']:.0f} features{beside}.")
    for n, what in (
        (done.without_texts, "fire in too few cases for a label"),
        (done.unanswered, "got no label; the same command asks again"),
        (done.unscored, "have too few other texts for a score"),
    ):
        if n:
            say(f"{n} features {what}.")
    say(f"Written: {done.output}; to accept or reject them: sae-lens-med serve {study}")


def _numbers(values: list[str] | None) -> tuple[int, ...]:
    from sae_lens_med.errors import ConfigError

    parts = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    if wrong := [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 10)]:
        raise ConfigError(f"features are named by their indices, whole numbers from 0; not {wrong[0]!r}.")
    return tuple(map(int, parts))
