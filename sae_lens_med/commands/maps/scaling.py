"""`map scaling`: what more features and more text are worth. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.maps.options import Concepts, Seed, Templates, lists_of
from sae_lens_med.commands.options import AsJson, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("scaling")(map_scaling)


def map_scaling(
    recipe: Annotated[str, typer.Argument(help="A recipe file of a tied_l1 SAE, or the name of a packaged recipe.")],
    output: Output,
    sizes: Annotated[str, typer.Option(help="Numbers of features, separated by commas; four and more for a law.")],
    tokens: Annotated[str, typer.Option(help="Tokens of training, separated by commas; four and more for a law.")],
    coefficients: Annotated[
        str, typer.Option(help="L1 coefficients of the sweep, separated by commas; SAEs are compared between them.")
    ],
    seeds: Annotated[str, typer.Option(help="Seeds of the SAEs, separated by commas.")] = "0,1",
    l0: Annotated[
        float | None, typer.Option(help="The L0 of the comparison; by default where most sweeps reach.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for all SAEs; section.key for a key in a section. Repeatable."),
    ] = None,
    concepts: Concepts = None,
    templates: Templates = None,
    activations: Annotated[
        Path | None, typer.Option(help="Folder for the harvested activations; by default the user's cache.")
    ] = None,
    words: Annotated[int, typer.Option(min=100, help="Most held-out words that seeds are matched on.")] = 20_000,
    permutations: Annotated[int, typer.Option(help="Draws of every null.")] = 199,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the SAEs without training them.")] = False,
    as_json: AsJson = False,
) -> None:
    """What more features and more text are worth: SAEs of several sizes from one harvest, compared at one L0.

    For every size, amount of text and seed a sweep of the L1 coefficient is trained. Held-out loss and dead features
    are read off at one L0; concept coverage counts labels whose best feature is better than the best of as many
    features under permuted labels; other seeds say how much of a dictionary comes again. Power laws are fitted along an
    axis of four points and more, with their residuals. The same command goes on where it was stopped.

    Example: sae-lens-med map scaling gemma-3-270m-res --sizes 1280,2560,5120,10240 --tokens 100000,300000,1000000
    --coefficients 0.1,0.2,0.4 --set data.folder=texts -o scaling

    Example: sae-lens-med map scaling organism --sizes 64,128,256,512 --tokens 102400,307200 --coefficients 0.1,0.3
    --set data.folder=texts -o scaling --dry-run
    """
    from sae_lens_med.knowledge_map.scaling_run import KIND, ScalingSettings, scale, scaling_variants, to_json
    from sae_lens_med.runs.folder import require_output
    from sae_lens_med.training.outputs import require_activations, require_texts

    settings = ScalingSettings(
        sizes=tuple(map(int, _numbers("--sizes", sizes, whole=True))),
        tokens=tuple(map(int, _numbers("--tokens", tokens, whole=True))),
        coefficients=_numbers("--coefficients", coefficients),
        seeds=tuple(map(int, _numbers("--seeds", seeds, whole=True))),
        l0=l0,
        permutations=permutations,
        words=words,
        seed=seed,
    )
    lists = lists_of(concepts, templates)
    variants = scaling_variants(recipe, settings, overrides or [])
    if dry_run:
        for variant in variants:
            say(variant.name)
        say(f"{len(variants)} SAEs; leave out --dry-run to train them.")
        return
    require_output(output, KIND)
    require_texts(variants[0].recipe)
    require_activations(activations)

    from sae_lens_med import distributed
    from sae_lens_med.models.bridge import load_model

    first = variants[0].recipe
    device = distributed.local_device(str(first.runner.get("device", "cpu")))
    model = load_model(first.model_name, device=device, dtype=first.model_dtype)
    found = scale(variants, model, lists, output, settings, activations=activations)
    if as_json:
        say_json(to_json(found))
    else:
        for each in found.cells:
            cell = each.cell
            loss = "not reached" if cell.loss is None else f"loss {cell.loss:.4f}, dead {cell.dead:.1%}"
            covered = (
                "" if each.coverage is None else f", {each.coverage.n_covered} of {each.coverage.n} labels covered"
            )
            share = "" if each.seed_share is None else f", {each.seed_share:.1%} in another seed"
            say(f"{cell.d_sae:,} features, {cell.tokens:,} tokens, seed {cell.seed}: {loss}{covered}{share}")
        for law in found.laws:
            residuals = ", ".join(f"{each:+.3f}" for each in law.residuals)
            say(
                f"{law.quantity} ~ {law.axis}^-{law.exponent:.3f} ({law.interval[0]:.3f} to {law.interval[1]:.3f}) at "
                f"{law.at:,}; residuals of the logarithm {residuals}"
            )
        for note in found.notes:
            say(note)
        say(f"{output / 'scaling.csv'}, {output / 'scaling.svg'}")
    if found.failed:
        raise typer.Exit(1)


def _numbers(option: str, text: str, whole: bool = False) -> tuple[float, ...]:
    from sae_lens_med.errors import ConfigError

    try:
        found = tuple(float(each.replace("_", "")) for each in text.split(","))
    except ValueError:
        found = ()
    least = 0 if option == "--seeds" else 1 if whole else 1e-12
    if not found or not all(least <= each < 1e15 and (not whole or each == int(each)) for each in found):
        kind = "whole numbers" if whole else "numbers above 0"
        raise ConfigError(f"{option} takes {kind} separated by commas, got {text!r}.")
    return found
