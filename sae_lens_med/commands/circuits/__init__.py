"""`sae-lens-med circuit`: which parts of a model carry an answer, one command a file. Heavy imports are inside the
commands."""

import typer

from sae_lens_med.commands.circuits import edges, nodes

circuit_app = typer.Typer(
    no_args_is_help=True,
    help="Circuits: which parts of a model carry an answer, after a gate that asks whether there is a behaviour to "
    "explain.",
)
edges.register(circuit_app)
nodes.register(circuit_app)
