"""`index`: what the pages of LLMXAI look up of a study, made once. Heavy imports are inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.options import AsJson, BatchTokens, Device
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.metrics.inputs import ModelSide
    from sae_lens_med.records import Provenance


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(index)


def index(
    study: Annotated[Path, typer.Argument(help="Folder of a study whose features are collected.")],
    attribution: Annotated[
        bool,
        typer.Option("--attribution", help="Also what each case's features do to its answer; runs the model."),
    ] = False,
    neighbours: Annotated[
        bool, typer.Option("--neighbours", help="Also which features have the nearest decoder directions.")
    ] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="Also which tokens each feature's direction raises and lowers.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it anew, whatever there is.")] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the study's model is now; by default, where the study found it."),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option("--sae", "-s", help="Where the study's SAE is now; by default, where the study found it."),
    ] = None,
    device: Device = "auto",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Index a study for the web interface: per feature its strongest cases, contexts, histogram and words.

    Writes STUDY/app/. Needs no model, but for --attribution, --neighbours and --logits. What is there and still that of
    the study's features is not made again; an interrupted command goes on when it is started again.

    Example: sae-lens-med index my-study

    Example: sae-lens-med index my-study --attribution --neighbours --logits
    """
    from sae_lens_med.app.attribution import attribute
    from sae_lens_med.app.directions import find_logits, find_neighbours
    from sae_lens_med.app.index import build_index
    from sae_lens_med.app.index_files import FOLDER
    from sae_lens_med.commands.align import open_side
    from sae_lens_med.study.folder import read_about, require_study
    from sae_lens_med.study.opened import OpenedModel

    def opener(provenance: "Provenance") -> "ModelSide":
        return open_side(provenance, model, sae, device, batch_tokens)

    require_study(study)
    provenance, _, _ = read_about(study)
    made = {"features": build_index(study, rebuild=rebuild)}
    wanted = {
        name: make
        for name, asked, make in (
            ("attribution", attribution, attribute),
            ("neighbours", neighbours, find_neighbours),
            ("logits", logits, find_logits),
        )
        if asked
    }
    if wanted:
        side = OpenedModel(opener, provenance).get()
        made |= {name: make(study, side) for name, make in wanted.items()}
    if as_json:
        say_json({"output": str(study / FOLDER), "made": made})
        return
    for name, was_made in made.items():
        say(f"{name}: {'made' if was_made else 'done before, skipped'}")
    say(f"Index: {study / FOLDER}")
