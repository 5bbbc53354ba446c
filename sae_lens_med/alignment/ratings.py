"""Do clinicians agree on rationales, and prefer the true ones to shuffled ones? (domain metric #15)

Per axis of a file of ratings (`ratings_file`). Levels are spread evenly over [0, 1], worst to best. Units are pairs of
item and arm.
- Krippendorff's alpha over all raters: ordinal for levels, interval for numbers.
- Cohen's kappa per pair of raters on the units that both rated: quadratic weights, unweighted for two levels.
- **contrast** of each arm with `shuffled`: per item the mean over raters of own rating less the same rater's rating of
  the shuffled rationale; sign-flip null over items (`paired`). A rationale whose content does not matter has 0: raters
  who like the style of an arm like it shuffled, too.

**Interval** of alpha and kappa: percentile bootstrap over units, 1,000 resamples, as in Med-PaLM; a resample in which
all paired ratings are the same has 0, as in the null.

**Null** of alpha and kappa: a rater's ratings permuted among the units that he or she rated (`agreement`). Agreement
that comes from the arms alone (all prefer the expert) counts as agreement.

Out of scope: adjusting for raters' severity, and power.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from sae_lens_med.alignment.agreement import (
    Level,
    Weighting,
    cohen_kappa,
    cohen_kappa_drawn,
    cohen_kappa_null,
    krippendorff_alpha,
    krippendorff_alpha_drawn,
    krippendorff_alpha_null,
)
from sae_lens_med.alignment.ratings_file import ARMS, AXES, Arm, Rating, read_ratings
from sae_lens_med.errors import DataError
from sae_lens_med.metrics.depends import on_controls, on_ratings
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few
from sae_lens_med.records import FloatArray, IntArray, MetricValue
from sae_lens_med.statistics import (
    PairedContrast,
    Strata,
    bootstrap_interval,
    paired_contrast,
    permutation_p,
    quantile_interval,
    stratified_permutations,
)

KRIPPENDORFF = "alignment/ratings_alpha"
KAPPA = "alignment/ratings_kappa"
CONTRAST = "alignment/ratings_contrast"
RESAMPLES = 1000
"""Of the bootstrap of alpha and kappa."""


@dataclass(frozen=True, slots=True, eq=False)
class PairKappa:
    """Cohen's kappa of two raters on one axis."""

    raters: tuple[str, str]
    n: int
    """Units that both rated."""
    value: float | None
    """None where both gave one and the same rating throughout."""
    null: FloatArray
    """`[B]`."""
    interval: tuple[float, float] | None
    """95 %; None without a value."""

    @property
    def p(self) -> float | None:
        """One-sided; None without a value."""
        return None if self.value is None else permutation_p(self.value, self.null)


@dataclass(frozen=True, slots=True, eq=False)
class AxisAgreement:
    """How the raters agree on one axis."""

    axis: str
    alpha: float | None
    """At most 1; None where nothing is rated twice or all ratings are the same."""
    null: FloatArray
    """`[B]`, of alpha."""
    n_units: int
    """(item, arm) with two ratings or more."""
    kappas: tuple[PairKappa, ...]
    interval: tuple[float, float] | None
    """95 %, of alpha; None without it, or for fewer than two units."""

    @property
    def p(self) -> float | None:
        """One-sided, of alpha; None without it."""
        return None if self.alpha is None else permutation_p(self.alpha, self.null)


def measure_ratings(inputs: Inputs) -> Measured:
    """Of the file `inputs.ratings`. Raises `DataError` for a rating of an item that the study does not have."""
    if inputs.ratings is None:
        return Measured(notes=("There is no file of ratings.",))
    ratings = read_ratings(inputs.ratings)
    known = {item.id for item in inputs.items}
    for rating in ratings:
        if rating.item not in known:
            raise DataError(f"{inputs.ratings}: the item {rating.item!r} is not one of the study's; correct its id.")
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
        found = axis_agreement(ratings, axis, draws, rng, seed)
        if found.alpha is None:
            notes.append(f"Axis {axis}: nothing is rated twice, or all ratings are the same; alpha is not measured.")
        else:
            metrics.append(
                MetricValue(
                    name=KRIPPENDORFF,
                    value=found.alpha,
                    range=(None, 1.0),
                    n=found.n_units,
                    unit="rationales",
                    interval=found.interval,
                    null_mean=float(found.null.mean()),
                    null_interval=quantile_interval(found.null),
                    p=found.p,
                    group=f"axis={axis}",
                    variant="raters",
                    extra={"permutations": float(draws)},
                    notes="Krippendorff's alpha; interval: percentile bootstrap over rationales; null: each rater's "
                    "ratings permuted among the rationales that he or she rated" + few(found.n_units),
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
                    interval=kappa.interval,
                    null_mean=float(kappa.null.mean()),
                    null_interval=quantile_interval(kappa.null),
                    p=kappa.p,
                    group=f"axis={axis} raters={','.join(kappa.raters)}",
                    variant="raters",
                    extra={"permutations": float(draws)},
                    notes="Cohen's kappa; interval: percentile bootstrap over rationales; null: the second rater's "
                    "ratings permuted" + few(kappa.n),
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
                    "percentile bootstrap over items; null: random signs" + few(n),
                )
            )
    return tuple(metrics), tuple(notes)


