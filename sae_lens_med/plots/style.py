"""What the figures share: a figure of their own where none is given, colours, and text that stays text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, AMBER = "#1F83C9", "#D55E00", "#009E73", "#B5588F", "#B8860B"
"""After Okabe and Ito; blue is lighter, purple and amber are darker than theirs, so that all have a contrast of at
least 3 on white and on a dark page."""

WIDTH = 5.0
"""Inches of a figure with one column; with text of 10 points it is readable on a telephone."""

_FAMILIES = ("axes", "errorbar", "figure", "font", "grid", "hatch", "legend", "lines", "markers", "patch", "path")
_FAMILIES = (*_FAMILIES, "savefig", "scatter", "text", "xaxis", "xtick", "yaxis", "ytick")
_OWN = {
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.parse_math": False,
}


@contextmanager
def own_settings() -> Iterator[None]:
    """matplotlib's defaults and the package's, whatever the user's own settings are, while the block runs."""
    import matplotlib

    defaults: Any = matplotlib.rcParamsDefault
    settings: Any = {key: defaults[key] for key in defaults if key.split(".")[0] in _FAMILIES} | _OWN
    with matplotlib.rc_context(settings):
        yield


@contextmanager
def drawing(ax: "Axes | None", height: float, width: float = WIDTH) -> Iterator["Axes"]:
    """The axes to draw on: `ax`, in the user's settings, or new ones on a figure of `width` x `height` inches."""
    if ax is not None:
        yield ax
        return
    with own_settings():
        yield new_axes(1, 1, width, height)[0]


def new_axes(rows: int, columns: int, width: float, height: float, **subplots: Any) -> list["Axes"]:
    """Axes on a new figure that `pyplot` does not know, row by row; to be called in `own_settings`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)
    for ax in found:
        # Ticks are made when they are drawn, in the settings of then: they are given what holds now.
        ax.tick_params(which="both", colors=ink(), labelsize=9)
    return found


def figure_of(ax: "Axes") -> "Figure":
    """The whole figure that `ax` is on."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise DataError("these axes were removed from their figure; draw again.")
    return figure


def ink() -> str:
    """The colour of text: black, or what the user's settings say. `markup.svg` lets black follow the page."""
    import matplotlib

    return matplotlib.rcParams["text.color"]


def grid(ax: "Axes", axis: str) -> None:
    """Faint lines behind the data, along the ticks of `axis` (`x`, `y` or `both`)."""
    ax.grid(axis=axis, color=ink(), alpha=0.15, linewidth=0.6)  # type: ignore[arg-type]  # one of three


def hatch(ax: "Axes", first: float, last: float, y: float, *, dark: bool = False) -> None:
    """Hatch the cells from `first` to `last` in row `y` of a map, each one unit wide; `dark`: on a dark colour. Cells
    have the same colours on every page, so the hatch does not follow the page."""
    edge: dict[str, Any] = {"edgecolor": "white", "alpha": 0.6} if dark else {"edgecolor": "#333333", "alpha": 0.45}
    ax.fill_between([first - 0.5, last + 0.5], y - 0.5, y + 0.5, hatch="////", facecolor="none", linewidth=0, **edge)


def legend(ax: "Axes", handles: Sequence[Any], labels: Sequence[str], **where: Any) -> None:
    """A legend without a frame; by default above the axes."""
    placed = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2} | where
    made = ax.legend(list(handles), [shown(label) for label in labels], frameon=False, **placed)
    for text in made.get_texts():
        text.set_parse_math(False)


def shown(text: str, limit: int | None = None) -> str:
    """`text` on one line, as it can be drawn: control characters and lone surrogates replaced, cut at `limit`."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def signed(value: float) -> str:
    """Four decimals, or two significant digits of what they would hide."""
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def to_draw(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """`values` as a float array `[n]`. Raises `DataError` when it is empty, has another shape, or is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise DataError(f"{name} must be a list of at least one finite number to be drawn, not of shape {array.shape}.")
    return array
