"""The features of 55 real cases, without their texts, and effects drawn for them: studies in which the aligned features
have nothing to do with the answer.

`fixtures/casimedicos_drives.safetensors` holds, for the English development cases of CasiMedicos (CC BY 4.0), the
activations of the packaged SAE of gemma-3-270m, layer 9, summed over the counted tokens of each question, in units of
a token's median norm over the square root of its width (below 0.2 left out), and the 80 best aligned features of each
case. What a feature does in an item is drawn, never measured:

    independent        for every feature and item alike, heavy tails (t with 3 degrees of freedom)
    feature            once for each feature, in all its items (log-normal, either sign)
    mixed              the sum of both
    growing            unsigned, heavy tails, times the feature's drive in the item
    growing_feature    one size for each feature, times its drive in the item

each times a sensitivity of the item (log-normal).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from scipy import sparse

from sae_lens_med.features.stand_ins import StandIns, stand_ins
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.metrics.settings import MetricSettings

Array = np.ndarray

SIZES = MetricSettings().causal_sizes
DRAWS = 199
KINDS = ("independent", "feature", "mixed", "growing", "growing_feature")
FILE = Path(__file__).parent / "fixtures" / "casimedicos_drives.safetensors"


@dataclass(frozen=True, eq=False)
class RealStudy:
    """The cases."""

    drive: sparse.csr_array
    """`[n, d_sae]`."""
    own: tuple[Array, ...]
    """Per case, its 80 aligned features, best first."""

    @cached_property
    def item(self) -> Array:
        """`[nnz]`, the case of each value of `drive`."""
        return np.repeat(np.arange(len(self.own)), np.diff(self.drive.indptr))

    @cached_property
    def place(self) -> Array:
        """`[n, d_sae]`, which value of `drive` a case and a feature have."""
        found = np.full((len(self.own), n_columns(self.drive)), -1)
        found[self.item, self.drive.indices] = np.arange(self.drive.nnz)
        return found

    def at(self, sets: Sequence[Array]) -> Array:
        """`[..., n, k]`: the values of `drive` of sets of features `[..., k]`, one entry per case."""
        return np.stack([self.place[i][each] for i, each in enumerate(sets)], axis=-2)


@cache
def real_study() -> RealStudy:
    """From the file."""
    with safe_open(FILE, "np") as file:
        shape = len(file.get_tensor("indptr")) - 1, int(file.metadata()["d_sae"])
        parts = [file.get_tensor(name) for name in ("drive", "feature", "indptr")]
        drive = sparse.csr_array((parts[0].astype(float), parts[1].astype(np.int64), parts[2]), shape)
        return RealStudy(drive, tuple(file.get_tensor("aligned").astype(np.int64)))


@cache
def choices(n: int = 5) -> list[StandIns]:
    """`n` choices of stand-ins for the aligned features."""
    study = real_study()
    return [stand_ins(study.drive, study.own, SIZES, DRAWS, np.random.default_rng(seed)) for seed in range(n)]


def effects(kind: str, rng: np.random.Generator, at: Array | slice = slice(None)) -> Array:
    """`[nnz]`, for every value of `drive`, of one null study; or for the values `at` alone."""
    study = real_study()
    feature, drive, item = study.drive.indices[at], study.drive.data[at], study.item[at]
    alone, of_feature = np.zeros(len(item)), np.zeros(len(item))
    if kind in ("independent", "mixed", "growing"):
        alone = rng.standard_normal(len(item)) / np.sqrt(rng.chisquare(3, len(item)) / 3)
    if kind in ("feature", "mixed", "growing_feature"):
        d_sae = n_columns(study.drive)
        each = np.exp(rng.normal(size=d_sae)) * rng.choice([-1.0, 1.0], size=d_sae)
        of_feature = each[feature]
    drawn = alone + of_feature
    if kind.startswith("growing"):
        drawn = np.abs(drawn) * drive
    return drawn * np.exp(0.7 * rng.normal(size=len(study.own)))[item]
