"""Which pairs a command of this group explains: options, their checks, the pairs. Heavy imports are inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.output import say

if TYPE_CHECKING:
    from sae_lens_med.circuits.pairs import Pair
    from sae_lens_med.models.bridge import MedBridge

TASKS = ("ioi", "relabel", "swap", "fact", "findings", "place")
OWN_TEXTS = ("ioi", "findings", "place")
"""Tasks that need no data."""

Task = Annotated[
    str,
    typer.Option(
        help="ioi (whose name comes next; needs no data); of exam questions relabel (other letters), swap (the right "
        "text elsewhere), fact (an edited fact, with --facts); of a model organism findings or place (that cue points "
        "elsewhere; needs no data).",
    ),
]
Data = Annotated[str | None, typer.Option("--data", "-d", help="Questions, as for `evaluate`.")]
Facts = Annotated[
    Path | None, typer.Option(help="For fact: a table with id, question (edited) and answer (its letter).")
]
Pairs = Annotated[int, typer.Option("--pairs", min=4, max=100_000, help="Most pairs; half find, half judge.")]


def require_task(task: str, data: str | None, facts: Path | None) -> None:
    """Raise `ConfigError` for a task that is none, and for data that it does not need or lacks."""
    from sae_lens_med.errors import ConfigError, nearest

    if task not in TASKS:
        raise ConfigError(f"--task must be one of {', '.join(TASKS)}, got {task!r}{nearest(task, TASKS) or '.'}")
    if (task in OWN_TEXTS) != (data is None):
        own = ", ".join(OWN_TEXTS)
        raise ConfigError(f"--data is for the tasks relabel, swap and fact, which need it; {own} have their own texts.")
    if (task == "fact") != (facts is not None):
        raise ConfigError("--facts is for the task fact, which needs it: a table with id, question and answer.")


def pairs_of(
    model: "MedBridge", task: str, data: str | None, facts: Path | None, n: int, seed: int
) -> "tuple[Pair, ...]":
    """The pairs of a task that was checked; what was left out is said on stderr."""
    from sae_lens_med.circuits.ioi import ioi_pairs

    tokenizer = model.text_tokenizer
    if task == "findings" or task == "place":
        from sae_lens_med.circuits.twins import organism_pairs
        from sae_lens_med.controls.organisms.designs import parse
        from sae_lens_med.errors import ConfigError
        from sae_lens_med.models.organisms import PREFIX

        name = str(model.provenance["name"])
        if not name.startswith(PREFIX):
            raise ConfigError(f"--task {task} is for a model organism, such as {PREFIX}ko-concepts-0, not for {name}.")
        return organism_pairs(tokenizer, parse(name.removeprefix(PREFIX)).language, task, n, seed).pairs
    if data is None:
        return tuple(ioi_pairs(tokenizer, n, seed))
    from sae_lens_med.circuits.exam import fact_pairs, made_pairs, read_facts
    from sae_lens_med.data import load_items

    items = load_items(data).items
    if facts is not None:
        made = fact_pairs(items, read_facts(facts), tokenizer)
    else:
        made = made_pairs(items, tokenizer, "relabel" if task == "relabel" else "swap", seed)
    if made.unequal:
        say(f"{len(made.unequal)} questions left out: their two texts differ in the number of tokens.", err=True)
    if made.unanswered:
        what = "edited question" if facts is not None else "known answer"
        say(f"{len(made.unanswered)} questions left out: there is no {what}.", err=True)
    return made.pairs[:n]
