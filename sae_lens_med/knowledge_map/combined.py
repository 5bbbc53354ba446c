"""Where several methods agree, and how often they would by chance.

A read-out *passes* at a depth where its q is below 0.05 and its value lies above the 75th percentile of its own depths;
a method passes where one of its read-outs does. In every cell (domain, language, depth) the methods that pass are
counted, up to four.

A quarter of the depths of any noise lies above its 75th percentile, and profiles over depth are smooth, so that some
agreement and some runs of depths always come out. **Null**: each method's profile is shifted round the depths from 1
on, each by its own draw, and what is counted is counted anew: the cells on which at least two, three, four methods
agree, and the *overlap*, the pairs of methods that agree, summed over the cells. The overlap decides: where all methods
agree on the same few depths, fewer cells have two than where they lie scattered. Runs of depths (`segments`: two or
more, at most three of them, the longest, with two methods each) are told only where the overlap is larger than by
chance, q below 0.05 over the domains and languages. With two methods that pass there are as few shifts as depths, so
that little can be shown.

Out of scope: smoothing; weights for methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sae_lens_med.knowledge_map.measure import FIRST_BLOCKS, METHODS, MapRow
from sae_lens_med.records import BoolArray, IntArray, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, permutation_p

PERCENTILE = 75
MOST_SEGMENTS, LEAST_DEPTHS = 3, 2


@dataclass(frozen=True, slots=True)
class Chance(Record):
    """A number of cells, or the overlap, beside its null."""

    value: int
    null_mean: float
    null_high: float
    """95 % quantile."""
    p: float
    """One-sided."""


@dataclass(frozen=True, slots=True)
class Agreement(Record):
    """One domain in one language."""

    _nested: ClassVar[dict[str, type[Record]]] = {"overlap": Chance, "cells": Chance}

    domain: str
    language: str
    passing: dict[str, list[int]]
    """Method -> depths at which it passes; the methods that were measured."""
    counts: tuple[int, ...]
    """By depth; 0 at the embedding."""
    overlap: Chance
    cells: tuple[Chance, ...]
    """On which at least 2, 3, ... methods agree."""
    q: float = 1.0
    """p of the overlap after Benjamini-Hochberg over domains and languages."""
    segments: tuple[tuple[int, int], ...] = ()
    """First and last depth of each run on which two methods agree; none where q is 0.05 or more."""


def agreements(rows: Sequence[MapRow], shifts: int, rng: np.random.Generator) -> list[Agreement]:
    """Of all domains and languages that have two methods or more; `rows` corrected (`measure.corrected`)."""
    found = []
    of_the_map = [row for row in rows if row.q]
    for domain, language in dict.fromkeys((row.domain, row.language) for row in of_the_map):
        own = [row for row in of_the_map if (row.domain, row.language) == (domain, language)]
        passing = {
            method: np.any([passes(row) for row in own if row.method == method], axis=0)
            for method in METHODS
            if any(row.method == method for row in own)
        }
        if len(passing) > 1:
            found.append(_agreement(domain, language, passing, shifts, rng))
    if not found:
        return []
    q = benjamini_hochberg([each.overlap.p for each in found]).tolist()
    return [
        replace(each, q=value, segments=_segments(each.counts) if value < ALPHA else ())
        for each, value in zip(found, q, strict=True)
    ]


def passes(row: MapRow) -> BoolArray:
    """`[depth]`; False at the embedding, and for a lesion in the first blocks."""
    values, q = np.array(row.values), np.array(row.q)
    found = (q < ALPHA) & (values > np.percentile(values[1:], PERCENTILE))
    found[: FIRST_BLOCKS + 1 if row.method == "lesion" else 1] = False
    return found


def _agreement(
    domain: str, language: str, passing: dict[str, BoolArray], shifts: int, rng: np.random.Generator
) -> Agreement:
    profiles = np.array(list(passing.values()))[:, 1:]  # [methods, depths from 1 on]
    n_methods, depths = profiles.shape
    at = (np.arange(depths) - rng.integers(0, depths, size=(shifts, n_methods, 1))) % depths
    drawn = np.take_along_axis(np.broadcast_to(profiles, (shifts, n_methods, depths)), at, axis=2).sum(1)
    counts = profiles.sum(0)
    return Agreement(
        domain,
        language,
        {method: np.flatnonzero(each).tolist() for method, each in passing.items()},
        (0, *map(int, counts)),
        _chance((counts * (counts - 1) // 2).sum(), (drawn * (drawn - 1) // 2).sum(1)),
        tuple(_chance((counts >= least).sum(), (drawn >= least).sum(1)) for least in range(2, n_methods + 1)),
    )


def _chance(value: int, null: IntArray) -> Chance:
    return Chance(int(value), float(null.mean()), float(np.quantile(null, 0.95)), permutation_p(value, null))


def _segments(counts: Sequence[int] | IntArray) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for depth in np.flatnonzero(np.asarray(counts) >= 2).tolist():
        if runs and runs[-1][1] == depth - 1:
            runs[-1] = (runs[-1][0], depth)
        else:
            runs.append((depth, depth))
    long = [run for run in runs if run[1] - run[0] + 1 >= LEAST_DEPTHS]
    return tuple(sorted(sorted(long, key=lambda run: run[0] - run[1])[:MOST_SEGMENTS]))
