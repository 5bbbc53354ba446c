"""What circuits of growing size do: faithfulness over the share of edges, or nodes, that carries the clean text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import BLUE, GREEN, VERMILLION, drawing, grid, ink, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CurveLike(Protocol):
    """What is drawn; `circuits.faithfulness.Curve` has it."""

    @property
    def shares(self) -> Sequence[float]: ...
    @property
    def faithfulness(self) -> Sequence[float]: ...


def faithfulness_curves(curves: Mapping[str, CurveLike], ax: "Axes | None" = None, *, of: str = "edges") -> "Axes":
    """Share of edges, or of what `of` names (logarithmic; a share of 0 is left out), against faithfulness, a line with
    marks for each of at most three named curves; 1 is what all do, 0 what none does. Raises `DataError` without
    curves."""
    if not curves:
        raise DataError("there is no curve to draw.")
    with drawing(ax, height=2.8, width=6.4) as ax:
        grid(ax, "y")
        for level in (0.0, 1.0):
            ax.axhline(level, color=ink(), linewidth=0.8, linestyle=":")
        looks = zip((BLUE, VERMILLION, GREEN), ("o", "s", "^"), strict=True)
        for (name, curve), (colour, mark) in zip(curves.items(), looks, strict=False):
            shown = [(x, y) for x, y in zip(curve.shares, curve.faithfulness, strict=True) if x > 0]
            ax.plot(*zip(*shown, strict=True), color=colour, marker=mark, linewidth=1.6, label=name)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(f"share of the {of} (log scale)")
        ax.set_ylabel("faithfulness", rotation_mode="anchor")
        legend(ax, ax.get_lines()[2:], list(curves), loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax
