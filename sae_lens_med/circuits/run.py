"""A model and pairs -> a folder with a circuit of edges, its gate, its curves and its controls.

    manifest.json             what it depends on, and which batches of pairs are scored
    scores/NNNNN.safetensors  scores of a batch (`edges`)
    circuit.json              `EdgeCircuit`
    edges.csv                 every edge with its mean score, and whether it is of the circuit
    mib.json                  the same for the Mechanistic Interpretability Benchmark (`mib`)
    curve.svg                 faithfulness over size

Half of the pairs finds the circuit, the other half judges it. The circuit is the smallest of `faithfulness.SHARES`
from which on f stays near 1 on the first half (`faithfulness.settled`); everything said of it is measured on the
second. Beside it stand random circuits of as many edges in every kind of reader, and the Jaccard index over draws of
the items.

A closed gate ends the run before scores: circuit.json says so. Out of scope: nodes of features.
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.edges import edge_scores
from sae_lens_med.circuits.faithfulness import Curve, Patching, settled, split
from sae_lens_med.circuits.gate import Gate, gate
from sae_lens_med.circuits.graph import Graph
from sae_lens_med.circuits.mib import to_mib
from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.circuits.settings import CircuitSettings
from sae_lens_med.circuits.stability import bootstrap_jaccard
from sae_lens_med.records import BoolArray, FloatArray, Record
from sae_lens_med.runs.files import atomic_path, json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions
from sae_lens_med.statistics import permutation_p

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge

KIND = Kind("edge circuit", format=1, identity=lambda values: values["identity"])
CHUNK = 8
"""Pairs whose scores are one file."""
_ARRAY = "scores"


@dataclass(frozen=True, slots=True)
class EdgeSettings(CircuitSettings):
    """What the user chooses; `ig_steps` 0 is EAP."""

    ig_steps: int = 5
    random_circuits: int = 20


@dataclass(frozen=True, slots=True)
class EdgeCircuit(Record):
    """A circuit of edges and what is known of it; without `curve` where there is no behaviour to explain."""

    _nested: ClassVar[dict[str, type[Record]]] = {"gate": Gate, "curve": Curve, "signed_curve": Curve}

    model: str
    task: str
    n_found: int
    """Pairs that found it."""
    n_judged: int
    n_graph: int
    """Edges of the graph."""
    gate: Gate
    """On all pairs."""
    curve: Curve | None = None
    """By the size of scores; its area is CMD. On the pairs that judge."""
    signed_curve: Curve | None = None
    """By scores; its area is CPR."""
    n_edges: int | None = None
    """Of the circuit; None where none of the sizes is faithful on the pairs that found it."""
    faithfulness: float | None = None
    """Of the circuit, on the pairs that judge."""
    completeness: float | None = None
    """f of all other edges; near 0 where nothing that matters was left out."""
    random_faithfulness: float | None = None
    """Mean of random circuits of the same size."""
    random_p: float | None = None
    """Share of random circuits whose |1 - f| is as small."""
    jaccard: float | None = None
    """Mean over draws of the items."""
    jaccard_range: tuple[float, float] | None = None
    edges: tuple[str, ...] = ()
    """Of the circuit, on a path from input to logits, the largest score first."""


def find_edges(
    model: "MedBridge",
    pairs: Sequence[Pair],
    output: Path,
    settings: EdgeSettings | None = None,
    *,
    task: str,
    progress: bool = True,
) -> EdgeCircuit:
    """A circuit of a model's edges on pairs, in the folder `output`.

    Args:
        model: from `load_model`, in float32.
        pairs: four or more.
        output: new, empty, or that of the same run, which then goes on.
        settings: see `EdgeSettings`.
        task: what the pairs are, for whoever reads it.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else, `ModelError` for a model whose edges are not computed,
    `DataError` for too few pairs.
    """
    settings = settings or EdgeSettings()
    decoder = GraphDecoder(model)
    graph = decoder.graph
    finding, judging = split(pairs, settings.seed)
    identity = {
        "model": dict(model.provenance),
        "pairs": json_sha256([pair.to_dict() for pair in pairs]),
        "settings": {
            "points": list(settings.points),
            "random_circuits": settings.random_circuits,
            "seed": settings.seed,
        },
    }
    run = RunFolder(output, KIND, {"identity": identity, "task": task, "versions": versions(), "parts": {}})
    run.begin()
    (output / "scores").mkdir(exist_ok=True)
    everything = Patching(decoder, pairs, batch_tokens=settings.batch_tokens)
    found = gate(everything.runs, everything.ends(), seed=settings.seed)
    empty = EdgeCircuit(str(model.provenance["name"]), task, len(finding), len(judging), graph.n_edges, found)
    if not found.open:
        write_json(output / "circuit.json", empty.to_dict())
        return empty
    del everything
    scores = _scored(decoder, finding, run, settings, progress)
    circuit, described = _judged(decoder, finding, judging, scores, settings, empty, progress)
    write_json(output / "circuit.json", described.to_dict())
    mean = scores.mean(0)
    write_text(output / "edges.csv", edges_csv(graph, mean, circuit))
    write_json(output / "mib.json", to_mib(graph, mean, circuit, int(model.cfg.d_model)))
    _draw(described, output)
    return described


def edges_csv(graph: Graph, scores: FloatArray, circuit: BoolArray) -> str:
    """A line for each edge, the largest score first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["writer", "reader", "score", "in_circuit"])
    writers, readers = graph.writers, graph.readers
    rows = sorted(np.argwhere(graph.edges).tolist(), key=lambda at: -abs(scores[tuple(at)]))
    table.writerows([writers[w], readers[r], float(scores[r, w]), bool(circuit[r, w])] for r, w in rows)
    return text.getvalue()


