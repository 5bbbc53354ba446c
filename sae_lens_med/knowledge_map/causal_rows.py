"""What lesion, saliency and patching gave of a domain -> its rows of the map.

Lesion and saliency are compared with plain statements (no medicine) in the same texts: the value (`relative`) is

    lesion        mean over medical pairs - mean over plain ones
    saliency      log2 of the mean share of a block's gradient, medical over plain, shares below `FLOOR` as `FLOOR`

and the null permutes over the statements of each text which of them are medical; p is one-sided, more in medical ones.
Beside it stands (`raw`) the value of medical pairs alone, with that of plain pairs as control. Statements are the unit,
not texts: two texts say nothing about how another one would do.

Patching's value is the median P over pairs (`patching`), its control the same of plain pairs, with an interval of the
difference (`MapRow.over_plain`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_lens_med.knowledge_map.geometry import Tested
from sae_lens_med.knowledge_map.lists import LanguageCode
from sae_lens_med.knowledge_map.measure import MapRow, numbers
from sae_lens_med.knowledge_map.patching import SETS, Patched, tested
from sae_lens_med.records import BoolArray, FloatArray
from sae_lens_med.statistics import coarsen_strata, quantile_interval, stratified_permutations

SALIENCY = ("saliency", "saliency_weighted")
LESION = ("lesion_kl", "lesion_margin", "lesion_flips")
FLOOR = 1e-4
"""Of a share: less is not told from none."""
LEAST_PAIRS = 3
"""In each frame."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """What one method gave of one domain in one language, of one model."""

    values: FloatArray
    """`[medical pairs + plain pairs, depth, read-outs]`."""
    medical: BoolArray
    """`[pairs]`."""
    texts: tuple[str, ...]
    """Of each pair."""


def lesion_rows(
    domain: str,
    language: LanguageCode,
    model: Frames,
    random: Sequence[Frames],
    permutations: int,
    rng: np.random.Generator,
) -> list[MapRow]:
    """Relative and raw rows of `LESION`; `Frames.values` as `lesion.lesions` gives them."""
    return _rows(domain, language, LESION, model, random, _less, permutations, rng)


def saliency_rows(
    domain: str,
    language: LanguageCode,
    model: Frames,
    random: Sequence[Frames],
    permutations: int,
    rng: np.random.Generator,
) -> list[MapRow]:
    """Relative and raw rows of `SALIENCY`; `Frames.values` as `saliency.saliencies` gives them."""
    return _rows(domain, language, SALIENCY, _shared(model), [*map(_shared, random)], _times, permutations, rng)


def patching_rows(
    domain: str,
    language: LanguageCode,
    model: Patched,
    plain: Patched,
    random: Sequence[Patched],
    permutations: int,
    rng: np.random.Generator,
) -> list[MapRow]:
    """`patching_concept` and `patching_last`; none where fewer than `LEAST_PAIRS` pairs count. A control of fewer is
    left out, since it has no median to compare with."""
    found = []
    for name in SETS:
        own = model.restored(name)
        with_donor = ~np.isnan(own[:, 0, 1:]).all(1)
        if with_donor.sum() < LEAST_PAIRS:
            continue
        told = tested(own[with_donor], permutations, rng)
        controls = [_medians(each, name) for each in random]
        found.append(
            replace(
                _row(domain, language, f"patching_{name}", "relative", name, told),
                n=int(with_donor.sum()),
                random=tuple(each for each in controls if each),
                plain=_medians(plain, name),
                over_plain=_over(own[with_donor], plain.restored(name)),
                left_out=len(model.ends) - int(with_donor.sum()),
            )
        )
    return found


def _medians(patched: Patched, name: str) -> tuple[float, ...]:
    own = patched.restored(name)
    return numbers(np.median(own[:, :, 0], axis=0)) if len(own) >= LEAST_PAIRS else ()


def _over(own: FloatArray, plain: FloatArray) -> tuple[tuple[float, float], ...]:
    """By depth: 95 % percentile bootstrap of the difference of two medians, each over its own pairs."""
    if len(plain) < LEAST_PAIRS:
        return ()
    rng = np.random.default_rng(0)
    one, other = (
        np.median(each[rng.integers(0, len(each), size=(_RESAMPLES, len(each))), :, 0], axis=1) for each in (own, plain)
    )
    return tuple(quantile_interval(each) for each in (one - other).T)


Contrast = Callable[[FloatArray, FloatArray], FloatArray]
"""Means of medical and of plain pairs -> the value."""


def _less(medical: FloatArray, plain: FloatArray) -> FloatArray:
    return medical - plain


def _times(medical: FloatArray, plain: FloatArray) -> FloatArray:
    return np.log2(np.maximum(medical, FLOOR) / np.maximum(plain, FLOOR))


def shares(found: FloatArray) -> FloatArray:
    """`[pairs, blocks, 2]` of the whole over the blocks; 0 where no block has a gradient."""
    total = found.sum(1, keepdims=True)
    return np.divide(found, total, out=np.zeros_like(found), where=total > 0)


def _shared(frames: Frames) -> Frames:
    """Shares of the blocks, with a depth 0 that has none."""
    own = shares(frames.values)
    return replace(frames, values=np.concatenate([np.zeros_like(own[:, :1]), own], axis=1))


def _rows(
    domain: str,
    language: LanguageCode,
    names: Sequence[str],
    model: Frames,
    random: Sequence[Frames],
    contrast: Contrast,
    permutations: int,
    rng: np.random.Generator,
) -> list[MapRow]:
    n = int(model.medical.sum())
    if min(n, len(model.medical) - n) < LEAST_PAIRS:
        return []
    strata = coarsen_strata([(text,) for text in model.texts])
    draws = model.medical[stratified_permutations(strata, permutations, rng)]  # [B, pairs]
    found = []
    for k, name in enumerate(names):
        values = model.values[:, :, k]
        relative = contrast(*_means(values, model.medical))
        null = contrast(*(_drawn_means(values, each) for each in (draws, ~draws)))
        row = _row(domain, language, name, "relative", "last", Tested(relative, null, (None,) * len(relative)))
        controls = tuple(numbers(contrast(*_means(each.values[:, :, k], each.medical))) for each in random)
        found.append(replace(row, n=n, intervals=_intervals(values, model.medical, contrast), random=controls))
        alone, plain = _means(values, model.medical)
        raw = Tested(alone, _drawn_means(values, draws), tuple(values[model.medical].T))
        row = _row(domain, language, name, "raw", "last", raw)
        raw_random = tuple(numbers(_means(each.values[:, :, k], each.medical)[0]) for each in random)
        found.append(replace(row, n=n, random=raw_random, plain=numbers(plain)))
    return found


def _means(values: FloatArray, medical: BoolArray) -> tuple[FloatArray, FloatArray]:
    return values[medical].mean(0), values[~medical].mean(0)


def _drawn_means(values: FloatArray, chosen: BoolArray) -> FloatArray:
    """`[B, depth]`: of the pairs that each row of `chosen [B, pairs]` takes."""
    return chosen.astype(np.float64) @ values / chosen.sum(1, keepdims=True)


def _intervals(values: FloatArray, medical: BoolArray, contrast: Contrast) -> tuple[tuple[float, float], ...]:
    """95 %, percentile bootstrap over the pairs of each frame."""
    rng = np.random.default_rng(0)
    drawn = []
    for rows in (values[medical], values[~medical]):
        times = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=_RESAMPLES)
        drawn.append(times @ rows / len(rows))
    return tuple(quantile_interval(each) for each in contrast(*drawn).T)


def _row(domain: str, language: LanguageCode, name: str, scale: str, position: str, told: Tested) -> MapRow:
    return MapRow(
        domain=domain,
        language=language,
        read_out=name,
        labels="",
        scale=scale,
        position=position,
        n=0,
        values=numbers(told.values),
        intervals=told.intervals,
        null_mean=numbers(told.null.mean(0)),
        null_high=numbers(np.quantile(told.null, 0.95, axis=0)),
        p=numbers(told.p),
        p_best=told.p_best,
    )
