"""Results of several conditions on the same items -> numbers with their nulls.

Against plain (no intervention), item by item, over the n items with a known gold answer; an item without an answer
counts as wrong:

    accuracy           right / n                                          Wilson, 95 %
    McNemar's p        exact, two-sided, on the items that are right in one of the two only; `p_fdr` is adjusted over
                       the conditions of the run (Benjamini-Hochberg)
    margin             ln P(gold letter) - max over the other letters ln P(letter)       in nats
    margin_change      mean over items of margin - plain margin          bootstrap over items, 95 %

An intervention on features has a second null beside it: the same intervention on `n` random feature sets matched on
firing rate and mean activation. Where its own change lies among theirs is

    z  = (change - mean of theirs) / their standard deviation
    p  = (1 + #{sets at least as far from the mean of all n + 1}) / (n + 1)              two-sided, exact

so that 20 sets cannot give a p below 1/21. `p_fdr` is adjusted over the conditions with random sets.

Out of scope: running models (`conditions.run`), showing the numbers (`conditions.tables`, `conditions.plot`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.evaluation.conditions.spec import PLAIN, Condition
from sae_lens_med.records import OPTION_LETTERS, FloatArray, ItemResult, Provenance, Record
from sae_lens_med.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    mcnemar_exact,
    null_z,
    quantile_interval,
    two_sided_p,
    wilson_interval,
)

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Band(Record):
    """One change among the changes that matched random feature sets give."""

    mean: float
    """Of the random sets."""
    interval: Interval
    """2.5 % and 97.5 % quantiles of the random sets."""
    z: float | None
    """None with fewer than two sets, or sets that all give the same."""
    p: float
    """Two-sided, (1 + #) / (n + 1)."""
    p_fdr: float
    values: tuple[float, ...]
    """One per set."""


@dataclass(frozen=True, slots=True)
class RandomSets(Record):
    """The matched random feature sets of a condition, run by the same code."""

    _nested: ClassVar[dict[str, type[Record]]] = {"accuracy_change": Band, "margin_change": Band}

    sets: tuple[tuple[int, ...], ...]
    """Feature indices; the j-th of a set stands for the condition's j-th feature."""
    fold_median: float
    """Median factor (>= 1) by which a random feature differs from the one it stands for, in firing rate or mean
    activation, whichever differs more."""
    fold_max: float
    accuracy_change: Band
    margin_change: Band


@dataclass(frozen=True, slots=True)
class GroupResult(Record):
    """One condition on the items of one subject."""

    group: str
    """`subject=...`."""
    n: int
    accuracy: float
    accuracy_interval: Interval
    accuracy_change: float
    lost: int
    """Items right in plain and not here."""
    won: int
    p: float
    """McNemar, not adjusted."""
    margin_change: float
    margin_change_interval: Interval | None
    """None for one item."""


@dataclass(frozen=True, slots=True)
class ConditionResult(Record):
    """One condition on all items with a known gold answer."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "condition": Condition,
        "random": RandomSets,
        "by_subject": GroupResult,
    }

    condition: Condition
    n: int
    accuracy: float
    accuracy_interval: Interval
    unanswered: int
    accuracy_change: float
    """Accuracy - accuracy of plain; 0 for plain."""
    lost: int
    """Items right in plain and not here."""
    won: int
    """Items right here and not in plain."""
    flips: int
    """Items, gold known or not, whose prediction differs from plain's."""
    p: float
    """McNemar's exact p against plain, two-sided; 1 for plain."""
    p_fdr: float
    margin: float
    """Mean margin of the gold letter, nats."""
    margin_change: float
    margin_change_interval: Interval | None
    """None for one item."""
    firing_rates: tuple[float, ...] = ()
    """Per feature of the condition, the share of the tokens of the feature statistics at which it fires."""
    random: RandomSets | None = None
    """None for conditions that are not about features, or when no random sets were asked for."""
    by_subject: tuple[GroupResult, ...] = ()
    """Empty when all items are of one subject."""


@dataclass(frozen=True, slots=True)
class Flip(Record):
    """An item that a condition made the model answer otherwise."""

    condition: str
    id: str
    subject: str
    before: str | None
    """Prediction of plain; None for no answer."""
    after: str | None
    gold: str | None
    effect: str
    """`lost` (was right), `won` (is right now), `other`."""


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """Everything that a run of several conditions found."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "provenance": Provenance,
        "results": ConditionResult,
        "flips": Flip,
    }

    provenance: Provenance
    n_items: int
    n_gold: int
    """Items with a known gold answer: those that the numbers are about."""
    results: tuple[ConditionResult, ...]
    """Plain first, then in the order of the file."""
    flips: tuple[Flip, ...]
    statistics: dict[str, Any] = field(default_factory=dict)
    """Of the feature statistics, per SAE, where they were needed: tokens, exclusion rule, identity of the texts."""


@dataclass(frozen=True, slots=True, eq=False)
class ConditionRun:
    """What running one condition gave."""

    condition: Condition
    results: Sequence[ItemResult]
    random_sets: tuple[tuple[int, ...], ...] = ()
    random_results: Sequence[Sequence[ItemResult]] = ()
    """Per random set, the results on the same items."""
    fold: Sequence[float] = ()
    """Factors by which the random features differ from those they stand for, all sets together."""
    firing_rates: tuple[float, ...] = ()
    """Of the condition's features, in their order."""


def margins(results: Sequence[ItemResult]) -> FloatArray:
    """`[n]`: per result, the gold letter's log-probability minus that of the likeliest other letter, in nats.

    Raises `DataError` for a result without a gold letter or without log-probabilities.
    """
    found = np.empty(len(results))
    for i, result in enumerate(results):
        if result.gold is None or result.option_logprobs is None:
            raise DataError(f"result {result.id!r} has no gold letter or no log-probabilities, so it has no margin.")
        gold = OPTION_LETTERS.index(result.gold)
        others = [value for k, value in enumerate(result.option_logprobs) if k != gold]
        found[i] = result.option_logprobs[gold] - max(others)
    return found


def compare(
    ran: Sequence[ConditionRun],
    provenance: Provenance,
    *,
    statistics: Mapping[str, Any] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare conditions with plain, which is the first of `ran`; `statistics` is kept for the record.

    Raises `DataError` when the conditions are not over the same items in the same order, or no gold answer is known.
    """
    plain = ran[0]
    if plain.condition.kind != PLAIN:
        raise DataError("the first condition of a comparison must be the one without an intervention.")
    ids = [result.id for result in plain.results]
    for each in ran:
        for results in (each.results, *each.random_results):
            if [result.id for result in results] != ids:
                raise DataError(f"condition {each.condition.name!r} does not cover the same items as the plain one.")
    known = [i for i, result in enumerate(plain.results) if result.gold is not None]
    if not known:
        raise DataError("no item has a known gold answer, so there is nothing to compare.")
    found = [_result(each, plain, known, resamples, seed) for each in ran]
    return Comparison(
        provenance=provenance,
        n_items=len(ids),
        n_gold=len(known),
        results=tuple(_adjusted(found)),
        flips=tuple(flip for each in ran[1:] for flip in _flips(each, plain)),
        statistics=dict(statistics or {}),
    )


def _result(ran: ConditionRun, plain: ConditionRun, known: Sequence[int], resamples: int, seed: int) -> ConditionResult:
    own, base = [ran.results[i] for i in known], [plain.results[i] for i in known]
    whole = _group("all", own, base, resamples, seed)
    random = None
    if ran.random_results:
        sets = [[results[i] for i in known] for results in ran.random_results]
        right, base_margin = _right(base).mean(), margins(base)
        random = RandomSets(
            sets=ran.random_sets,
            fold_median=float(np.median(ran.fold)),
            fold_max=float(np.max(ran.fold)),
            accuracy_change=_band(whole.accuracy_change, [float(_right(s).mean() - right) for s in sets]),
            margin_change=_band(whole.margin_change, [float((margins(s) - base_margin).mean()) for s in sets]),
        )
    subjects = sorted({result.subject for result in own})
    groups = []
    for subject in subjects if len(subjects) > 1 else []:
        rows = [k for k, result in enumerate(own) if result.subject == subject]
        groups.append(_group(f"subject={subject}", [own[k] for k in rows], [base[k] for k in rows], resamples, seed))
    return ConditionResult(
        condition=ran.condition,
        n=len(own),
        accuracy=whole.accuracy,
        accuracy_interval=whole.accuracy_interval,
        unanswered=sum(result.prediction is None for result in own),
        accuracy_change=whole.accuracy_change,
        lost=whole.lost,
        won=whole.won,
        flips=len(_flips(ran, plain)),
        p=whole.p,
        p_fdr=whole.p,
        margin=float(margins(own).mean()),
        margin_change=whole.margin_change,
        margin_change_interval=whole.margin_change_interval,
        firing_rates=ran.firing_rates,
        random=random,
        by_subject=tuple(groups),
    )


def _group(name: str, own: Sequence[ItemResult], base: Sequence[ItemResult], resamples: int, seed: int) -> GroupResult:
    right, was_right = _right(own), _right(base)
    lost, won = int((was_right & ~right).sum()), int((right & ~was_right).sum())
    change = margins(own) - margins(base)
    n, k = len(own), int(right.sum())
    return GroupResult(
        group=name,
        n=n,
        accuracy=k / n,
        accuracy_interval=wilson_interval(k, n),
        accuracy_change=(won - lost) / n,
        lost=lost,
        won=won,
        p=mcnemar_exact(lost, won),
        margin_change=float(change.mean()),
        margin_change_interval=bootstrap_interval(change, resamples=resamples, seed=seed),
    )


def _band(observed: float, values: Sequence[float]) -> Band:
    p = two_sided_p(observed, values)
    return Band(
        mean=float(np.mean(values)),
        interval=quantile_interval(values),
        z=null_z(observed, values),
        p=p,
        p_fdr=p,
        values=tuple(values),
    )


def _adjusted(results: Sequence[ConditionResult]) -> list[ConditionResult]:
    """With `p_fdr` over the conditions beside plain, each kind of test for itself."""
    mcnemar = benjamini_hochberg([r.p for r in results[1:]]).tolist()
    out = [results[0], *(replace(r, p_fdr=p) for r, p in zip(results[1:], mcnemar, strict=True))]
    with_sets = [i for i, r in enumerate(out) if r.random is not None]
    for name in ("accuracy_change", "margin_change"):
        adjusted = benjamini_hochberg([getattr(out[i].random, name).p for i in with_sets]).tolist()
        for i, p in zip(with_sets, adjusted, strict=True):
            sets = out[i].random
            assert sets is not None  # chosen for it
            out[i] = replace(out[i], random=replace(sets, **{name: replace(getattr(sets, name), p_fdr=p)}))
    return out


def _flips(ran: ConditionRun, plain: ConditionRun) -> list[Flip]:
    found = []
    for own, base in zip(ran.results, plain.results, strict=True):
        if own.prediction != base.prediction:
            effect = "lost" if base.correct else "won" if own.correct else "other"
            found.append(
                Flip(ran.condition.name, own.id, own.subject, base.prediction, own.prediction, own.gold, effect)
            )
    return found


def _right(results: Sequence[ItemResult]) -> npt.NDArray[np.bool_]:
    return np.array([result.correct is True for result in results])
