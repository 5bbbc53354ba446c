"""`sae-lens-med sweep` and `sae-lens-med frontier`: many SAEs from one harvest, and how they compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.training.frontier import Frontier
    from sae_lens_med.training.plan import Variant


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(sweep)
    app.command()(frontier)


def sweep(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, or names of packaged recipes.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder: new or empty, or with --resume that of the sweep.")
    ],
    overs: Annotated[
        list[str] | None,
        typer.Option("--over", help="Values to try, key=value,value,...; every combination is trained. Repeatable."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for all variants; section.key for a key in a section. Repeatable."),
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(help="Folder for the harvested activations; by default the user's cache.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the variants without training them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the variants, or the result, as JSON.")] = False,
) -> None:
    """Train variants of recipes and draw L0 against explained variance.

    The model is loaded once and its activations are harvested once per hook and text. Each variant is trained into a
    subfolder of --output named after what varies; frontier.md, frontier.svg and frontier.json compare the finished ones
    on held-out text. With --resume, finished variants are kept and an interrupted one continues. A variant that fails
    is reported and the others are trained; the exit status is then 1.

    Several recipes compare architectures: --over sae.KEY is varied in the recipes whose architecture has KEY.

    Example: sae-lens-med sweep gemma-3-270m-res --over sae.l1_coefficient=0.1,0.2,0.4 --over sae.d_sae=5120,10240
    --set data.folder=texts --output runs/sweep

    Example: sae-lens-med sweep tied.yaml topk.yaml --over sae.l1_coefficient=0.2,0.4 --over sae.k=32,64 -o runs/both
    """
    from sae_lens_med.runs.folder import require_output, require_writable
    from sae_lens_med.training.outputs import SWEEP, open_sweep, require_texts
    from sae_lens_med.training.plan import plan

    variants = plan(recipes, overs or [], overrides or [])
    if dry_run:
        _list_variants(variants, as_json)
        return
    open_sweep(variants, output, resume)
    require_output(output, SWEEP)
    for variant in variants:
        require_texts(variant.recipe)
    if activations is not None:
        require_writable(activations)

    from sae_lens_med import distributed
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.training.sweep import sweep as run_sweep

    first = variants[0].recipe
    device = distributed.local_device(str(first.runner.get("device", "cpu")))
    with distributed.first_before_the_others(of_machine=True):
        model = load_model(first.model_name, device=device, dtype=first.model_dtype)
    result = run_sweep(variants, model, output, activations=activations, resume=resume)
    if result.frontier is not None:
        _show(result.frontier, output, as_json)
    if result.failed:
        failed = f"{len(result.failed)} of {len(variants)} variants"
        say(f"{failed} failed; the same command with --resume tries them again.", err=True)
        raise typer.Exit(1)


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Sweeps or single training runs; only finished runs are read.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for frontier.md, .svg and .json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw several sweeps or training runs into one table and one plot of L0 against explained variance.

    Runs whose recipes differ only in the sparsity coefficient make one curve. Nothing is trained or measured again.

    Example: sae-lens-med frontier runs/tied runs/standard runs/topk --output runs/compared
    """
    from sae_lens_med.runs.folder import require_writable
    from sae_lens_med.training.frontier import frontier as read_frontier
    from sae_lens_med.training.frontier import write_frontier

    require_writable(output)
    found = read_frontier(folders)
    write_frontier(found, output)
    _show(found, output, as_json)


def _list_variants(variants: "list[Variant]", as_json: bool) -> None:
    if as_json:
        listed = [{"name": v.name, "varied": v.varied, "recipe": v.recipe.to_dict()} for v in variants]
        say_json(listed)
        return
    for variant in variants:
        recipe = variant.recipe
        say(f"{variant.name}  ({recipe.sae['architecture']}, {recipe.runner['hook_name']})")
    say(f"{len(variants)} variants; leave out --dry-run to train them.")


def _show(found: "Frontier", output: Path, as_json: bool) -> None:
    if as_json:
        say_json(found.to_dict())
        return
    for p in found.points:
        say(
            f"{Path(p.folder).name}: L0 {p.l0:.1f}, explained variance {p.explained_variance:.3f}, "
            f"dead {p.dead_fraction:.1%}, CE-loss score {p.ce_loss_score:.3f}"
        )
    say(f"{output / 'frontier.md'}, {output / 'frontier.svg'}")
