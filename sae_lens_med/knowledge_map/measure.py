"""Activations of concepts -> the cells of a map: domain x language x read-out, a value for each depth, with its nulls.

Every read-out of `geometry` stands beside four others, without which it says little:

- the **label null**: labels or order permuted over concepts;
- **characters**: the same read-out on character 2- to 4-grams of the names (TF-IDF): what the spelling gives;
- **embedding**: depth 0 of the model: what the tokens give;
- **random**: the model with its weights permuted, one or more times: what the architecture gives;

and, where there are plain frames, **plain**: the same concepts where nothing is medical about them.

A cell of a depth *stands out* where its q, over all depths and read-outs of its method, is below 0.05 and its value
lies above those of the characters, the embedding, every random model at that depth, and the plain frame. The null of
patching knows no plain pairs, so there the whole interval of the difference from them must lie above 0. Numbers are
given for both scales and both positions; the map itself is of the standardised scale at the concept's last token, the
one of which the q is.

The rows of what is done to a model (`causal_rows`) are of the same form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.geometry import (
    Tested,
    cosine_distances,
    decade_r2,
    nearest,
    order_contrasts,
    over_layers,
    permuted,
    retrieval,
    scaled,
    silhouettes,
)
from sae_lens_med.knowledge_map.lists import LanguageCode, MapConcept
from sae_lens_med.knowledge_map.reading import POSITIONS, Float32Array
from sae_lens_med.records import FloatArray, IntArray, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg

MAIN = ("standardised", "concept")
"""Scale and position of the map."""
METHODS = ("geometry", "saliency", "lesion", "patching")
FIRST_BLOCKS = 2
"""Depths from 1 on of which a lesion claims nothing: any text in any model needs the first blocks."""
LEAST_VALUES = 30
"""Concepts that an ordered read-out over decades needs."""


@dataclass(frozen=True, slots=True)
class MapRow(Record):
    """One read-out of one domain over the depths."""

    domain: str
    language: str
    """`ko`, `en`, or `ko-en` for what joins the two."""
    read_out: str
    """`silhouette`, `nearest`, `decade_r2`, `order`, `circle_minus_line`, `retrieval`; `saliency`,
    `saliency_weighted`; `lesion_kl`, `lesion_margin`, `lesion_flips`; `patching_concept`, `patching_last`."""
    labels: str
    """The label set; empty for what has an order."""
    scale: str
    """`raw` or `standardised`; of what is done to a model `relative`, or `raw` for what is not of the map."""
    position: str
    """`concept` or `last`."""
    n: int
    """Concepts, or pairs of statements."""
    values: tuple[float, ...]
    """By depth, embedding first."""
    intervals: tuple[tuple[float, float] | None, ...]
    """95 %, bootstrap over concepts or pairs; None where the value cannot be had of a draw of them."""
    null_mean: tuple[float, ...]
    null_high: tuple[float, ...]
    """95 % quantile of the null."""
    p: tuple[float, ...]
    """One-sided, each depth by itself."""
    p_best: float
    """Of the largest value over the depths, against the largest of each permutation."""
    characters: float | None = None
    """The read-out on the spelling of the names; None for what is done to a model."""
    random: tuple[tuple[float, ...], ...] = ()
    """One tuple by depth for each model with permuted weights."""
    plain: tuple[float, ...] = ()
    """By depth, in the plain frames; empty where there are none."""
    over_plain: tuple[tuple[float, float], ...] = ()
    """Of patching, by depth: 95 % interval of the value less that of plain pairs, bootstrap over both; empty without
    plain pairs, where nothing stands out."""
    q: tuple[float, ...] = ()
    """p after Benjamini-Hochberg over the depths >= 1 of all rows of the map of one method; empty for rows that are
    not of it."""
    stands_out: tuple[bool, ...] = field(default=())
    """By depth: q below 0.05, and above every control; False at the embedding, and in the first blocks of a lesion."""
    left_out: int = 0
    """Pairs of statements that do not count (`patching`)."""

    @property
    def method(self) -> str:
        """One of `METHODS`."""
        name = self.read_out.split("_")[0]
        return name if name in METHODS else "geometry"

    @property
    def of_the_map(self) -> bool:
        """Whether the row is drawn and corrected; the others are beside it in the tables."""
        return (self.scale, self.position) == MAIN if self.method == "geometry" else self.scale == "relative"

    @property
    def embedding(self) -> float:
        """The value at depth 0."""
        return self.values[0]

    @property
    def name(self) -> str:
        """What it is called in tables and figures."""
        return f"{self.domain}{f'/{self.labels}' if self.labels else ''} {self.read_out} ({self.language})"


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Activations of one domain in one language, or in two of which each has its half of the rows."""

    concepts: tuple[MapConcept, ...]
    languages: tuple[LanguageCode, ...]
    model: Float32Array
    """`[depth, position, languages * n, d_model]`, medical frames."""
    random: tuple[Float32Array, ...] = ()
    plain: Float32Array | None = None

    @property
    def names(self) -> list[str]:
        """Of the rows."""
        return [each.forms[language] for language in self.languages for each in self.concepts]


