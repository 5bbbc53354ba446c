"""How many labels of concepts a dictionary has a feature for, against what as many features would have by chance.

    features at the last token of a concept's name, mean over its templates -> [n_concepts, d], per domain and language
    label of a set (system, specialty, mechanism) -> AUROC of each feature: do concepts with the label have more of it?

The best feature of a label is the best of all d, and more features have a better best of nothing. So the null is of the
best, too: labels permuted over the concepts of the domain, the largest AUROC over the features each time, at this very
dictionary (Westfall and Young 1993). A label is *covered* where p < 0.05: a dictionary that knows nothing covers 5 % of
the labels, whatever its size. The interval of the share is Wilson's; labels of one domain share concepts and are not
independent, so it is too narrow rather than too wide.

Arrays only. Out of scope: which of the features carry a label (they are named, not tested one by one), and spelling:
names of a mechanism share stems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.features import auroc_of_ranks, ranks
from sae_lens_med.records import FloatArray, Record
from sae_lens_med.statistics import ALPHA, permutation_p, wilson_interval

LEAST_CONCEPTS = 4
"""With a label, and without it."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptFeatures:
    """One domain in one language."""

    domain: str
    language: str
    features: FloatArray
    """`[n_concepts, d]`, >= 0."""
    labels: dict[str, tuple[str, ...]]
    """Label set -> label of each concept."""


@dataclass(frozen=True, slots=True)
class LabelCoverage(Record):
    """The best feature of one label."""

    domain: str
    language: str
    labels: str
    """The label set."""
    label: str
    n: int
    """Concepts with the label."""
    n_others: int
    feature: int
    auroc: float
    null_mean: float
    """Of the best AUROC over all features under permuted labels."""
    null_high: float
    """95 % quantile."""
    p: float

    @property
    def covered(self) -> bool:
        """p below 0.05."""
        return self.p < ALPHA


@dataclass(frozen=True, slots=True)
class Coverage(Record):
    """Of one dictionary."""

    n: int
    """Labels."""
    n_covered: int
    share: float
    interval: tuple[float, float]
    chance: float
    """The share that a dictionary which knows nothing covers."""
    n_features: int
    """That are not the same for all concepts, in some domain."""
    mean_auroc: float
    mean_null: float
    """Of the best AUROC: it rises with the number of features."""


def label_coverage(
    blocks: Sequence[ConceptFeatures], permutations: int, rng: np.random.Generator
) -> list[LabelCoverage]:
    """Every label with concepts enough. Raises `DataError` where there is none."""
    found: list[LabelCoverage] = []
    for block in blocks:
        n = len(block.features)
        varies = np.flatnonzero(np.ptp(block.features, axis=0) > 0)
        ranked = ranks(block.features[:, varies])
        nulls: dict[int, FloatArray] = {}
        for labels, of_concepts in block.labels.items():
            for label in dict.fromkeys(of_concepts):
                has = np.array([each == label for each in of_concepts])
                positive = int(has.sum())
                if positive < LEAST_CONCEPTS or n - positive < LEAST_CONCEPTS:
                    continue
                if positive not in nulls:  # a permuted label is any set of as many concepts
                    nulls[positive] = _best_of_nothing(ranked, positive, permutations, rng)
                scores = auroc_of_ranks(ranked, has[None])[0]
                best = int(np.argmax(scores)) if len(scores) else -1
                value, null = (float(scores[best]) if len(scores) else 0.5), nulls[positive]
                found.append(
                    LabelCoverage(
                        domain=block.domain,
                        language=block.language,
                        labels=labels,
                        label=label,
                        n=positive,
                        n_others=n - positive,
                        feature=int(varies[best]) if len(scores) else -1,
                        auroc=value,
                        null_mean=float(null.mean()),
                        null_high=float(np.quantile(null, 0.95)),
                        p=permutation_p(value, null),
                    )
                )
    if not found:
        raise DataError(f"no label belongs to {LEAST_CONCEPTS} concepts or more, and not to as many others.")
    return found


def coverage(rows: Sequence[LabelCoverage], blocks: Sequence[ConceptFeatures]) -> Coverage:
    """The share of the labels that are covered."""
    covered = sum(row.covered for row in rows)
    varies = np.logical_or.reduce([np.ptp(block.features, axis=0) > 0 for block in blocks])
    return Coverage(
        n=len(rows),
        n_covered=covered,
        share=covered / len(rows),
        interval=wilson_interval(covered, len(rows)),
        chance=ALPHA,
        n_features=int(varies.sum()),
        mean_auroc=float(np.mean([row.auroc for row in rows])),
        mean_null=float(np.mean([row.null_mean for row in rows])),
    )


def _best_of_nothing(ranked: FloatArray, positive: int, permutations: int, rng: np.random.Generator) -> FloatArray:
    """`[permutations]`: the largest AUROC over the columns for as many concepts, drawn at random."""
    if not ranked.shape[1]:
        return np.full(permutations, 0.5)
    chosen = np.zeros((permutations, len(ranked)), dtype=bool)
    drawn = rng.permuted(np.tile(np.arange(len(ranked)), (permutations, 1)), axis=1)[:, :positive]
    np.put_along_axis(chosen, drawn, True, axis=1)
    return auroc_of_ranks(ranked, chosen).max(axis=1)
