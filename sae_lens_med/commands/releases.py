"""`sae-lens-med releases`: list, show, path, verify, package, export, publish.

Heavy imports are inside the commands. A `Releases` value as the context's `obj` replaces the packaged releases.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_lens_med.commands.options import on_terminal
from sae_lens_med.commands.output import say, say_json, write
from sae_lens_med.escaping import harmless, json_text, plain

if TYPE_CHECKING:
    from sae_lens_med.saes.listing import Release, Releases
    from sae_lens_med.saes.publish import Check, Recompute
    from sae_lens_med.saes.releases import LoadedSae

releases_app = typer.Typer(no_args_is_help=True, help="List, check, make and publish SAE releases.")

ReleaseName = Annotated[str, typer.Argument(metavar="RELEASE", help="A name from `releases list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@releases_app.command("list")
def list_releases(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the releases and their SAEs: a table on a terminal; piped, one RELEASE/ID a line, as --sae takes it.

    Example: sae-lens-med releases list
    """
    releases = _releases(ctx).read().values()
    if as_json:
        say_json([_listed(release) for release in releases])
        return
    if not on_terminal():
        for release in releases:
            for sae in release.saes:
                say(f"{release.name}/{sae.id}")
        return
    from rich.table import Table

    from sae_lens_med.runs.progress import console

    table = Table()
    for heading in ("release", "model", "SAE", "L0", "variance explained", "files"):
        table.add_column(heading, overflow="fold")  # a name that is cut short cannot be copied
    for release in releases:
        for sae in release.saes:
            numbers = ("" if value is None else f"{value:g}" for value in (sae.l0, sae.variance_explained))
            files = "packaged" if release.packaged else f"Hub: {release.repo_id}"
            table.add_row(release.name, release.model, sae.id, *numbers, files)
    console().print(table)


@releases_app.command()
def show(ctx: typer.Context, release: ReleaseName, as_json: AsJson = False) -> None:
    """Print a release's model card and the metrics of its SAEs.

    Example: sae-lens-med releases show sae-lens-med-gemma-3-270m-res
    """
    found = _releases(ctx).get(release)
    metrics = {sae.id: found.metrics(sae.id) for sae in found.saes}
    if as_json:
        described = {"repo_id": found.repo_id, "folder": str(found.folder), "card": found.card(), "metrics": metrics}
        say_json(_listed(found) | described)
        return
    write(f"{harmless(found.card().rstrip())}\n")
    for sae_id, values in metrics.items():
        write(f"\nMetrics of {plain(sae_id)}:\n")
        write("none\n" if values is None else f"{json_text(values)}\n")


@releases_app.command()
def path(ctx: typer.Context, release: ReleaseName) -> None:
    """Print the folder that holds a release's files.

    Example: sae-lens-med releases path sae-lens-med-gemma-3-270m-res
    """
    found = _releases(ctx).get(release)
    found.manifest()
    say(str(found.folder))


@releases_app.command()
def verify(
    ctx: typer.Context,
    release: ReleaseName,
    recompute: Annotated[bool, typer.Option("--recompute", help="Measure again on the held-out text.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder with the recipe's text files, for --recompute.")] = None,
) -> None:
    """Check hashes and configurations, load every SAE and, with --recompute, measure again.

    Status 1 when a check fails.

    Example: sae-lens-med releases verify sae-lens-med-gemma-3-270m-res
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.saes.publish import verify_release

    found = _releases(ctx).get(release)
    if recompute != (data is not None):
        raise ConfigError(
            "--recompute and --data FOLDER go together, because the recipe's text is not "
            "packaged; pass both or neither."
        )
    checks = verify_release(found, None if data is None else measure_again(found, data))
    for check in checks:
        say(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
    failed = sum(not check.ok for check in checks)
    say(f"{release}: {len(checks)} checks, {failed or 'none'} failed")
    if failed:
        raise typer.Exit(1)


@releases_app.command()
def package(
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="Name of the release in `releases.yaml`.")],
    trained: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that `train` or `sweep` wrote, one per hook.")
    ],
    beside: Annotated[
        list[Path] | None, typer.Option(help="A run or a sweep to compare with on the card. Repeatable.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Releases folder to write to; by default this package's own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the release if it exists.")] = False,
) -> None:
    """Make a release of training runs: weights in bfloat16, model card, metrics, recipes, hashes.

    The id of an SAE is its hook's name.

    Example: sae-lens-med releases package my-gemma-res runs/layer-4 runs/layer-9 --target my-releases
    """
    import tempfile

    from sae_lens_med.runs.files import write_text
    from sae_lens_med.saes.publish import package_release
    from sae_lens_med.training.card import model_card, read_runs
    from sae_lens_med.training.frontier import frontier, frontier_svg

    runs = read_runs(trained)
    compared = frontier([*trained, *beside]) if beside else None
    with tempfile.TemporaryDirectory() as drawn:
        plot = Path(drawn) / "frontier.svg"
        if compared:
            write_text(plot, frontier_svg(compared.points))
        folder = package_release(
            {sae_id: run.folder for sae_id, run in runs.items()},
            release,
            card=model_card(release, runs, compared),
            left_out_ids=next(iter(runs.values())).left_out_ids,
            recipes={sae_id: run.recipe for sae_id, run in runs.items()},
            extra_files=[plot] if compared else [],
            target=target,
            force=force,
        )
    say(str(folder))


@releases_app.command()
def export(
    ctx: typer.Context,
    release: ReleaseName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Copy a release to a folder, laid out as a Hub repository.

    Example: sae-lens-med releases export sae-lens-med-gemma-3-270m-res hub
    """
    from sae_lens_med.saes.publish import export_release

    say(str(export_release(_releases(ctx).get(release), folder, force=force)))


