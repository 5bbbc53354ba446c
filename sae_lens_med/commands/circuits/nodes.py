"""`circuit nodes`: a circuit of SAE features. Heavy imports are inside the command."""

from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.circuits.tasks import Data, Facts, Pairs, Task, pairs_of, require_task
from sae_lens_med.commands.options import AsJson, Device, Model, Output
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.circuits.node_records import NodeCircuit

SHOWN = 10
"""Nodes that are said."""


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("nodes")(circuit_nodes)


def circuit_nodes(
    model: Model,
    output: Output,
    sae: Annotated[
        list[str], typer.Option("--sae", "-s", help="An SAE whose features are nodes; repeatable, one for each hook.")
    ],
    second: Annotated[
        list[str] | None,
        typer.Option("--second-sae", help="Another SAE of the same hook, for how far the two circuits agree."),
    ] = None,
    task: Task = "ioi",
    data: Data = None,
    facts: Facts = None,
    n: Pairs = 48,
    ig_steps: Annotated[
        int, typer.Option(min=0, max=1000, help="Midpoints of integrated gradients; 0: attribution.")
    ] = 10,
    random_circuits: Annotated[int, typer.Option(min=0, max=10_000, help="Of the same shape, beside it.")] = 50,
    seed: Annotated[int, typer.Option(help="Of pairs, halves and random circuits.")] = 0,
    device: Device = "auto",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one pass.")] = 512,
    as_json: AsJson = False,
) -> None:
    """A circuit of SAE features and error nodes, by part of the prompt: found on half of the pairs, judged on the rest.

    First a gate: does the model answer, does it follow the change, is there anything to explain? Where not, that is
    said, and nothing else. What is shown is a circuit, not the circuit: how far another draw of items, or another SAE,
    would give it stands beside it. Only what `fact` pairs have beyond `relabel` pairs may be called medical.

    Writes circuit.json, nodes.csv and curve.svg; goes on where it was stopped.

    Example: sae-lens-med circuit nodes -m organism/ko-concepts-0 -s organism/ko-concepts-0 --task findings -o concepts

    Example: sae-lens-med circuit nodes -m gemma-3-270m --sae SAE_FOLDER -o ioi
    """
    from sae_lens_med.circuits.node_run import KIND, NodeSettings, find_nodes
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    require_task(task, data, facts)
    settings = NodeSettings(ig_steps, random_circuits, seed, batch_tokens)
    from sae_lens_med.commands.options import open_model, warn_other_model
    from sae_lens_med.saes.releases import load_sae

    opened, _ = open_model(model, None, device, "float32")
    where = str(opened.cfg.device or "cpu")
    saes, others = ([load_sae(name, device=where) for name in names or ()] for names in (sae, second))
    for each in (*saes, *others):
        warn_other_model(opened, each)
    pairs = pairs_of(opened, task, data, facts, n, seed)
    found = find_nodes(opened, saes, pairs, output, settings, task=task, second=others)
    if as_json:
        say_json(found.to_dict())
        return
    _say(found)
    if found.curve is not None:
        say(f"Circuit: {output / 'circuit.json'}")


def _say(found: "NodeCircuit") -> None:
    say(found.gate.sentence)
    if found.curve is None or found.signed_curve is None or found.feature_curve is None:
        return
    say(
        f"CMD {found.curve.area:.4f} (0 is best), {found.feature_curve.area:.4f} of features alone; CPR "
        f"{found.signed_curve.area:.3f}; the scores miss {max(found.missing):.2%} of what they should sum to."
    )
    if found.n_nodes is None:
        say("No circuit is faithful to within a tenth on the pairs that should find one.")
        return
    beside = "" if found.random_faithfulness is None else (
        f", {found.random_faithfulness:.3f} of random circuits (p {found.random_p:.2g})"
    )  # fmt: skip
    say(
        f"A circuit of {found.n_nodes} of {found.n_graph} nodes ({found.n_errors} errors): faithfulness "
        f"{found.faithfulness:.3f}{beside}, {found.without_errors:.3f} without its errors; all other nodes have "
        f"{found.completeness:.3f}; another draw of items shares {found.jaccard:.0%} of it."
    )
    if found.clusters:
        each = "; ".join(
            f"{c.n_found} items"
            + ("" if c.own is None else f", {c.own:.3f} of their own circuit, {c.pooled:.3f} of this")
            for c in found.clusters
        )
        say(f"The items are of {len(found.clusters)} kinds, which one circuit mixes: {each}.")
    if found.second is not None:
        say(
            f"With the second SAE {found.second.shared:.0%} of its features are found again, {found.second.null:.0%} "
            f"of those of random circuits (p {found.second.p:.2g}; cosine {found.second.cosine:.2f})."
        )
    for node in found.nodes[:SHOWN]:
        feature = "error" if node.feature is None else f"feature {node.feature}"
        say(f"  {node.score:+.3f}  {node.hook}  {node.part}  {feature}  ({node.n_items} items, sign {node.sign:.0%})")
