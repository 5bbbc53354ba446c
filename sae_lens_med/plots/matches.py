"""How many features of one dictionary are in another: the share matched, by how high r must be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import BLUE, GREEN, drawing, grid, ink, legend, new_axes, own_settings, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 44
_LOOKS = {
    "second": (BLUE, "-", 2.0),
    "seed": (GREEN, "-", 1.6),
    "shuffled": (None, "--", 1.2),
    "pca": (None, ":", 1.4),
}
"""Colour (None: ink), dashes and width by what is compared."""


class MatchRowLike(Protocol):
    """What is drawn of one comparison; `knowledge_map.MatchRow` has it."""

    @property
    def first(self) -> str: ...
    @property
    def second(self) -> str: ...
    @property
    def what(self) -> str:
        """`second`, `seed`, `shuffled` or `pca`."""
        ...

    @property
    def lexical(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def interval(self) -> Sequence[float]: ...
    @property
    def thresholds(self) -> Sequence[float]: ...
    @property
    def curve(self) -> Sequence[float]: ...
    @property
    def curve_low(self) -> Sequence[float]: ...
    @property
    def curve_high(self) -> Sequence[float]: ...
    @property
    def curve_null_high(self) -> Sequence[float]:
        """95 % quantile of the null."""
        ...


def match_curves(rows: Sequence[MatchRowLike], ax: "Axes | None" = None, *, matched: float = 0.7) -> "Axes":
    """The share of features with a partner against the r that it must have, a line for each of `rows`, those that are
    asked about with their 95 % intervals; the grey area is where shifted words lie, and `matched` is marked. Raises
    `DataError` without rows."""
    if not rows:
        raise DataError("a curve of matched features needs at least one row.")
    with drawing(ax, height=3.2, width=6.4) as ax:
        grid(ax, "both")
        handles = []
        for row in rows:
            colour, dashes, width = _LOOKS[row.what]
            (line,) = ax.plot(row.thresholds, row.curve, color=colour or ink(), linestyle=dashes, linewidth=width)
            if row.what in ("second", "seed"):
                ax.fill_between(row.thresholds, row.curve_low, row.curve_high, color=colour, alpha=0.18, linewidth=0)
                ax.fill_between(row.thresholds, 0, row.curve_null_high, color=ink(), alpha=0.1, linewidth=0)
            handles.append((line, shown(row.second, LABEL_CHARS)))
        ax.axvline(matched, color=ink(), linewidth=0.8, alpha=0.5)
        ax.set_xlim(min(rows[0].thresholds), max(rows[0].thresholds))
        ax.set_ylim(0, 1)
        ax.set_xlabel("r at words of other texts, at least")
        ax.set_ylabel("share of features")
        legend(ax, *zip(*handles, strict=True), loc="center left", bbox_to_anchor=(1.02, 0.5))
        return ax


def match_panels(rows: Sequence[MatchRowLike]) -> tuple["Axes", ...]:
    """A figure of `match_curves`: with lexical features, and below without. Raises `DataError` without rows."""
    kinds = [kind for kind in ("kept", "removed") if any(row.lexical == kind for row in rows)]
    if not kinds:
        raise DataError("a curve of matched features needs at least one row.")
    titles = {"kept": "all features", "removed": "without features of one word or token"}
    with own_settings():
        axes = new_axes(len(kinds), 1, 7.4, 0.2 + 3.0 * len(kinds), sharex=True)
        for ax, kind in zip(axes, kinds, strict=True):
            match_curves([row for row in rows if row.lexical == kind], ax)
            ax.set_title(titles[kind], parse_math=False)
    return tuple(axes)


def describe_matches(rows: Sequence[MatchRowLike], matched: float = 0.7) -> str:
    """The shares at r > `matched` in words."""
    said = (
        f"{row.first} and {row.second}, lexical features {row.lexical}: {row.share:.3f} "
        f"({row.interval[0]:.3f} to {row.interval[1]:.3f})"
        for row in rows
    )
    return f"Share of features with r > {matched}: {'; '.join(said)}."
