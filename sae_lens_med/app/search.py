"""Finding features and cases by what they are called and what they say.

Everything is folded once (NFKC, case folded), the query alike, so that full-width letters, capitals and syllables that
were typed as jamo are found; then a plain substring is looked for. Korean words of two syllables are found, which an
index of trigrams would miss; 5,000 cases take some hundredths of a second.

What matches a label comes before what matches a concept, a word in which a feature is strongest, and the text of a
case; each kind has a fifth of the places for itself where it has so many matches.

Out of scope: typing errors, initial consonants (ㄷㄴ for 당뇨).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sae_lens_med.app.aligned import Aligned
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.names import Names
from sae_lens_med.app.text import as_shown
from sae_lens_med.app.views import CaseRow, Hit
from sae_lens_med.errors import ConfigError
from sae_lens_med.records import McqItem

AROUND = 40
"""Characters that a hit shows on either side of what was found in a text."""
_OWN_SHARE = 5


def fold(text: str) -> str:
    """As texts are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Texts:
    """The folded texts of the cases: stem, options and explanation."""

    def __init__(self, items: Sequence[McqItem]) -> None:
        # A line feed is never in a folded text, so that nothing is found across two of them.
        self._folded = ["\n".join(map(fold, (item.question, *item.options, item.explanation or ""))) for item in items]

    def holds(self, number: int, wanted: str) -> bool:
        """Whether a case has the folded text `wanted`."""
        return wanted in self._folded[number]

    def found(self, wanted: str, most: int) -> list[tuple[int, str]]:
        """The first `most` cases that have it, each with what stands around."""
        hits = []
        for number, text in enumerate(self._folded):
            at = text.find(wanted)
            if at >= 0:
                start, end = max(0, at - AROUND), at + len(wanted) + AROUND
                start = max(start, text.rfind("\n", 0, at) + 1)
                piece = text[start:end].split("\n")[0]
                hits.append((number, ("…" if start else "") + piece))
                if len(hits) == most:
                    break
        return hits


class Words:
    """The words of the index, folded, and of which features they are."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._folded = [fold(word) for word in index.words]
        ids, indptr = index.word_ids, index.word_indptr
        feature = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))
        place = (np.arange(len(ids)) - indptr[feature]).astype(np.int32)
        order = np.argsort(ids, kind="stable")
        self._ids, self._feature, self._place = ids[order], feature[order], place[order]

    def found(self, wanted: str, most: int) -> list[tuple[int, str]]:
        """At most `most` features with a word that has `wanted`: the whole word before a part of one, then those in
        whose list it stands first. Each feature once."""
        hits: list[tuple[bool, int, int, str]] = []
        for number, folded in enumerate(self._folded):
            if wanted in folded:
                low, high = np.searchsorted(self._ids, [number, number + 1])
                places, features = self._place[low:high].tolist(), self._feature[low:high].tolist()
                word = self._index.words[number]
                hits += [(folded != wanted, place, f, word) for place, f in zip(places, features, strict=True)]
        best: dict[int, str] = {}
        for _, _, feature, word in sorted(hits):
            best.setdefault(feature, word)
            if len(best) == most:
                break
        return list(best.items())


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Of one study."""

    texts: Texts
    words: Words | None
    """None without an index."""
    names: Names
    aligned: Aligned
    rows: tuple[CaseRow, ...]

    def find(self, query: str, limit: int) -> tuple[Hit, ...]:
        """What matches, at most `limit`, in the order of the module; nothing for an empty query.

        Raises `ConfigError` for a limit below 1.
        """
        if limit < 1:
            raise ConfigError(f"a search gives at least one place, got {limit}.")
        wanted = fold(query)
        if not wanted:
            return ()
        words = [] if self.words is None else self.words.found(wanted, limit)
        kinds = [
            [self._feature("label", f, label) for f, label in self.names.labels.all().items() if wanted in fold(label)],
            list(self._concepts(wanted)),
            [self._feature("token", feature, word) for feature, word in words],
            [Hit("text", as_shown(t), None, self.rows[n]) for n, t in self.texts.found(wanted, limit)],
        ]
        hits: list[Hit] = []
        for place, kind in enumerate(kinds):
            kept_free = sum(min(len(later), limit // _OWN_SHARE) for later in kinds[place + 1 :])
            hits += kind[: max(limit - len(hits) - kept_free, 0)]
        return tuple(hits)

    def _concepts(self, wanted: str) -> Iterator[Hit]:
        """The features of the concepts that are called so, best first."""
        found = [
            (score, feature, concept.id)
            for concept in self.aligned.concepts
            if any(wanted in fold(form) for form in (concept.id, *concept.forms))
            for feature, score in concept.features
        ]
        for score, feature, concept in sorted(found, key=lambda each: (-each[0].auroc, each[1])):
            yield Hit("concept", as_shown(concept), self.names.name(feature), None, score.auroc)

    def _feature(self, kind: Literal["label", "token"], feature: int, text: str) -> Hit:
        return Hit(kind, as_shown(text), self.names.name(feature), None)
