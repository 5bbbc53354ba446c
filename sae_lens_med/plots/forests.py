"""Metrics of different scales, each against its own null, on one axis: how far from the null, in the null's spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language, number
from sae_lens_med.plots.style import BLUE, drawing, grid, ink, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 52
HALF_BAND = 1.96
"""Half of the central 95 % of a normal distribution, in standard deviations: where each null's own 95 % is drawn."""
LINEAR_TO = 12.0
"""Where a row lies farther out than this, the axis is logarithmic beyond `LINEAR_WITHIN` on both sides."""
LINEAR_WITHIN = 4.0


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One value and its null, on the scale of its metric."""

    label: str
    value: float
    null_mean: float
    null_interval: tuple[float, float]
    """Where 95 % of the null lies; not empty."""
    interval: tuple[float, float] | None = None
    """95 %; None where there is none."""
    q: float | None = None
    """p after the correction for multiplicity; None where it was not tested."""
    stands_out: bool = False
    """Drawn as a filled dot."""

    def __post_init__(self) -> None:
        if not self.null_interval[1] > self.null_interval[0]:
            raise DataError(f"{self.label!r} has a null without a spread, so no distance from it can be drawn.")

    def distance(self, value: float) -> float:
        """How far `value` lies above the null's mean, in the null's standard deviations."""
        spread = (self.null_interval[1] - self.null_interval[0]) / (2 * HALF_BAND)
        return (value - self.null_mean) / spread


def forest(rows: Sequence[ForestRow], ax: "Axes | None" = None, *, language: Language = ENGLISH) -> "Axes":
    """Each row's value (dot) with its 95 % interval, over a grey band where 95 % of its null lies, the first row on
    top. The axis is the distance from the null's mean in the null's standard deviations, so that metrics of different
    scales stand beside each other; the numbers at the right are on each metric's own scale. A filled dot
    stands out. Raises `DataError` without rows."""
    if not rows:
        raise DataError("forest needs at least one row to draw.")
    with drawing(ax, height=0.85 + 0.5 * len(rows), width=6.4) as ax:
        grid(ax, "x")
        side = ax.get_yaxis_transform()
        ax.axvline(0, color=ink(), linewidth=1, linestyle="--", alpha=0.6)
        ends = [0.0]
        for y, row in enumerate(rows):
            ax.text(0, y - 0.3, shown(row.label, LABEL_CHARS), transform=side, va="center", size=9, parse_math=False)
            said = _numbers(row, language)
            ax.text(1, y - 0.3, said, transform=side, va="center", ha="right", size=9, alpha=0.75, parse_math=False)
            low, high = (row.distance(end) for end in row.null_interval)
            ax.fill_betweenx([y - 0.08, y + 0.28], low, high, color=ink(), alpha=0.18, linewidth=0)
            ends += [low, high, row.distance(row.value)]
            if row.interval is not None:
                drawn = [row.distance(end) for end in row.interval]
                ax.plot(drawn, [y + 0.1] * 2, color=BLUE, linewidth=2, label="interval")
                ends += drawn
            face = BLUE if row.stands_out else "none"
            style = {"color": BLUE, "markerfacecolor": face, "markeredgewidth": 1.6, "markersize": 6, "zorder": 3}
            ax.plot([row.distance(row.value)], [y + 0.1], "o", clip_on=False, label="value", **style)
        low, high = min(ends), max(ends)
        if max(-low, high) > LINEAR_TO:
            reach_far(ax, low, high)
        else:
            room = 0.04 * (high - low)
            ax.set_xlim(low - room, high + room)
        ax.set_ylim(len(rows) - 0.45, -0.65)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(language.text("distance from the null's mean, in the null's standard deviations"))
    return ax


def reach_far(ax: "Axes", low: float, high: float) -> None:
    """A horizontal axis of distances from `low` to `high`, logarithmic beyond `LINEAR_WITHIN`."""
    ax.set_xscale("symlog", linthresh=LINEAR_WITHIN, linscale=1.5)
    steps = (-100, -30, -10, -2, 0, 2, 10, 30, 100, 300, 1000)
    ax.set_xticks([step for step in steps if 1.4 * low <= step <= 1.4 * high])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.set_xlim(1.25 * low, 1.25 * high)


def describe_forest(rows: Sequence[ForestRow], *, language: Language = ENGLISH) -> str:
    """`label: value (low to high), null mean (low to high), q; ...`, each on its metric's scale."""
    return "; ".join(_described(row, language) for row in rows) + "."


def _numbers(row: ForestRow, language: Language) -> str:
    said = f"{number(row.value)} · {language.text('null')} {number(row.null_mean)}"
    return said if row.q is None else f"{said} · q {number(row.q)}"


def _described(row: ForestRow, language: Language) -> str:
    said = f"{row.label}: {number(row.value)}"
    if row.interval is not None:
        said += f" ({language.pair(*(number(end) for end in row.interval))})"
    band = language.pair(*(number(end) for end in row.null_interval))
    said += f", {language.text('null')} {number(row.null_mean)} ({band})"
    return said if row.q is None else f"{said}, q {number(row.q)}"
