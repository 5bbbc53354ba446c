"""Do concepts that share a label lie together, and do ordered ones lie in order? Read-outs of one layer, with nulls.

Input: `x [n, d]`, one row per concept (`reading`). Two scales: `raw`, and `standardised`, each dimension divided by its
standard deviation over the concepts, since a few massive dimensions otherwise decide every distance. Distances are
1 - cosine of what is left of the mean over the concepts.

- **silhouette** of labels (Rousseeuw 1987), mean over the concepts of labels with two members or more; -1 to 1.
- **nearest**: share of concepts whose nearest neighbour has their label; 0 to 1.
- **decade R²**: a ridge line from `x` to the value, fitted without one decade (values from 10k to 10k + 9) and tested
  on it, over all decades: 1 - squared errors / squared distances from the mean of what was fitted. At most 1; a line
  read off digits fails where a decade was never seen.
- **order**: Spearman correlation of the distances within a group with |i - j|, mean over the groups; -1 to 1.
- **circle - line**: the same with distances on a circle, less the one with |i - j|. Positive: the ends meet.
- **retrieval**: mean reciprocal rank, by cosine, of a concept's own name in the other language among those of its
  domain; the mean of both directions; 0 to 1.

**Null**: labels, the order within groups, or who is whose translation, are permuted over concepts, never over prompts,
and the same permutations serve every layer: p of the best layer comes from the largest value over the layers in each
permutation (Westfall and Young 1993), p of a layer from its own. A read-out shows what a layer makes available, not
what the model uses.

Out of scope: maps in two dimensions; they lose what these numbers keep, and decide nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import bootstrap_interval, permutation_p, standardised

RIDGE = 1e-2
"""Of the mean eigenvalue of the kernel."""
_EDGE = 1e-12
_AT_ONCE = 10_000_000
"""Numbers of a block."""


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """One read-out over the layers."""

    values: FloatArray
    """`[layers]`"""
    null: FloatArray
    """`[B, layers]`, of the same permutations in every layer."""
    each: tuple[FloatArray | None, ...]
    """By layer, what the value is the mean of, one number per concept that counts; None where it is no such mean."""

    @property
    def intervals(self) -> tuple[tuple[float, float] | None, ...]:
        """95 %, percentile bootstrap over the concepts; None where a value is no mean over them."""
        return tuple(None if values is None else bootstrap_interval(values) for values in self.each)

    @property
    def p(self) -> FloatArray:
        """`[layers]`, one-sided, each layer by itself."""
        return np.array([permutation_p(value, self.null[:, i]) for i, value in enumerate(self.values)])

    @property
    def p_best(self) -> float:
        """Of the largest value over the layers."""
        return permutation_p(float(self.values.max()), self.null.max(1))


def scaled(x: FloatArray, *, standardise: bool) -> FloatArray:
    """`x [n, d]` about its mean, as float64; with `standardise` each dimension by its standard deviation."""
    if standardise:
        return standardised(x)
    return np.asarray(x, dtype=np.float64) - np.asarray(x, dtype=np.float64).mean(0)


def cosine_distances(x: FloatArray) -> FloatArray:
    """`[n, n]`, 1 - cosine of the rows of `x`, 0 on the diagonal; 1 to a row that is 0."""
    distances = _between(x, x)
    np.fill_diagonal(distances, 0)
    return distances


def silhouettes(distances: FloatArray, labels: IntArray) -> FloatArray:
    """Silhouettes of each row under each labelling.

    Args:
        distances: `[n, n]`.
        labels: `[B, n]`, from 0; permutations of one labelling.

    Returns `[B, n]` in [-1, 1]; NaN for a row whose label nobody shares. A row that lies as near to its own as to the
    others, or on both, has 0. Raises `DataError` for fewer than two labels, or where no label has two members.
    """
    sizes = np.bincount(labels[0])
    if np.count_nonzero(sizes) < 2 or sizes.max() < 2:
        raise DataError("a silhouette needs two labels or more, and one of them twice.")
    found = np.empty(labels.shape)
    for some in np.array_split(np.arange(len(labels)), max(1, labels.size * len(sizes) // _AT_ONCE)):
        own = labels[some][:, :, None]
        sums = _sums(distances, labels[some], len(sizes))
        mine = sizes[labels[some]]
        inside = np.take_along_axis(sums, own, 2)[:, :, 0] / np.maximum(mine - 1, 1)
        means = np.divide(sums, sizes, out=np.full_like(sums, np.inf), where=sizes > 0)
        np.put_along_axis(means, own, np.inf, 2)
        outside = means.min(2)
        larger = np.maximum(inside, outside)
        each = np.divide(outside - inside, larger, out=np.zeros_like(larger), where=larger > _EDGE)
        found[some] = np.where(mine > 1, each, np.nan)
    return found


def nearest(distances: FloatArray, labels: IntArray) -> FloatArray:
    """Whether each row's nearest other row has its label, per labelling: `[B, n]` -> `[B, n]` in [0, 1]; of neighbours
    that are equally near, the share."""
    away = distances + np.where(np.eye(len(distances), dtype=bool), np.inf, 0.0)
    ties = away <= away.min(1, keepdims=True) + _EDGE
    share = ties / ties.sum(1, keepdims=True)
    found = np.empty(labels.shape)
    n_labels = int(labels.max()) + 1
    for some in np.array_split(np.arange(len(labels)), max(1, labels.size * n_labels // _AT_ONCE)):
        sums = _sums(share, labels[some], n_labels)
        found[some] = np.take_along_axis(sums, labels[some][:, :, None], 2)[:, :, 0]
    return found


def decade_r2(x: FloatArray, values: FloatArray) -> FloatArray:
    """Leave-one-decade-out R² of each ordering of the values.

    Args:
        x: `[n, d]`, scaled.
        values: `[B, n]`; the decades are those of the first row, `values[0] // 10`, and stay with the rows of `x`.

    Returns `[B]`. Raises `DataError` with fewer than three decades.
    """
    decades = (values[0] // 10).astype(np.int64)
    if len(np.unique(decades)) < 3:
        raise DataError("leaving one decade out needs values of three decades or more.")
    kernel = x @ x.T
    errors, spread = np.zeros(len(values)), np.zeros(len(values))
    for decade in np.unique(decades):
        out = decades == decade
        inside = kernel[np.ix_(~out, ~out)]
        mean = values[:, ~out].mean(1, keepdims=True)
        penalty = RIDGE * np.trace(inside) / len(inside) + _EDGE
        weights = np.linalg.solve(inside + penalty * np.eye(len(inside)), (values[:, ~out] - mean).T)
        told = (kernel[np.ix_(out, ~out)] @ weights).T + mean
        errors += ((values[:, out] - told) ** 2).sum(1)
        spread += ((values[:, out] - mean) ** 2).sum(1)
    return 1 - errors / spread


def order_contrasts(distances: FloatArray, ranks: IntArray, groups: IntArray) -> tuple[FloatArray, FloatArray]:
    """`order` and `circle - line` of each ordering.

    Args:
        distances: `[n, n]`.
        ranks: `[B, n]`, the place of each row within its group, from 0.
        groups: `[n]`; one of fewer than four members does not count.

    Returns two arrays `[B]`: means over the groups. Raises `DataError` where no group has four members.
    """
    counted = [np.flatnonzero(groups == g) for g in np.unique(groups) if np.count_nonzero(groups == g) >= 4]
    if not counted:
        raise DataError("an order needs a group of four concepts or more.")
    line, circle = np.zeros(len(ranks)), np.zeros(len(ranks))
    for rows in counted:
        i, j = np.triu_indices(len(rows), 1)
        seen = _standard_ranks(distances[rows[i], rows[j]][None])[0] / len(i)
        steps = np.abs(ranks[:, rows[i]] - ranks[:, rows[j]])
        line += _standard_ranks(steps) @ seen
        circle += _standard_ranks(np.minimum(steps, len(rows) - steps)) @ seen
    return line / len(counted), (circle - line) / len(counted)


def retrieval(first: FloatArray, second: FloatArray, pairs: IntArray) -> FloatArray:
    """Reciprocal ranks of the partner in the other language, per pairing.

    Args:
        first, second: `[n, d]`, each scaled by itself; row i of both is the same concept.
        pairs: `[B, n]`, whose row of `second` is looked for from row i of `first`, and the other way round.

    Returns `[B, n]` in (0, 1]: of each row of `first`, the mean of both directions. Of equally near rows, the partner
    comes in the middle.
    """
    distances = _between(first, second)
    rows = np.arange(len(first))
    there, back = 1 / _ranks(distances), 1 / _ranks(distances.T)
    return (there[rows, pairs] + back[pairs, rows]) / 2


def permuted(values: IntArray | FloatArray, groups: IntArray, n: int, rng: np.random.Generator) -> FloatArray:
    """`[n + 1, k]`: `values [k]` as they are, then permuted within groups n times."""
    found = np.tile(np.asarray(values, dtype=np.float64), (n + 1, 1))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        for draw in found[1:]:
            draw[rows] = draw[rng.permutation(rows)]
    return found


def over_layers(layers: Sequence[FloatArray], read_out: Callable[[FloatArray], FloatArray]) -> Tested:
    """One read-out in every layer.

    Args:
        layers: `[n, d]` each.
        read_out: gives of a layer the value and then its null, `[B + 1]`, or what they are means of over the concepts,
            `[B + 1, n]` (NaN for what does not count), in which case there are intervals.
    """
    found = [read_out(x) for x in layers]
    means = np.array([values if values.ndim == 1 else np.nanmean(values, 1) for values in found])
    each = tuple(values[0][~np.isnan(values[0])] if values.ndim == 2 else None for values in found)
    return Tested(means[:, 0], means[:, 1:].T, each)


def _between(first: FloatArray, second: FloatArray) -> FloatArray:
    """1 - cosine of every row of the one and of the other."""
    units = []
    for x in (first, second):
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        units.append(np.divide(x, norms, out=np.zeros_like(x), where=norms > 0))
    return np.clip(1 - units[0] @ units[1].T, 0, 2)


def _ranks(distances: FloatArray) -> FloatArray:
    """Rank of each column in its row, from 1; the mean of those that are equally near."""
    from scipy.stats import rankdata

    return rankdata(distances.round(12), axis=1)


def _sums(matrix: FloatArray, labels: IntArray, n_labels: int) -> FloatArray:
    """`matrix [n, n]` summed over the columns of each label: `[B, n, n_labels]`."""
    b, n = labels.shape
    member = (labels.T[:, :, None] == np.arange(n_labels)).astype(np.float64)  # [n, B, n_labels]
    return (matrix @ member.reshape(n, b * n_labels)).reshape(n, b, n_labels).swapaxes(0, 1)


def _standard_ranks(values: FloatArray | IntArray) -> FloatArray:
    """Ranks within each row, with mean 0 and standard deviation 1; 0 where nothing varies."""
    from scipy.stats import rankdata

    found = rankdata(values, axis=1)
    found -= found.mean(1, keepdims=True)
    spread = found.std(1, keepdims=True)
    return np.divide(found, spread, out=np.zeros_like(found), where=spread > _EDGE)
