"""Which feature carries which label, in which language: one cell a label, the number of its best feature in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.plots.style import drawing, hatch, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_CHARS = 44


class FeatureRowLike(Protocol):
    """What is drawn of a feature; `knowledge_map.features.FeatureRow` has it."""

    @property
    def name(self) -> str:
        """Of the label."""
        ...

    @property
    def language(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def sae(self) -> str: ...
    @property
    def feature(self) -> int: ...
    @property
    def auroc(self) -> float:
        """Held out, 0 to 1."""
        ...

    @property
    def stands_out(self) -> bool: ...


def carried_labels(rows: Sequence[FeatureRowLike], ax: "Axes | None" = None) -> "Axes":
    """Labels from top to bottom; from left to right the languages, and across them, at each depth. The colour is the
    held-out AUROC from 0.5 to 1 of the best feature, whose number is in the cell; cells in which none stands out are
    hatched, and cells without a feature are empty. Raises `DataError` without rows.
    """
    if not rows:
        raise DataError("a map of features needs at least one row to draw.")
    best = _best(rows)
    names = list(dict.fromkeys(row.name for row in rows))
    columns = list(dict.fromkeys((row.sae, row.depth, row.language) for row in rows))
    values = np.full((len(names), len(columns)), np.nan)
    for (name, column), row in best.items():
        values[names.index(name), columns.index(column)] = row.auroc
    with drawing(ax, height=1.1 + 0.24 * len(names), width=3.6 + 0.62 * len(columns)) as ax:
        ax.imshow(values, aspect="auto", cmap="Blues", vmin=0.5, vmax=1.0)
        for (name, column), row in best.items():
            x, y = columns.index(column), names.index(name)
            dark = row.auroc > 0.8
            if not row.stands_out:
                hatch(ax, x, x, y, dark=dark)
            colour = "white" if dark else "#1f2328"
            ax.text(x, y, str(row.feature), ha="center", va="center", size=7, color=colour)
        ax.set_yticks(range(len(names)), [shown(name, LABEL_CHARS) for name in names])
        several = len({column[:2] for column in columns}) > 1
        said = [language.replace("-", "→") + (f"\n{depth}" if several else "") for _, depth, language in columns]
        ax.set_xticks(range(len(columns)), said)
        depths = ", ".join(str(depth) for depth in dict.fromkeys(depth for _, depth, _ in columns))
        ax.set_xlabel(f"language, chosen → tested{'; depth below' if several else f' (depth {depths})'}")
        return ax


def describe_carried(rows: Sequence[FeatureRowLike]) -> str:
    """The same in words: the labels that a feature carries, in each language."""
    best = _best(rows)
    said = []
    for (name, (_, depth, language)), row in best.items():
        how = "stands out" if row.stands_out else "does not stand out"
        said.append(f"{name} ({language}, depth {depth}): feature {row.feature}, AUROC {row.auroc:.2f}, {how}.")
    return " ".join(said)


def _best(rows: Sequence[FeatureRowLike]) -> dict[tuple[str, tuple[str, int, str]], FeatureRowLike]:
    """Of each cell the feature that stands out, or else any, with the largest AUROC."""
    best: dict[tuple[str, tuple[str, int, str]], FeatureRowLike] = {}
    for row in sorted(rows, key=lambda row: (not row.stands_out, -row.auroc)):
        best.setdefault((row.name, (row.sae, row.depth, row.language)), row)
    order = {(row.name, (row.sae, row.depth, row.language)): None for row in rows}
    return {key: best[key] for key in order}
