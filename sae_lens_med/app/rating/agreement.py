"""What the ratings of a study say so far, for whoever runs it: agreement, contrast with shuffled texts, lengths.

The numbers are those of `alignment.ratings`, of the rows that the export has. This page names the arms.

Out of scope: correction for several tests, and what may be concluded (`align --ratings`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from sae_lens_med.alignment.ratings import CONTRAST, KAPPA, KRIPPENDORFF, rating_metrics
from sae_lens_med.alignment.ratings_file import ARMS, ratings_of
from sae_lens_med.app.rating.desk import RaterProgress
from sae_lens_med.app.rating.units import Units
from sae_lens_med.records import MetricValue, Record

DRAWS = 500
"""Of the nulls on the page, which is looked at while it waits; `align` draws as many as it is told."""


@dataclass(frozen=True, slots=True)
class ArmCount(Record):
    """What is rated of an arm."""

    arm: str
    units: int
    length: float | None
    """Median characters of its texts; None without any."""
    left_out: dict[str, int]
    """Reason -> cases of the draw without it."""


@dataclass(frozen=True, slots=True)
class AxisValue(Record):
    """A number on one axis."""

    _nested: ClassVar[dict[str, type[Record]]] = {"value": MetricValue}

    axis: str
    of: str
    """Empty for alpha; the two raters of a kappa; the arm of a contrast."""
    value: MetricValue


@dataclass(frozen=True, slots=True)
class Agreement(Record):
    """What the ratings say."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "arms": ArmCount,
        "raters": RaterProgress,
        "alphas": AxisValue,
        "kappas": AxisValue,
        "contrasts": AxisValue,
    }

    ratings: int
    arms: tuple[ArmCount, ...]
    raters: tuple[RaterProgress, ...]
    alphas: tuple[AxisValue, ...] = ()
    kappas: tuple[AxisValue, ...] = ()
    contrasts: tuple[AxisValue, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not measured and why, one sentence each."""


def measure_agreement(
    rows: Sequence[Mapping[str, str]], units: Units | None, raters: Sequence[RaterProgress]
) -> Agreement:
    """Of the rows of an export. Seeded: the same rows give the same numbers."""
    arms = tuple(_count(units, arm) for arm in ARMS)
    if not rows:
        return Agreement(0, arms, tuple(raters))
    metrics, notes = rating_metrics(ratings_of(rows, "ratings"), draws=DRAWS)
    found: dict[str, list[AxisValue]] = {KRIPPENDORFF: [], KAPPA: [], CONTRAST: []}
    for value in metrics:
        parts = re.fullmatch(r"axis=(\w+)(?: (?:raters|arm)=(.*))?", value.group)
        assert parts is not None  # the groups of `rating_metrics`
        found[value.name].append(AxisValue(parts[1], parts[2] or "", value))
    return Agreement(
        len(rows), arms, tuple(raters), tuple(found[KRIPPENDORFF]), tuple(found[KAPPA]), tuple(found[CONTRAST]), notes
    )


def _count(units: Units | None, arm: str) -> ArmCount:
    texts = [] if units is None else [unit.text for unit in units.units if unit.arm == arm]
    left_out = {} if units is None else units.left_out.get(arm, {})
    return ArmCount(arm, len(texts), median(map(len, texts)) if texts else None, left_out)