def across(first: Read, second: Read) -> Read:
    """Two languages of one domain, the concepts that have a name of their own in both."""
    one, other = first.languages[0], second.languages[0]
    shared = [each for each in first.concepts if each in second.concepts and each.forms[one] != each.forms[other]]
    rows = [[read.concepts.index(each) for each in shared] for read in (first, second)]

    def joined(a: Float32Array, b: Float32Array) -> Float32Array:
        return np.concatenate([a[:, :, rows[0]], b[:, :, rows[1]]], axis=2)

    random = tuple(joined(a, b) for a, b in zip(first.random, second.random, strict=True))
    return Read(tuple(shared), (one, other), joined(first.model, second.model), random)


def measured(read: Read, permutations: int, rng: np.random.Generator) -> list[MapRow]:
    """All rows of one domain, without q: in one language those of its labels or its order; in two, `retrieval`.

    Raises `DataError` for concepts of which nothing can be read off."""
    found: list[MapRow] = []
    two = len(read.languages) > 1
    spelling = _halves(characters(read.names), len(read.languages), "raw")
    read_outs = _across(len(read.concepts), permutations, rng) if two else _within(read.concepts, permutations, rng)
    for (labels, name), (read_out, drawn) in read_outs.items():
        for scale in ("standardised", "raw"):
            for place, position in enumerate(POSITIONS):

                def at(
                    x: Float32Array,
                    draws: FloatArray | IntArray,
                    place: int = place,
                    scale: str = scale,
                    read_out: ReadOut = read_out,
                ) -> Tested:
                    layers = [_halves(each, len(read.languages), scale) for each in x[:, place]]
                    return over_layers(layers, lambda layer: read_out(layer, draws))

                def spelled(read_out: ReadOut, draws: FloatArray | IntArray) -> float:
                    return float(over_layers([spelling], lambda layer: read_out(layer, draws)).values[0])

                # Controls are compared by their values: of their permutations the first, which permutes nothing.
                tested = at(read.model, drawn)
                found.append(
                    MapRow(
                        domain=read.concepts[0].domain,
                        language="-".join(read.languages),
                        read_out=name,
                        labels=labels,
                        scale=scale,
                        position=position,
                        n=len(read.concepts),
                        values=numbers(tested.values),
                        intervals=tested.intervals,
                        null_mean=numbers(tested.null.mean(0)),
                        null_high=numbers(np.quantile(tested.null, 0.95, axis=0)),
                        p=numbers(tested.p),
                        p_best=tested.p_best,
                        characters=spelled(read_out, drawn[:1]),
                        random=tuple(numbers(at(each, drawn[:1]).values) for each in read.random),
                        plain=() if read.plain is None else numbers(at(read.plain, drawn[:1]).values),
                    )
                )
    return found


def require_readable(concepts: Sequence[MapConcept]) -> None:
    """Raises `DataError` for concepts of one domain of which nothing can be read off."""
    _within(tuple(concepts), 0, np.random.default_rng(0))


def corrected(rows: Sequence[MapRow]) -> list[MapRow]:
    """The rows with q and what stands out, for those of the map; the others as they are. Each method is a family."""
    found = list(rows)
    for method in METHODS:
        own = [i for i, row in enumerate(rows) if row.of_the_map and row.method == method]
        if not own:
            continue
        q = iter(benjamini_hochberg(np.concatenate([rows[i].p[1:] for i in own])).tolist())
        for i in own:
            row = rows[i]
            of = (1.0, *(next(q) for _ in row.p[1:]))
            found[i] = replace(row, q=of, stands_out=_stands_out(row, of))
    return found


