"""Accuracy and margin against steering strength, with what matched random features do.

The line with points is the entry itself, with 95 % intervals over items; the grey band is where 95 % of its matched
random feature sets lie, the dashed line their mean; the dotted horizontal line is plain (the model without an
intervention), and so is the open point at strength 0 of what only steers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import BLUE, drawing, figure_of, grid, ink, new_axes, own_settings, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = "change of margin (nats)"


@dataclass(frozen=True, slots=True)
class SteeringPoint:
    """One value at one strength."""

    name: str
    """Of the condition."""
    strength: float
    value: float
    interval: tuple[float, float] | None = None
    """95 %, over items."""
    band: tuple[float, float] | None = None
    """Where 95 % of the matched random sets lie."""
    band_mean: float | None = None
    p: float | None = None
    """Of the value among the random sets."""
    plain: bool = False
    """Whether this is the model without an intervention."""


@dataclass(frozen=True, slots=True)
class SteeringEntry:
    """What is steered, and its two quantities by strength."""

    title: str
    accuracy: tuple[SteeringPoint, ...]
    """Shares of items, in [0, 1]."""
    margin_change: tuple[SteeringPoint, ...]
    """Mean change of ln P(gold) - ln P(best other), nats."""


def steering(
    points: Sequence[SteeringPoint], ax: "Axes | None" = None, *, plain: float = 0.0, ylabel: str = MARGIN
) -> "Axes":
    """One quantity against strength: `points` in any order, and `plain`, the value without an intervention.

    Raises `DataError` without points.
    """
    if not points:
        raise DataError("steering needs at least one point to draw.")
    ordered = sorted(points, key=lambda p: p.strength)
    with drawing(ax, height=2.8) as ax:
        grid(ax, "y")
        ax.axhline(plain, color=ink(), linewidth=1.2, linestyle=":", label="plain")
        banded = [p for p in ordered if p.band is not None]
        if banded:
            low, high = zip(*(p.band for p in banded if p.band is not None), strict=True)
            at = [p.strength for p in banded]
            lone = len(at) == 1  # a band needs a width to be seen
            ax.fill_between(
                [at[0] - 0.08, at[0] + 0.08] if lone else at,
                low * 2 if lone else low,
                high * 2 if lone else high,
                color=ink(),
                alpha=0.16,
                linewidth=0,
            )
            means = [(p.strength, p.band_mean) for p in banded if p.band_mean is not None]
            style = {"color": ink(), "alpha": 0.6, "linewidth": 1.5, "linestyle": "--"}
            ax.plot(*zip(*means, strict=True), marker="_" if lone else "", label="random mean", **style)
        ax.plot([p.strength for p in ordered], [p.value for p in ordered], color=BLUE, linewidth=1.8)
        for p in ordered:
            if p.interval is not None:
                ax.plot([p.strength] * 2, p.interval, color=BLUE, marker="_", linewidth=1)
            face = "none" if p.plain else BLUE
            ax.plot(p.strength, p.value, "o", color=BLUE, markerfacecolor=face, label=shown(p.name))
        first, last = ordered[0].strength, ordered[-1].strength
        room = 0.06 * (last - first) or 1.0
        ax.set_xlim(first - room, last + room)
        ax.set_xticks(_apart([p.strength for p in ordered]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("strength (multiple of the entry's values)")
        ax.set_ylabel(ylabel, rotation_mode="anchor")
    return ax


def steering_panels(
    entries: Sequence[SteeringEntry], *, plain_accuracy: float, n_sets: int = 0, heading: str = ""
) -> tuple["Axes", ...]:
    """A figure with two axes for each entry, accuracy at the left and the change of the margin at the right, each on a
    common scale; `n_sets` random sets are named in the legend."""
    if not entries:
        raise DataError("steering_panels needs at least one entry to draw.")
    with own_settings():
        height = (1.05 if heading else 0.75) + 2.6 * len(entries)
        axes = new_axes(len(entries), 2, 8.2, height, sharey="col")
        for row, entry in enumerate(entries):
            left, right = axes[2 * row : 2 * row + 2]
            steering(entry.accuracy, left, plain=plain_accuracy, ylabel="accuracy (share of items)")
            steering(entry.margin_change, right)
            left.set_title(shown(entry.title, 90), parse_math=False)
        _explain(axes[0], n_sets, heading)
    return tuple(axes)


def describe_steering(entries: Sequence[SteeringEntry]) -> str:
    """Each point in words, accuracies first: `name: value (low to high), random sets low to high, p`."""
    points = [(p, "accuracy") for e in entries for p in e.accuracy]
    points += [(p, "margin change") for e in entries for p in e.margin_change]
    return "; ".join(_said(point, what) for point, what in points) + "."


def _said(point: SteeringPoint, what: str) -> str:
    said = f"{'plain' if point.plain else point.name}: {what} {point.value:.3f}"
    if point.interval is not None:
        said += f" ({point.interval[0]:.3f} to {point.interval[1]:.3f})"
    if point.band is not None and not point.plain:
        said += f", random sets {point.band[0]:.3f} to {point.band[1]:.3f}"
    return said if point.p is None else f"{said}, p {point.p:.3f}"


def _explain(ax: "Axes", n_sets: int, heading: str) -> None:
    """The legend above the whole figure, with `heading` as its title."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=1.8),
        Line2D([], [], color=ink(), linestyle=":", linewidth=1.2),
    ]
    labels = ["these features, 95 % over items", "plain"]
    if n_sets:
        band = Patch(facecolor=ink(), alpha=0.16, linewidth=0)
        handles.append((band, Line2D([], [], color=ink(), alpha=0.6, linestyle="--", linewidth=1.5)))  # type: ignore[arg-type]  # a pair is drawn as one
        labels.append(f"{n_sets} matched random sets: 95 % and mean")
    made = figure_of(ax).legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    if heading:
        made.set_title(shown(heading, 110))
        made.get_title().set_parse_math(False)
        made.set_alignment("left")


def _apart(strengths: Sequence[float]) -> list[float]:
    """Those of the ascending strengths whose labels do not touch."""
    span = (strengths[-1] - strengths[0]) or 1.0
    shown_at: list[float] = []
    for strength in strengths:
        if not shown_at or (strength - shown_at[-1]) / span > 0.035 * (1 + len(f"{strength:g}")):
            shown_at.append(strength)
    return shown_at
