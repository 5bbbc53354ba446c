"""Of what shape is what a model keeps of concepts, and where? The statistics of the registered hypotheses.

Input: arrays `[depth, n, d]`, one row per concept, each depth standardised by itself (`geometry.scaled`), so that no
massive dimension decides. Depth 0 is the embedding and never counts as a best depth. Nulls are drawn over concepts, the
same draws in every depth, and p of the best depth comes from the largest value of each draw (Westfall and Young 1993).

- **curve**: how much better a natural cubic spline of the age tells the activations of a decade that was left out than
  a line does, as a share of what the last digit and a break at 18 leave: `(SSE_line - SSE_spline) / SSE_digit`.
  Medical frame less plain frame. Null: whole decades change places between the frames.
- **step**: the length of the step from each number to the next, over the median of these, medical less plain frame, in
  standard deviations over the steps. Steps from or to a multiple of ten do not count. Null: the other steps.
- **circle - line**, of distances of which what the spelling tells is taken away. Null: order permuted within groups.
- **second label over the first**: silhouette of each concept less the mean of permuted labels, activations less
  spelling; of the coarse labels less that of the fine ones. Names that share a stem are no neighbours of each other.
  Null: signs over the fine labels.
- **dip**: `1 - middle / lower end` of a profile over depth, thirds of depths 1 .. L.
- **participation ratio**: `(sum of eigenvalues)^2 / sum of squares` of the covariance over concepts; 1 to n - 1.
- **centre of mass** of profiles over depth, 0 (first block) to 1 (last). Null: each profile shifted around.

Out of scope: what may be said of them (`hypotheses`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.geometry import Tested, cosine_distances, order_contrasts
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.statistics import permutation_p, quantile_interval

KNOTS = 5
"""Of the natural cubic spline: so many columns, less one, beside the mean."""
LEAST_DECADES = 7
"""Fewer change places in too few ways for a p below 0.05."""
LEAST_STEPS = 40
"""Of fewer, the longest one has a p of 0.025 or more."""
ADULT = 18
"""Years."""
LEAST_DEPTHS = 6
"""Blocks that thirds of the depth need."""
STEM = {"en": 4, "ko": 2}
"""Characters of a run that two names share to share a stem."""
_EDGE = 1e-12
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Best:
    """A statistic at the depth where it is largest, with the null of that choice."""

    value: float
    depth: int
    null: FloatArray
    """`[B]`, the largest of each draw."""

    @property
    def p(self) -> float:
        """One-sided, of the largest value over the depths."""
        return permutation_p(self.value, self.null)


def best(tested: Tested) -> Best:
    """The best of the depths after the embedding."""
    depth = int(np.argmax(tested.values[1:])) + 1
    return Best(float(tested.values[depth]), depth, tested.null[:, 1:].max(1))


def thirds(n_depths: int) -> tuple[slice, slice, slice]:
    """The first, the middle and the last third of depths 1 .. L, of `n_depths` = L + 1 with the embedding.

    Raises `DataError` for a model of fewer than `LEAST_DEPTHS` blocks."""
    blocks = n_depths - 1
    if blocks < LEAST_DEPTHS:
        raise DataError(f"thirds of the depth need {LEAST_DEPTHS} blocks or more, this model has {blocks}.")
    a, b = 1 + round(blocks / 3), 1 + round(2 * blocks / 3)
    return slice(1, a), slice(a, b), slice(b, n_depths)


def curve(medical: FloatArray, plain: FloatArray, values: FloatArray, draws: int, rng: np.random.Generator) -> Tested:
    """The gain of a spline over a line, medical less plain frame, by depth.

    Args:
        medical, plain: `[depth, n, d]`, scaled, of the same numbers.
        values: `[n]`, numbers over `LEAST_DECADES` decades or more.
        draws: of the null.

    `each` are the differences by decade. Raises `DataError` with fewer decades.
    """
    decades = np.unique(values // 10, return_inverse=True)[1]
    operators = _operators(values)
    total = operators.sum(0)
    n_decades, n = int(decades.max()) + 1, len(values)
    swapped = rng.integers(0, 2, size=(draws + 1, n_decades))
    swapped[0] = 0
    # Frame and decade of each row of both frames, so that an error is a quadratic form in who stands where.
    member = np.zeros((2 * n, 2 * n_decades))
    member[np.arange(2 * n), np.concatenate([decades, decades + n_decades])] = 1
    chosen = np.concatenate([1 - swapped, swapped], axis=1).astype(np.float64)
    found = np.empty((len(medical), draws + 1))
    each = []
    for depth, (a, b) in enumerate(zip(medical, plain, strict=True)):
        both = np.concatenate([a, b])
        gram = both @ both.T
        blocks = [member.T @ (np.tile(own, (2, 2)) * gram) @ member for own in total]
        found[depth] = _quadratic_gain(blocks, chosen) - _quadratic_gain(blocks, 1 - chosen)
        each.append(
            np.array([_gain(own, gram[:n, :n], total) - _gain(own, gram[n:, n:], total) for own in operators])
            * len(operators)
        )
    return Tested(found[:, 0], found[:, 1:].T, tuple(each))


def gains(x: FloatArray, values: FloatArray) -> FloatArray:
    """`[depth]`: the gain of a spline over a line in one frame, `x [depth, n, d]`."""
    total = _operators(values).sum(0)
    return np.array([_gain(total, layer @ layer.T) for layer in x])


def step_z(medical: FloatArray, plain: FloatArray | None, values: FloatArray) -> tuple[IntArray, FloatArray]:
    """Steps from a number to the next one.

    Args:
        medical, plain: `[depth, n, d]`, scaled; without `plain` nothing is taken off.
        values: `[n]`.

    Returns where each step begins `[steps]`, and `[depth, steps]` in standard deviations over the steps; 0 at a depth
    where all steps are alike. Raises `DataError` with fewer than `LEAST_STEPS`.
    """
    place = {int(value): row for row, value in enumerate(values) if value == int(value)}
    starts = np.array(sorted(v for v in place if v + 1 in place and v % 10 and (v + 1) % 10), dtype=np.int64)
    if len(starts) < LEAST_STEPS:
        raise DataError(f"steps need {LEAST_STEPS} consecutive pairs of numbers, there are {len(starts)}.")
    first, second = ([place[int(v) + more] for v in starts] for more in (0, 1))

    def lengths(x: FloatArray) -> FloatArray:
        found = np.linalg.norm(x[:, second] - x[:, first], axis=2)
        middle = np.median(found, axis=1, keepdims=True)
        return np.divide(found, middle, out=np.ones_like(found), where=middle > _EDGE)

    excess = lengths(medical) - (lengths(plain) if plain is not None else 1)
    excess = excess - excess.mean(1, keepdims=True)
    spread = excess.std(1, keepdims=True)
    return starts, np.divide(excess, spread, out=np.zeros_like(excess), where=spread > 1e-9)


def partial_circle(x: FloatArray, spelling: FloatArray, ranks: IntArray, groups: IntArray) -> Tested:
    """Circle - line by depth, of distances less what those of the spelling tell of them.

    Args:
        x: `[depth, n, d]`, scaled.
        spelling: `[n, n-grams]`.
        ranks: `[B + 1, n]`, the order within groups as it is, then permuted.
        groups: `[n]`.
    """
    i, j = np.triu_indices(len(groups), 1)
    own = groups[i] == groups[j]
    i, j = i[own], j[own]
    told = np.stack([np.ones(len(i)), cosine_distances(spelling)[i, j]], axis=1)
    found = []
    for layer in x:
        distances = cosine_distances(layer)
        seen = distances[i, j]
        rest = np.zeros_like(distances)
        rest[i, j] = rest[j, i] = seen - told @ np.linalg.lstsq(told, seen, rcond=None)[0]
        found.append(order_contrasts(np.where(np.abs(rest) < _EDGE, 0, rest), ranks, groups)[1])
    array = np.array(found)
    return Tested(array[:, 0], array[:, 1:].T, (None,) * len(array))


def sharing_a_stem(names: Sequence[str], run: int) -> BoolArray:
    """`[n, n]`, whether two names share `run` characters in a row; True on the diagonal."""
    runs = [{name[k : k + run] for k in range(len(name) - run + 1)} for name in (each.lower() for each in names)]
    return np.array([[i == j or bool(a & b) for j, b in enumerate(runs)] for i, a in enumerate(runs)])


def label_excess(distances: FloatArray, labels: IntArray, stems: BoolArray, permuted: IntArray) -> FloatArray:
    """Silhouette of each concept less its mean under permuted labels: `[n]`.

    Args:
        distances: `[n, n]`.
        labels: `[n]`, from 0.
        stems: `[n, n]`, pairs that are no neighbours.
        permuted: `[B, n]`, permutations of `labels`.

    NaN where a concept has no neighbour of its label.
    """
    counts = ~stems
    seen = np.where(counts, distances, 0.0)
    found = _masked_silhouettes(seen, counts, np.concatenate([labels[None], permuted]))
    known = ~np.isnan(found[1:])
    return found[0] - (found[1:][known].mean() if known.any() else 0.0)


def fine_means(excess: FloatArray, fine: IntArray) -> FloatArray:
    """Mean of `excess [depth, n]` within each fine label, NaN left out: `[depth, labels that have one]`."""
    known = ~np.isnan(excess).any(0)
    return np.stack([excess[:, known & (fine == label)].mean(1) for label in np.unique(fine[known])], axis=1)


def flipped(differences: FloatArray, draws: int, rng: np.random.Generator) -> Tested:
    """Means of `differences [depth, n]` under random signs, the same in every depth."""
    signs = rng.integers(0, 2, size=(draws, differences.shape[1])) * 2.0 - 1.0
    return Tested(differences.mean(1), signs @ differences.T / differences.shape[1], tuple(differences))


def participation_ratio(kernel: FloatArray) -> FloatArray:
    """Of `x [..., n, d]` about its mean, from `x @ x.T [..., n, n]`: `[...]`; 0 where nothing varies."""
    means = kernel.mean(-1, keepdims=True)
    centred = kernel - means - means.swapaxes(-1, -2) + means.mean(-2, keepdims=True)
    squares = (centred**2).sum((-1, -2))
    traces = np.trace(centred, axis1=-2, axis2=-1)
    return np.divide(traces**2, squares, out=np.zeros_like(squares), where=squares > _EDGE)


def dip(profile: FloatArray) -> FloatArray:
    """`1 - middle / lower end` of thirds of depths 1 .. L; `profile [..., L + 1]` -> `[...]`. 0 where an end is 0."""
    first, middle, last = (profile[..., part].mean(-1) for part in thirds(profile.shape[-1]))
    ends = np.minimum(first, last)
    return np.where(ends > _EDGE, 1 - middle / np.maximum(ends, _EDGE), 0.0)


def kernels(x: FloatArray) -> FloatArray:
    """`[depth, n, d]` -> `[depth, n, n]`."""
    return x @ x.swapaxes(1, 2)


def ratio_profile(domains: Sequence[FloatArray]) -> FloatArray:
    """`[depth]`: geometric mean over the domains (`kernels` of each) of the participation ratio."""
    return np.exp(np.mean([np.log(np.maximum(participation_ratio(each), 1.0)) for each in domains], axis=0))


def half_samples(
    sizes: Sequence[int], statistic: Callable[[list[IntArray]], float], draws: int, rng: np.random.Generator
) -> FloatArray:
    """The statistic of half of the concepts of each domain, drawn without replacement: `[draws]`. Half samples spread
    about the whole as the whole does about the truth (Politis and Romano 1994, with n / 2 of n)."""
    return np.array([statistic([rng.permutation(n)[: max(2, n // 2)] for n in sizes]) for _ in range(draws)])


def about(value: float, halves: FloatArray) -> tuple[float, float]:
    """95 % interval: the half samples' spread, about the value."""
    low, high = quantile_interval(halves - halves.mean())
    return value + low, value + high


