"""What stands beside a circuit of features: random circuits, other draws of the items, another SAE, the sign.

    random      for each node one of the same hook, the same part and the same bin of how many items have it (powers of
                two), drawn from all, the node itself among them; errors stand for themselves
    Jaccard     |A and B| / |A or B| of the circuit and that of items drawn again, each of as many nodes
    sign        share of the items that have a node in which it has its commoner sign, with a bootstrap interval
    agreement   a second SAE of the same hooks: share of the circuit's features whose nearest feature there (cosine of
                decoder directions, same part) is of the second circuit; beside it random circuits, as above

Scores are `[items, n_nodes]` of items that found the circuit. Nothing here runs a model.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.circuits.node_faithfulness import chosen, ranked
from sae_lens_med.circuits.nodes import NodeSpace
from sae_lens_med.circuits.stability import DRAWS
from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, IntArray, Record
from sae_lens_med.statistics import permutation_p, quantile_interval

_SIGN_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Agreement(Record):
    """A circuit beside that of a second SAE."""

    shared: float
    """Share of the circuit's features whose nearest feature is of the second circuit."""
    null: float
    """The same of random circuits, mean."""
    p: float
    cosine: float
    """Of the circuit's features with their nearest, mean."""


def mean_scores(scores: sparse.csr_array) -> FloatArray:
    """`[n_nodes]`"""
    return np.asarray(scores.mean(axis=0)).ravel()


class RandomCircuits:
    """Draws circuits of the same shape as `circuit [n_nodes]`."""

    def __init__(self, space: NodeSpace, scores: sparse.csr_array, circuit: BoolArray) -> None:
        common = np.bincount(scores.indices, minlength=space.n_nodes)
        nodes = np.flatnonzero(common)
        hook, part, _ = space.place(nodes)
        kind = np.stack([hook, part, np.floor(np.log2(common[nodes])), space.is_error(nodes)], axis=1)
        own = np.isin(nodes, np.flatnonzero(circuit))
        _, group = np.unique(kind, axis=0, return_inverse=True)
        self._circuit, self._n = circuit, space.n_nodes
        self._groups: list[tuple[IntArray, int]] = []
        for number in np.unique(group[own]):
            inside = group == number
            if not space.is_error(nodes[inside])[0]:
                self._groups.append((nodes[inside], int((inside & own).sum())))
        self._kept = np.flatnonzero(circuit)[space.is_error(np.flatnonzero(circuit))]

    @property
    def fresh(self) -> float:
        """Expected share of a random circuit's features that the circuit does not have; near 0 the draws say little."""
        n = sum(k for _, k in self._groups)
        return sum(k * (1 - k / len(pool)) for pool, k in self._groups) / n if n else 0.0

    def draw(self, rng: np.random.Generator) -> BoolArray:
        """`[n_nodes]`"""
        found = np.zeros(self._n, dtype=bool)
        found[self._kept] = True
        for pool, k in self._groups:
            found[rng.choice(pool, k, replace=False)] = True
        return found


def node_jaccard(
    space: NodeSpace, scores: sparse.csr_array, n: int, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean and 95 % range over draws of the items, for circuits of the n largest scores. Raises `DataError` for fewer
    than two items or no node."""
    items = len(scores.indptr) - 1
    if items < 2 or n < 1:
        raise DataError("the stability of a circuit needs two items or more, and a node.")
    rng = np.random.default_rng(seed)
    whole = chosen(space, ranked(space, mean_scores(scores))[:n])
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(items, size=items), minlength=items) / items
        drawn = chosen(space, ranked(space, np.asarray(times @ scores).ravel())[:n])
        found.append((whole & drawn).sum() / (whole | drawn).sum())
    return float(np.mean(found)), quantile_interval(np.array(found))


@dataclass(frozen=True, slots=True, eq=False)
class Signs:
    """Of some nodes, in their order."""

    n_items: IntArray
    """Items that have the node: its score is not 0."""
    consistency: FloatArray
    """Share of these in which it has its commoner sign, 0.5 to 1."""
    low: FloatArray
    high: FloatArray
    """95 % of bootstrap draws of the items."""


def sign_consistency(scores: sparse.csr_array, nodes: IntArray, seed: int = 0) -> Signs:
    """See the module. Every node must have a score in some item."""
    values = scores[:, nodes].toarray()
    up, down = (values > 0).astype(np.float64), (values < 0).astype(np.float64)
    items = len(values)
    drawn = np.random.default_rng(seed).integers(items, size=(_SIGN_DRAWS, items))
    times = np.stack([np.bincount(row, minlength=items) for row in drawn]).astype(np.float64)
    commoner = up.sum(0) >= down.sum(0)
    kept = np.where(commoner, up, down)
    n = up.sum(0) + down.sum(0)
    with np.errstate(invalid="ignore"):  # a draw without the node says nothing of it
        shares = (times @ kept) / (times @ (up + down))
    low, high = np.nanquantile(shares, [0.025, 0.975], axis=0)
    return Signs(n.astype(np.int64), kept.sum(0) / n, low, high)


def agreement(
    space: NodeSpace,
    circuit: BoolArray,
    random: RandomCircuits,
    nearest: list[IntArray],
    cosines: list[FloatArray],
    second_space: NodeSpace,
    second: BoolArray,
    *,
    draws: int = 200,
    seed: int = 0,
) -> Agreement | None:
    """See the module; None for a circuit without features.

    Args:
        nearest: for each hook, of each of its features the nearest one of the second SAE.
        cosines: theirs.
        second: the circuit of the second SAE, `[second_space.n_nodes]`.
    """
    part_of = {name: k for k, name in enumerate(second_space.parts)}

    def shared(nodes: BoolArray) -> tuple[float, float] | None:
        own = np.flatnonzero(nodes)
        own = own[~space.is_error(own)]
        if not len(own):
            return None
        hook, part, feature = space.place(own)
        hits, near = 0, []
        for h, p, f in zip(hook.tolist(), part.tolist(), feature.tolist(), strict=True):
            there = second_space.first[h] + part_of[space.parts[p]] * (second_space.d_sae[h] + 1)
            hits += bool(second[there + nearest[h][f]])
            near.append(cosines[h][f])
        return hits / len(own), float(np.mean(near))

    own = shared(circuit)
    if own is None:
        return None
    rng = np.random.default_rng(seed)
    null = np.array([found[0] for _ in range(draws) if (found := shared(random.draw(rng))) is not None])
    return Agreement(own[0], float(null.mean()), permutation_p(own[0], null), own[1])
