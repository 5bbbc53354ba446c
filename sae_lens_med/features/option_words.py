"""The words of options that tell items apart and stand in their explanations: left out of what is compared.

`data.leakage` masks option texts where they are written out. An explanation that says "the carcinoid" of the option
"Bronchial carcinoid tumour" keeps the word, and where few explanations of the study hold it, the word names its item. A
**rare** word of an option is one of at least `LATIN` letters (2 syllables in Hangul) that at most `RARE` explanations
of the study hold, or `RARE_SHARE` of them where that is more. The tokens that touch one in the item's own explanation
are not counted, and the words are masked in the texts that wording is compared by.

The texts were run with these words in them, so that later tokens may know of them; and mean residuals (the baselines
`raw` and `pca`) are over all tokens. What is collected does not change.

Out of scope: synonyms, and inflections other than an English plural and Korean particles.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sae_lens_med.data.leakage import PARTICLE, PLACEHOLDER
from sae_lens_med.features.vectors import EXPLANATION_PARTS, Collected, tokens_of
from sae_lens_med.records import BoolArray, FeatureActs, McqItem

LATIN, HANGUL = 4, 2
"""Least letters of a word."""
RARE, RARE_SHARE = 3, 0.02
"""Most explanations that hold a rare word, as a number and as a share of those of the study."""

_WORD = re.compile(r"[^\W\d_]+")
_HANGUL = re.compile("[\uac00-\ud7a3]")


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A collection (`features.vectors.Collected`) as it is compared."""

    acts: FeatureActs
    texts: dict[str, dict[str, str]]
    raw_mean_stem: npt.NDArray[Any]
    raw_mean_explanation: npt.NDArray[Any]
    has_explanation: BoolArray


def rare_option_words(items: Sequence[McqItem], explanations: Sequence[str | None]) -> list[list[tuple[int, int]]]:
    """Per item the characters `(start, end)` of its masked explanation at which a rare word of its options stands."""
    found: list[list[tuple[str, int, int]]] = []
    holders: Counter[str] = Counter()
    for item, text in zip(items, explanations, strict=True):
        wanted = {word for option in item.options for word, _, _ in _words(option)}
        own = [(form, start, end) for form, start, end in _words(text or "") if form in wanted]
        found.append(own)
    sought = {form for own in found for form, _, _ in own}
    for text in explanations:
        holders.update({form for form, _, _ in _words(text or "")} & sought)
    most = max(RARE, RARE_SHARE * sum(text is not None for text in explanations))
    return [sorted({(start, end) for form, start, end in own if holders[form] <= most}) for own in found]


def without_option_words(features: Collected, items: Sequence[McqItem]) -> Collected:
    """The same features, the tokens of rare option words in explanations excluded, and these masked in the texts."""
    spans = rare_option_words(items, [features.texts.get(item.id, {}).get("explanation") for item in items])
    if not any(spans):
        return features
    acts, texts = leave_out_words(features.acts, features.texts, spans)
    return Compared(
        acts=acts,
        texts=texts,
        raw_mean_stem=features.raw_mean_stem,
        raw_mean_explanation=features.raw_mean_explanation,
        has_explanation=features.has_explanation,
    )


def leave_out_words(
    acts: FeatureActs, texts: Mapping[str, Mapping[str, str]], spans: Sequence[Sequence[tuple[int, int]]]
) -> tuple[FeatureActs, dict[str, dict[str, str]]]:
    """The tokens that touch `spans` (per item of `acts`, characters of its masked explanation) excluded, and these
    characters masked in the texts."""
    masked = {name: dict(own) for name, own in texts.items()}
    excluded = acts.excluded.copy()
    rows = np.flatnonzero(tokens_of(acts, EXPLANATION_PARTS))
    rows = rows[np.argsort(acts.token_item[rows], kind="stable")]
    bounds = np.searchsorted(acts.token_item[rows], np.arange(len(acts.item_ids) + 1))
    for i, (name, own) in enumerate(zip(acts.item_ids, spans, strict=True)):
        tokens = rows[bounds[i] : bounds[i + 1]]
        for start, end in own:
            text = masked[name]["explanation"]
            masked[name]["explanation"] = text[:start] + PLACEHOLDER * (end - start) + text[end:]
            excluded[tokens] |= (acts.char_start[tokens] < end) & (acts.char_end[tokens] > start)
    return replace(acts, excluded=excluded), masked


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Each content word's forms, folded, with its characters: as it stands, and in Hangul without what may be a
    particle."""
    for found in _WORD.finditer(text):
        start, end = found.span()
        word = found[0]
        if not _HANGUL.search(word):
            folded = unicodedata.normalize("NFKC", word).casefold()
            folded = folded.removesuffix("s") if len(folded) > LATIN else folded
            if len(folded) >= LATIN:
                yield folded, start, end
            continue
        for size in range(HANGUL, len(word) + 1):
            if size == len(word) or PARTICLE.fullmatch(word[size:]):
                yield word[:size], start, start + size
