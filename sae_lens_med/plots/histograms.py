"""Similarity to the own explanation and to others, and an observed value among the values of its null."""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.style import BLUE, VERMILLION, drawing, ink, legend, signed, to_draw
from sae_lens_med.records import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def similarity_histogram(
    matched: npt.ArrayLike, mismatched: npt.ArrayLike, ax: "Axes | None" = None, *, language: Language = ENGLISH
) -> "Axes":
    """Histograms over the same bins of two arrays `[n]`: each item's similarity to its own explanation, and its mean
    similarity to the other explanations.

    Bars show the share of items in a bin; a vertical line marks each mean. Raises `DataError` without values.
    """
    own, others = to_draw(matched, "matched"), to_draw(mismatched, "mismatched")
    low, high = _limits(np.concatenate([own, others]))
    edges = np.linspace(low, high, int(np.clip(math.isqrt(len(own)) * 2, 8, 32)) + 1)
    with drawing(ax, height=2.9) as ax:
        handles, labels = [], []
        for name, values, colour, alpha, dashes in (
            ("own explanation: mean {value}", own, BLUE, 0.4, "-"),
            ("other explanations (mean): mean {value}", others, VERMILLION, 0.25, "--"),
        ):
            share = np.histogram(values, edges)[0] / len(values)
            handles.append(ax.stairs(share, edges, fill=True, color=colour, alpha=alpha, linewidth=0))
            ax.stairs(share, edges, color=colour, linewidth=1)
            mean = float(values.mean())
            ax.axvline(mean, color=colour, linewidth=2, linestyle=dashes)
            labels.append(language.text(name).format(value=signed(mean)))
        ax.set_xlim(low, high)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(language.text("similarity of question and explanation"))
        ax.set_ylabel(language.text("share of items"), rotation_mode="anchor")
        legend(ax, handles, labels)
    return ax


def describe_similarity_histogram(
    matched: npt.ArrayLike, mismatched: npt.ArrayLike, *, language: Language = ENGLISH
) -> str:
    """Number of items, the two means and the ends of the axis."""
    own, others = to_draw(matched, "matched"), to_draw(mismatched, "mismatched")
    low, high = _limits(np.concatenate([own, others]))
    return language.text(
        "{n} items. Mean similarity to the own explanation {own}, to the other explanations {others}; horizontal axis "
        "from {low} to {high}."
    ).format(
        n=len(own),
        own=signed(float(own.mean())),
        others=signed(float(others.mean())),
        low=signed(low),
        high=signed(high),
    )


def null_histogram(
    null: npt.ArrayLike,
    observed: float,
    ax: "Axes | None" = None,
    *,
    xlabel: str = "mean difference under the null",
    language: Language = ENGLISH,
) -> "Axes":
    """Histogram of the null's values (array `[B]`), a grey band over their central 95 %, and a line at `observed`.

    Raises `DataError` without values, or when `observed` is not finite.
    """
    values = to_draw(null, "null")
    low, high = _limits(np.append(values, to_draw([observed], "observed")))
    edges = np.linspace(low, high, int(np.clip(math.isqrt(len(values)), 12, 40)) + 1)
    q_low, q_high = _central(values)
    with drawing(ax, height=2.9) as ax:
        band = ax.axvspan(q_low, q_high, color=ink(), alpha=0.14, linewidth=0)
        counts = np.histogram(values, edges)[0]
        ax.stairs(counts, edges, fill=True, color=VERMILLION, alpha=0.35, linewidth=0)
        ax.stairs(counts, edges, color=VERMILLION, linewidth=1)
        line = ax.axvline(observed, color=BLUE, linewidth=2.5)
        ax.set_xlim(low, high)
        ax.set_ylim(bottom=0)
        ax.set_xlabel(language.name(xlabel))
        ax.set_ylabel(language.text("permutations"), rotation_mode="anchor")
        within = language.text("95 % of the null: {low} to {high}").format(low=signed(q_low), high=signed(q_high))
        legend(ax, [line, band], [language.text("observed: {value}").format(value=signed(observed)), within])
    return ax


def describe_null_histogram(null: npt.ArrayLike, observed: float, *, language: Language = ENGLISH) -> str:
    """Number of permutations, where 95 % of them lie, the observed value, and how many reach it."""
    values = to_draw(null, "null")
    low, high = _central(values)
    return language.text(
        "{n} permutations; 95 % of the null lies between {low} and {high}; the observed value is {observed}, and "
        "{reach} permutations reach it."
    ).format(
        n=len(values),
        low=signed(low),
        high=signed(high),
        observed=signed(observed),
        reach=int((values >= observed).sum()),
    )


def _central(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    # A histogram of equal values still needs a width.
    margin = (high - low) * 0.04 or max(abs(low) * 0.1, 1e-3)
    return low - margin, high + margin
