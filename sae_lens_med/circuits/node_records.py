"""What is chosen for a circuit of features, and what is known of it."""

from dataclasses import dataclass
from typing import ClassVar

from sae_lens_med.circuits.expert import Expert
from sae_lens_med.circuits.gate import Gate
from sae_lens_med.circuits.node_controls import Agreement
from sae_lens_med.circuits.node_faithfulness import NodeCurve
from sae_lens_med.circuits.settings import CircuitSettings
from sae_lens_med.records import Record


@dataclass(frozen=True, slots=True)
class NodeSettings(CircuitSettings):
    """What the user chooses."""

    ig_steps: int = 10
    random_circuits: int = 50


@dataclass(frozen=True, slots=True)
class CircuitNode(Record):
    """A node of a circuit."""

    hook: str
    part: str
    feature: int | None
    """None: the error."""
    score: float
    """Mean over the pairs that found the circuit, in nats; positive supports the clean text's answer."""
    n_items: int
    """Of these pairs, those in which it has a score."""
    sign: float
    """Share of these in which it has its commoner sign."""
    sign_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Cluster(Record):
    """Items whose scores are alike, on the pairs that judge."""

    n_found: int
    n_judged: int
    own: float | None
    """f of the cluster's own circuit on its items; None where there are fewer than two, or nothing to explain."""
    pooled: float | None
    """f of the circuit of all items, of the same size, on the same items."""


@dataclass(frozen=True, slots=True)
class NodeCircuit(Record):
    """A circuit of features and what is known of it; without `curve` where there is no behaviour to explain."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "gate": Gate,
        "curve": NodeCurve,
        "signed_curve": NodeCurve,
        "feature_curve": NodeCurve,
        "clusters": Cluster,
        "second": Agreement,
        "expert": Expert,
        "nodes": CircuitNode,
    }

    model: str
    task: str
    saes: tuple[str, ...]
    hooks: tuple[str, ...]
    parts: tuple[str, ...]
    ig_steps: int
    n_found: int
    """Pairs that found it."""
    n_judged: int
    gate: Gate
    """On all pairs."""
    left_out: tuple[int, ...]
    """Tokens of all pairs that have no nodes at each hook: special ones and activation sinks."""
    sink_rules: tuple[str, ...]
    n_graph: int | None = None
    """Nodes that have a score in some pair that found the circuit."""
    missing: tuple[float, ...] = ()
    """Of each hook, the share of its effect that the scores miss (sizes summed over all pairs)."""
    curve: NodeCurve | None = None
    """By the size of scores; its area is CMD. On the pairs that judge."""
    signed_curve: NodeCurve | None = None
    """By scores; its area is CPR."""
    feature_curve: NodeCurve | None = None
    """By the size of scores, errors never among them."""
    n_nodes: int | None = None
    """Of the circuit; None where no size is faithful on the pairs that found it."""
    n_errors: int | None = None
    """Of these, errors."""
    faithfulness: float | None = None
    """Of the circuit, on the pairs that judge."""
    without_errors: float | None = None
    """The same without its errors."""
    completeness: float | None = None
    """f of all other nodes; near 0 where nothing that matters was left out."""
    random_faithfulness: float | None = None
    """Mean of random circuits of the same shape."""
    random_p: float | None = None
    """Share of random circuits whose |1 - f| is as small."""
    random_fresh: float | None = None
    """Share of their features that the circuit does not have."""
    jaccard: float | None = None
    """Mean over draws of the items."""
    jaccard_range: tuple[float, float] | None = None
    silhouette: float | None = None
    """Of the best division of the items that found the circuit; None where there are too few."""
    clusters: tuple[Cluster, ...] = ()
    """Two or more, or none where the items are of one kind."""
    second: Agreement | None = None
    """With the circuit of the second SAEs, where they were given."""
    expert: Expert | None = None
    """What the explanations name, where they were given."""
    nodes: tuple[CircuitNode, ...] = ()
    """Of the circuit, the largest score first."""
