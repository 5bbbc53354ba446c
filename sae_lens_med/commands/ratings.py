"""`ratings`: how far the raters of a study are, and the file of what they said. Heavy imports are inside."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import AsJson
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command()(ratings)


def ratings(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write them there, for `align --ratings`: .jsonl, .csv."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    draw: Annotated[
        int | None,
        typer.Option("--draw", min=2, help="Draw what is rated, of so many cases, before the first rater begins."),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed", help="Of --draw; random if not given. Keep it from raters: it decides the order of the arms."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ratings of rationales: who has rated how much, and their file.

    Raters rate in the browser: `sae-lens-med serve STUDY`, page "Rate". What is rated is drawn once, when the first one
    begins or by --draw: of 30 cases the expert's explanation, the model's reasoning, a text made of the features'
    labels, and, as the null, a text of another case.

    Example: sae-lens-med ratings my-study --output ratings.csv
    """
    from sae_lens_med.app.opened import OpenStudy
    from sae_lens_med.app.rating.desk import Desk, as_values
    from sae_lens_med.app.rating.export import write_ratings
    from sae_lens_med.errors import ConfigError

    if seed is not None and draw is None:
        raise ConfigError("--seed is of --draw; add --draw N, or leave --seed out.")
    desk = Desk(OpenStudy.open(study))
    if draw is not None:
        desk.draw(draw, seed)
    rows = desk.rows()
    if output is not None:
        write_ratings(rows, output, force=force)
    values = as_values(desk) | {"ratings": len(rows), "output": None if output is None else str(output)}
    if as_json:
        say_json(values)
        return
    if not values["cases"]:
        say("Nothing was drawn yet: it is when the first rater begins, or with --draw N.")
    else:
        say(f"Rated: {values['cases']} cases; " + ", ".join(f"{arm} {n}" for arm, n in values["units"].items()))
    for arm, reasons in values["left_out"].items():
        say(f"  without {arm}: " + ", ".join(f"{n} ({_REASONS[reason]})" for reason, n in reasons.items()))
    for note in values["notes"]:
        say(note, err=True)
    for rater in values["raters"]:
        spent = "" if rater["seconds"] is None else f", {rater['seconds']:.0f} s a text"
        done = f"{rater['done']} of {rater['of']} texts, {rater['ratings']} ratings"
        say(f"{rater['rater']} ({rater['role']}): {done}{spent}")
        if rater["problem"]:
            say(rater["problem"], err=True)
    say(f"Ratings: {len(rows)}" + ("" if output is None else f", written to {output}"))


_REASONS = {
    "none": "no text",
    "not_expert": "not by an expert",
    "masked": "nothing left when masked",
    "no_donor": "no other case to draw from",
}
