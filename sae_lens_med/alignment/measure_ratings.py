"""Metric #15 as records: agreement of clinicians per axis, and each arm against shuffled rationales."""

from collections.abc import Sequence

import numpy as np

from sae_lens_med.alignment.ratings import ARMS, AXES, Rating, arm_contrast, axes_of, axis_agreement, read_ratings
from sae_lens_med.alignment.similarity import SMALL_N
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.inputs import Inputs, Measured
from sae_lens_med.records import MetricValue
from sae_lens_med.statistics import quantile_interval

ALPHA = "alignment/ratings_alpha"
KAPPA = "alignment/ratings_kappa"
CONTRAST = "alignment/ratings_contrast"


def measure_ratings(inputs: Inputs) -> Measured:
    """#15 of the file `inputs.ratings`. Raises `DataError` for a rating of an item that the study does not have."""
    if inputs.ratings is None:
        return Measured(notes=("There is no file of ratings.",))
    ratings = read_ratings(inputs.ratings)
    known = {item.id for item in inputs.items}
    for rating in ratings:
        if rating.item not in known:
            raise DataError(f"{inputs.ratings}: the item {rating.item!r} is none of the study's; mend its id.")
    metrics, notes = rating_metrics(ratings, draws=inputs.permutations, seed=inputs.seed)
    return Measured(metrics, notes)


def rating_metrics(
    ratings: Sequence[Rating], *, draws: int = 2000, seed: int = 0
) -> tuple[tuple[MetricValue, ...], tuple[str, ...]]:
    """Alpha per axis, kappa per pair of raters, contrast of each arm with `shuffled`; and what was not measured.

    Groups: `axis=AXIS`, `axis=AXIS raters=A,B`, `axis=AXIS arm=ARM`.
    """
    metrics: list[MetricValue] = []
    notes: list[str] = []
    arms = {rating.arm for rating in ratings}
    if "shuffled" not in arms:
        notes.append(
            "No shuffled rationales were rated: there is nothing that a rating of an arm can be compared with."
        )
    for number, axis in enumerate(axes_of(ratings)):
        rng = np.random.default_rng([seed, 15, number])
        found = axis_agreement(ratings, axis, draws, rng)
        if found.alpha is None:
            notes.append(f"Axis {axis}: nothing is rated twice, or all ratings are the same; alpha is not measured.")
        else:
            metrics.append(
                MetricValue(
                    name=ALPHA,
                    value=found.alpha,
                    range=(None, 1.0),
                    n=found.n_units,
                    unit="rationales",
                    null_mean=float(found.null.mean()),
                    null_interval=quantile_interval(found.null),
                    p=found.p,
                    group=f"axis={axis}",
                    variant="raters",
                    extra={"permutations": float(draws)},
                    notes="Krippendorff's alpha; null: each rater's ratings permuted among the rationales that he or "
                    "she rated" + _small(found.n_units),
                )
            )
        for kappa in found.kappas:
            if kappa.value is None:
                continue
            metrics.append(
                MetricValue(
                    name=KAPPA,
                    value=kappa.value,
                    range=(None, 1.0),
                    n=kappa.n,
                    unit="rationales",
                    null_mean=float(kappa.null.mean()),
                    null_interval=quantile_interval(kappa.null),
                    p=kappa.p,
                    group=f"axis={axis} raters={','.join(kappa.raters)}",
                    variant="raters",
                    extra={"permutations": float(draws)},
                    notes="Cohen's kappa; null: the second rater's ratings permuted" + _small(kappa.n),
                )
            )
        for arm in ARMS[:-1]:
            if arm not in arms or "shuffled" not in arms:
                continue
            contrast = arm_contrast(ratings, axis, arm, draws, rng)
            n = len(contrast.differences)
            if not n:
                notes.append(f"Axis {axis}: no rater rated {arm} and shuffled of the same item; they are not compared.")
                continue
            metrics.append(
                MetricValue(
                    name=CONTRAST,
                    value=contrast.value,
                    range=(-1.0, 1.0) if axis in AXES else (None, None),
                    n=n,
                    interval=contrast.interval(seed),
                    null_mean=float(contrast.null.mean()),
                    null_interval=quantile_interval(contrast.null),
                    p=contrast.p,
                    group=f"axis={axis} arm={arm}",
                    variant="raters",
                    extra={"permutations": float(draws)},
                    notes="Rating less the same rater's rating of a shuffled rationale, 1 the best; interval: "
                    "percentile bootstrap over items; null: random signs" + _small(n),
                )
            )
    return tuple(metrics), tuple(notes)


def _small(n: int) -> str:
    return f"; n = {n} is small, so this cannot carry a claim." if n < SMALL_N else "."