def random_circuit(graph: Graph, circuit: BoolArray, rng: np.random.Generator) -> BoolArray:
    """As many edges into queries, keys, values, MLPs and logits as the circuit has, drawn from all."""
    kinds = np.array([reader.partition("<")[2] or reader[0] for reader in graph.readers])
    found = np.zeros_like(circuit)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        places = np.argwhere(graph.edges[rows])
        n = int((circuit & graph.edges)[rows].sum())
        for r, w in places[rng.choice(len(places), n, replace=False)]:
            found[rows[r], w] = True
    return found


def _scored(
    decoder: GraphDecoder, pairs: Sequence[Pair], run: RunFolder, settings: EdgeSettings, progress: bool
) -> FloatArray:
    ordered = sorted(pairs, key=lambda pair: len(pair.clean))
    found = []
    with progress_bar(progress) as bar:
        task = bar.add_task("scoring edges", total=len(ordered))
        for number, first in enumerate(range(0, len(ordered), CHUNK)):
            own, part = ordered[first : first + CHUNK], f"{number:05d}"
            file = run.path / "scores" / f"{part}.safetensors"
            if part not in run.parts:
                began = time.monotonic()
                scores = edge_scores(decoder, own, points=settings.points, batch_tokens=settings.batch_tokens)
                with atomic_path(file) as path:
                    save_file({_ARRAY: scores.astype(np.float32)}, path)
                run.finish(part, time.monotonic() - began, pairs=len(own))
            found.append(load_file(file)[_ARRAY].astype(np.float64))
            bar.advance(task, len(own))
    return np.concatenate(found)


def _judged(
    decoder: GraphDecoder,
    finding: Sequence[Pair],
    judging: Sequence[Pair],
    scores: FloatArray,
    settings: EdgeSettings,
    empty: EdgeCircuit,
    progress: bool,
) -> tuple[BoolArray, EdgeCircuit]:
    graph, mean = decoder.graph, scores.mean(0)
    first = Patching(decoder, finding, batch_tokens=settings.batch_tokens)
    second = Patching(decoder, judging, batch_tokens=settings.batch_tokens)
    with progress_bar(progress) as bar:
        task = bar.add_task("measuring circuits", total=30 + settings.random_circuits)

        def advance() -> None:
            bar.advance(task)

        chosen = first.curve(mean, signed=False, on_size=advance)
        curve = second.curve(mean, signed=False, on_size=advance)
        signed = second.curve(mean, signed=True, on_size=advance)
        size = settled(chosen.n_edges, chosen.faithfulness)
        values = {**_fields(empty), "curve": curve, "signed_curve": signed}
        if size is None or size == graph.n_edges:
            return np.zeros_like(graph.edges), EdgeCircuit(**values)
        circuit = graph.best(np.abs(mean), size)
        ends = second.ends()

        def f(edges: BoolArray) -> float:
            return (float(second.values(edges).mean()) - ends.none) / (ends.all - ends.none)

        own = f(circuit)
        rng = np.random.default_rng(settings.seed)
        drawn = []
        for _ in range(settings.random_circuits):
            drawn.append(f(random_circuit(graph, circuit, rng)))
            advance()
        jaccard, spread = bootstrap_jaccard(graph, scores, size, signed=False, seed=settings.seed)
        kept = graph.connected(circuit)
        order = sorted(np.argwhere(kept).tolist(), key=lambda at: -abs(mean[tuple(at)]))
        writers, readers = graph.writers, graph.readers
        return circuit, EdgeCircuit(
            **values
            | {
                "n_edges": size,
                "faithfulness": own,
                "completeness": f(graph.edges & ~circuit),
                "random_faithfulness": float(np.mean(drawn)) if drawn else None,
                "random_p": permutation_p(-abs(1 - own), -np.abs(1 - np.array(drawn))) if drawn else None,
                "jaccard": jaccard,
                "jaccard_range": spread,
                "edges": tuple(f"{writers[w]}->{readers[r]}" for r, w in order),
            }
        )


def _fields(record: EdgeCircuit) -> dict[str, object]:
    return {name: getattr(record, name) for name in ("model", "task", "n_found", "n_judged", "n_graph", "gate")}


def _draw(circuit: EdgeCircuit, output: Path) -> None:
    from sae_lens_med.plots.circuits import faithfulness_curves
    from sae_lens_med.plots.markup import svg

    assert circuit.curve is not None and circuit.signed_curve is not None, "the gate is open"
    curves = {"by size (CMD)": circuit.curve, "by sign (CPR)": circuit.signed_curve}
    said = "; ".join(f"{name} {curve.area:.3f}" for name, curve in curves.items())
    write_text(
        output / "curve.svg",
        svg(faithfulness_curves(curves), title=f"Faithfulness, {circuit.task}", description=f"Areas: {said}."),
    )
