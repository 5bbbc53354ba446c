"""Does a bilingual feature do something in both languages? It is ablated on parallel texts.

A feature f that carries a label is put to 0 at the tokens of the names of held-out concepts with that label, in the
Korean and in the English texts (`Without`; the rest of the activation, error term included, stays). The effect on a
text is

    KL(p || p_without) = sum_w p(w) ln(p(w) / p_without(w))     nats, >= 0

of the next-token distribution at the text's last token; on a concept, the mean over its templates; the value is the
mean over concepts.

**Null**: other features of the SAE, ablated one at a time in the same places, matched with f *in that language*: of
those whose activation, summed over these very tokens, is at least 1 / `CALIPER` of f's, the nearest in how many of the
tokens they fire and how strongly (`features.matched`). p is one-sided, `(1 + #{random >= own}) / (R + 1)`; q by
Benjamini-Hochberg over all features and languages. A feature is *used in both* where q < 0.05 in both.

It says that the model's next word depends on the feature there, more than on features like it; not that it depends in
the same way, nor that the model reasons with a concept. Where fewer than `LEAST_RANDOM` other features are as strong on
these names, no p is given: what then goes is as much as the SAE has there.

Out of scope: steering; texts with several names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sae_lens_med.errors import DataError
from sae_lens_med.features.matched import matched_sets
from sae_lens_med.knowledge_map.reading import SlotText
from sae_lens_med.records import FloatArray, Record
from sae_lens_med.statistics import ALPHA, benjamini_hochberg, bootstrap_interval, permutation_p

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook, HookedText

LEAST_RANDOM = 19
"""Matched features that a p needs."""
CALIPER = 1.5
"""By how much a feature may be stronger than one that it is compared with."""


@dataclass(frozen=True, slots=True)
class EffectRow(Record):
    """One feature ablated in one language."""

    domain: str
    labels: str
    label: str
    language: str
    depth: int
    sae: str
    feature: int
    n: int
    """Concepts."""
    n_texts: int
    fires: float
    """Share of the texts in which the feature fires on the name; in the others the effect is 0."""
    value: float
    """Mean KL in nats."""
    interval: tuple[float, float] | None
    """95 %, bootstrap over concepts."""
    n_random: int
    """Matched features; 0 where there are too few."""
    fold: float | None
    """Median over these of the factor by which rate or strength differ from the feature's, whichever more."""
    null_mean: float | None
    null_high: float | None
    """95 % quantile."""
    p: float | None
    q: float | None = None
    stands_out: bool = False
    used_in_both: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Firing:
    """`features.matched.FiringStatistics` over the tokens at which features are ablated."""

    firing_rate: npt.NDArray[np.float32]
    mean_when_active: FloatArray
    n_tokens: int


def ablated(
    above: "AboveHook", texts: Sequence[SlotText], feature: int, n_random: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, float | None, float]:
    """Effects of one feature and of those matched with it.

    Args:
        above: the model above the SAE's hook.
        texts: of one language, with the concepts of one label; `SlotText.concept` tells them apart.
        feature: its index.
        n_random: matched features, fewer where fewer are as strong on these names.
        rng: of the matched features.

    Returns the effect on each concept `[n]` in nats, those of the matched features, means over concepts `[R]` (empty
    where fewer than `LEAST_RANDOM` others are as strong), the median of how well they match, and the share of texts in
    which the feature fires.
    """
    from sae_lens_med.interventions.edits import Without

    read = [above.read(text.token_ids, _on_name(text)) for text in texts]
    firing = _firing(read)
    drawn, fold = _matched(firing, feature, n_random, rng)
    edits = [Without((each,)) for each in (feature, *drawn)]
    changes = np.zeros((len(texts), len(edits)))
    for row, text in zip(changes, read, strict=True):
        row[:] = _kl(above, text, edits)
    _, concept = np.unique([text.concept for text in texts], return_inverse=True)
    sums = np.zeros((concept.max() + 1, len(edits)))
    np.add.at(sums, concept, changes)
    of_concepts = sums / np.bincount(concept)[:, None]
    fires = float(np.mean([text.first[feature] < len(text.at) for text in read]))
    return of_concepts[:, 0], of_concepts[:, 1:].mean(0), fold, fires


