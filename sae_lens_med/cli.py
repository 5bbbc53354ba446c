"""The command line, `sae-lens-med`. Heavy imports happen inside the commands, so that `--help` answers at once."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import typer

from sae_lens_med import __version__, distributed
from sae_lens_med.commands import (
    align,
    collect,
    evaluate,
    index,
    intervene,
    labels,
    lm_eval,
    models,
    organisms,
    ratings,
    releases,
    serve,
    sweep,
    templates,
    train,
)
from sae_lens_med.commands import study as run
from sae_lens_med.commands.circuits import circuit_app
from sae_lens_med.commands.ends import INTERRUPTED, Commands, flushed, stopped_by_sigterm
from sae_lens_med.commands.maps import map_app
from sae_lens_med.commands.output import say
from sae_lens_med.errors import SaeLensMedError
from sae_lens_med.escaping import print_whatever_it_holds
from sae_lens_med.runs.files import DISCLAIMER

app = typer.Typer(
    name="sae-lens-med",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Does a medical language model compute with what the expert's explanation names? "
    f"Start with: sae-lens-med demo. {DISCLAIMER}",
)
run.register(app)
evaluate.register(app)
collect.register(app)
templates.register(app)
align.register(app)
index.register(app)
labels.register(app)
intervene.register(app)
lm_eval.register(app)
train.register(app)
sweep.register(app)
models.register(app)
serve.register(app)
ratings.register(app)
app.add_typer(releases.releases_app, name="releases")
app.add_typer(organisms.organisms_app, name="organisms")
app.add_typer(map_app, name="map")
app.add_typer(circuit_app, name="circuit")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    del version  # the callback above has acted on it


@contextmanager
def _silent(wanted: bool) -> Iterator[None]:
    """Of several processes that say the same, one is enough. A traceback passes: it is printed after the block."""
    if not wanted:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def main() -> None:
    """Run the command line: a user's mistake is one sentence and status 2; `commands.ends` has what else may happen.

    Started by torchrun or `accelerate launch`, all processes run it together, and rank 0 prints for them.
    """
    print_whatever_it_holds(sys.stdout, sys.stderr)
    sys.exit(flushed(_status()))


def _status() -> int:
    try:
        with stopped_by_sigterm(), distributed.initialised() as ranks, _silent(not ranks.first):
            app(standalone_mode=True)
    except SystemExit as end:  # as typer ends
        if isinstance(end.code, str):
            say(end.code, err=True)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except SaeLensMedError as error:
        if distributed.reports_error(error):
            say(f"error: {error}", err=True)
        return 2
    except KeyboardInterrupt:  # before a command began, or after
        return INTERRUPTED
    return 0
