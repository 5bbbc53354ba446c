"""`sae-lens-med models`: the catalogue."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("models")(list_models)


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that have a short name here. Any other Hub id or local folder opens too.

    Example: sae-lens-med models --json
    """
    from sae_lens_med.catalogue import CATALOGUE, wheel_installed

    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in CATALOGUE], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("alias", "Hub id", "size", "layers", "d_model", "comes from", "what")
    for entry in CATALOGUE:
        where = "Hub"
        if entry.wheel is not None:
            where = "PyPI wheel" if wheel_installed(entry.wheel) else f"Hub, or extra {entry.wheel.extra}"
        size = (entry.parameters, str(entry.n_layers), str(entry.d_model))
        table.add_row(entry.alias, entry.hub_id, *size, where, entry.note)
    Console().print(table)