@releases_app.command()
def publish(
    ctx: typer.Context,
    release: ReleaseName,
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The Hub repository.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Visibility of the repository.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it, nothing leaves this machine.")] = False,
) -> None:
    """Upload a release to the Hugging Face Hub; a dry run unless --yes is given.

    Example: sae-lens-med releases publish sae-lens-med-gemma-3-270m-res OWNER/NAME
    """
    from sae_lens_med.saes.publish import check_repo_id, publish_plan, publish_release

    found = _releases(ctx).get(release)
    check_repo_id(repo_id)
    plan = publish_plan(found)
    for planned in plan:
        say(f"{planned.size:>12,}  {planned.path}")
    total = f"{len(plan)} files, {sum(planned.size for planned in plan):,} bytes"
    if not yes:
        visibility = "private" if private else "public"
        say(f"Dry run: {total} would go to the {visibility} repository {repo_id}; add --yes to upload.")
        return
    say(f"Uploaded {total}: {publish_release(found, repo_id, private=private)}")


def measure_again(release: "Release", data: Path) -> "Recompute":
    """Checks that measure an SAE on the held-out text of the recipes, read from the folder `data`, and compare with
    what is recorded: L0 to 2 %, shares to 0.01 (the recorded numbers were measured before the weights were rounded)."""
    from sae_lens_med.errors import ReleaseError
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.saes.publish import Check
    from sae_lens_med.training.activations import corpus
    from sae_lens_med.training.outputs import require_texts
    from sae_lens_med.training.quality import measure
    from sae_lens_med.training.recipe import current_keys, parse_recipe

    recipes = {
        sae_id: parse_recipe(current_keys(values) | {"data": values["data"] | {"folder": str(data)}}, release.name)
        for sae_id, values in release.manifest()["recipes"].items()
    }
    if not recipes:
        raise ReleaseError(
            f"The release {release.name!r} has no recorded recipe, so its held-out text cannot be made again; "
            "verify it without --recompute."
        )
    first = next(iter(recipes.values()))  # a release covers one text and one model
    require_texts(first, "--data FOLDER")
    model = load_model(first.model_name, dtype=first.model_dtype)
    text = corpus(first, model.text_tokenizer, first.text_seed)

    def recompute(loaded: "LoadedSae", recorded: Any) -> "list[Check]":
        if not isinstance(recorded, dict) or "heldout" not in recorded or loaded.sae_id not in recipes:
            return [Check(f"recompute {loaded.sae_id}", False, "no metrics or no recipe was recorded")]
        same = text.sha256 == recorded["text"]["sha256"]
        checks = [Check(f"text {loaded.sae_id}", same, "as recorded" if same else f"{data} contains a different text")]
        now = measure(model, loaded.sae, text.heldout, sink_multiple=recipes[loaded.sae_id].sink_multiple).to_dict()
        for name in ("l0", "explained_variance", "dead_fraction", "ce_loss_score", "kl_score"):
            was = recorded["heldout"][name]
            close = abs(now[name] - was) <= (0.02 * was if name == "l0" else 0.01)
            checks.append(Check(f"{name} {loaded.sae_id}", close, f"recorded {was:g}, measured again {now[name]:g}"))
        return checks

    return recompute


def _releases(ctx: typer.Context) -> "Releases":
    from sae_lens_med.saes.listing import Releases, packaged_releases

    return ctx.obj if isinstance(ctx.obj, Releases) else packaged_releases()


def _listed(release: "Release") -> dict[str, Any]:
    return {
        "release": release.name,
        "model": release.model,
        "saes": [
            {"id": sae.id, "path": sae.path, "l0": sae.l0, "variance_explained": sae.variance_explained}
            for sae in release.saes
        ],
    }
