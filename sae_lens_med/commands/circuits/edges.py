"""`circuit edges`: a circuit of edges between heads and MLPs. Heavy imports are inside the command."""

from typing import Annotated

import typer

from sae_lens_med.commands.circuits.tasks import Data, Facts, Pairs, Task, pairs_of, require_task
from sae_lens_med.commands.options import AsJson, Device, Model, Output
from sae_lens_med.commands.output import say, say_json


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("edges")(circuit_edges)


def circuit_edges(
    model: Model,
    output: Output,
    task: Task = "ioi",
    data: Data = None,
    facts: Facts = None,
    n: Pairs = 48,
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
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    require_task(task, data, facts)
    settings = EdgeSettings(ig_steps, random_circuits, seed, batch_tokens)
    from sae_lens_med.commands.options import open_model

    opened, _ = open_model(model, None, device, "float32")
    pairs = pairs_of(opened, task, data, facts, n, seed)
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
