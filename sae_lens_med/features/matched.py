"""Matched-random features of one text, and what a pooled number is among them.

`features.statistics.matched_sets` matches over a data set; what an ablation takes away from one answer depends on what
fires in that text. So for a feature that fires there, the candidates are the other features that fire there, and the
distance is Euclidean in four logarithms: its firing rate in the text and over the study, and its mean activation where
it fires in the text and over the study. 0.7 is a factor of 2 in one of them. Each given feature has the `pool` nearest
candidates; a set takes one of each pool, uniformly, none twice. Sets may repeat.

The features that a text is about are its strongest, and what resembles the strongest is on average weaker. So for each
set `SPARE` are drawn and the ones kept whose energy in the text (sum of squared activations over tokens and features)
is nearest to that of the given features, in logarithms: a set takes away about as much as they do.

`recombined`: an item has one outcome of its own features and S of random sets. If the own features could as well have
been any of the sets, each choice of one of the S + 1 outcomes per item is as likely as the one that was made, and so
the mean over items has a null of (S + 1)^n arrangements, of which B are drawn. A few sets per item thus make an exact
pooled null; the own outcome is one of the choices, so that p is not too small however small S is.

Out of scope: features that fire nowhere in the text (removing them changes nothing).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.vectors import n_columns
from sae_lens_med.records import BoolArray, FloatArray, IntArray

POOL = 20
"""Candidates for the place of each feature."""
SPARE = 20
"""Sets drawn for each that is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """How often and how strongly features fire over the tokens of a study."""

    rate: FloatArray
    """`[d_sae]`, share of tokens, in [0, 1]."""
    strength: FloatArray
    """`[d_sae]`, mean activation where it fires; 0 for a feature that never does."""


@dataclass(frozen=True, slots=True, eq=False)
class TextSets:
    """Random sets for the features of one text."""

    sets: IntArray
    """`[S, k]`; column j stands for the j-th given feature, so that the first columns match the first features."""
    fold: FloatArray
    """`[S, k]`, by which factor (>= 1) the drawn feature differs in the number that differs most of the four."""


def rates(acts: sparse.csr_array, tokens: BoolArray | None = None) -> Rates:
    """Of CSR activations `[n, d_sae]`, over the rows `tokens` (all when not given). Raises `DataError` without rows."""
    own = acts if tokens is None else acts[np.flatnonzero(tokens)]
    n, width = len(own.indptr) - 1, n_columns(acts)
    if n == 0:
        raise DataError("there are no tokens to measure firing rates over.")
    fires = own.data > 0
    count = np.bincount(own.indices[fires], minlength=width).astype(np.float64)
    total = np.bincount(own.indices[fires], weights=own.data[fires], minlength=width)
    return Rates(count / n, np.divide(total, count, out=np.zeros(width), where=count > 0))


def text_sets(
    acts: sparse.csr_array,
    features: IntArray,
    allowed: BoolArray,
    study: Rates,
    sets: int,
    rng: np.random.Generator,
    pool: int = POOL,
) -> TextSets | None:
    """Random sets for `features` in one text; see the module's text.

    Args:
        acts: CSR `[m, d_sae]`, activations at the text's tokens.
        features: distinct, each firing in the text.
        allowed: `[d_sae]`, what may be drawn; the given features never are.
        study: rates over the study. A feature that fires here and not there counts as firing there once in 10^9.
        sets: S >= 1.
        rng: the same state gives the same sets.
        pool: candidates for each feature, >= 1; at least k are taken.

    None where fewer than k candidates fire in the text. Raises `ConfigError` for S or pool below 1, `DataError` for a
    feature that does not fire.
    """
    given = np.asarray(features, dtype=np.int64)
    if sets < 1 or pool < 1:
        raise ConfigError(f"matched-random sets need sets >= 1 and pool >= 1, got {sets} and {pool}.")
    here = rates(acts)
    if (here.rate[given] == 0).any():
        raise DataError(f"features {given[here.rate[given] == 0].tolist()} do not fire in the text.")
    free = allowed & (here.rate > 0)
    free[given] = False
    candidates = np.flatnonzero(free)
    if len(candidates) < len(given):
        return None
    place = np.log(
        np.maximum(np.stack([here.rate, here.strength, study.rate, study.strength], axis=1), 1e-9, dtype=np.float64)
    )
    size = min(max(pool, len(given)), len(candidates))
    distance = np.linalg.norm(place[given][:, None] - place[candidates][None], axis=-1)
    pools = candidates[np.argsort(distance, axis=1, kind="stable")[:, :size]]
    drawn = np.empty((SPARE * sets, len(given)), dtype=np.int64)
    for s in range(len(drawn)):
        taken: set[int] = set()
        for j, row in enumerate(pools):
            open_to = [f for f in row.tolist() if f not in taken] if taken else row.tolist()
            drawn[s, j] = open_to[int(rng.integers(len(open_to)))]
            taken.add(int(drawn[s, j]))
    energy = np.bincount(acts.indices, weights=acts.data**2, minlength=len(here.rate))
    nearness = np.abs(np.log(energy[drawn].sum(axis=1) / energy[given].sum()))
    drawn = drawn[np.sort(np.argsort(nearness, kind="stable")[:sets])]
    fold = np.exp(np.abs(place[drawn] - place[given][None]).max(axis=-1))
    return TextSets(drawn, fold)


def recombined(own: FloatArray, sets: FloatArray, draws: int, rng: np.random.Generator) -> FloatArray:
    """`[draws, n, ...]`: in each draw one outcome per item, uniformly of its own (`own` `[n, ...]`) and those of its
    random sets (`sets` `[S, n, ...]`). Raises `DataError` for shapes that do not go together or no set."""
    mine, random = np.asarray(own, np.float64), np.asarray(sets, np.float64)
    if random.ndim != mine.ndim + 1 or random.shape[1:] != mine.shape or len(random) == 0:
        raise DataError(
            f"outcomes have shape {mine.shape}, but those of the random sets {random.shape}; expected (S, "
            f"*{mine.shape})."
        )
    every = np.concatenate([mine[None], random])
    choice = rng.integers(len(every), size=(draws, len(mine)))
    return every[choice, np.arange(len(mine))[None]]