def characters(names: Sequence[str]) -> FloatArray:
    """`[n, n-grams]`: TF-IDF of the character 2- to 4-grams of the names."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), lowercase=True).fit_transform(names)
    return np.asarray(weights.todense())


ReadOut = Callable[[FloatArray, Any], FloatArray]
"""A layer and permutations, the first of which permutes nothing -> what `geometry.over_layers` takes."""


def _within(
    concepts: Sequence[MapConcept], permutations: int, rng: np.random.Generator
) -> Mapping[tuple[str, str], tuple[ReadOut, FloatArray | IntArray]]:
    """(Label set, name) -> read-out of a layer, and the permutations, which are the same for all layers and models."""
    n = len(concepts)
    one = np.zeros(n, dtype=np.int64)
    if concepts[0].value is None:
        found: dict[tuple[str, str], tuple[ReadOut, FloatArray | IntArray]] = {}
        for labels in concepts[0].labels:
            known, own = np.unique([each.labels[labels] for each in concepts], return_inverse=True)
            if not 1 < len(known) < n:
                raise DataError(
                    f"the concepts of {concepts[0].domain!r} have {len(known)} different {labels!r} for {n} names in a "
                    "language; a map needs two or more, and one of them twice."
                )
            drawn = permuted(own, one, permutations, rng).astype(np.int64)
            found[labels, "silhouette"] = (lambda x, own: silhouettes(cosine_distances(x), own), drawn)
            found[labels, "nearest"] = (lambda x, own: nearest(cosine_distances(x), own), drawn)
        return found
    values = np.array([each.value for each in concepts], dtype=np.float64)
    _, groups = np.unique([each.group for each in concepts], return_inverse=True)
    if n >= LEAST_VALUES and groups.max() == 0 and len(np.unique(values // 10)) >= 3:
        return {("", "decade_r2"): (decade_r2, permuted(values, one, permutations, rng))}
    if np.bincount(groups).max() < 4:
        raise DataError(
            f"the domain {concepts[0].domain!r} has neither {LEAST_VALUES} values nor a group of four: nothing can be "
            "read off its order; add concepts."
        )
    ranks = np.zeros(n)
    for group in np.unique(groups):
        rows = groups == group
        if len(np.unique(values[rows])) < np.count_nonzero(rows):
            name = concepts[int(np.flatnonzero(rows)[0])].group
            raise DataError(
                f"the domain {concepts[0].domain!r} has concepts of one value{f' in {name!r}' if name else ''}, which "
                "have no order; give each its own, or a group of its own."
            )
        ranks[rows] = np.argsort(np.argsort(values[rows]))
    drawn_ranks = permuted(ranks, groups, permutations, rng).astype(np.int64)
    return {
        ("", "order"): (lambda x, own: order_contrasts(cosine_distances(x), own, groups)[0], drawn_ranks),
        ("", "circle_minus_line"): (lambda x, own: order_contrasts(cosine_distances(x), own, groups)[1], drawn_ranks),
    }


def _across(
    n: int, permutations: int, rng: np.random.Generator
) -> Mapping[tuple[str, str], tuple[ReadOut, FloatArray | IntArray]]:
    drawn = permuted(np.arange(n), np.zeros(n, dtype=np.int64), permutations, rng).astype(np.int64)
    return {("", "retrieval"): (lambda x, own: retrieval(x[:n], x[n:], own), drawn)}


def _halves(x: FloatArray | Float32Array, n: int, scale: str) -> FloatArray:
    """Each language about its own mean: what sets the languages apart is the same for every concept."""
    return np.concatenate(
        [scaled(part, standardise=scale == "standardised") for part in np.split(np.asarray(x, dtype=np.float64), n)]
    )


def _stands_out(row: MapRow, q: Sequence[float]) -> tuple[bool, ...]:
    out = []
    first = FIRST_BLOCKS + 1 if row.method == "lesion" else 1
    for depth, value in enumerate(row.values):
        others = [each[depth] for each in (*row.random, *([row.plain] if row.plain else []))]
        others += [] if row.characters is None else [row.characters]
        # What is done to a model at depth 0 is no control: skipping nothing is 0, and a concept put in whole is all.
        others += [row.embedding] if row.method == "geometry" else []
        above = value > max(others, default=-np.inf)
        if row.method == "patching":  # where all of P comes back in any pair, rounding would decide which is the larger
            above = above and bool(row.over_plain) and row.over_plain[depth][0] > 0
        out.append(depth >= first and q[depth] < ALPHA and above)
    return tuple(out)


def numbers(values: FloatArray) -> tuple[float, ...]:
    """As the fields of a row hold them."""
    return tuple(float(value) for value in values)
