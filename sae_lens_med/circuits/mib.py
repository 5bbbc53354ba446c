"""A circuit as the Mechanistic Interpretability Benchmark reads it (arXiv 2504.13151; EAP-IG's `Graph.from_json`).

    {"cfg": {...}, "nodes": {"a3.h5": {"in_graph": true}},
     "edges": {"a3.h5->a7.h2<k>": {"score": 0.1, "in_graph": true}}}

That graph has keys and values for each head. Where several heads share them, an edge into the shared ones becomes an
edge into each of these heads, with an equal part of its score, so that sums stay the same.
"""

from typing import Any

import numpy as np

from sae_lens_med.circuits.graph import Graph
from sae_lens_med.records import BoolArray, FloatArray


def to_mib(graph: Graph, scores: FloatArray, circuit: BoolArray, d_model: int) -> dict[str, Any]:
    """The file's value.

    Args:
        graph: of the model.
        scores: `[n_readers, n_writers]`.
        circuit: `[n_readers, n_writers]`.
        d_model: width of the model.
    """
    shared = graph.n_heads // graph.n_kv_heads
    writers, readers = graph.writers, graph.readers
    edges: dict[str, dict[str, Any]] = {}
    for r, w in np.argwhere(graph.edges):
        for name in _heads(readers[r], shared):
            parts = shared if readers[r][-3:] in ("<k>", "<v>") else 1
            edges[f"{writers[w]}->{name}"] = {"score": float(scores[r, w]) / parts, "in_graph": bool(circuit[r, w])}
    kept = graph.connected(circuit)
    used = {writers[w] for w in np.flatnonzero(kept.any(0))} | {readers[r].partition("<")[0] for r in
                                                               np.flatnonzero(kept.any(1)) if "<k>" not in readers[r]
                                                               and "<v>" not in readers[r]}  # fmt: skip
    nodes = {name: {"in_graph": name in used} for name in (*writers, "logits")}
    cfg = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": False, "d_model": d_model}
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def _heads(reader: str, shared: int) -> list[str]:
    kind = reader[-3:]
    if kind not in ("<k>", "<v>"):
        return [reader]
    layer, _, group = reader[:-3].partition(".h")
    return [f"{layer}.h{int(group) * shared + i}{kind}" for i in range(shared)]
