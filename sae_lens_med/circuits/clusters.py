"""Do items share a circuit, before one is drawn for all of them?

Items are clustered by the cosine distance of their scores (average linkage), into the number of clusters, 2 to `MOST`,
whose mean silhouette (Rousseeuw 1987) is largest; where that is below `LEAST`, or a cluster would have fewer than
`SMALLEST` items, there is one cluster. Other items join the cluster whose mean is nearest.

One circuit for items of several mechanisms mixes them (arXiv 2605.09129): so each cluster's own circuit is set beside
the pooled one, on items that found neither.
"""

import numpy as np
from scipy import sparse

from sae_lens_med.records import FloatArray, IntArray

MOST, LEAST, SMALLEST = 4, 0.25, 3
"""Below a silhouette of 0.25 there is no structure to speak of (Kaufman & Rousseeuw 1990)."""


def clustered(scores: sparse.csr_array) -> tuple[IntArray, float | None]:
    """`[items]`, the number of each item's cluster, from 0; and the silhouette of the best division, None where none
    has clusters of `SMALLEST` items."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    n = len(scores.indptr) - 1
    one = np.zeros(n, dtype=np.int64)
    if n < 2 * SMALLEST:
        return one, None
    away = _distances(scores, scores)
    np.fill_diagonal(away, 0)
    tree = linkage(squareform((away + away.T) / 2, checks=False), "average")
    best: tuple[float, IntArray] | None = None
    for k in range(2, MOST + 1):
        label = fcluster(tree, k, criterion="maxclust").astype(np.int64) - 1
        if label.max() == 0 or np.bincount(label).min() < SMALLEST:
            continue
        found = silhouette(away, label)
        if best is None or found > best[0]:
            best = found, label
    if best is None:
        return one, None
    return (best[1] if best[0] >= LEAST else one), best[0]


def silhouette(away: FloatArray, label: IntArray) -> float:
    """Mean over items of (b - a) / max(a, b): a the mean distance to the others of its cluster, b to those of the
    nearest other cluster."""
    member = np.eye(int(label.max()) + 1)[label]
    sizes = member.sum(0)
    sums = away @ member
    own = sums[np.arange(len(label)), label] / np.maximum(sizes[label] - 1, 1)
    others = np.where(member > 0, np.inf, sums / sizes).min(1)
    return float(np.mean((others - own) / np.maximum(np.maximum(own, others), np.finfo(np.float64).tiny)))


def assigned(scores: sparse.csr_array, found: sparse.csr_array, label: IntArray) -> IntArray:
    """The cluster of each item of `scores`, by the means of the clusters of `found`."""
    means = sparse.csr_array(np.stack([np.asarray(found[label == k].mean(axis=0)).ravel()
                                       for k in range(int(label.max()) + 1)]))  # fmt: skip
    return _distances(scores, means).argmin(1)


def _distances(a: sparse.csr_array, b: sparse.csr_array) -> FloatArray:
    lengths = [np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel()) for x in (a, b)]
    return 1 - (a @ b.T).toarray() / np.maximum(np.outer(*lengths), np.finfo(np.float64).tiny)
