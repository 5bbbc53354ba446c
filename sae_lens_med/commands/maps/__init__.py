"""`sae-lens-med map`: which layer knows what, one command a file. Heavy imports are inside the commands."""

import typer

from sae_lens_med.commands.maps import answer, attributes, features, layers, match, picture, scaling

map_app = typer.Typer(
    no_args_is_help=True,
    help="Knowledge maps: which layer of a model knows what, each value beside the controls without which it says "
    "little.",
)
layers.register(map_app)
features.register(map_app)
answer.register(map_app)
picture.register(map_app)
match.register(map_app)
scaling.register(map_app)
attributes.register(map_app)
