"""Sparsity against reconstruction: L0 and explained variance of trained SAEs, a curve for each way of training."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.plots.style import (
    AMBER,
    BLUE,
    GREEN,
    PURPLE,
    VERMILLION,
    drawing,
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
_DASHES = ("-", "--", ":")


class FrontierLike(Protocol):
    """What is drawn of one trained SAE; `training.frontier.FrontierPoint` has it."""

    @property
    def hook_name(self) -> str: ...
    @property
    def curve(self) -> str:
        """Name of the curve that it is a point of."""
        ...

    @property
    def l0(self) -> float:
        """Active features a token."""
        ...

    @property
    def explained_variance(self) -> float:
        """At most 1."""
        ...


def frontier(
    points: Sequence[FrontierLike], ax: "Axes | None" = None, *, curves: Sequence[str] | None = None
) -> "Axes":
    """L0 (logarithmic) against explained variance, a line with marks for each curve, the legend in the order in which
    the curves end. Up and to the left is better.

    `curves` are all names that take part, also in other axes, so that a name looks the same in each; by default those
    of `points`. Points of several hooks are curves of their own. A point whose L0 is not above 0, or that is not
    finite, has no place on the axis and is left out; without any other the axes say so.
    """
    drawn = _drawable(points)
    with drawing(ax, height=3.0, width=6.4) as ax:
        ax.set_xlabel("L0: active features a token (log scale)")
        ax.set_ylabel("explained variance", rotation_mode="anchor")
        if not drawn:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(0.5, 0.5, "No run with an L0 above 0.", transform=ax.transAxes, ha="center", va="center")
            return ax
        grid(ax, "both")
        hooks = {p.hook_name for p in drawn}
        looks = {name: i for i, name in enumerate(sorted({p.curve for p in drawn} if curves is None else curves))}
        colours = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, ink())
        ends = []
        for hook, name in sorted({(p.hook_name, p.curve) for p in drawn}):
            own = sorted((p.l0, p.explained_variance) for p in drawn if (p.hook_name, p.curve) == (hook, name))
            i = looks[name]
            (line,) = ax.plot(
                *zip(*own, strict=True),
                color=colours[i % len(colours)],
                marker=_MARKS[i % len(_MARKS)],
                linestyle=_DASHES[i // len(colours) % len(_DASHES)],
                linewidth=1.8,
                markersize=6,
            )
            label = shown(name if len(hooks) == 1 else f"{hook} {name}", 60)
            line.set_label(label)
            ends.append((own[-1][1], label, line))
        ends.sort(key=lambda end: (-end[0], end[1]))
        _log_ticks(ax, [p.l0 for p in drawn])
        legend(
            ax,
            [e[2] for e in ends],
            [e[1] for e in ends],
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            handlelength=2.5,
        )
    return ax


def frontier_panels(points: Sequence[FrontierLike]) -> tuple["Axes", ...]:
    """A figure with one `frontier` for each hook, in the order in which the hooks come, on common axes."""
    drawn = _drawable(points)
    hooks = list(dict.fromkeys(p.hook_name for p in drawn))
    curves = {p.curve for p in drawn}
    with own_settings():
        axes = new_axes(max(1, len(hooks)), 1, 6.4, 0.2 + 2.75 * max(1, len(hooks)), sharex=True, sharey=True)
        for ax, hook in zip(axes, hooks or [None], strict=True):
            frontier([p for p in drawn if p.hook_name == hook], ax, curves=sorted(curves))
            if hook is not None:
                ax.set_title(shown(hook, 60), parse_math=False)
                ax.tick_params(labelbottom=True)
        if drawn:
            _log_ticks(axes[0], [p.l0 for p in drawn])
    return tuple(axes)


def describe_frontier(points: Sequence[FrontierLike]) -> str:
    """`hook, curve: L0 63.5, EV 0.919; ...` of the points that are drawn."""
    said = (f"{p.hook_name}, {p.curve}: L0 {p.l0:.1f}, EV {p.explained_variance:.3f}" for p in _drawable(points))
    return "; ".join(said) or "No run with an L0 above 0."


def _drawable(points: Sequence[FrontierLike]) -> list[FrontierLike]:
    return [p for p in points if p.l0 > 0 and math.isfinite(p.l0) and math.isfinite(p.explained_variance)]


def _log_ticks(ax: "Axes", values: Sequence[float]) -> None:
    """A logarithmic axis with a few round numbers, however narrow it is."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    ax.set_xscale("log")
    decades = math.log10(max(values) / min(values))
    room = 10 ** max(0.06 * decades, 0.04)
    ax.set_xlim(min(values) / room, max(values) * room)
    if decades < 0.6:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1.3 else (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
        ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
