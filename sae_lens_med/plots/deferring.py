"""Accuracy when the least confident items are left to a human, beside leaving items at random."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sae_lens_med.errors import DataError
from sae_lens_med.languages import ENGLISH, Language
from sae_lens_med.plots.style import BLUE, drawing, grid, ink, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DeferralLike(Protocol):
    """What is drawn of one share deferred; `evaluation.deferral.DeferralPoint` has it."""

    @property
    def deferred(self) -> float:
        """Share of the items, in [0, 1)."""
        ...

    @property
    def n(self) -> int:
        """Items retained."""
        ...

    @property
    def accuracy(self) -> float:
        """Of the retained items."""
        ...

    @property
    def null_mean(self) -> float:
        """When as many are deferred at random."""
        ...

    @property
    def null_interval(self) -> tuple[float, float]: ...


def deferral(points: Sequence[DeferralLike], ax: "Axes | None" = None, *, language: Language = ENGLISH) -> "Axes":
    """Accuracy of the retained items against the share deferred, both on [0, 1], over the mean and the central 95 % of
    deferring at random. Raises `DataError` without points."""
    _require(points)
    with drawing(ax, height=3.2) as ax:
        grid(ax, "y")
        at = [p.deferred for p in points]
        low, high = zip(*(p.null_interval for p in points), strict=True)
        band = ax.fill_between(at, low, high, color=ink(), alpha=0.16, linewidth=0)
        (mean,) = ax.plot(at, [p.null_mean for p in points], color=ink(), alpha=0.6, linestyle="--")
        accuracy = [p.accuracy for p in points]
        (own,) = ax.plot(at, accuracy, color=BLUE, marker="o", markersize=4, linewidth=1.8, clip_on=False)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        ax.set_xlabel(language.text("share of items deferred"))
        ax.set_ylabel(language.text("accuracy of the retained items"), rotation_mode="anchor")
        labels = [language.text("least confident deferred"), language.text("deferred at random: mean and 95 %")]
        legend(ax, [own, (band, mean)], labels)
    return ax


def describe_deferral(points: Sequence[DeferralLike], *, language: Language = ENGLISH) -> str:
    """The ends of the curve, and what deferring at random gives."""
    _require(points)
    first, last = points[0], points[-1]
    return language.text(
        "{n} items. Accuracy {first} with none deferred, {last} on the {kept} most confident; deferring at random "
        "{null}."
    ).format(
        n=first.n,
        first=f"{first.accuracy:.3f}",
        last=f"{last.accuracy:.3f}",
        kept=last.n,
        null=f"{first.null_mean:.3f}",
    )


def _require(points: Sequence[DeferralLike]) -> None:
    if not points:
        raise DataError("a deferral curve needs scored items that have a confidence.")
