"""`map picture`: a map in two dimensions by UMAP, drawn and never decisive. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import AsJson
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("picture")(map_picture)


def map_picture(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished map layers.")],
    depth: Annotated[int, typer.Option(help="0: the embedding; k: what block k - 1 leaves.")],
    domain: Annotated[str, typer.Option(help="Of the lists: symptoms, drugs, age, ...")] = "symptoms",
    language: Annotated[str, typer.Option(help="ko or en.")] = "en",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .svg; by default in the map's folder, named after it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of UMAP and of the Gaussian.")] = 0,
    concepts: Annotated[
        Path | None, typer.Option(help="The table of concepts that the map was made of, with --templates.")
    ] = None,
    templates: Annotated[Path | None, typer.Option(help="Its table of texts, with --concepts.")] = None,
    as_json: AsJson = False,
) -> None:
    """One domain of a map in two dimensions, by UMAP: a picture, from which nothing may be concluded.

    UMAP makes clusters and loops of noise too. Beside the depth stand the embedding and a Gaussian of the same
    covariance, each with its trustworthiness. Needs the extra [maps].

    Example: sae-lens-med map picture map-gemma --depth 15 --domain drugs
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.lists import read_lists
    from sae_lens_med.knowledge_map.picture import pictures_of
    from sae_lens_med.plots.markup import svg
    from sae_lens_med.plots.scattered import scattered
    from sae_lens_med.runs.files import write_text
    from sae_lens_med.runs.folder import require_writable_file

    if (concepts is None) != (templates is None):
        raise ConfigError("--concepts and --templates go together; pass both or neither.")
    path = output or folder / f"picture-{domain}-{language}-{depth}.svg"
    require_writable_file(path)
    lists = None if concepts is None or templates is None else read_lists(concepts, templates)
    drawn = pictures_of(folder, domain, language, depth, lists, seed=seed)
    panels = [(f"{each.title} (trust {each.trustworthiness:.2f})", each.points, each.labels) for each in drawn]
    told = "; ".join(f"{each.title}: trustworthiness {each.trustworthiness:.3f}" for each in drawn)
    title = f"{domain} ({language}), UMAP: a picture, no evidence"
    write_text(path, svg(scattered(panels), title=title, description=told))
    if as_json:
        say_json({"picture": str(path), "trustworthiness": {each.title: each.trustworthiness for each in drawn}})
        return
    for each in drawn:
        say(f"{each.title}: trustworthiness {each.trustworthiness:.3f}")
    say("A picture, from which nothing may be concluded: UMAP makes clusters and loops of noise too.")
    say(f"Picture: {path}")
