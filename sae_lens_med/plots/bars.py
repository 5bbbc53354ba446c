"""How often each option letter is the gold answer, and how often the model says it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.style import AMBER, BLUE, drawing, grid, legend, shown, to_draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def letter_shares(
    labels: Sequence[str],
    gold: Sequence[float],
    predicted: Sequence[float],
    ax: "Axes | None" = None,
    *,
    language: Language = ENGLISH,
) -> "Axes":
    """Two horizontal bars for each of the k `labels`: its share of the items, in [0, 1], among the gold answers and
    among the predictions. Raises `DataError` when a share is missing or not finite."""
    shares = (to_draw(gold, "gold"), to_draw(predicted, "predicted"))
    places = np.arange(len(labels), dtype=np.float64)
    with drawing(ax, height=0.95 + 0.42 * len(labels)) as ax:
        grid(ax, "x")
        drawn = []
        for values, offset, colour, alpha in zip(shares, (-0.2, 0.2), (AMBER, BLUE), (0.55, 1.0), strict=True):
            bars = ax.barh(places + offset, values, 0.36, color=colour, alpha=alpha, linewidth=0)
            drawn.append(bars)
            for y, value in zip(places + offset, values, strict=True):
                ax.annotate(f"{value:.3f}", (value, y), (4, 0), textcoords="offset points", va="center", size=8)
        ax.set_yticks(places, [shown(label, 16) for label in labels], parse_math=False)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.set_xlim(0, 1.1 * max(0.05, *(float(values.max()) for values in shares)))
        ax.set_xlabel(language.text("share of items"))
        legend(ax, drawn, [language.text("gold answers"), language.text("predictions")], ncols=2)
    return ax


def describe_letter_shares(
    labels: Sequence[str], gold: Sequence[float], predicted: Sequence[float], *, language: Language = ENGLISH
) -> str:
    """`A: gold 0.200, predicted 0.310; ...`"""
    rows = zip(labels, gold, predicted, strict=True)
    said = language.text("{label}: gold {gold}, predicted {predicted}")
    return "; ".join(said.format(label=label, gold=f"{g:.3f}", predicted=f"{p:.3f}") for label, g, p in rows) + "."
