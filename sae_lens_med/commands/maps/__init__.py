"""`sae-lens-med map`: which layer knows what, one command a file. Heavy imports are inside the commands."""

import typer

from sae_lens_med.commands.maps import answer, layers, picture

map_app = typer.Typer(
    no_args_is_help=True,
    help="Knowledge maps: which layer of a model knows what, each value beside the controls without which it says "
    "little.",
)
layers.register(map_app)
answer.register(map_app)
picture.register(map_app)
