"""A paired difference over items and its sign-flip null, for everything that has two values of each item.

    d_i = a_i - b_i,    value = mean_i d_i,    null: mean_i s_i d_i with s_i = 1 or -1, each with probability 1/2

Exact where, without an effect, a and b of an item could as well change places (Fisher 1935; Good 2005). One-sided:
large values count. Items with d_i = 0 stay in the mean and say nothing either way.

Out of scope: differences between different items (there is then nothing to pair).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import FloatArray
from sae_lens_med.statistics import bootstrap_interval, permutation_p

_CHUNK = 4_000_000
"""Signs held at once."""


@dataclass(frozen=True, slots=True, eq=False)
class PairedContrast:
    """The mean of paired differences beside its null."""

    differences: FloatArray
    """`[n]`."""
    null: FloatArray
    """`[B]`, the mean under random signs; zeros without items."""

    @property
    def value(self) -> float:
        """Mean difference; 0 without items."""
        return float(self.differences.mean()) if len(self.differences) else 0.0

    @property
    def p(self) -> float:
        """One-sided, `(1 + #{null >= value}) / (B + 1)`; 1 without items."""
        return permutation_p(self.value, self.null)

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap over items; None for fewer than two."""
        return bootstrap_interval(self.differences, seed=seed)


def paired_contrast(differences: npt.ArrayLike, draws: int, rng: np.random.Generator) -> PairedContrast:
    """`differences` `[n]` with B = `draws` draws of signs: see the module's text.

    Raises `DataError` for values that are not finite or not one number per item, `ConfigError` when B < 1.
    """
    array = np.asarray(differences, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataError(f"paired differences must be one finite number per item, got an array of shape {array.shape}.")
    if draws < 1:
        raise ConfigError(f"a sign-flip null needs at least one draw, got {draws}.")
    null = np.zeros(draws)
    if len(array):
        step = max(1, _CHUNK // len(array))
        for start in range(0, draws, step):
            n = min(step, draws - start)
            null[start : start + n] = (rng.integers(0, 2, size=(n, len(array)), dtype=np.int8) * 2.0 - 1.0) @ array
        null /= len(array)
    return PairedContrast(array, null)
