"""`sae-lens-med train`: a recipe -> a trained SAE."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged recipe (gemma-3-270m-res).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder: new or empty, or with --resume that of the run.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value to change in the recipe; section.key for a key in a section. Repeatable."
        ),
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(help="Folder for the harvested activations; by default the user's cache.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in --output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON on stdout.")] = False,
) -> None:
    """Train an SAE: run the model over the recipe's text once, then train on the activations.

    A recipe is a YAML file of SAELens' runner fields plus model, data and sae. Ctrl-C keeps a checkpoint; the same
    command with --resume then ends with the weights of an uninterrupted run. The folder loads in stock SAELens:
    SAE.load_from_disk(OUTPUT).

    In several processes, with the result of one: torchrun --nproc-per-node N -m sae_lens_med train ...

    Example: sae-lens-med train gemma-3-270m-res --set data.folder=texts --set sae.l1_coefficient=0.4 --output runs/a
    """
    from sae_lens_med.runs.folder import require_output, require_writable
    from sae_lens_med.training.outputs import RUN, open_run, require_texts
    from sae_lens_med.training.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    open_run(loaded, output, resume)
    require_output(output, RUN)
    require_texts(loaded)
    if activations is not None:
        require_writable(activations)

    from sae_lens_med import distributed
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.training.run import train as run_training

    device = distributed.local_device(str(loaded.runner.get("device", "cpu")))
    with distributed.first_before_the_others(of_machine=True):
        model = load_model(loaded.model_name, device=device, dtype=loaded.model_dtype)
    trained = run_training(loaded, model, output, activations=activations, resume=resume)
    if as_json:
        say_json({"folder": str(output), "steps": trained.steps, **trained.quality.to_dict(), "notes": trained.notes})
        return
    quality = trained.quality
    say(
        f"{output}: {trained.steps} steps; on held-out text L0 {quality.l0:.1f}, explained variance "
        f"{quality.explained_variance:.3f}, dead {quality.dead_fraction:.1%}, "
        f"CE-loss score {quality.ce_loss_score:.3f}."
    )
    for note in trained.notes:
        say(note, err=True)
