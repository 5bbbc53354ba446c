"""Values with their intervals, one row each, beside what guessing or a null gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.style import BLUE, VERMILLION, drawing, grid, ink, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 48


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One value, what it is compared with, and how many it is of."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    """95 %; None where there is none."""
    chance: float | None = None
    """What guessing, or the null, gives on average."""
    n: int | None = None
    null_interval: tuple[float, float] | None = None
    """Where 95 % of the null lies."""


def intervals(
    rows: Sequence[IntervalRow],
    ax: "Axes | None" = None,
    *,
    xlabel: str = "accuracy (share of items)",
    xlim: tuple[float, float] | None = (0.0, 1.0),
    language: Language = ENGLISH,
) -> "Axes":
    """Dots with their 95 % intervals, the first row on top, a dashed mark at the chance level of each row and a grey
    band where 95 % of its null lies.

    `xlim` are the ends of the axis in units of the values; None leaves them to the data. Raises `DataError` without
    rows.
    """
    if not rows:
        raise DataError("intervals needs at least one row to draw.")
    with drawing(ax, height=0.75 + 0.46 * len(rows)) as ax:
        grid(ax, "x")
        side = ax.get_yaxis_transform()
        for y, row in enumerate(rows):
            said = f"{row.value:.3f}" + ("" if row.n is None else f" · n {row.n:,}")
            ax.text(0, y - 0.3, shown(row.label, LABEL_CHARS), transform=side, va="center", size=9, parse_math=False)
            ax.text(1, y - 0.3, said, transform=side, va="center", ha="right", size=9, alpha=0.75)
            if row.null_interval is not None:
                ax.fill_betweenx([y - 0.08, y + 0.28], *row.null_interval, color=ink(), alpha=0.18, linewidth=0)
            if row.chance is not None:
                style = {"color": VERMILLION, "linestyle": (0, (2.5, 1.5)), "linewidth": 1.8}
                ax.plot([row.chance] * 2, [y - 0.12, y + 0.32], label="chance", **style)
            if row.interval is not None:
                ax.plot(row.interval, [y + 0.1] * 2, color=BLUE, linewidth=2, label="interval")
        values = [row.value for row in rows]
        places = [y + 0.1 for y in range(len(rows))]
        ax.plot(values, places, "o", color=BLUE, markersize=6, clip_on=False, label="value", zorder=3)
        ax.set_ylim(len(rows) - 0.45, -0.65)
        if xlim is not None:
            ax.set_xlim(*xlim)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(language.name(xlabel))
    return ax


def describe_intervals(rows: Sequence[IntervalRow], *, language: Language = ENGLISH) -> str:
    """`label: value (low to high), chance c, n m; ...`, three decimals."""
    return "; ".join(_said(row, language) for row in rows) + "."


def _said(row: IntervalRow, language: Language) -> str:
    said = f"{row.label}: {row.value:.3f}"
    if row.interval is not None:
        said += f" ({language.pair(f'{row.interval[0]:.3f}', f'{row.interval[1]:.3f}')})"
    if row.chance is not None:
        said += f", {language.text('chance')} {row.chance:.3f}"
    if row.null_interval is not None:
        low, high = row.null_interval
        said += f", {language.text('null')} {language.pair(f'{low:.3f}', f'{high:.3f}')}"
    return said if row.n is None else f"{said}, n {row.n}"
