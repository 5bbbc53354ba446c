"""`map answer`: what a finished map says to the registered hypotheses. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from sae_lens_med.commands.options import AsJson
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("answer")(map_answer)


def map_answer(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished map layers.")],
    concepts: Annotated[
        Path | None, typer.Option(help="The table of concepts that the map was made of, with --templates.")
    ] = None,
    templates: Annotated[Path | None, typer.Option(help="Its table of texts, with --concepts.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a map says to seven registered hypotheses: supported, not supported, or not testable here.

    Age on a curve, a break at 18, circular stages, drugs by specialty, a collapse in the middle, knowledge in the first
    half, a middle that languages share: each claim with its statistic, null and rule, in English and Korean. Reads the
    activations that the map kept; no model is opened. Writes answers.json, map.html and map.ko.html into the folder.

    Example: sae-lens-med map answer map-gemma

    Example: sae-lens-med map answer map-own --concepts concepts.jsonl --templates templates.jsonl --json
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.answering import answer_hypotheses, write_answers
    from sae_lens_med.knowledge_map.lists import read_lists
    from sae_lens_med.knowledge_map.report import write_map_page
    from sae_lens_med.runs.folder import require_writable

    if (concepts is None) != (templates is None):
        raise ConfigError("--concepts and --templates go together; pass both or neither.")
    lists = None if concepts is None or templates is None else read_lists(concepts, templates)
    require_writable(folder)
    answers = answer_hypotheses(folder, lists)
    write_answers(folder, answers)
    page = write_map_page(folder)[0]
    if as_json:
        say_json([answer.to_dict() for answer in answers])
        return
    for answer in answers:
        say(f"{answer.hypothesis.id} {answer.hypothesis.claim['en']} {answer.sentence['en']}")
        say(f"   {answer.hypothesis.claim['ko']} {answer.sentence['ko']}")
    say(f"Page: {page}")