def effect_row(
    own: FloatArray,
    random: FloatArray,
    *,
    fold: float | None,
    fires: float,
    n_texts: int,
    **of: str | int,
) -> EffectRow:
    """What `ablated` gave, as a row without q. `of`: domain, labels, label, language, depth, sae, feature."""
    value = float(own.mean())
    return EffectRow(
        **of,  # type: ignore[arg-type]  # the names of fields
        n=len(own),
        n_texts=n_texts,
        fires=fires,
        value=value,
        interval=bootstrap_interval(own),
        n_random=len(random),
        fold=fold,
        null_mean=float(random.mean()) if len(random) else None,
        null_high=float(np.quantile(random, 0.95)) if len(random) else None,
        p=permutation_p(value, random) if len(random) else None,
    )


def corrected_effects(rows: Sequence[EffectRow]) -> list[EffectRow]:
    """The rows with q, and whether a feature's effect stands out in each of the two languages."""
    tested = {i: row.p for i, row in enumerate(rows) if row.p is not None}
    found = list(rows)
    if tested:
        for i, q in zip(tested, benjamini_hochberg(list(tested.values())).tolist(), strict=True):
            found[i] = replace(rows[i], q=q, stands_out=q < ALPHA)
    languages: dict[tuple[str, int, str, str, str], set[str]] = {}
    for row in found:
        if row.stands_out:
            languages.setdefault(_key(row), set()).add(row.language)
    return [replace(row, used_in_both=len(languages.get(_key(row), ())) == 2) for row in found]


def _key(row: EffectRow) -> tuple[str, int, str, str, str]:
    return row.sae, row.feature, row.domain, row.labels, row.label


def _on_name(text: SlotText) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(text.token_ids), dtype=bool)
    chosen[text.first : text.at[0] + 1] = True
    return chosen


def _firing(read: Sequence["HookedText"]) -> _Firing:
    acts = np.concatenate([text.acts.cpu().numpy() for text in read]).astype(np.float64)
    rate = (acts > 0).mean(0)
    mean = np.divide(acts.mean(0), rate, out=np.zeros_like(rate), where=rate > 0)
    return _Firing(rate.astype(np.float32), mean, len(acts))


def _matched(firing: _Firing, feature: int, n_random: int, rng: np.random.Generator) -> tuple[list[int], float | None]:
    drive = firing.firing_rate * firing.mean_when_active
    strong = (drive > 0) & (drive * CALIPER >= drive[feature])
    others = int(np.count_nonzero(strong)) - 1
    if drive[feature] == 0 or others < LEAST_RANDOM:
        return [], None
    # To be matched is only what is as strong: others count as if they never fired.
    rates = np.where(strong, firing.firing_rate, np.float32(0))
    sets = matched_sets(replace(firing, firing_rate=rates), [feature], min(n_random, others), rng)
    return sets.sets[:, 0].tolist(), float(np.median(sets.fold))


def _kl(above: "AboveHook", text: "HookedText", edits: Sequence[object]) -> FloatArray:
    """`[E]`: KL of the unedited next-token distribution from that of each edit."""
    found = np.zeros(len(edits))
    whole: FloatArray | None = None
    for rows, logits in above.all_logits(text, edits):  # type: ignore[arg-type]  # edits
        told = _log_probabilities(logits)
        if rows == [-1]:
            whole = told[0]
            continue
        if whole is None:
            raise DataError("the unedited text must come first.")
        found[rows] = np.maximum((np.exp(whole) * (whole - told)).sum(1), 0.0)
    return found


def _log_probabilities(logits: npt.NDArray[np.float32]) -> FloatArray:
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(1, keepdims=True))
