"""The same concept in Korean and English, by the features of an SAE.

- **retrieval**: mean reciprocal rank, by cosine of standardised features, of a concept's own name in the other
  language among those of its domain, both directions (`geometry.retrieval`); features that fire in both languages
  count. Null: who is whose translation, permuted within the domain; and, more strictly, within the label, where only
  the concept itself can be told, not its kind. Beside it: characters, the residual before the first block, the SAE on
  models with permuted weights, a shuffled dictionary; and the residual at the hook, of which the dictionary keeps a
  part.
- **bilingual features**: chosen for a label on training concepts in one language, tested on held-out concepts in the
  other (`features.carriers`). One that stands out there is bilingual.
- **language features**: |rate in English - rate in Korean| over concepts that have a name in both, the rate being the
  share of a name's tokens at which the feature fires. Null: the languages of each concept change places at random; p
  from the largest difference over all features. A language feature has p < 0.05 and a difference of more than
  `LANGUAGE_RATE`.

Names that share a Latin string or a number in both languages (`HbA1c`, `3`) can be matched without any meaning: they
are left out, and the number with them is given beside it.

Out of scope: whether the model uses a feature in both languages (`bilingual_effects`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_lens_med.knowledge_map.features import ConceptActs, FeatureRow, Rows
from sae_lens_med.knowledge_map.geometry import permuted, retrieval, scaled
from sae_lens_med.knowledge_map.lists import MapConcept
from sae_lens_med.knowledge_map.measure import characters
from sae_lens_med.records import FloatArray, IntArray, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, bootstrap_interval, permutation_p

LEAST_PAIRS = 10
"""Concepts that retrieval needs."""
LANGUAGE_RATE = 0.5
_SHARED = re.compile(r"[a-z]+|\d+")


@dataclass(frozen=True, slots=True)
class RetrievalRow(Record):
    """The other language's name of a concept, found by features."""

    domain: str
    depth: int
    sae: str
    position: str
    shared: str
    """`left out`, or `kept`: names that share a Latin string or a number."""
    n: int
    """Concepts."""
    n_features: int
    """Features that fire in both languages."""
    value: float
    """Mean reciprocal rank, 0 to 1."""
    interval: tuple[float, float] | None
    null_mean: float
    null_high: float
    p: float
    """Translations permuted within the domain."""
    p_within_label: float | None
    """Permuted among concepts with the same labels; None in a domain of an order."""
    characters: float
    embedding: float
    random: tuple[float, ...]
    shuffled: float
    residual: float
    """The residual at the hook: no control, but what the dictionary could keep."""
    q: float | None = None
    """Over the rows of which shared strings are left out; None for the others."""
    stands_out: bool = False


@dataclass(frozen=True, slots=True)
class LanguageFeature(Record):
    """A feature that fires in one of the languages."""

    depth: int
    sae: str
    feature: int
    rate_ko: float
    rate_en: float
    p: float
    """Corrected over all features."""


@dataclass(frozen=True, slots=True)
class Shares(Record):
    """What the features are that labels of a set chose in one language."""

    domain: str
    language: str
    labels: str
    depth: int
    sae: str
    n: int
    """Different features that were chosen."""
    stand_out: int
    """Of these, that stand out for a label in their own language."""
    bilingual: int
    """Of those that stand out, that are bilingual for the same label."""
    language_features: int
    """Of those that stand out, that fire in one language."""


def shares_strings(concept: MapConcept) -> bool:
    """Whether the names in both languages have a run of Latin letters, or of digits, in common."""
    one, other = (set(_SHARED.findall(concept.forms[language].casefold())) for language in ("ko", "en"))
    return bool(one & other)


