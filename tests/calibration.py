"""How often a p value may be at or below 0.05 when there is nothing to find, and over how many null studies it is held.

A test that takes `studies` from `TIERS` runs over 500 null studies, and over 1,000 in the slow tier (`-m slow`): the
same code, the same seeds and 500 more.

A p value is a fraction of B + 1, so that "p <= 0.05" with B = 99 rejects 5 of 100 times. Where a statistic ties with
its null (hits among the first k, agreement in few grades) p is conservative by design; there the plain p must not
exceed the band, and p with ties broken at random must lie in it.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from sae_lens_med.statistics import permutation_p

Array = np.ndarray
ALPHA, B = 0.05, 99
FAST = 500
TIERS = (FAST, pytest.param(1000, marks=pytest.mark.slow))
"""For `pytest.mark.parametrize("studies", TIERS)`."""

Found = dict[str, tuple[float, Array]]
"""Name -> value and null."""
Values = dict[str, tuple[float, float]]
"""Name -> p: plain, and with ties broken at random."""


def band(studies: int) -> tuple[float, float]:
    """Binomial 99 % band of the share of rejections; (0.026, 0.076) of 500, (0.033, 0.069) of 1,000."""
    low, high = stats.binom.interval(0.99, studies, ALPHA)
    return float(low) / studies, float(high) / studies


def rejects(p: npt.ArrayLike) -> Array:
    """p <= 0.05, whatever rounding makes of 5 / 100."""
    return np.asarray(p) <= ALPHA + 1e-12


def rejected(study: Callable[[int], Values], studies: int) -> dict[str, tuple[float, float]]:
    """Share of the studies of seeds 0, 1, ... with p <= 0.05 by name: plain, and with ties broken at random."""
    found = [study(seed) for seed in range(studies)]
    return {name: tuple(rejects(np.array([each[name] for each in found])).mean(axis=0).tolist()) for name in found[0]}


def p_values(found: Mapping[str, tuple[float, Array]], rng: np.random.Generator) -> Values:
    """Of values and their nulls."""
    return {name: (permutation_p(value, null), _random_ties(value, null, rng)) for name, (value, null) in found.items()}


def _random_ties(observed: float, null: Array, rng: np.random.Generator) -> float:
    """p with ties broken at random: uniform on {1/(B+1), ..., 1} under the null whatever ties."""
    tolerance = 1e-9 * max(1.0, abs(observed))
    above = int((null > observed + tolerance).sum())
    tied = int((np.abs(null - observed) <= tolerance).sum())
    return (above + 1 + int(rng.integers(0, tied + 1))) / (len(null) + 1)
