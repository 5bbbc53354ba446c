"""What the size of a dictionary and the text it was trained on are worth: four quantities against size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import (
    AMBER,
    BLUE,
    GREEN,
    PURPLE,
    VERMILLION,
    grid,
    ink,
    legend,
    new_axes,
    own_settings,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, slots=True)
class ScalingLine:
    """One amount of text; the values by size, None where there is none."""

    name: str
    sizes: tuple[int, ...]
    """Features."""
    loss: tuple[float | None, ...]
    """Share of the variance that is not explained, at one L0."""
    dead: tuple[float | None, ...]
    coverage: tuple[float | None, ...]
    """Share of the labels of concepts that have a feature."""
    coverage_null: tuple[float | None, ...]
    """The same with shuffled directions."""
    seeds: tuple[float | None, ...]
    """Share of the features that another seed has."""
    seeds_null: tuple[float | None, ...]
    """The same with shuffled directions."""


_PANELS = (
    ("loss", None, "variance not explained"),
    ("dead", None, "dead features"),
    ("coverage", "coverage_null", "labels covered"),
    ("seeds", "seeds_null", "matched in another seed"),
)


def scaling_panels(lines: Sequence[ScalingLine]) -> tuple["Axes", ...]:
    """Four panels against size (logarithmic): loss (logarithmic), dead features, coverage and match, the last two with
    what shuffled directions give (dashed). Raises `DataError` without lines."""
    if not lines:
        raise DataError("a figure of scaling needs at least one amount of text.")
    with own_settings():
        axes = new_axes(4, 1, 6.4, 9.6, sharex=True)
        handles = []
        colours = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, ink())
        for ax, (own, null, label) in zip(axes, _PANELS, strict=True):
            grid(ax, "both")
            for number, line in enumerate(lines):
                colour, mark = colours[number % len(colours)], _MARKS[number % len(_MARKS)]
                drawn = _drawn(line.sizes, getattr(line, own))
                if drawn:
                    (made,) = ax.plot(*zip(*drawn, strict=True), color=colour, marker=mark, linewidth=1.8, markersize=5)
                    if own == "loss":
                        handles.append((made, shown(line.name, 40)))
                if null and (below := _drawn(line.sizes, getattr(line, null))):
                    ax.plot(*zip(*below, strict=True), linewidth=1.2, linestyle="--", color=colour)
            ax.set_ylabel(label)
            if own == "loss" and handles:
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, 1)
        sizes = sorted({size for line in lines for size in line.sizes})
        axes[-1].set_xscale("log")
        axes[-1].set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes[-1].minorticks_off()
        axes[-1].set_xlabel("features (log scale)")
        if handles:
            legend(axes[0], *zip(*handles, strict=True), loc="center left", bbox_to_anchor=(1.02, 0.5))
    return tuple(axes)


def describe_scaling(lines: Sequence[ScalingLine]) -> str:
    """The losses in words."""
    said = []
    for line in lines:
        values = ", ".join(f"{size:,} features {value:.3f}" for size, value in _drawn(line.sizes, line.loss))
        said.append(f"{line.name}: {values or 'none at this L0'}")
    return f"Share of the variance that is not explained. {'; '.join(said)}."


def _drawn(sizes: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(size, value) for size, value in zip(sizes, values, strict=True) if value is not None]
