"""A knowledge map: read-outs by depth, one row each, hatched where they do not stand out from their controls."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.style import drawing, hatch, ink, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 44
_MOST = 6.0
"""Standard deviations of the null at which the colour is full."""


class MapRowLike(Protocol):
    """What is drawn of one read-out; `knowledge_map.MapRow` has it."""

    @property
    def name(self) -> str: ...
    @property
    def values(self) -> Sequence[float]:
        """By depth, embedding first."""
        ...

    @property
    def null_mean(self) -> Sequence[float]: ...
    @property
    def null_high(self) -> Sequence[float]:
        """95 % quantile."""
        ...

    @property
    def stands_out(self) -> Sequence[bool]: ...


def layer_map(rows: Sequence[MapRowLike], ax: "Axes | None" = None, *, language: Language = ENGLISH) -> "Axes":
    """Depths from left (the embedding) to right, a row for each read-out. The colour is how far the value lies above
    the mean of its label null, in units of the distance from there to the null's 95 % quantile; cells that do not
    stand out from every control are hatched. Raises `DataError` without rows, or for rows of different depths.
    """
    if not rows:
        raise DataError("a map needs at least one row to draw.")
    if len({len(row.values) for row in rows}) > 1:
        raise DataError("the rows of a map are of one model, and have as many depths.")
    depths = len(rows[0].values)
    with drawing(ax, height=0.9 + 0.26 * len(rows), width=3.4 + 0.24 * depths) as ax:
        above = _above(rows)
        edges = np.arange(depths + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
        # Cells, not pixels: a browser would smooth an image, and a strict page shows none.
        ax.pcolormesh(*edges, above, cmap="Blues", vmin=0, vmax=_MOST, edgecolors="white", linewidth=0.4)
        ax.set_xlim(edges[0][0], edges[0][-1])
        ax.set_ylim(edges[1][-1], edges[1][0])
        for y, row in enumerate(rows):
            for x in range(depths):
                if not row.stands_out[x]:
                    hatch(ax, x, x, y, dark=above[y, x] > _MOST / 2)
        ax.set_yticks(range(len(rows)), [shown(row.name, LABEL_CHARS) for row in rows])
        ax.set_xticks(range(0, depths, max(1, depths // 9)))
        ax.set_xlabel(language.text("depth (0: embedding)"))
        return ax


class AgreementLike(Protocol):
    """What is drawn of one domain in one language; `knowledge_map.combined.Agreement` has it."""

    @property
    def domain(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def counts(self) -> Sequence[int]:
        """Methods by depth, embedding first."""
        ...

    @property
    def segments(self) -> Sequence[tuple[int, int]]:
        """Runs of depths on which more methods agree than by chance."""
        ...


def agreement_map(found: Sequence[AgreementLike], ax: "Axes | None" = None) -> "Axes":
    """Depths from left (the embedding) to right, a row for each domain and language: the number of methods that pass.
    Rows on which no more agree than by chance are hatched. Raises `DataError` without rows, or for rows of different
    depths."""
    if not found or len({len(each.counts) for each in found}) > 1:
        raise DataError("a map of agreement needs rows of one model, with as many depths.")
    counts = np.array([each.counts for each in found])
    with drawing(ax, height=0.9 + 0.26 * len(found), width=3.4 + 0.24 * counts.shape[1]) as ax:
        ax.imshow(counts, aspect="auto", cmap="Blues", vmin=0, vmax=4)
        for y, each in enumerate(found):
            if not each.segments:
                hatch(ax, 0, counts.shape[1] - 1, y)
            for x in np.flatnonzero(counts[y]).tolist():
                ax.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=7,
                        color="white" if counts[y, x] > 2 else ink())  # fmt: skip
        ax.set_yticks(range(len(found)), [f"{each.domain} ({each.language})" for each in found])
        ax.set_xticks(range(0, counts.shape[1], max(1, counts.shape[1] // 9)))
        ax.set_xlabel("depth (0: embedding)")
        return ax


def describe_agreement(found: Sequence[AgreementLike]) -> str:
    """The same in words."""
    return " ".join(
        f"{each.domain} ({each.language}): "
        + (
            "methods agree at depth " + ", ".join(f"{a} to {b}" for a, b in each.segments)
            if each.segments
            else "methods agree no more than by chance"
        )
        + "."
        for each in found
    )


def describe_map(rows: Sequence[MapRowLike], *, language: Language = ENGLISH) -> str:
    """The same in words: the depths at which each read-out stands out."""
    said = []
    for row in rows:
        at = [str(depth) for depth, out in enumerate(row.stands_out) if out]
        best = int(np.argmax(row.values))
        values = {"name": row.name, "depths": ", ".join(at), "value": f"{row.values[best]:.3f}", "best": best}
        somewhere = language.text("{name}: stands out at depth {depths}; largest {value} at depth {best}.")
        nowhere = language.text("{name}: stands out nowhere; largest {value} at depth {best}.")
        said.append((somewhere if at else nowhere).format(**values))
    return " ".join(said)


def _above(rows: Sequence[MapRowLike]) -> np.ndarray:
    values, mean, high = (
        np.array([getattr(row, name) for row in rows], dtype=np.float64)
        for name in ("values", "null_mean", "null_high")
    )
    spread = high - mean
    return np.clip(np.divide(values - mean, spread, out=np.zeros_like(values), where=spread > 0), 0, _MOST)
