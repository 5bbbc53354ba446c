"""A model, SAEs and pairs -> a folder with a circuit of features, its gate, its curves and its controls.

    manifest.json             what it depends on, and which pairs are scored
    scores/NNNNN.safetensors  scores of a pair (`nodes`)
    circuit.json              `NodeCircuit`
    nodes.csv                 every node that has a score: its mean, in how many items it stands, how steady its sign is
    curve.svg                 faithfulness over size

Half of the pairs finds the circuit, the other half judges it, as with edges (`run`). The circuit is the smallest of
`node_faithfulness.SIZES` from which on f stays near 1 on the first half (`faithfulness.settled`). A closed gate ends
the run before scores.
With explanations, what they name is held against the scores of the half that judges (`expert`).
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from sae_lens_med.circuits.clusters import assigned, clustered
from sae_lens_med.circuits.expert_run import ExpertItems, held_against_expert
from sae_lens_med.circuits.faithfulness import ends_of, settled, split
from sae_lens_med.circuits.gate import gate
from sae_lens_med.circuits.node_controls import (
    Agreement,
    RandomCircuits,
    agreement,
    mean_scores,
    node_jaccard,
    sign_consistency,
)
from sae_lens_med.circuits.node_faithfulness import NodePatching, chosen, ranked
from sae_lens_med.circuits.node_records import CircuitNode, Cluster, NodeCircuit, NodeSettings
from sae_lens_med.circuits.nodes import (
    NodeScores,
    NodeSpace,
    PairRun,
    SinkRules,
    joined,
    node_scores,
    node_space,
    require_complete,
    run_texts,
    sink_rules,
)
from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.circuits.spliced import SplicedModel
from sae_lens_med.errors import ConfigError
from sae_lens_med.records import BoolArray, IntArray
from sae_lens_med.runs.files import atomic_path, json_sha256, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import versions
from sae_lens_med.statistics import permutation_p

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

KIND = Kind("feature circuit", format=1, identity=lambda values: values["identity"])


def find_nodes(
    model: "MedBridge",
    saes: "Sequence[LoadedSae]",
    pairs: Sequence[Pair],
    output: Path,
    settings: NodeSettings | None = None,
    *,
    task: str,
    second: "Sequence[LoadedSae]" = (),
    expert: ExpertItems | None = None,
    progress: bool = True,
) -> NodeCircuit:
    """A circuit of features on pairs, in the folder `output`.

    Args:
        model: from `load_model`, in float32.
        saes: one or more, of different hooks.
        pairs: four or more.
        output: new, empty, or that of the same run, which then goes on.
        settings: see `NodeSettings`.
        task: what the pairs are, for whoever reads it.
        second: other SAEs of the same hooks, whose circuit is set beside it; or none.
        expert: explanations of the pairs' items, which are then held against the scores; or none.
        progress: show a bar on stderr.

    Raises `StudyError` for a folder of something else, `ModelError` and `ConfigError` for a model or SAEs that do not
    go together, `DataError` for too few pairs and for scores that miss too much of the effect.
    """
    settings = settings or NodeSettings()
    spliced = SplicedModel(model, saes)
    other = SplicedModel(model, second) if second else None
    if other is not None and other.hooks != spliced.hooks:
        raise ConfigError(
            f"the second SAEs are of {', '.join(other.hooks)}, the first of {', '.join(spliced.hooks)}; give one for "
            "each hook."
        )
    finding, judging = split(pairs, settings.seed)
    identity = {
        "model": dict(model.provenance),
        "saes": [sae.identity for sae in spliced.saes],
        "second": [] if other is None else [sae.identity for sae in other.saes],
        "pairs": json_sha256([pair.to_dict() for pair in pairs]),
        "settings": {
            "ig_steps": settings.ig_steps,
            "random_circuits": settings.random_circuits,
            "seed": settings.seed,
        },
        "expert": None
        if expert is None
        else {
            "items": json_sha256([item.to_dict() for item in (*expert.items, *expert.others)]),
            "concepts": expert.concepts.sha256,
            "draws": expert.draws,
        },
    }
    run = RunFolder(output, KIND, {"identity": identity, "task": task, "versions": versions(), "parts": {}})
    run.begin()
    (output / "scores").mkdir(exist_ok=True)
    found = _found(spliced, pairs, finding, judging, settings)
    described = NodeCircuit(
        str(model.provenance["name"]), task, tuple(sae.source for sae in spliced.saes), spliced.hooks,
        found.space.parts, settings.ig_steps, len(finding), len(judging),
        gate(found.everything.runs, found.everything.ends(), seed=settings.seed),
        found.left_out, found.sinks.rules,
    )  # fmt: skip
    if not described.gate.open:
        write_json(output / "circuit.json", described.to_dict())
        return described
    scores = _scored(spliced, found, pairs, run, "", settings, progress)
    missing = scores_missing(scores, found.space, settings)
    described = replace(described, missing=missing)
    judged = _Judged(found, scores, finding, settings)
    circuit, described = judged.describe(described, progress)
    if other is not None and circuit is not None:
        theirs = _found(other, pairs, finding, judging, settings)
        second_scores = _scored(other, theirs, pairs, run, "second-", settings, progress).rows(judged.first.ids)
        described = replace(described, second=_agreement(judged, circuit, other, theirs, second_scores, spliced))
    if expert is not None:
        held = held_against_expert(
            spliced, found.space, found.judging, found.runs[found.n_finding :], judged.second, judged.mean, circuit,
            found.sinks, expert, ig_steps=settings.ig_steps, seed=settings.seed,
        )  # fmt: skip
        described = replace(described, expert=held)
    write_json(output / "circuit.json", described.to_dict())
    write_text(output / "nodes.csv", nodes_csv(found.space, judged.first.scores, circuit, settings.seed))
    _draw(described, output)
    return described


def nodes_csv(space: NodeSpace, scores: sparse.csr_array, circuit: BoolArray | None, seed: int = 0) -> str:
    """A line for each node that has a score, the largest first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["hook", "part", "feature", "score", "n_items", "sign", "sign_low", "sign_high", "in_circuit"])
    mean = mean_scores(scores)
    nodes = ranked(space, mean)
    for node, row in zip(nodes.tolist(), circuit_nodes(space, scores, nodes, seed), strict=True):
        feature = "error" if row.feature is None else row.feature
        inside = circuit is not None and bool(circuit[node])
        table.writerow([row.hook, row.part, feature, row.score, row.n_items, row.sign, *row.sign_interval, inside])
    return text.getvalue()


