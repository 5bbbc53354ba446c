"""What training showed as it went: loss, L0, explained variance and dead features over the steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sae_lens_med.errors import DataError, nearest
from sae_lens_med.plots.style import BLUE, VERMILLION, drawing, grid, legend, new_axes, own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "loss": "loss",
    "l0": "L0 (active features a token)",
    "explained_variance": "explained variance (of the batch)",
    "dead_fraction": "dead features (share)",
}
"""Keys of a curve's points, and what they are."""


def training_curve(curve: Sequence[Mapping[str, float]], key: str = "loss", ax: "Axes | None" = None) -> "Axes":
    """One quantity over the steps.

    `curve` is what training wrote to `curve.json`: points with `step`, the keys of `PANELS` and, where dead features
    were revived, `revived`, their number. With `dead_fraction` dotted lines mark those steps. An empty curve gives
    empty axes. Raises `DataError` for another key.
    """
    if key not in PANELS:
        raise DataError(f"a training curve has no {key!r}{nearest(key, PANELS)}; it has {', '.join(PANELS)}.")
    with drawing(ax, height=2.0, width=6.4) as ax:
        grid(ax, "y")
        steps = [point["step"] for point in curve]
        ax.plot(steps, [point[key] for point in curve], color=BLUE, linewidth=1.6, label=key)
        ax.set_title(PANELS[key])
        ax.set_xlabel("training step")
        ax.set_xlim(0, max([*steps, 1]))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        if key == "dead_fraction" and (revived := [p["step"] for p in curve if p.get("revived")]):
            lines = [ax.axvline(step, color=VERMILLION, linewidth=1.5, linestyle=":") for step in revived]
            legend(ax, lines[:1], ["dead features revived"], loc="lower right", bbox_to_anchor=(1, 1))
    return ax


def training_panels(curve: Sequence[Mapping[str, float]]) -> tuple["Axes", ...]:
    """A figure with a `training_curve` for each key of `PANELS`, over the same steps."""
    with own_settings():
        axes = new_axes(len(PANELS), 1, 6.4, 1.65 * len(PANELS), sharex=True)
        for ax, key in zip(axes, PANELS, strict=True):
            training_curve(curve, key, ax)
            ax.label_outer()
    return tuple(axes)


def describe_training(curve: Sequence[Mapping[str, float]]) -> str:
    """The first and the last value of each quantity, and when dead features were revived."""
    if not curve:
        return "No step was recorded."
    first, last = curve[0], curve[-1]
    said = [f"{label} from {first[key]:.4g} to {last[key]:.4g}" for key, label in PANELS.items()]
    revived = [
        f"{point['revived']:,.0f} dead features revived at step {point['step']:,.0f}"
        for point in curve
        if point.get("revived")
    ]
    return f"Steps {first['step']:,.0f} to {last['step']:,.0f}: " + "; ".join([*said, *revived]) + "."
