"""Points in two dimensions, a panel for each set, marked by label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import ink, legend, new_axes, own_settings, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^vP*X"
_MOST_NAMED = 16


def scattered(panels: Sequence[tuple[str, npt.NDArray[np.float64], Sequence[str]]]) -> "list[Axes]":
    """A panel for each (title, points `[n, 2]`, labels), the same colour and mark for a label in all of them; the axes
    have no units. Raises `DataError` without panels."""
    if not panels:
        raise DataError("a picture needs at least one set of points to draw.")
    names = list(dict.fromkeys(label for _, _, labels in panels for label in labels))
    with own_settings():
        import matplotlib

        axes = new_axes(1, len(panels), 3.4 * len(panels), 3.4 + 0.2 * (-(-min(len(names), _MOST_NAMED) // 4)))
        colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
        handles = []
        for ax, (title, points, labels) in zip(axes, panels, strict=True):
            for number, name in enumerate(names):
                own = np.array([label == name for label in labels])
                mark = _MARKS[number % len(_MARKS)]
                look = {"marker": mark, "color": colours[number], "edgecolors": ink(), "linewidths": 0.3}
                made = ax.scatter(points[own, 0], points[own, 1], s=22, **look)
                if ax is axes[0]:
                    handles.append(made)
            ax.set_title(shown(title, 44), color=ink())
            ax.set_xticks([])
            ax.set_yticks([])
        if len(names) <= _MOST_NAMED:
            legend(axes[0], handles, names, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=4)
        return axes