def circuit_nodes(space: NodeSpace, scores: sparse.csr_array, nodes: IntArray, seed: int = 0) -> list[CircuitNode]:
    """Of nodes that have a score."""
    mean, signs = mean_scores(scores), sign_consistency(scores, nodes, seed)
    hook, part, feature = space.place(nodes)
    error = space.is_error(nodes)
    return [
        CircuitNode(
            space.hooks[hook[i]],
            space.parts[part[i]],
            None if error[i] else int(feature[i]),
            float(mean[node]),
            int(signs.n_items[i]),
            float(signs.consistency[i]),
            (float(signs.low[i]), float(signs.high[i])),
        )
        for i, node in enumerate(nodes.tolist())
    ]


def scores_missing(scores: NodeScores, space: NodeSpace, settings: NodeSettings) -> tuple[float, ...]:
    """Of each hook; refused (`require_complete`) for integrated gradients alone."""
    if settings.ig_steps:
        return tuple(require_complete(scores, space).tolist())
    return tuple((np.abs(scores.missing(space)).sum(0) / np.abs(scores.effect).sum(0)).tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Both texts of all pairs, run."""

    space: NodeSpace
    runs: tuple[PairRun, ...]
    sinks: SinkRules
    everything: NodePatching
    finding: NodePatching
    judging: NodePatching
    left_out: tuple[int, ...]
    n_finding: int
    """Of `runs`, the first ones."""


def _found(
    spliced: SplicedModel,
    pairs: Sequence[Pair],
    finding: Sequence[Pair],
    judging: Sequence[Pair],
    settings: NodeSettings,
) -> _Found:
    space = node_space(spliced, pairs)
    first, second = (list(run_texts(spliced, half, settings.batch_tokens)) for half in (finding, judging))
    sinks = sink_rules(spliced, first)
    runs = (*first, *second)
    left_out = tuple(sum(int(sinks.left_out(spliced, run, h).sum()) for run in runs) for h in range(len(space.hooks)))
    whole, of_first, of_second = (NodePatching(spliced, space, each, sinks) for each in (runs, first, second))
    return _Found(space, runs, sinks, whole, of_first, of_second, left_out, len(first))


def _scored(
    spliced: SplicedModel,
    found: _Found,
    pairs: Sequence[Pair],
    run: RunFolder,
    prefix: str,
    settings: NodeSettings,
    progress: bool,
) -> NodeScores:
    """Of all pairs, in their order."""
    part = {pair.id: f"{prefix}{i:05d}" for i, pair in enumerate(pairs)}
    with progress_bar(progress) as bar:
        task = bar.add_task("scoring features", total=len(pairs))
        for texts in found.runs:
            if any(part[pair.id] not in run.parts for pair in texts.pairs):
                began = time.monotonic()
                scores = node_scores(spliced, found.space, texts, found.sinks, ig_steps=settings.ig_steps)
                took = (time.monotonic() - began) / len(texts.pairs)
                for name in scores.ids:
                    if part[name] not in run.parts:
                        _save(run.path / "scores" / f"{part[name]}.safetensors", scores.rows([name]))
                        run.finish(part[name], took, pair=name)
            bar.advance(task, len(texts.pairs))
    return joined([_load(run.path / "scores" / f"{part[pair.id]}.safetensors", pair.id, found.space) for pair in pairs])


def _save(file: Path, scores: NodeScores) -> None:
    values = {
        "nodes": scores.scores.indices.astype(np.int64),
        "scores": scores.scores.data,
        "effect": scores.effect,
        "left_out": scores.left_out,
    }
    with atomic_path(file) as path:
        save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, path)


def _load(file: Path, name: str, space: NodeSpace) -> NodeScores:
    values = load_file(file)
    row = (values["scores"], values["nodes"], np.array([0, len(values["nodes"])]))
    return NodeScores((name,), sparse.csr_array(row, shape=(1, space.n_nodes)), values["effect"], values["left_out"])


class _Judged:
    """A circuit found on one half of the pairs and judged on the other."""

    def __init__(
        self,
        found: _Found,
        scores: NodeScores,
        finding: Sequence[Pair],
        settings: NodeSettings,
    ) -> None:
        self.found, self.settings, self.space = found, settings, found.space
        self.first = scores.rows([pair.id for pair in finding])
        self.second = scores.rows([pair.id for pair in found.judging.pairs])
        self.mean = mean_scores(self.first.scores)
        self.random: RandomCircuits | None = None

    def describe(self, described: NodeCircuit, progress: bool) -> tuple[BoolArray | None, NodeCircuit]:
        """The circuit, and what is known of it."""
        judging = self.found.judging
        order = ranked(self.space, self.mean)
        with progress_bar(progress) as bar:
            task = bar.add_task("measuring circuits", total=None)

            def advance() -> None:
                bar.advance(task)

            described = replace(
                described,
                n_graph=len(order),
                curve=judging.curve(self.mean, signed=False, on_size=advance),
                signed_curve=judging.curve(self.mean, signed=True, on_size=advance),
                feature_curve=judging.curve(self.mean, signed=False, errors=False, on_size=advance),
            )
            chosen_on = self.found.finding.curve(self.mean, signed=False, on_size=advance)
            n = settled(chosen_on.sizes, chosen_on.faithfulness)
            if n is None:
                return None, described
            nodes = order[:n]
            circuit = chosen(self.space, nodes)
            errors = self.space.is_error(nodes)
            self.random = RandomCircuits(self.space, self.first.scores, circuit)
            rng = np.random.default_rng(self.settings.seed)
            own, drawn = judging.faithfulness(circuit), []
            for _ in range(self.settings.random_circuits):
                drawn.append(judging.faithfulness(self.random.draw(rng)))
                advance()
        jaccard, spread = node_jaccard(self.space, self.first.scores, n, seed=self.settings.seed)
        value, clusters = self.clusters(n, circuit)
        return circuit, replace(
            described,
            n_nodes=n,
            n_errors=int(errors.sum()),
            faithfulness=own,
            without_errors=judging.faithfulness(chosen(self.space, nodes[~errors])),
            completeness=judging.faithfulness(~circuit),
            random_faithfulness=float(np.mean(drawn)) if drawn else None,
            random_p=permutation_p(-abs(1 - own), -np.abs(1 - np.array(drawn))) if drawn else None,
            random_fresh=self.random.fresh,
            jaccard=jaccard,
            jaccard_range=spread,
            silhouette=value,
            clusters=clusters,
            nodes=tuple(circuit_nodes(self.space, self.first.scores, nodes, self.settings.seed)),
        )

    def clusters(self, n: int, pooled: BoolArray) -> tuple[float | None, tuple[Cluster, ...]]:
        """The silhouette, and circuits of n nodes of each cluster."""
        label, value = clustered(self.first.scores)
        if label.max(initial=0) == 0:
            return value, ()
        theirs = assigned(self.second.scores, self.first.scores, label)
        judging = self.found.judging
        everything, nothing = (judging.values(np.full(self.space.n_nodes, on)) for on in (True, False))
        of_pooled, found = judging.values(pooled), []
        for k in range(int(label.max()) + 1):
            own = theirs == k
            ends = ends_of(everything[own], nothing[own], self.settings.seed) if own.sum() > 1 else None
            if ends is None or not ends.clear:
                found.append(Cluster(int((label == k).sum()), int(own.sum()), None, None))
                continue
            mean = mean_scores(sparse.csr_array(self.first.scores[label == k]))
            values = judging.values(chosen(self.space, ranked(self.space, mean)[:n]))
            f = [float((m[own].mean() - ends.none) / (ends.all - ends.none)) for m in (values, of_pooled)]
            found.append(Cluster(int((label == k).sum()), int(own.sum()), *f))
        return value, tuple(found)


def _agreement(
    judged: _Judged,
    circuit: BoolArray,
    other: SplicedModel,
    theirs: _Found,
    scores: NodeScores,
    spliced: SplicedModel,
) -> Agreement | None:
    assert judged.random is not None, "there is a circuit"
    nearest, cosines = [], []
    for h in range(len(spliced.hooks)):
        a, b = (each.decoder(h).cpu().numpy() for each in (spliced, other))
        unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b)]
        table = unit[0] @ unit[1].T
        nearest.append(table.argmax(1))
        cosines.append(table.max(1).astype(np.float64))
    second = chosen(theirs.space, ranked(theirs.space, mean_scores(scores.scores))[: int(circuit.sum())])
    return agreement(
        judged.space, circuit, judged.random, nearest, cosines, theirs.space, second, seed=judged.settings.seed
    )


def _draw(circuit: NodeCircuit, output: Path) -> None:
    from sae_lens_med.plots.circuits import faithfulness_curves
    from sae_lens_med.plots.markup import svg

    curves: dict[str, Any] = {
        "by size (CMD)": circuit.curve,
        "by sign (CPR)": circuit.signed_curve,
        "features alone": circuit.feature_curve,
    }
    said = "; ".join(f"{name} {curve.area:.3f}" for name, curve in curves.items())
    write_text(
        output / "curve.svg",
        svg(
            faithfulness_curves(curves, of="nodes"),
            title=f"Faithfulness, {circuit.task}",
            description=f"Areas: {said}.",
        ),
    )
