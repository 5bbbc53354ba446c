"""`circuit edges`: a circuit of edges between heads and MLPs. Heavy imports are inside the command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.options import AsJson, Device, Model, Output
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.circuits.pairs import Pair
    from sae_lens_med.models.bridge import MedBridge

TASKS = ("ioi", "relabel", "swap", "fact", "findings", "place")
OWN_TEXTS = ("ioi", "findings", "place")
"""Tasks that need no data."""


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("edges")(circuit_edges)


def circuit_edges(
    model: Model,
    output: Output,
    task: Annotated[
        str,
        typer.Option(
            help="ioi (whose name comes next; needs no data); of exam questions relabel (other letters), swap (the "
            "right text elsewhere), fact (an edited fact, with --facts); of a model organism findings or place (that "
            "cue points elsewhere; needs no data).",
        ),
    ] = "ioi",
    data: Annotated[str | None, typer.Option("--data", "-d", help="Questions, as for `evaluate`.")] = None,
    facts: Annotated[
        Path | None, typer.Option(help="For fact: a table with id, question (edited) and answer (its letter).")
    ] = None,
    n: Annotated[int, typer.Option("--pairs", min=4, max=100_000, help="Most pairs; half find, half judge.")] = 48,
    ig_steps: Annotated[
        int, typer.Option(min=0, max=1000, help="Points of the path (EAP-IG); 0: the clean text alone (EAP).")
    ] = 5,
    random_circuits: Annotated[int, typer.Option(min=0, max=10_000, help="Of the same size, beside it.")] = 20,
    seed: Annotated[int, typer.Option(help="Of pairs, halves and random circuits.")] = 0,
    device: Device = "auto",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one pass.")] = 512,
    as_json: AsJson = False,
) -> None:
    """A circuit of edges between attention heads and MLPs: found on half of the pairs, judged on the other half.

    First a gate: does the model answer, does it follow the change, is there anything to explain? Where not, that is
    said, and nothing else. What is shown is a circuit, not the circuit: how far another draw of items would give it
    stands beside it. Only what `fact` pairs have beyond `relabel` pairs may be called medical.

    Writes circuit.json, edges.csv, curve.svg and mib.json (for the Mechanistic Interpretability Benchmark); goes on
    where it was stopped.

    Example: sae-lens-med circuit edges -m gemma-3-270m -o ioi

    Example: sae-lens-med circuit edges -m organism/ko-concepts-0 --task findings -o concepts

    Example: sae-lens-med circuit edges -m hari-q3-8b --task fact --data questions.jsonl --facts edited.jsonl -o facts
    """
    from sae_lens_med.circuits.run import KIND, EdgeSettings, find_edges
    from sae_lens_med.errors import ConfigError, nearest
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    if task not in TASKS:
        raise ConfigError(f"--task must be one of {', '.join(TASKS)}, got {task!r}{nearest(task, TASKS) or '.'}")
    if (task in OWN_TEXTS) != (data is None):
        own = ", ".join(OWN_TEXTS)
        raise ConfigError(f"--data is for the tasks relabel, swap and fact, which need it; {own} have their own texts.")
    if (task == "fact") != (facts is not None):
        raise ConfigError("--facts is for the task fact, which needs it: a table with id, question and answer.")
    settings = EdgeSettings(ig_steps, random_circuits, seed, batch_tokens)
    from sae_lens_med.commands.options import open_model

    opened, _ = open_model(model, None, device, "float32")
    pairs = _pairs(opened, task, data, facts, n, seed)
    found = find_edges(opened, pairs, output, settings, task=task)
    if as_json:
        say_json(found.to_dict())
        return
    say(found.gate.sentence)
    if found.curve is None or found.signed_curve is None:
        return
    say(f"CMD {found.curve.area:.4f} (0 is best, random 0.75), CPR {found.signed_curve.area:.3f} (random 0.25).")
    if found.n_edges is None:
        say("No circuit smaller than the graph is faithful to within a tenth on the pairs that should find one.")
    else:
        beside = "" if found.random_faithfulness is None else (
            f", {found.random_faithfulness:.3f} of random circuits (p {found.random_p:.2g})"
        )  # fmt: skip
        say(
            f"A circuit of {found.n_edges} of {found.n_graph} edges: faithfulness {found.faithfulness:.3f}{beside}, "
            f"{found.completeness:.3f} without it; another draw of items shares {found.jaccard:.0%} of it."
        )
    say(f"Circuit: {output / 'circuit.json'}")


def _pairs(
    model: "MedBridge", task: str, data: str | None, facts: Path | None, n: int, seed: int
) -> "tuple[Pair, ...]":
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