def both(korean: ConceptActs, english: ConceptActs, *, keep_shared: bool) -> tuple[IntArray, IntArray]:
    """Rows of the concepts that have a name of their own in both languages: in the one, and in the other."""
    place = {each.concept: i for i, each in enumerate(english.concepts)}
    pairs = [
        (i, place[each.concept])
        for i, each in enumerate(korean.concepts)
        if each.concept in place and each.forms["ko"] != each.forms["en"] and (keep_shared or not shares_strings(each))
    ]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def retrieved(
    korean: ConceptActs,
    english: ConceptActs,
    *,
    keep_shared: bool,
    depth: int,
    sae: str,
    position: str,
    permutations: int,
    rng: np.random.Generator,
) -> RetrievalRow | None:
    """Retrieval in one domain, without q; None where fewer than `LEAST_PAIRS` concepts are left."""
    first, second = both(korean, english, keep_shared=keep_shared)
    n = len(first)
    if n < LEAST_PAIRS:
        return None
    concepts = [korean.concepts[i] for i in first]
    one = np.zeros(n, dtype=np.int64)
    drawn = permuted(np.arange(n), one, permutations, rng).astype(np.int64)
    a, b = korean.features[first], english.features[second]
    live = (a > 0).any(0) & (b > 0).any(0)
    each = _reciprocal(a[:, live], b[:, live], drawn)
    means = each.mean(1)
    within: float | None = None
    if concepts[0].labels:
        _, kinds = np.unique([" ".join(c.labels.values()) for c in concepts], return_inverse=True)
        inside = permuted(np.arange(n), kinds, permutations, rng).astype(np.int64)
        within = permutation_p(float(means[0]), _reciprocal(a[:, live], b[:, live], inside)[1:].mean(1))
    spelling = characters([korean.names[i] for i in first] + [english.names[i] for i in second])

    def beside(x: Rows, y: Rows) -> float:
        return float(_reciprocal(x, y, drawn[:1]).mean())

    return RetrievalRow(
        domain=concepts[0].domain,
        depth=depth,
        sae=sae,
        position=position,
        shared="kept" if keep_shared else "left out",
        n=n,
        n_features=int(live.sum()),
        value=float(means[0]),
        interval=bootstrap_interval(each[0]),
        null_mean=float(means[1:].mean()),
        null_high=float(np.quantile(means[1:], 0.95)),
        p=permutation_p(float(means[0]), means[1:]),
        p_within_label=within,
        characters=beside(spelling[:n], spelling[n:]),
        embedding=beside(korean.embedding[first], english.embedding[second]),
        random=tuple(beside(x[first], y[second]) for x, y in zip(korean.random, english.random, strict=True)),
        shuffled=beside(korean.shuffled[first], english.shuffled[second]),
        residual=beside(korean.residual[first], english.residual[second]),
    )


def corrected_retrieval(rows: Sequence[RetrievalRow]) -> list[RetrievalRow]:
    """The rows, with q and what stands out for those that leave shared strings out."""
    own = [i for i, row in enumerate(rows) if row.shared == "left out"]
    found = list(rows)
    if own:
        for i, q in zip(own, benjamini_hochberg([rows[i].p for i in own]).tolist(), strict=True):
            row = rows[i]
            above = row.value > max(row.characters, row.embedding, row.shuffled, *row.random)
            found[i] = replace(row, q=q, stands_out=q < ALPHA and above)
    return found


def language_features(
    pairs: Sequence[tuple[ConceptActs, ConceptActs]],
    *,
    depth: int,
    sae: str,
    permutations: int,
    rng: np.random.Generator,
) -> list[LanguageFeature]:
    """Language features over the concepts of several domains, each Korean and English; see the module."""
    rates: list[tuple[Rows, Rows]] = []
    for korean, english in pairs:
        first, second = both(korean, english, keep_shared=False)
        rates.append((korean.fires[first], english.fires[second]))
    ko, en = (np.concatenate([pair[side] for pair in rates]).astype(np.float64) for side in (0, 1))
    live = np.flatnonzero((ko > 0).any(0) | (en > 0).any(0))
    if not len(ko) or not len(live):
        return []
    difference = (en - ko)[:, live]
    signs = rng.integers(0, 2, size=(permutations, len(ko))) * 2.0 - 1.0
    null = np.abs(signs @ difference).max(1) / len(ko)
    mean = difference.mean(0)
    found = [
        LanguageFeature(depth, sae, int(feature), float(ko[:, feature].mean()), float(en[:, feature].mean()), p)
        for feature, value in zip(live, np.abs(mean).tolist(), strict=True)
        if value > LANGUAGE_RATE and (p := permutation_p(value, null)) < ALPHA
    ]
    return sorted(found, key=lambda each: -abs(each.rate_en - each.rate_ko))


def shares(
    rows: Sequence[FeatureRow], across: Sequence[FeatureRow], languages: Sequence[LanguageFeature]
) -> list[Shares]:
    """What of the chosen features is what, by domain, language, label set and SAE.

    Args:
        rows: of one language each.
        across: of which features were chosen in one language and tested in the other.
        languages: the language features.
    """
    bilingual = {(row.sae, row.domain, row.labels, row.label, row.feature) for row in across if row.stands_out}
    of_language = {(each.sae, each.feature) for each in languages}
    groups: dict[tuple[str, str, str, int, str], list[FeatureRow]] = {}
    for row in rows:
        groups.setdefault((row.domain, row.language, row.labels, row.depth, row.sae), []).append(row)
    found = []
    for key, own in groups.items():
        out = [row for row in own if row.stands_out]
        found.append(
            Shares(
                *key,
                n=len({row.feature for row in own}),
                stand_out=len({row.feature for row in out}),
                bilingual=len({r.feature for r in out if (r.sae, r.domain, r.labels, r.label, r.feature) in bilingual}),
                language_features=len({row.feature for row in out if (row.sae, row.feature) in of_language}),
            )
        )
    return found


def _reciprocal(first: Rows, second: Rows, pairs: IntArray) -> FloatArray:
    one, other = (scaled(x.astype(np.float64), standardise=True) for x in (first, second))
    return retrieval(one, other, pairs)
