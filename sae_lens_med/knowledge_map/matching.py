"""Two dictionaries at the same words: which features of one are features of the other, and how many.

    r_ij   Pearson correlation of feature i of the first and feature j of the second over word occurrences
    pairs  one to one, the largest sum of r (Hungarian algorithm), on one half of the texts
    share  of the pairs with r > 0.7 on the *other* half, over the features of the smaller of the two dictionaries

A dictionary's features are those that fire at ten words or more of the first half. Since pairs are chosen on texts
other than those on which r is told, many candidates do not make a high r. A feature that is silent in the second half
has r = 0.

Interval: percentile bootstrap over the texts of the second half, the pairs held. **Null**: the second's words shifted
along those texts by a random number of words, all around, so that each feature keeps how often and in what runs it
fires; p is one-sided. What any dictionary on these activations would get is another matter: that is what the lower
bounds are for, the same code on principal components and on shuffled directions (`match_run`).

**Mean max cosine** of the directions, only where both read one model at one hook: of each feature of the first the
largest cosine with one of the second; -1 to 1.

One feature is a claim of its own only from three seeds on (`stable`): what one SAE finds and others of the same model
and text do not is a property of the seed (Paulo and Belrose 2501.16615).

Arrays only. Out of scope: features that split into several, more pairs than one for a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.words import WordActs
from sae_lens_med.records import BoolArray, FloatArray, IntArray, Record
from sae_lens_med.statistics import permutation_p, quantile_interval

MATCHED = 0.7
"""r above which two features are called the same."""
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(20))
"""Of the curve."""
LEAST_WORDS = 10
"""Words of the first half at which a feature must fire to take part."""
LEAST_TEXTS = 10
"""In each half."""
LOWER = ("shuffled", "pca")
"""Lower bounds."""
SEEDS_FOR_A_CLAIM = 3
RESAMPLES = 500
_BLOCK = 4_000_000
"""Numbers of a block."""


@dataclass(frozen=True, slots=True)
class MatchRow(Record):
    """One pair of dictionaries."""

    first: str
    second: str
    what: str
    """`second`: what was asked; `seed`: another seed of the first, the upper bound; `pca`, `shuffled`: lower bounds."""
    of: str
    """The dictionary that a lower bound stands for; that of `second` otherwise."""
    lexical: str
    """`kept` or `removed`, from both."""
    n_first: int
    """Features of the first that take part."""
    n_second: int
    n_matched: int
    """Pairs with r > 0.7."""
    n_silent: int
    """Pairs of which one feature does not fire in the second half."""
    n_words: int
    """Of the second half."""
    n_texts: int
    share: float
    """`n_matched` over the smaller of `n_first` and `n_second`; 0 to 1."""
    interval: tuple[float, float]
    """95 %, bootstrap over texts."""
    null_mean: float
    null_high: float
    """95 % quantile."""
    p: float
    mean_r: float
    """Over the pairs."""
    mean_r_interval: tuple[float, float]
    thresholds: tuple[float, ...]
    curve: tuple[float, ...]
    """The share at each threshold."""
    curve_low: tuple[float, ...]
    curve_high: tuple[float, ...]
    curve_null_high: tuple[float, ...]
    """95 % quantile of the null at each threshold."""
    cosine: float | None
    """Mean max cosine; None where the two do not write to one space."""
    q: float | None = None
    """p after Benjamini-Hochberg over the rows of the run that are no lower bounds; None for these."""
    stands_out: bool | None = None
    """q below 0.05 and the interval above the null and the lower bounds; None for rows that are lower bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A row, and the pairs that it counts."""

    row: MatchRow
    pairs: IntArray
    """`[m, 2]`, features of the first and the second."""
    chosen_r: FloatArray
    """`[m]`, on the half on which the pairs were chosen."""
    r: FloatArray
    """`[m]`, on the other half."""


def correlations(a: Any, b: Any) -> FloatArray:
    """Pearson, `[d_a, d_b]`, of the columns of two sparse arrays `[n, d]`; 0 where a column does not vary."""
    n = a.shape[0]
    (mean_a, sd_a), (mean_b, sd_b) = _moments(a), _moments(b)
    product = (a.T.astype(np.float64) @ b.astype(np.float64)).toarray() / n
    product -= np.outer(mean_a, mean_b)
    scale = np.outer(sd_a, sd_b)
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)


def one_to_one(r: FloatArray) -> IntArray:
    """`[min(d_a, d_b), 2]`: the pairs, one to one, whose r have the largest sum."""
    from scipy.optimize import linear_sum_assignment

    return np.stack(linear_sum_assignment(r, maximize=True), axis=1).astype(np.int64)


def max_cosine(a: FloatArray, b: FloatArray) -> float:
    """Mean over the rows of `a` `[d_a, d_in]` of the largest cosine with a row of `b` `[d_b, d_in]`."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    step = max(1, _BLOCK // len(b))
    return float(np.concatenate([(part @ b.T).max(axis=1) for part in _parts(a, step)]).mean())


