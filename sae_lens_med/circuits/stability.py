"""Would other items have given the same circuit?

    Jaccard(A, B) = |A and B| / |A or B|        of the edges of the circuit, and of that of items drawn again

The mean over draws stands beside a circuit, since circuits are neither unique nor stable (arXiv 2605.12671, 2510.00845,
which asks for 0.8 over 100 draws or more): what is shown is *a* circuit.
"""

import numpy as np

from sae_lens_med.circuits.graph import Graph
from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray
from sae_lens_med.statistics import quantile_interval

DRAWS = 100


def bootstrap_jaccard(
    graph: Graph, scores: FloatArray, n: int, *, signed: bool, draws: int = DRAWS, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean and 95 % range of the Jaccard index of circuits of n edges.

    Args:
        graph: of the model.
        scores: `[items, n_readers, n_writers]`.
        n: edges of the circuit, 1 or more.
        signed: edges by their score, or by its size.
        draws: of the items.
        seed: of the draws.

    Raises `DataError` for fewer than two items, or a circuit without edges.
    """
    if len(scores) < 2 or n < 1:
        raise DataError("the stability of a circuit needs two items or more, and an edge.")
    rng = np.random.default_rng(seed)

    def circuit(mean: FloatArray) -> BoolArray:
        return graph.best(mean if signed else np.abs(mean), n)

    whole = circuit(scores.mean(0))
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(scores), size=len(scores)), minlength=len(scores))
        drawn = circuit(np.tensordot(times / len(scores), scores, 1))
        found.append((whole & drawn).sum() / (whole | drawn).sum())
    return float(np.mean(found)), quantile_interval(np.array(found))
