"""Results -> accuracy, with its interval, its chance level and what a letter bias alone would give.

Accuracy is the share of right answers among items with a known gold answer; an item without an answer counts as wrong.
Interval: Wilson, 95 %. Two nulls stand beside it:

- **guessing**: each item is right with probability 1 / (number of its options), independently. The number right is then
  Poisson-binomial (binomial where all items have equally many options); `null_mean` is the mean of 1 / options, and `p`
  the exact one-sided probability of at least as many right answers.
- **letter bias**: the same predicted letters, redistributed among the items with equally many options. `letter_null`
  is the mean over all such permutations and `letter_p` the permutation p. A model that always says "A" has an accuracy
  equal to `letter_null`, whatever guessing gives. Not given by gold letter, where every permutation is the same.

Where the method generates, `accuracy_paper` says the same of the letters that the paper's extraction cascade finds in
the same texts (`ItemResult.paper_prediction`); `accuracy` is by the strict extractor.

`majority_letter` is the accuracy of always giving the letter that is most often gold (chosen on these same items).

Out of scope: calibration, and clustering of items (several questions on one case).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.records import (
    OPTION_LETTERS,
    BoolArray,
    FloatArray,
    ItemResult,
    McqItem,
    MetricValue,
    require_options,
)
from sae_lens_med.statistics import (
    SMALL_N,
    coarsen_strata,
    permutation_p,
    stratified_permutations,
    wilson_interval,
)

ACCURACY = "accuracy"
ACCURACY_PAPER = "accuracy_paper"


def accuracy_metrics(
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    *,
    groups: Mapping[str, BoolArray] | None = None,
    variant: str = "model",
    permutations: int = 2000,
    seed: int = 0,
    extractors: Sequence[str] = (ACCURACY,),
) -> list[MetricValue]:
    """`accuracy` for `all`, each of `groups` (`[n_items]` bool), each `subject=...` and each `gold=...` letter.

    `variant` is `model`, or `sae` where an SAE's reconstruction took the place of an activation. `extractors` are
    `ACCURACY`, `ACCURACY_PAPER` or both, in the order wanted. Groups without a single item of known gold answer give no
    metric.

    Raises `DataError` when items and results do not belong together or a group has the wrong length.
    """
    if [item.id for item in items] != [result.id for result in results]:
        raise DataError("results and items must be the same, in the same order, to be summarised.")
    require_options(items, "accuracy")
    everything = np.ones(len(items), dtype=bool)
    wanted: dict[str, BoolArray] = {"all": everything}
    for name, chosen in (groups or {}).items():
        if np.shape(chosen) != (len(items),):
            raise DataError(
                f"group {name!r} has shape {np.shape(chosen)}, expected ({len(items)},): one bool per item."
            )
        wanted.setdefault(name, np.asarray(chosen, dtype=bool))
    for subject in sorted({item.subject for item in items}):
        wanted[f"subject={subject}"] = np.array([item.subject == subject for item in items])
    for letter in sorted({item.gold_letter for item in items if item.gold_letter is not None}):
        wanted[f"gold={letter}"] = np.array([item.gold_letter == letter for item in items])
    metrics = []
    for extractor in extractors:
        for name, chosen in wanted.items():
            rows = np.flatnonzero(chosen).tolist()
            metric = _accuracy(
                [items[i] for i in rows],
                [results[i] for i in rows],
                extractor=extractor,
                group=name,
                variant=variant,
                permutations=permutations,
                seed=seed,
            )
            if metric is not None:
                metrics.append(metric)
    return metrics


def reason_counts(results: Sequence[ItemResult]) -> dict[str, int]:
    """How many results have no prediction, by reason, the commonest first."""
    return dict(Counter(result.reason for result in results if result.reason is not None).most_common())


def guessing_distribution(option_counts: Sequence[int]) -> FloatArray:
    """`[n + 1]`: the probability of k = 0 ... n right answers when every item is guessed among its options."""
    from scipy.stats import binom  # importing it takes a second

    pmf = np.ones(1)
    for options, n in sorted(Counter(option_counts).items()):
        pmf = np.convolve(pmf, binom.pmf(np.arange(n + 1), n, 1 / options))
    return pmf


def _accuracy(
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    *,
    extractor: str,
    group: str,
    variant: str,
    permutations: int,
    seed: int,
) -> MetricValue | None:
    scored = [(item, result) for item, result in zip(items, results, strict=True) if item.answer is not None]
    if not scored:
        return None
    n = len(scored)
    counts = [len(item.options) for item, _ in scored]
    chance = float(np.mean([1 / k for k in counts]))
    pmf = guessing_distribution(counts)
    cumulative = np.cumsum(pmf)
    low, high = (int(np.searchsorted(cumulative, q)) / n for q in (0.025, 0.975))
    gold = np.array([item.answer for item, _ in scored])
    letters = [result.paper_prediction if extractor == ACCURACY_PAPER else result.prediction for _, result in scored]
    predicted = np.array([-1 if letter is None else OPTION_LETTERS.index(letter) for letter in letters])
    right = int(np.count_nonzero(predicted == gold))
    extra = {
        "chance": chance,
        "correct": float(right),
        "unanswered": float(np.count_nonzero(predicted < 0)),
    }
    if extractor == ACCURACY:
        extra |= {f"unanswered_{k}": float(v) for k, v in reason_counts([result for _, result in scored]).items()}
    if not group.startswith("gold="):
        extra["majority_letter"] = max(Counter(gold.tolist()).values()) / n
        extra |= _letter_null(gold, predicted, counts, permutations, seed)
    if group in ("all", "left_out", "trained_on"):
        for i in range(max(counts)):
            extra[f"predicted_{OPTION_LETTERS[i]}"] = float(np.mean(predicted == i))
    return MetricValue(
        name=extractor,
        value=right / n,
        range=(0.0, 1.0),
        n=n,
        interval=wilson_interval(right, n),
        null_mean=chance,
        null_interval=(low, high),
        p=min(1.0, float(pmf[right:].sum())),
        group=group,
        variant=variant,
        masked={"gold_unknown": len(items) - n},
        extra=extra,
        notes=_notes(n, len(set(counts)) > 1),
    )


def _letter_null(
    gold: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], counts: Sequence[int], permutations: int, seed: int
) -> dict[str, float]:
    strata = coarsen_strata([(k,) for k in counts])
    rows = stratified_permutations(strata, permutations, np.random.default_rng(seed))
    null = (predicted[rows] == gold).mean(axis=1)
    # The mean over all permutations: within a stratum each item gets each prediction equally often.
    expected = np.count_nonzero((predicted == gold) & ~strata.exchangeable)
    for members in strata.members():
        own, other = gold[members], predicted[members]
        expected = expected + sum(np.count_nonzero(other == g) for g in own) / len(members)
    observed = float((predicted == gold).mean())
    return {
        "letter_null": float(expected) / len(gold),
        "letter_p": permutation_p(observed, null),
        "permutations": float(permutations),
    }


def _notes(n: int, mixed: bool) -> str:
    law = "Poisson-binomial, because the numbers of options differ" if mixed else "binomial"
    few = f" Only {n} items: the interval is wide." if n < SMALL_N else ""
    return (
        f"Interval: Wilson, 95 %. Null and p: exact, every item guessed among its options ({law}). letter_null and "
        f"letter_p: the same predicted letters permuted over the items.{few}"
    )
