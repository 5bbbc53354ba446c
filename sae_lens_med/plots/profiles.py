"""Read-outs over the depth, one small panel each, on one scale: the value and the null's 95 % quantile."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.maps import MapRowLike
from sae_lens_med.plots.style import BLUE, GREEN, VERMILLION, WIDTH, grid, ink, legend, new_axes, own_settings, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_LINES = ((BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", ":"))
"""Colour, mark and dash of the first, second and third row of a panel."""


def depth_profiles(
    panels: Mapping[str, Sequence[tuple[str, MapRowLike]]], *, language: Language = ENGLISH
) -> "list[Axes]":
    """A panel for each entry, three in a row: a line for each of its rows, marked where it stands out, over the band
    up to the 95 % quantile of its null.

    Args:
        panels: title -> (name of the line, row), at most three.
        language: of what is written beside the names.

    Raises `DataError` without panels, or for a panel of more than three rows.
    """
    if not panels:
        raise DataError("profiles need at least one row to draw.")
    names = list(dict.fromkeys(name for rows in panels.values() for name, _ in rows))
    if len(names) > len(_LINES):
        raise DataError(f"a panel shows {len(_LINES)} lines at most, got {', '.join(names)}.")
    lines = -(-len(panels) // _COLUMNS)
    with own_settings():
        axes = new_axes(lines, _COLUMNS, 1.7 * WIDTH, 0.7 + 1.9 * lines, sharey=True)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        drawn = {}
        for ax, (title, rows) in zip(axes, panels.items(), strict=False):
            grid(ax, "y")
            for name, row in rows:
                colour, mark, dash = _LINES[names.index(name)]
                depths = range(len(row.values))
                ax.fill_between(depths, row.null_mean, row.null_high, color=colour, alpha=0.18, linewidth=0)
                (drawn[name],) = ax.plot(depths, row.values, color=colour, linestyle=dash, linewidth=1.5)
                at = [depth for depth, out in enumerate(row.stands_out) if out]
                ax.plot(at, [row.values[depth] for depth in at], mark, color=colour, markersize=4)
            ax.set_title(shown(title, 34), color=ink(), fontsize=9)
            ax.locator_params(axis="x", integer=True, nbins=6)
        for ax in axes[max(0, len(panels) - _COLUMNS) : len(panels)]:
            ax.set_xlabel(language.text("depth (0: embedding)"))
        legend(axes[0], [drawn[name] for name in names], names, bbox_to_anchor=(0, 1.16), ncols=len(names))
        return axes[: len(panels)]
