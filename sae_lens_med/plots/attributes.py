"""Attributes of the patient, each beside the swaps that cannot matter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import BLUE, drawing, grid, ink, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 40


class EffectLike(Protocol):
    """What is drawn of one effect; `knowledge_map.attributes.effects.AttributeRow` has it."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def null_mean(self) -> float: ...
    @property
    def null_high(self) -> float: ...
    @property
    def stands_out(self) -> bool: ...


def effects(rows: Sequence[EffectLike], ax: "Axes | None" = None, *, unit: str = "nats") -> "Axes":
    """A dot for each effect, filled where it stands out, with its 95 % interval, over a grey bar from the mean of its
    null to the null's 95 % quantile. The first row is on top. Raises `DataError` without rows."""
    if not rows:
        raise DataError("effects need at least one row to draw.")
    with drawing(ax, height=0.9 + 0.3 * len(rows), width=6.0) as ax:
        grid(ax, "x")
        for y, row in enumerate(rows):
            ax.fill_betweenx([y - 0.3, y + 0.3], row.null_mean, row.null_high, color=ink(), alpha=0.18, linewidth=0)
            if row.interval is not None:
                ax.plot(list(row.interval), [y, y], color=BLUE, linewidth=2)
            face = BLUE if row.stands_out else "none"
            ax.plot([row.value], [y], "o", color=BLUE, markerfacecolor=face, markersize=6, zorder=3)
        ax.set_yticks(range(len(rows)), [shown(row.name, LABEL_CHARS) for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlabel(unit)
        return ax


def describe_effects(rows: Sequence[EffectLike]) -> str:
    """The same in words."""
    said = [
        f"{row.name}: {row.value:.3f}, null {row.null_mean:.3f} (95 % below {row.null_high:.3f})"
        f"{', stands out' if row.stands_out else ''}."
        for row in rows
    ]
    return " ".join(said)
