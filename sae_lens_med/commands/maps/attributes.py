"""`map attributes`: what who the patient is does to a model's answers. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.maps.options import Language, Seed, languages_of
from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Dtype, Model, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("attributes")(map_attributes_command)


def map_attributes_command(
    model: Model,
    output: Output,
    sae: Annotated[
        str | None,
        typer.Option("--sae", "-s", help="RELEASE/ID, a folder, or REL:ID: whose features may carry an effect."),
    ] = None,
    language: Language = None,
    attributes: Annotated[Path | None, typer.Option(help="A table of your own values, with --vignettes.")] = None,
    vignettes: Annotated[Path | None, typer.Option(help="A table of your own questions, with --attributes.")] = None,
    hints: Annotated[Path | None, typer.Option(help="A table of your own hints, with --vignettes.")] = None,
    method: Annotated[
        str, typer.Option(help="letter, or option-text for a model that does not know letters.")
    ] = "letter",
    draws: Annotated[int, typer.Option(help="Draws of swaps, and flips of signs.")] = 999,
    features: Annotated[int, typer.Option(help="Features that are chosen for each effect, at most.")] = 5,
    random_sets: Annotated[int, typer.Option(help="Sets of matched-random features beside them.")] = 39,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Does the answer change with who the patient is? Sex, age, region, nationality, insurance, disability, occupation.

    Where an attribute must not matter, it is compared with words that cannot (bed, clinic day, surname); where it must,
    the answer has to follow it. With an SAE, the features that carry an effect are found on half of the vignettes and
    ablated on the other, beside matched-random ones. A wrong answer before the question shows whether the model gives
    way. Writes attributes.json, .csv and .svg; goes on where it was stopped.

    A model that does not answer what the attribute decides has no reliable answer, and no bias is called. The packaged
    vignettes were reviewed by no clinician; --attributes and --vignettes take your own.

    Example: sae-lens-med map attributes -m gemma-3-270m -o attributes-gemma

    Example: sae-lens-med map attributes -m hari-q3-8b --sae my-sae -o attributes-hari --dtype bfloat16
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.attributes.run import KIND, AttributeSettings, map_attributes
    from sae_lens_med.knowledge_map.attributes.vignettes import packaged_vignettes, read_vignettes
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    if (attributes is None) != (vignettes is None) or (hints is not None and vignettes is None):
        raise ConfigError("--attributes and --vignettes go together, and --hints with them; pass both or neither.")
    settings = AttributeSettings(
        languages=languages_of(language),
        method=method,
        draws=draws,
        features=features,
        random_sets=random_sets,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    lists = (
        packaged_vignettes()
        if attributes is None or vignettes is None
        else read_vignettes(attributes, vignettes, hints)
    )
    from sae_lens_med.commands.options import open_model

    opened, loaded = open_model(model, sae, device, dtype)
    found = map_attributes(opened, lists, output, settings, sae=loaded)
    if as_json:
        say_json(found.to_dict())
        return
    for claim in found.claims:
        say(claim.en)
        say(f"  {claim.ko}")
    for cell in found.table:
        say(f"{cell.attribute} ({cell.language}): {cell.en}")
    for said in found.limits:
        say(said)
    say(f"Figure: {output / 'attributes.svg'}")