def centre_of_mass(profiles: FloatArray) -> FloatArray:
    """`[..., depths]`, none negative and not all 0, -> `[...]`, from 0 (first) to 1 (last)."""
    places = np.linspace(0, 1, profiles.shape[-1])
    return (profiles * places).sum(-1) / profiles.sum(-1)


def shifted_centres(profiles: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """Mean centre of mass of `profiles [k, depths]`, each shifted around by a place of its own: `[draws]`."""
    k, depths = profiles.shape
    shifted = np.stack([np.roll(profiles, shift, axis=1) for shift in range(depths)])
    centres = centre_of_mass(shifted)  # [shift, k]
    return centres[rng.integers(0, depths, size=(draws, k)), np.arange(k)].mean(1)


def _gain(operators: FloatArray, gram: FloatArray, whole: FloatArray | None = None) -> float:
    """`operators [3, n, n]`: of digit, line, spline; `whole`: those whose digit errors are the unit."""
    left = float((whole if whole is not None else operators)[0].ravel() @ gram.ravel())
    return float((operators[1] - operators[2]).ravel() @ gram.ravel()) / left if left > _EDGE else 0.0


def _quadratic_gain(blocks: Sequence[FloatArray], chosen: FloatArray) -> FloatArray:
    """`_gain` of each draw: `blocks`, of digit, line and spline, `[k, k]`; `chosen [B, k]`."""
    digit, line, spline = (np.einsum("bi,ij,bj->b", chosen, block, chosen, optimize=True) for block in blocks)
    return np.divide(line - spline, digit, out=np.zeros_like(digit), where=digit > _EDGE)


def _operators(values: FloatArray) -> FloatArray:
    """`[decades, 3, n, n]`: R'R of what is left of a decade that digit, line or spline did not see; the first and the
    last decade are not left out, as nothing lies beyond them."""
    decades = np.unique(values // 10)
    if len(decades) < LEAST_DECADES:
        raise DataError(f"a curve needs numbers over {LEAST_DECADES} decades or more, there are {len(decades)}.")
    n = len(values)
    digits = np.eye(10)[(values % 10).astype(np.int64)]
    # A break at 18 is a claim of its own (`step_z`): all three designs have it.
    digits = np.concatenate([digits[:, digits.any(0)], (values >= ADULT)[:, None].astype(np.float64)], axis=1)
    columns = _spline(values)
    designs = (digits, np.concatenate([digits, columns[:, :1]], 1), np.concatenate([digits, columns], 1))
    found = []
    for decade in decades[1:-1]:
        out = values // 10 == decade
        own = []
        for design in designs:
            rest = np.zeros((int(out.sum()), n))
            rest[:, out] = np.eye(int(out.sum()))
            rest[:, ~out] = -design[out] @ np.linalg.pinv(design[~out])
            own.append(rest.T @ rest)
        found.append(np.stack(own))
    return np.stack(found)


def _spline(values: FloatArray) -> FloatArray:
    """Natural cubic spline, `[n, KNOTS - 1]`, the first column the line (Hastie, Tibshirani and Friedman 2009, 5.2)."""
    x = (values - values.min()) / max(float(np.ptp(values)), _EDGE)
    knots = np.linspace(0, 1, KNOTS)

    def d(k: int) -> FloatArray:
        return (np.maximum(x - knots[k], 0) ** 3 - np.maximum(x - knots[-1], 0) ** 3) / (knots[-1] - knots[k])

    return np.stack([x, *(d(k) - d(KNOTS - 2) for k in range(KNOTS - 2))], axis=1)


def _masked_silhouettes(seen: FloatArray, counts: BoolArray, labels: IntArray) -> FloatArray:
    """`[B, n]` of `labels [B, n]`: distances of pairs that do not count are 0 in `seen`; NaN for a row without a
    neighbour of its label or of another."""
    b, n = labels.shape
    k = int(labels.max()) + 1
    member = (labels.T[:, :, None] == np.arange(k)).astype(np.float64).reshape(n, b * k)
    sums, sizes = ((each @ member).reshape(n, b, k).swapaxes(0, 1) for each in (seen, counts.astype(np.float64)))
    means = np.divide(sums, sizes, out=np.full(sums.shape, np.inf), where=sizes > 0)
    own = labels[:, :, None]
    inside = np.take_along_axis(means, own, 2)[:, :, 0].copy()
    np.put_along_axis(means, own, np.inf, 2)
    outside = means.min(2)
    known = np.isfinite(inside) & np.isfinite(outside)
    larger = np.where(known, np.maximum(inside, outside), 1.0)
    difference = np.where(known, outside, 0.0) - np.where(known, inside, 0.0)
    found = np.divide(difference, larger, out=np.zeros_like(larger), where=larger > _EDGE)
    return np.where(known, found, np.nan)
