"""Two models beside each other: each number of both against its own null, on one axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language, number
from sae_lens_med.plots.forests import HALF_BAND, LABEL_CHARS, ForestRow, reach_far
from sae_lens_med.plots.style import BLUE, VERMILLION, drawing, grid, ink, legend, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class PairRow:
    """One number of both models; None where it was not measured."""

    label: str
    first: ForestRow | None
    second: ForestRow | None
    heading: str | None = None
    """Written above the row: what begins with it."""

    @property
    def both(self) -> tuple[ForestRow | None, ForestRow | None]:
        """First and second."""
        return self.first, self.second


def pairs(
    rows: Sequence[PairRow], names: tuple[str, str], ax: "Axes | None" = None, *, language: Language = ENGLISH
) -> "Axes":
    """Each number of two models (`names`), the first row on top: a dot and a square over a grey band where 95 % of the
    null lies. The axis is the distance from the null's mean in the null's standard deviations, logarithmic far out; the
    numbers at the right are on each metric's own scale. A filled mark stands out. Raises `DataError` without rows."""
    if not any(each for row in rows for each in row.both):
        raise DataError("pairs needs at least one number to draw.")
    step, extra = 1.0, 0.55
    places, at = [], 0.0
    for row in rows:
        at += extra if row.heading is not None else 0.0
        places.append(at)
        at += step
    with drawing(ax, height=1.1 + 0.5 * at, width=6.4) as ax:
        grid(ax, "x")
        side = ax.get_yaxis_transform()
        ax.axvline(0, color=ink(), linewidth=1, linestyle="--", alpha=0.6)
        ends, handles = [-HALF_BAND, HALF_BAND], {}
        for y, row in zip(places, rows, strict=True):
            if row.heading is not None:
                ax.text(0, y - 0.85, shown(row.heading), transform=side, va="center", size=9, weight="bold")
            ax.text(0, y - 0.28, shown(row.label, LABEL_CHARS), transform=side, va="center", size=9, parse_math=False)
            said = "  |  ".join("–" if each is None else number(each.value) for each in row.both)
            ax.text(1, y - 0.28, said, transform=side, va="center", ha="right", size=9, alpha=0.75, parse_math=False)
            ax.fill_betweenx([y - 0.08, y + 0.4], -HALF_BAND, HALF_BAND, color=ink(), alpha=0.16, linewidth=0)
            marks = zip(row.both, (BLUE, VERMILLION), ("o", "s"), (0.06, 0.26), names, strict=True)
            for each, colour, mark, below, name in marks:
                if each is None:
                    continue
                face = colour if each.stands_out else "none"
                style = {"color": colour, "markerfacecolor": face, "markeredgewidth": 1.6, "markersize": 6, "zorder": 3}
                far = each.distance(each.value)
                ax.plot([far], [y + below], mark, clip_on=False, label=name, **style)
                ends.append(far)
        for colour, mark, name in zip((BLUE, VERMILLION), ("o", "s"), names, strict=True):
            (handles[name],) = ax.plot([], [], mark, color=colour, markersize=6)
        reach_far(ax, min(ends), max(ends))
        ax.set_ylim(at - 0.45, places[0] - 0.65 - (extra if rows[0].heading is not None else 0.0))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(language.text("distance from the null's mean, in the null's standard deviations"))
        legend(ax, list(handles.values()), list(handles), ncols=2)
    return ax


def describe_pairs(rows: Sequence[PairRow], names: tuple[str, str], *, language: Language = ENGLISH) -> str:
    """`label: first 0.8 (null 0.6), second 0.2 (null 0.2); ...`, each on its metric's scale."""
    said = []
    for row in rows:
        own = [
            f"{name} –"
            if each is None
            else f"{name} {number(each.value)} ({language.text('null')} "
            f"{number(each.null_mean)}{'*' if each.stands_out else ''})"
            for name, each in zip(names, row.both, strict=True)
        ]
        said.append(f"{row.label}: {', '.join(own)}")
    return "; ".join(said) + "."
