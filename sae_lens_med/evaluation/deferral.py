"""Is a model right more often where its samples agree? Accuracy when the least confident items are left to a human.

Of n scored items the m most confident are retained and the others deferred. Items of equal confidence, of which there
are many (11 samples give 12 values), are deferred in random order; what is given is the mean over all orders, so it is
exact and needs no seed.

Null: as many items deferred at random, whatever the confidence. The number right among m retained is then
hypergeometric, with the overall accuracy as its mean. One number for the whole curve, `deferral_area`: the mean of the
retained accuracy over m = 1 ... n; its null redistributes the confidences among the items of a subject, so that a
subject which is easy and on which the model is confident does not make a result.

An item without an answer counts as wrong, as everywhere. Arrays and records only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_med.records import FloatArray, ItemResult, MetricValue, Record
from sae_lens_med.statistics import (
    coarsen_strata,
    harmonic_numbers,
    permutation_p,
    quantile_interval,
    stratified_permutations,
)

AREA = "deferral_area"
STEPS = 20
"""Points of the curve: 0, 5 %, ... 95 % deferred."""


@dataclass(frozen=True, slots=True)
class DeferralPoint(Record):
    """Accuracy when a share of the items, the least confident ones, is deferred."""

    deferred: float
    """Share of the items, in [0, 1)."""
    n: int
    """Items retained, >= 1."""
    least_confidence: float
    """Of the retained items, in [0, 1]."""
    accuracy: float
    """Of the retained items; the mean over the orders of items of equal confidence."""
    null_mean: float
    """Accuracy when as many items are deferred at random."""
    null_interval: tuple[float, float]
    """2.5 % and 97.5 % quantiles of that."""


def deferral_curve(results: Sequence[ItemResult]) -> list[DeferralPoint]:
    """The curve at 0, 5 %, ... 95 % deferred, over the results with a gold answer and a confidence.

    Empty without such results. A point that would retain as many items as the one before is left out.
    """
    from scipy.stats import hypergeom  # importing it takes a second

    confidence, right, _ = _scored(results)
    n = len(right)
    points: list[DeferralPoint] = []
    if n == 0:
        return points
    expected = np.cumsum(_expected(confidence, right))
    ordered = np.sort(confidence)[::-1]
    total = int(right.sum())
    for step in range(STEPS):
        kept = n - (n * step) // STEPS
        if points and points[-1].n == kept:
            continue
        low, high = (float(q) / kept for q in hypergeom.ppf([0.025, 0.975], n, total, kept))
        points.append(
            DeferralPoint(
                deferred=(n - kept) / n,
                n=kept,
                least_confidence=float(ordered[kept - 1]),
                accuracy=float(expected[kept - 1]) / kept,
                null_mean=total / n,
                null_interval=(low, high),
            )
        )
    return points


def deferral_area(
    results: Sequence[ItemResult], *, variant: str = "model", permutations: int = 2000, seed: int = 0
) -> MetricValue | None:
    """The mean accuracy over the whole curve, with its null. None without scored results that have a confidence."""
    confidence, right, subjects = _scored(results)
    n = len(right)
    if n == 0:
        return None
    weights = _weights(confidence)
    area = float(weights @ right)
    strata = coarsen_strata([(subject,) for subject in subjects])
    rows = stratified_permutations(strata, permutations, np.random.default_rng(seed))
    null = (right[rows] * weights).sum(axis=1)
    accuracy = float(right.mean())
    return MetricValue(
        name=AREA,
        value=area,
        range=(0.0, 1.0),
        n=n,
        null_mean=float(null.mean()),
        null_interval=quantile_interval(null),
        p=permutation_p(area, null),
        variant=variant,
        masked={"gold_unknown": sum(r.correct is None for r in results)},
        extra={
            "accuracy": accuracy,
            "permutations": float(permutations),
            "not_exchangeable": float(np.count_nonzero(~strata.exchangeable)),
        },
        notes=(
            "Mean accuracy of the retained items over all shares deferred, least confident first. Null and p: "
            "confidences permuted within the subject; accuracy is what deferring at random gives."
        ),
    )


def deferral_csv(points: Sequence[DeferralPoint]) -> str:
    """The curve as a table."""
    lines = ["deferred,n,least_confidence,accuracy,null_mean,null_low,null_high"]
    for point in points:
        values = (point.least_confidence, point.accuracy, point.null_mean, *point.null_interval)
        lines.append(",".join([f"{point.deferred:.4f}", str(point.n), *(f"{value:.6f}" for value in values)]))
    return "\n".join(lines) + "\n"


def _scored(results: Sequence[ItemResult]) -> tuple[FloatArray, FloatArray, list[str]]:
    """Confidence, right (0 or 1) and subject of the results that count."""
    chosen = [r for r in results if r.correct is not None and r.confidence is not None]
    confidence = np.array([r.confidence for r in chosen], dtype=np.float64)
    return confidence, np.array([float(bool(r.correct)) for r in chosen]), [r.subject for r in chosen]


def _expected(confidence: FloatArray, right: FloatArray) -> FloatArray:
    """`[n]`: the chance that the item at each rank, most confident first, is right; equal confidences share it."""
    _, inverse, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(inverse, weights=right, minlength=len(counts)) / counts
    return np.repeat(share, counts)


def _weights(confidence: FloatArray) -> FloatArray:
    """`[n]`, sum 1: what each item counts in the area. The item at rank j is among the m most confident for every
    m >= j, and counts 1/m there."""
    n = len(confidence)
    harmonic = harmonic_numbers(n)
    by_rank = (harmonic[-1] - harmonic[:-1]) / n
    _, inverse, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    sums = np.concatenate([[0.0], np.cumsum(by_rank)])
    return ((sums[ends] - sums[ends - counts]) / counts)[inverse]
