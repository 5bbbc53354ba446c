"""`map layers`: which layer of a model knows what. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Dtype, Model, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("layers")(map_layers)


def map_layers(
    model: Model,
    output: Output,
    domain: Annotated[
        list[str] | None, typer.Option(help="Only this domain of the lists. Repeatable; by default all.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="ko or en. Repeatable; by default both.")] = None,
    concepts: Annotated[Path | None, typer.Option(help="A table of your own concepts, with --templates.")] = None,
    templates: Annotated[Path | None, typer.Option(help="A table of texts with a slot, with --concepts.")] = None,
    permutations: Annotated[int, typer.Option(help="Draws of the label null.")] = 1000,
    random_models: Annotated[int, typer.Option(help="Models with permuted weights beside it.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the permutations.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Which layer of a model knows what: symptoms, diseases, drugs, ages, doses, stages, in Korean and English.

    Every value stands beside what labels at random, the spelling, the embedding and models with permuted weights give,
    and counts only where it lies above all of them. Writes map.svg, map.csv and map.json; goes on where it was stopped.

    A read-out shows what a layer makes available, not what the model uses. The packaged lists were reviewed by no
    clinician; --concepts and --templates take your own.

    Example: sae-lens-med map layers -m gemma-3-270m -o map-gemma

    Example: sae-lens-med map layers -m hari-q3-8b -o map-hari --dtype bfloat16 --domain drugs --domain diseases
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.lists import LANGUAGES, packaged_lists, read_lists
    from sae_lens_med.knowledge_map.run import KIND, MapSettings, make_map
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    if (concepts is None) != (templates is None):
        raise ConfigError("--concepts and --templates go together; pass both or neither.")
    for name in language or ():
        if name not in LANGUAGES:
            raise ConfigError(f"--language must be ko or en, got {name!r}.")
    settings = MapSettings(
        languages=tuple(each for each in LANGUAGES if not language or each in language),
        permutations=permutations,
        random_models=random_models,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    lists = packaged_lists() if concepts is None or templates is None else read_lists(concepts, templates)
    if domain:
        lists = lists.only(domain)
    from sae_lens_med.commands.options import open_model

    rows = make_map(lambda: open_model(model, None, device, dtype)[0], lists, output, settings)
    if as_json:
        say_json([row.to_dict() for row in rows if row.q])
        return
    for row in rows:
        if row.q:
            at = [depth for depth, out in enumerate(row.stands_out) if out]
            best = max(range(len(row.values)), key=lambda depth: row.values[depth])
            said = f"stands out at depth {_ranges(at)}" if at else "stands out nowhere"
            say(f"{row.name}: {said} (largest {row.values[best]:.3f} at depth {best}, p {row.p_best:.2g})")
    say(f"Map: {output / 'map.svg'}")


def _ranges(depths: list[int]) -> str:
    """`3-5, 8`"""
    runs: list[list[int]] = []
    for depth in depths:
        if runs and depth == runs[-1][1] + 1:
            runs[-1][1] = depth
        else:
            runs.append([depth, depth])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
