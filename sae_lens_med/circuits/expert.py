"""Does the model answer with the features of the concepts that an expert's explanation names?

For item i, C_i are the concepts that its masked explanation names and F_i the features of these concepts (chosen on
other items by their own words, `concept_nodes`), |s_if| the size of a feature's score summed over parts (`nodes`).

    mass        mean over items of  sum_{f in F_i} |s_if| / sum_f |s_if|        errors stand apart
    precision   share of a circuit's features that are features of a named concept; recall: the converse
    necessity   1 - f(all nodes but those of F_i);  sufficiency  f(F_i alone): beside those of as many nodes of the
                largest scores, the gap being what the model uses and the expert does not say

Three nulls of the mass, one-sided, each with its own question:

    matched     each feature of a concept stands for one that fires as often and as strongly (`features.matched`):
                could it be any features of this kind?
    permuted    explanations exchanged among items of one subject and one right letter: is it this item's explanation?
    turned      features keep where they fire and exchange directions (`nodes.turned_sizes`): is it what they write, or
                only that they fire?

Per subject the matched null is asked again, and corrected over subjects (Benjamini-Hochberg). Items whose explanation
names no concept with features are left out, and counted. Nothing here runs a model but `named_effects`.

Out of scope: paths from a concept's words to the margin, which need edges between features.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sae_lens_med.circuits.faithfulness import require_clear
from sae_lens_med.circuits.node_faithfulness import NodePatching, ranked
from sae_lens_med.circuits.nodes import NodeSpace
from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, IntArray, Record
from sae_lens_med.statistics import (
    benjamini_hochberg,
    coarsen_strata,
    permutation_p,
    permuted_means,
    stratified_permutations,
)


@dataclass(frozen=True, slots=True)
class Beside(Record):
    """A value with the mean of its null."""

    value: float
    null: float
    p: float
    """One-sided."""


@dataclass(frozen=True, slots=True)
class SubjectMass(Record):
    """The mass of one subject beside matched features."""

    subject: str
    n: int
    mass: Beside
    q: float
    """p corrected over subjects."""


@dataclass(frozen=True, slots=True)
class Effects(Record):
    """What the named nodes do, beside as many nodes of the largest scores."""

    n: int
    necessity: float
    sufficiency: float
    necessity_of_largest: float
    sufficiency_of_largest: float
    nodes: float
    """Named nodes that have a score, mean over items."""


@dataclass(frozen=True, slots=True)
class Expert(Record):
    """A circuit beside what the expert names."""

    _nested: ClassVar[dict[str, type[Record]]] = {
        "matched": Beside,
        "permuted": Beside,
        "turned": Beside,
        "precision": Beside,
        "recall": Beside,
        "subjects": SubjectMass,
        "effects": Effects,
    }

    n: int
    """Items."""
    left_out: int
    """Items whose explanation names no concept with features, or whose features have no score."""
    concepts: int
    """Concepts with features that some item names."""
    matched: Beside
    """The mass, and that of matched features."""
    permuted: Beside | None
    """None where no two items have a subject and a right letter in common."""
    turned: Beside | None
    """None where no scores of turned features were given."""
    precision: Beside | None
    """Of the circuit, beside matched features; None without a circuit."""
    recall: Beside | None
    subjects: tuple[SubjectMass, ...]
    effects: Effects | None = None


def mass(sizes: FloatArray, features: BoolArray) -> FloatArray:
    """`[items]` in [0, 1]: the share of `sizes [items, columns]` on `features [items, columns]`; nan where there is no
    size."""
    whole = sizes.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(whole > 0, (sizes * features).sum(1) / whole, np.nan)


def compare(
    sizes: FloatArray,
    named: BoolArray,
    concepts: BoolArray,
    matches: IntArray,
    subjects: Sequence[str],
    letters: Sequence[Hashable],
    *,
    turned: FloatArray | None = None,
    circuit: BoolArray | None = None,
    permutations: int = 2000,
    seed: int = 0,
) -> Expert:
    """The expert's concepts beside the scores of items that did not find them.

    Args:
        sizes: `[items, columns]`, from `nodes.feature_sizes`.
        named: `[items, C]`, which concepts each explanation names.
        concepts: `[C, columns]`, the features of each.
        matches: `[draws, columns]`, the column that stands for each column in each draw; read for features of concepts.
        subjects: of each item.
        letters: of each item, its right letter.
        turned: `[draws, items, columns]`, from `nodes.turned_sizes`.
        circuit: `[columns]`, features that a circuit has at any part.
        permutations: of explanations.
        seed: of permutations.

    Raises `DataError` where no item names a concept with features.
    """
    own = named @ concepts
    kept = np.flatnonzero(own.any(1) & (sizes.sum(1) > 0))
    if not len(kept):
        raise DataError("no item names a concept that has features, so there is nothing to compare.")
    sizes, named, own = sizes[kept], named[kept], own[kept]
    drawn = [_matched(concepts, row) for row in matches]
    value = mass(sizes, own)
    null = np.stack([mass(sizes, named @ each) for each in drawn])  # [draws, items]
    groups = [subjects[i] for i in kept.tolist()]
    strata = coarsen_strata([[(groups[k], letters[i])] for k, i in enumerate(kept.tolist())])
    permuted = None
    if strata.exchangeable.any():
        table = np.stack([mass(sizes, np.broadcast_to(row, sizes.shape)) for row in own], axis=1)
        rows = np.flatnonzero(strata.exchangeable)
        orders = stratified_permutations(strata, permutations, np.random.default_rng(seed))
        means = permuted_means(table, orders, rows)
        permuted = _beside(float(value[rows].mean()), means)
    by_direction = None
    if turned is not None:
        shares = [found[np.isfinite(found)] for each in turned for found in (mass(each[kept], own),)]
        # A draw in which no feature of any item has a size says nothing.
        by_direction = _beside(float(value.mean()), np.array([each.mean() for each in shares if len(each)]))
    precision = recall = None
    if circuit is not None and circuit.any():
        union = own.any(0)
        others = [(named @ each).any(0) for each in drawn]
        both = np.array([(circuit & each).sum() for each in others])
        precision = _beside(float((circuit & union).sum() / circuit.sum()), both / circuit.sum())
        counts = np.array([each.sum() for each in others])
        recall = _beside(float((circuit & union).sum() / union.sum()), both / np.maximum(counts, 1))
    found = []
    for name in sorted(set(groups)):
        at = np.array([group == name for group in groups])
        found.append(SubjectMass(name, int(at.sum()), _beside(float(value[at].mean()), null[:, at].mean(1)), 1.0))
    corrected = benjamini_hochberg([each.mass.p for each in found])
    return Expert(
        n=len(kept),
        left_out=len(subjects) - len(kept),
        concepts=int((named.any(0) & concepts.any(1)).sum()),
        matched=_beside(float(value.mean()), null.mean(1)),
        permuted=permuted,
        turned=by_direction,
        precision=precision,
        recall=recall,
        subjects=tuple(replace(each, q=float(q)) for each, q in zip(found, corrected, strict=True)),
    )


def named_effects(patching: NodePatching, space: NodeSpace, features: BoolArray, mean: FloatArray) -> Effects:
    """What the named features do on pairs that found nothing.

    Args:
        patching: on the pairs.
        space: of the nodes.
        features: `[pairs, columns]`, the named features of each of `patching.pairs`; pairs without one are left out of
            the means.
        mean: `[n_nodes]`, mean scores on other pairs, by which the nodes beside them are ranked.

    Raises `DataError` where no pair names a feature, and where there is no behaviour to explain.
    """
    ends = patching.ends()
    require_clear(ends)
    nodes = _nodes_of(space, features) & (mean != 0)
    rows = np.flatnonzero(nodes.any(1))
    if not len(rows):
        raise DataError("no pair names a concept whose features have a score, so there is nothing to take away.")
    order = ranked(space, mean)
    largest = np.zeros_like(nodes)
    for i in rows.tolist():
        largest[i, order[: int(nodes[i].sum())]] = True
    whole, none = (patching.values(np.full(space.n_nodes, on))[rows].mean() for on in (True, False))

    def f(circuit: BoolArray) -> float:
        return float((patching.values(circuit)[rows].mean() - none) / (whole - none))

    return Effects(len(rows), 1 - f(~nodes), f(nodes), 1 - f(~largest), f(largest), float(nodes[rows].sum(1).mean()))


def columns_of(space: NodeSpace, circuit: BoolArray) -> BoolArray:
    """`[columns]`: features that `circuit [n_nodes]` has at any part."""
    found = []
    for h, d in enumerate(space.d_sae):
        block = circuit[space.first[h] : space.first[h + 1]].reshape(len(space.parts), d + 1)
        found.append(block[:, :d].any(0))
    return np.concatenate(found)


def _nodes_of(space: NodeSpace, features: BoolArray) -> BoolArray:
    """`[items, n_nodes]`: the features `[items, columns]` at every part, errors never."""
    found, at = [], 0
    for d in space.d_sae:
        own = np.pad(features[:, at : at + d], ((0, 0), (0, 1)))
        found.append(np.tile(own, (1, len(space.parts))))
        at += d
    return np.concatenate(found, axis=1)


def _matched(concepts: BoolArray, stands_for: IntArray) -> BoolArray:
    found = np.zeros_like(concepts)
    c, f = np.nonzero(concepts)
    found[c, stands_for[f]] = True
    return found


def _beside(value: float, null: FloatArray) -> Beside:
    return Beside(value, float(np.mean(null)), permutation_p(value, null))