def halves_of_texts(n_texts: int, rng: np.random.Generator) -> BoolArray:
    """`[n_texts]`, True for the half on which pairs are chosen. Raises `DataError` for too few texts."""
    if n_texts < 2 * LEAST_TEXTS:
        raise DataError(f"matching needs at least {2 * LEAST_TEXTS} texts with words, got {n_texts}; name more.")
    chosen = np.zeros(n_texts, dtype=bool)
    chosen[rng.permutation(n_texts)[: n_texts // 2]] = True
    return chosen


def match(
    first: WordActs,
    second: WordActs,
    text_of: IntArray,
    choosing: BoolArray,
    *,
    what: str = "second",
    of: str = "",
    lexical: str = "kept",
    permutations: int = 199,
    most_features: int | None = None,
    rng: np.random.Generator,
) -> Match | None:
    """Match two dictionaries at the words that both have read.

    Args:
        text_of: `[n_words]`, the text that each word stands in.
        choosing: `[n_texts]`, True for the texts on which the pairs are chosen.
        what, of: as `MatchRow` has them.
        lexical: `kept`, or `removed` from both.
        permutations: draws of the null.
        most_features: match at most so many features of the first, drawn at random; the second keeps all its own.

    Returns None where lexical features are removed and one of the two has no others, and where a lower bound has no
    feature that takes part. Raises `DataError` where one of two SAEs has none, or a half has no words.
    """
    both = first.read & second.read
    one, other = both & choosing[text_of], both & ~choosing[text_of]
    if not one.any() or not other.any():
        raise DataError(f"{first.name} and {second.name} have read no words in common in one half of the texts.")
    taking = [_taking_part(each, one, lexical) for each in (first, second)]
    for each, own in zip((first, second), taking, strict=True):
        if not len(own) and (lexical == "removed" or (each is second and what in LOWER)):
            return None
        if not len(own):
            raise DataError(
                f"{each.name} has no feature that fires at {LEAST_WORDS} of the {int(one.sum())} words; name more text."
            )
    if most_features is not None and len(taking[0]) > most_features:
        taking[0] = np.sort(rng.choice(taking[0], most_features, replace=False))
    rows = np.flatnonzero(one)
    r = correlations(*(sparse.csc_array(x.acts[rows])[:, own] for x, own in zip((first, second), taking, strict=True)))
    found = one_to_one(r)
    chosen_r = r[found[:, 0], found[:, 1]]
    del r
    pairs = np.stack([taking[0][found[:, 0]], taking[1][found[:, 1]]], axis=1)
    rows = np.flatnonzero(other)
    a, b = (
        sparse.csr_array(sparse.csc_array(each.acts[rows])[:, pairs[:, side]]).astype(np.float64)
        for side, each in enumerate((first, second))
    )
    tested = _tested(a, b, text_of[rows], permutations, rng)
    curve, low, high = map(_numbers, (tested.curve, *tested.curve_interval))
    at = THRESHOLDS.index(MATCHED)
    null = tested.null[:, at]
    same_space = bool(first.space) and first.space == second.space
    cosine = None
    if same_space and first.directions is not None and second.directions is not None:
        cosine = max_cosine(first.directions[taking[0]], second.directions[taking[1]])
    row = MatchRow(
        first=first.name,
        second=second.name,
        what=what,
        of=of or second.name,
        lexical=lexical,
        n_first=len(taking[0]),
        n_second=len(taking[1]),
        n_matched=int(np.count_nonzero(tested.r > MATCHED)),
        n_silent=int(np.count_nonzero(tested.silent)),
        n_words=len(rows),
        n_texts=len(np.unique(text_of[rows])),
        share=curve[at],
        interval=(low[at], high[at]),
        null_mean=float(null.mean()),
        null_high=float(np.quantile(null, 0.95)),
        p=permutation_p(curve[at], null),
        mean_r=float(tested.r.mean()),
        mean_r_interval=tested.mean_interval,
        thresholds=THRESHOLDS,
        curve=curve,
        curve_low=low,
        curve_high=high,
        curve_null_high=_numbers(np.quantile(tested.null, 0.95, axis=0)),
        cosine=cosine,
    )
    return Match(row, pairs, chosen_r, tested.r)


def stable(seeds: Sequence[Match], features: IntArray) -> BoolArray | None:
    """`[n]`: which of these features of the first have r > 0.7 in every other seed; None for fewer than two others,
    since a claim on one feature needs three seeds."""
    if len(seeds) < SEEDS_FOR_A_CLAIM - 1:
        return None
    found = [np.isin(features, each.pairs[each.r > MATCHED, 0]) for each in seeds]
    return np.logical_and.reduce(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Tested:
    r: FloatArray
    silent: BoolArray
    curve: FloatArray
    curve_interval: tuple[FloatArray, FloatArray]
    mean_interval: tuple[float, float]
    null: FloatArray
    """`[permutations, thresholds]`."""


def _taking_part(each: WordActs, words: BoolArray, lexical: str) -> IntArray:
    fires = np.bincount(sparse.csr_array(each.acts[np.flatnonzero(words)]).indices, minlength=each.acts.shape[1])
    takes = fires >= LEAST_WORDS
    if lexical == "removed":
        takes &= ~each.lexical
    return np.flatnonzero(takes)


def _tested(a: Any, b: Any, text_of: IntArray, permutations: int, rng: np.random.Generator) -> _Tested:
    """r of the columns of `a` and `b`, CSR `[n, m]` each, column by column; its bootstrap over texts and its null."""
    n = a.shape[0]
    r = _paired_r(n, *(_column_sums(x) for x in (a, b, a.multiply(b), a.multiply(a), b.multiply(b))))
    silent = (_column_sums(a) == 0) | (_column_sums(b) == 0)
    shifts = _shifts(n, permutations, rng)
    sums = [_column_sums(x) for x in (a, b, a.multiply(a), b.multiply(b))]
    null = np.empty((permutations, len(THRESHOLDS)))
    for draw, shift in enumerate(shifts):
        moved = sparse.csr_array(sparse.vstack([b[shift:], b[:shift]]))
        null[draw] = _shares(_paired_r(n, sums[0], sums[1], _column_sums(a.multiply(moved)), sums[2], sums[3]))
    resampled = _bootstrapped(a, b, text_of, rng)
    curves = np.stack([_shares(each) for each in resampled])
    bounds = np.quantile(curves, [0.025, 0.975], axis=0)
    mean = quantile_interval(resampled.mean(axis=1))
    return _Tested(r, silent, _shares(r), (bounds[0], bounds[1]), mean, null)


def _bootstrapped(a: Any, b: Any, text_of: IntArray, rng: np.random.Generator) -> FloatArray:
    """`[RESAMPLES, m]`: r over texts drawn with replacement."""
    _, own = np.unique(text_of, return_inverse=True)
    n_texts, n = int(own.max()) + 1, len(own)
    of_text: Any = sparse.csr_array((np.ones(n), (own, np.arange(n))), shape=(n_texts, n))
    weights = rng.multinomial(n_texts, np.full(n_texts, 1 / n_texts), size=RESAMPLES).astype(np.float64)
    words = weights @ np.bincount(own, minlength=n_texts)
    found = np.empty((RESAMPLES, a.shape[1]))
    step = max(1, _BLOCK // max(n_texts, RESAMPLES))
    columns = [sparse.csc_array(x) for x in (a, b, a.multiply(b), a.multiply(a), b.multiply(b))]
    for start in range(0, a.shape[1], step):
        part = slice(start, start + step)
        sums = [weights @ (of_text @ sparse.csr_array(x[:, part])).toarray() for x in columns]
        found[:, part] = _paired_r(words[:, None], *sums)
    return found


def _paired_r(n: Any, a: FloatArray, b: FloatArray, ab: FloatArray, aa: FloatArray, bb: FloatArray) -> FloatArray:
    """r from sums over n words; 0 where one of the two does not vary."""
    spread = (aa / n - (a / n) ** 2) * (bb / n - (b / n) ** 2)
    varies = spread > 1e-12 * (aa / n) * (bb / n)
    return np.divide(ab / n - a * b / n**2, np.sqrt(np.abs(spread)), out=np.zeros_like(spread), where=varies)


def _moments(x: Any) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column; rounding of a constant column is no spread."""
    n = x.shape[0]
    x = x.astype(np.float64)
    mean, square = _column_sums(x) / n, _column_sums(x.multiply(x)) / n
    spread = square - mean**2
    return mean, np.sqrt(np.where(spread > 1e-12 * square, spread, 0.0))


def _column_sums(x: Any) -> FloatArray:
    return np.asarray(x.sum(axis=0), dtype=np.float64).ravel()


def _shares(r: FloatArray) -> FloatArray:
    return np.array([np.count_nonzero(r > threshold) for threshold in THRESHOLDS]) / len(r)


def _shifts(n: int, draws: int, rng: np.random.Generator) -> IntArray:
    """Numbers of words, away from 0 and n: a shift by a few words is hardly one."""
    edge = max(1, n // 20)
    return rng.integers(edge, max(edge + 1, n - edge + 1), size=draws)


def _parts(x: FloatArray, step: int) -> list[FloatArray]:
    return [x[start : start + step] for start in range(0, len(x), step)]


def _numbers(values: FloatArray) -> tuple[float, ...]:
    return tuple(map(float, values))
