"""What more features and more text are worth: trained SAEs of several sizes and amounts of text -> cells, and laws.

A cell is a size, an amount of text and a seed; in it a sweep of the sparsity coefficient. SAEs are compared at equal
sparsity, so every quantity y of a cell is read off at one L0 for all cells:

    y(L0*)   linear in log L0 between the two SAEs of the sweep whose L0 lie on either side of L0*

and nothing is said of a cell whose sweep does not reach L0*. L0* is where most cells have a value (`common_l0`).

**Loss** is the share of the held-out variance that is not explained, 1 - explained variance, above 0; the mean alone
has 1. **Power laws**, `y = factor * x^-exponent`, are straight lines through log x and log y, fitted only along an axis
with four points or more, with the residuals beside them: residuals that bend say that it is no power law (an offset
cannot be told from so few points, and is not fitted). The law is of the sizes that were trained, and of no others.

**Under-trained** is a size whose loss still falls by more than 2 % from the last amount of text but one to the last, or
one whose loss at the largest amount is no lower than that of a smaller size: there, the size is not what limits it.

Arrays only. Out of scope: the joint law of size and sparsity (Gao 2406.04093 needs TopK at constant k), and choosing
coefficients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.records import Record

LEAST_POINTS = 4
"""Of a power law."""
STILL_FALLING = 0.02
"""Relative fall of the loss, to the last amount of text, above which a size is under-trained."""


@dataclass(frozen=True, slots=True)
class ScalingPoint(Record):
    """One trained SAE; metrics on held-out text."""

    name: str
    d_sae: int
    tokens: int
    """That it was trained on; more than the text has are repeated."""
    seed: int
    coefficient: float
    l0: float
    loss: float
    """1 - explained variance."""
    ce_increase: float
    """Nats that next-token prediction loses where the reconstruction stands for the activation."""
    dead: float
    """Share of the features."""


@dataclass(frozen=True, slots=True)
class ScalingCell(Record):
    """A size, an amount of text and a seed, at the L0 of all cells; None where the sweep does not reach it."""

    d_sae: int
    tokens: int
    seed: int
    n: int
    """SAEs of the sweep."""
    nearest: str
    """The SAE whose L0 is nearest to that of all cells: coverage and match are of it."""
    nearest_l0: float
    loss: float | None
    ce_increase: float | None
    dead: float | None
    uses: float | None
    """Times that a feature fired in training on average: tokens x L0 / d_sae."""


@dataclass(frozen=True, slots=True)
class PowerLaw(Record):
    """`y = factor * x^-exponent`, a line in log-log."""

    quantity: str
    axis: str
    """`d_sae` or `tokens`."""
    at: int
    """The value of the other axis."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    """Means over the seeds."""
    exponent: float
    interval: tuple[float, float]
    """95 %, of the slope of the line (Student t, n - 2)."""
    factor: float
    residuals: tuple[float, ...]
    """log y - log of the line, at each x."""
    r2: float
    p: float
    """Two-sided, of a slope of 0."""


def interpolated(l0: Sequence[float], values: Sequence[float], at: float) -> float | None:
    """`values` at the L0 `at`, linear in log L0 between its neighbours; None outside of the sweep. SAEs of the same L0
    count as their mean. Raises `DataError` for an L0 that is not above 0."""
    if not len(l0) or at <= 0 or min(l0) < 0:
        raise DataError(f"loss at a matched L0 needs L0 values above 0, got {list(l0)} and {at}.")
    alive = [(x, y) for x, y in zip(l0, values, strict=True) if x > 0]
    places = sorted({x for x, _ in alive})
    if not places or not places[0] <= at <= places[-1]:
        return None
    heights = [float(np.mean([y for x, y in alive if x == place])) for place in places]
    return float(np.interp(np.log(at), np.log(places), heights))


def common_l0(ranges: Sequence[tuple[float, float]]) -> float:
    """The L0 that most of the ranges `(least, most)`, above 0, hold: the middle, in log, of the widest stretch that as
    many hold. Raises `DataError` for no range."""
    ends = sorted({end for each in ranges for end in each})
    if not ends:
        raise DataError("no SAE of the sweep has an active feature on held-out text; lower the coefficients.")
    stretches = list(zip(ends[:-1], ends[1:], strict=True)) or [(ends[0], ends[0])]

    def held(stretch: tuple[float, float]) -> int:
        middle = float(np.sqrt(stretch[0] * stretch[1]))
        return sum(least <= middle <= most for least, most in ranges)

    best = max(stretches, key=lambda each: (held(each), each[1] / each[0]))
    return float(np.sqrt(best[0] * best[1]))


def cells(points: Sequence[ScalingPoint], l0: float) -> list[ScalingCell]:
    """Every size, amount of text and seed, in this order, at `l0`. Raises `DataError` without points."""
    if not points:
        raise DataError("scaling needs at least one trained SAE.")
    found = []
    for d_sae, tokens, seed in sorted({(p.d_sae, p.tokens, p.seed) for p in points}):
        own = [p for p in points if (p.d_sae, p.tokens, p.seed) == (d_sae, tokens, seed)]
        at = [p.l0 for p in own]
        near = min(own, key=lambda p: abs(np.log(max(p.l0, 1e-9) / l0)))
        loss = interpolated(at, [p.loss for p in own], l0)
        found.append(
            ScalingCell(
                d_sae=d_sae,
                tokens=tokens,
                seed=seed,
                n=len(own),
                nearest=near.name,
                nearest_l0=near.l0,
                loss=loss,
                ce_increase=interpolated(at, [p.ce_increase for p in own], l0),
                dead=interpolated(at, [p.dead for p in own], l0),
                uses=None if loss is None else tokens * l0 / d_sae,
            )
        )
    return found


def power_law(quantity: str, axis: str, at: int, values: Mapping[int, float]) -> PowerLaw | None:
    """The line through `values` (x -> y), or None for fewer than four points above 0."""
    from scipy.stats import linregress, t

    kept = sorted((x, y) for x, y in values.items() if x > 0 and y > 0)
    if len(kept) < LEAST_POINTS:
        return None
    x, y = (np.log(np.array(each, dtype=np.float64)) for each in zip(*kept, strict=True))
    line: Any = linregress(x, y)
    residuals = y - (line.intercept + line.slope * x)
    half = float(t.ppf(0.975, len(x) - 2)) * float(line.stderr)
    return PowerLaw(
        quantity=quantity,
        axis=axis,
        at=at,
        x=tuple(float(a) for a, _ in kept),
        y=tuple(float(b) for _, b in kept),
        exponent=float(-line.slope),
        interval=(float(-line.slope - half), float(-line.slope + half)),
        factor=float(np.exp(line.intercept)),
        residuals=tuple(map(float, residuals)),
        r2=float(line.rvalue**2),
        p=float(line.pvalue),
    )


def losses(found: Sequence[ScalingCell]) -> dict[tuple[int, int], float]:
    """(d_sae, tokens) -> loss at the common L0, the mean over the seeds that have one."""
    values: dict[tuple[int, int], list[float]] = {}
    for cell in found:
        if cell.loss is not None:
            values.setdefault((cell.d_sae, cell.tokens), []).append(cell.loss)
    return {place: float(np.mean(each)) for place, each in values.items()}


def laws(found: Sequence[ScalingCell]) -> list[PowerLaw]:
    """Of the loss, along each axis that has points enough, at every value of the other."""
    loss = losses(found)
    made: list[PowerLaw | None] = []
    for tokens in sorted({place[1] for place in loss}):
        made.append(power_law("loss", "d_sae", tokens, {d: y for (d, t), y in loss.items() if t == tokens}))
    for d_sae in sorted({place[0] for place in loss}):
        made.append(power_law("loss", "tokens", d_sae, {t: y for (d, t), y in loss.items() if d == d_sae}))
    return [law for law in made if law is not None]


def under_trained(found: Sequence[ScalingCell]) -> dict[int, str]:
    """Size -> why its loss at the largest amount of text is not what the size can give; the module says when."""
    loss = losses(found)
    sizes, amounts = (sorted({place[axis] for place in loss}) for axis in (0, 1))
    said: dict[int, str] = {}
    for d_sae in sizes:
        own = [(tokens, loss[d_sae, tokens]) for tokens in amounts if (d_sae, tokens) in loss]
        smaller = [size for size in sizes if size < d_sae and (size, own[-1][0]) in loss]
        better = [size for size in smaller if loss[size, own[-1][0]] <= own[-1][1]]
        if len(own) > 1 and (fall := 1 - own[-1][1] / own[-2][1]) > STILL_FALLING:
            said[d_sae] = f"its loss still falls by {fall:.1%} from {own[-2][0]:,} to {own[-1][0]:,} tokens"
        if better:
            more = f"with {own[-1][0]:,} tokens its loss is no lower than that of {max(better):,} features"
            said[d_sae] = f"{said[d_sae]}, and {more}" if d_sae in said else more
    return said