def axes_of(ratings: Sequence[Rating]) -> tuple[str, ...]:
    """The axes that appear, in the order of `AXES`, then others by name."""
    found = {rating.axis for rating in ratings}
    return (*(axis for axis in AXES if axis in found), *sorted(found - set(AXES)))


def axis_agreement(
    ratings: Sequence[Rating], axis: str, draws: int, rng: np.random.Generator, seed: int = 0
) -> AxisAgreement:
    """Alpha over all raters and kappa of each pair on one axis, with intervals by `seed`: see the module's text."""
    raters, table = _table(ratings, axis)
    levels = AXES.get(axis)
    level: Level = "interval" if levels is None else "ordinal"
    weighting: Weighting = "none" if levels is not None and len(levels) == 2 else "quadratic"
    kappas = []
    for a, b in combinations(range(len(raters)), 2):
        both = np.isfinite(table[a]) & np.isfinite(table[b])
        n = int(both.sum())
        if n < 2:
            continue
        drawn = stratified_permutations(Strata(np.zeros(n, np.int64), np.zeros(n, np.int64)), draws, rng)
        first, second = table[a, both], table[b, both]
        kappa, null = cohen_kappa(first, second, weighting), cohen_kappa_null(first, second, drawn, weighting)
        interval = None
        if kappa is not None:
            interval = _over_units(n, partial(cohen_kappa_drawn, first, second, weighting=weighting), seed)
        kappas.append(PairKappa((raters[a], raters[b]), n, kappa, null, interval))
    alpha = krippendorff_alpha(table, level)
    paired = table[:, np.isfinite(table).sum(axis=0) >= 2]
    return AxisAgreement(
        axis=axis,
        alpha=alpha,
        null=krippendorff_alpha_null(table, draws, rng, level),
        n_units=paired.shape[1],
        kappas=tuple(kappas),
        interval=None
        if alpha is None
        else _over_units(paired.shape[1], partial(krippendorff_alpha_drawn, paired, level=level), seed),
    )


def arm_contrast(
    ratings: Sequence[Rating], axis: str, arm: Arm, draws: int, rng: np.random.Generator, against: Arm = "shuffled"
) -> PairedContrast:
    """`arm` less `against` on one axis, per item: see the module's text. Items that no rater rated in both are left
    out; without any the contrast has no differences and p = 1."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for rating in ratings:
        if rating.axis == axis and rating.arm in (arm, against):
            found.setdefault((rating.item, rating.rater), {})[rating.arm] = rating.value
    by_item: dict[str, list[float]] = {}
    for (item, _), arms in found.items():
        if len(arms) == 2:
            by_item.setdefault(item, []).append(arms[arm] - arms[against])
    return paired_contrast([float(np.mean(by_item[item])) for item in sorted(by_item)], draws, rng)


def _over_units(n: int, of_drawn: Callable[[IntArray], FloatArray], seed: int) -> tuple[float, float] | None:
    """The interval of what `of_drawn` gives of units that are drawn; see the module's text."""
    return bootstrap_interval(
        np.arange(n), statistic=lambda drawn: of_drawn(drawn.astype(np.int64)), resamples=RESAMPLES, seed=seed
    )


def _table(ratings: Sequence[Rating], axis: str) -> tuple[list[str], FloatArray]:
    """The raters, and `[raters, units]` with NaN where a rater did not rate a unit."""
    own = [rating for rating in ratings if rating.axis == axis]
    raters = sorted({rating.rater for rating in own})
    units = sorted({(rating.item, rating.arm) for rating in own})
    table = np.full((len(raters), len(units)), np.nan)
    rater_at, unit_at = {r: i for i, r in enumerate(raters)}, {u: i for i, u in enumerate(units)}
    for rating in own:
        table[rater_at[rating.rater], unit_at[rating.item, rating.arm]] = rating.value
    return raters, table


RATINGS = Metric(
    name="ratings",
    number=15,
    family="readout",
    title="Clinicians' ratings",
    meaning="How well raters agree (Cohen's kappa, Krippendorff's alpha), and whether they prefer the true rationale "
    "to a shuffled one.",
    range=(None, 1.0),
    null="Ratings permuted among items; the arm of shuffled rationales.",
    needs=("ratings",),
    source="Singhal et al. 2023; Cohen 1960; Krippendorff 2011",
    values=("alignment/ratings",),
    confirmatory=("alignment/ratings_contrast",),
    claims={
        "alignment/ratings_contrast": Claim(
            may=Sentence(
                "raters tell the true rationales from shuffled ones", "평가자가 실제 근거를 섞인 근거와 구별한다"
            ),
            may_not=Sentence("the rationale is what the model did", "그 근거가 모델이 실제로 한 일이다"),
            floor=0.1,
            least=0.0,
        )
    },
    depends_on=(on_controls, on_ratings),
    measure=measure_ratings,
)
