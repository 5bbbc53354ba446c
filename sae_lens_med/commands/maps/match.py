"""`map match`: which features of one SAE are features of another. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.maps.options import Seed
from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Dtype, Encoding, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("match")(map_match)


def map_match(
    model: Annotated[
        list[str],
        typer.Option(
            "--model", "-m", help="The model of both SAEs; give it twice for two models, in the order of the SAEs."
        ),
    ],
    sae: Annotated[
        list[str],
        typer.Option(
            "--sae",
            "-s",
            help="The two SAEs, RELEASE/ID, a folder, or REL:ID: give it twice; once where only seeds are compared.",
        ),
    ],
    text: Annotated[
        list[Path], typer.Option("--text", "-t", help="A file of texts or exam items that both read. Repeatable.")
    ],
    output: Output,
    seed_sae: Annotated[
        list[str] | None,
        typer.Option(
            help="The first SAE trained with another seed: the upper bound. Repeatable; two and more let single "
            "features be claimed."
        ),
    ] = None,
    words: Annotated[int, typer.Option(help="Most words that are read, texts in random order.")] = 30_000,
    most_features: Annotated[
        int, typer.Option(help="Match at most so many features of the first SAE, drawn at random.")
    ] = 8192,
    context: Annotated[int, typer.Option(help="Tokens of a text that are read.")] = 512,
    permutations: Annotated[int, typer.Option(help="Draws of the null.")] = 199,
    seed: Seed = 0,
    encoding: Encoding = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Match the features of two SAEs: of other seeds, layers, or models with other tokenisers.

    Features are compared by what they do at words, so that tokenisers need not agree: correlation over word
    occurrences, one to one, chosen on half of the texts and told on the other half. The share that matches at r > 0.7
    stands between bounds: other seeds of the first SAE (--seed-sae) above, principal components and shuffled directions
    below, with features of one word or token kept and removed. Goes on where it was stopped.

    That two features fire on the same words does not say that the models use them for the same.

    Example: sae-lens-med map match -m gemma-3-270m -s runs/seed-1 -s runs/layer-14 --seed-sae runs/seed-2
    --seed-sae runs/seed-3 -t notes.jsonl -o match-layers

    Example: sae-lens-med map match -m gemma-3-270m -m smollm2-135m -s runs/gemma -s runs/smollm -t notes.jsonl -o match
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.match_run import KIND, MatchSettings, Side, match_saes, to_json
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    if len(sae) > 2 or len(model) > 2:
        raise ConfigError("two SAEs are matched, of one model or two; give other seeds of the first with --seed-sae.")
    if len(model) > len(sae):
        raise ConfigError("give --sae once for each --model.")
    settings = MatchSettings(words, permutations, most_features, context, seed, batch_tokens)
    from sae_lens_med.commands.options import open_model, warn_other_model
    from sae_lens_med.saes.releases import load_sae
    from sae_lens_med.training.text import training_text

    texts = training_text(text, leave_out=0.0, encoding=encoding).dataset["text"]
    opened, first = open_model(model[0], sae[0], device, dtype)
    assert first is not None  # it was asked for
    sides = [Side(opened, first)]
    if len(model) == 2:
        own, second = open_model(model[1], sae[1], device, dtype)
        assert second is not None  # it was asked for
        sides.append(Side(own, second))
    elif len(sae) == 2:
        sides.append(Side(opened, load_sae(sae[1], device=str(first.sae.device))))
        warn_other_model(opened, sides[1].sae)
    seeds = [load_sae(ref, device=str(first.sae.device)) for ref in seed_sae or ()]
    found = match_saes(sides[0], sides[1] if len(sides) == 2 else None, list(texts), output, settings, seeds=seeds)
    if as_json:
        say_json(to_json(found))
        return
    for note in found.notes:
        say(note)
    say(f"Features: {output / 'features.csv'}; curves: {output / 'match.svg'}")
