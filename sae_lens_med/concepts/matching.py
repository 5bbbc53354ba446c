"""Concepts in a text: which, and at which characters.

The rules, on the text as `folding` reads it (NFC, case-folded; white space and hyphens are gaps):

- A form matches where it begins and ends a word. A word also ends where Korean and other scripts meet ("혈청AST").
- English: the last word of a form may be a regular plural. A form of at most five letters, all of them capitals (AIDS,
  CT), is an acronym and must be written so. After a hyphen with a bound prefix ("non-diabetic") nothing matches.
- Korean: particles, endings and a few dependent nouns may follow (`particles`); a form within a longer word ("위암" in
  "상위암호") is no match. Spaces that a form has may be missing; a form of three or more syllables may have one more.
  Between Korean and another script ("비타민 D") a gap is free.
- The longest match wins, then the earlier one; mentions do not overlap, and a concept within a longer one is not
  counted. Length is counted without gaps. Concepts that share a form are all mentioned, by the same span.

The forms lie in a hash table by their first characters, and are looked up only where a word begins, so that the time
grows with the text and hardly with the number of forms.

Out of scope: negation, misspellings, abbreviations that a text introduces, words that stand between the parts, and
verbs that look like a noun with an ending ("감기는" of a cold, or of eyes that close).
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sae_lens_med.concepts import particles
from sae_lens_med.concepts.analyser import KiwiEndings
from sae_lens_med.concepts.folding import BREAK, GAP, NO_GAP, Folded, fold, is_hangul, is_letter
from sae_lens_med.concepts.sets import ConceptSet
from sae_lens_med.errors import ConfigError, DataError, nearest
from sae_lens_med.records import Record

ANALYSERS = ("rules", "kiwi")

_HEAD = 4
_ACRONYM_LETTERS = 5
_SPACED_SYLLABLES = 3
_HYPHENS = "-\u2010\u2011\u2012\u2013"
_LAST_LETTERS = re.compile(r"[^\W\d_]*\Z")
_BOUND_PREFIX = re.compile(
    r"(?<!\w)(?:non|anti|pre|post|pseudo|sub|para|peri|pro|un|ante|inter|intra|extra|trans|hyper|hypo|micro|macro"
    rf"|semi|hemi|mini|multi|poly|auto)[{_HYPHENS}]\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mention(Record):
    """A concept at the characters `[start, end)` of a text, particles not included."""

    concept_id: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise DataError(f"a mention of {self.concept_id!r} needs 0 <= start < end, got [{self.start}, {self.end}).")


class _Form(NamedTuple):
    concept: int
    gap: bytes
    """Before each character but the first."""
    acronym: str | None
    """How it must be written, for acronyms."""
    noun: str
    """The Korean syllables that it ends with, gaps left out; empty for others."""
    syllables: int


class ConceptMatcher:
    """Finds the concepts of a set. Building takes about a second for 20,000 forms; `find` can be called at will."""

    def __init__(self, concepts: ConceptSet, analyser: str = "rules") -> None:
        """`analyser`: how the end of a Korean noun is found: `rules` (a table) or `kiwi` (the extra `korean`).

        Raises `ConfigError` for another analyser, `MissingExtraError` where `kiwi` is not installed.
        """
        if analyser not in ANALYSERS:
            hint = nearest(analyser, ANALYSERS) or f"; use {' or '.join(ANALYSERS)}."
            raise ConfigError(f"there is no analyser {analyser!r}{hint}")
        self.concepts = concepts
        self.analyser = analyser
        self._ids = concepts.ids
        self._forms: dict[str, list[_Form]] = {}
        for number, concept in enumerate(concepts):
            for form in concept.forms:
                for key, entry in _entries(number, form):
                    self._forms.setdefault(key, []).append(entry)
        self._lengths: dict[str, list[int]] = {}
        for key in sorted(self._forms, key=len):
            self._lengths.setdefault(key[:_HEAD], []).append(len(key))
        self._lengths = {head: sorted(set(lengths)) for head, lengths in self._lengths.items()}
        self._ends_word = particles.ends_word
        if analyser == "kiwi":
            nouns = {entry.noun for entries in self._forms.values() for entry in entries if entry.noun}
            self._ends_word = KiwiEndings(nouns).ends_word

    def find(self, text: str) -> tuple[Mention, ...]:
        """The mentions in `text`, by start; characters count in `text` as given, whatever its normal form."""
        folded = fold(text)
        found = [
            (length, start, concepts)
            for start in folded.word_starts
            for length, concepts in self._at(text, folded, start)
        ]
        found.sort(key=lambda match: (-match[0], match[1]))
        taken = bytearray(len(folded.key))
        mentions: list[Mention] = []
        for length, start, concepts in found:
            if taken.find(1, start, start + length) < 0:
                taken[start : start + length] = b"\x01" * length
                first, last = folded.starts[start], folded.ends[start + length - 1]
                mentions.extend(Mention(self._ids[concept], first, last) for concept in concepts)
        return tuple(sorted(mentions, key=lambda mention: (mention.start, mention.end, mention.concept_id)))

    def _at(self, text: str, folded: Folded, start: int) -> Iterator[tuple[int, set[int]]]:
        """Lengths of the forms that match at `start`, with the concepts that each names."""
        key = folded.key
        left = len(key) - start
        for head in range(1, min(_HEAD, left) + 1):
            for length in self._lengths.get(key[start : start + head], ()):
                # A short head is a whole form; only a head of full length begins longer ones.
                if length <= left and (head == _HEAD or length == head):
                    entries = self._forms.get(key[start : start + length], ())
                    concepts = {form.concept for form in entries if self._fits(text, folded, start, length, form)}
                    if concepts:
                        yield length, concepts

    def _fits(self, text: str, folded: Folded, start: int, length: int, form: _Form) -> bool:
        end = start + length
        if form.acronym is not None and folded.cased[start:end] != form.acronym:
            return False
        if folded.gap[start + 1 : end] != form.gap and not _gaps_fit(folded, start, end, form):
            return False
        if not self._ends(folded, end, form):
            return False
        before = folded.starts[start]
        return not (before and text[before - 1] in _HYPHENS and _BOUND_PREFIX.search(text, max(0, before - 8), before))

    def _ends(self, folded: Folded, end: int, form: _Form) -> bool:
        """Whether the word ends at `end`, or only particles and endings follow."""
        key, gap = folded.key, folded.gap
        if not form.noun:
            return gap[end] != NO_GAP or not (is_letter(key[end - 1]) and is_letter(key[end]))
        stop = end
        while gap[stop] == NO_GAP and is_hangul(key[stop]):
            stop += 1
        return self._ends_word(form.noun, key[end:stop])


def mention_tokens(mentions: Sequence[Mention], offsets: Sequence[tuple[int, int]]) -> tuple[tuple[str, ...], ...]:
    """The concepts that each token takes part in.

    Args:
        mentions: of one text, in any order.
        offsets: per token the characters `[start, end)` of the same text: `Prompt.char_spans`, or `char_start` and
            `char_end` of one text's rows in `FeatureActs`. Tokens without characters (special tokens) have none.

    Returns per token the ids of the mentioned concepts that share a character with it, sorted, each once.
    """
    ordered = sorted(mentions, key=lambda mention: mention.start)
    starts = [mention.start for mention in ordered]
    longest = max((mention.end - mention.start for mention in ordered), default=0)
    tokens: list[tuple[str, ...]] = []
    for start, end in offsets:
        ids: set[str] = set()
        if start < end:
            # A mention that reaches into the token starts before its end and not further back than the longest one.
            for mention in ordered[bisect_right(starts, start - longest) : bisect_right(starts, end - 1)]:
                if mention.end > start:
                    ids.add(mention.concept_id)
        tokens.append(tuple(sorted(ids)))
    return tuple(tokens)


def _entries(concept: int, form: str) -> Iterator[tuple[str, _Form]]:
    """The form as it is looked up: itself, and its plural if it is English."""
    folded = fold(form)
    key, gap = folded.key, folded.gap[1:-1]
    syllables = sum(map(is_hangul, key))
    noun = re.search(r"[가-힣ㄱ-ㅣ]*\Z", key)
    letters = [c for c in folded.cased if c.isalpha()]
    acronym = not syllables and 0 < len(letters) <= _ACRONYM_LETTERS and all(c.isupper() for c in letters)
    entry = _Form(concept, gap, folded.cased if acronym else None, noun.group() if noun else "", syllables)
    yield key, entry
    plural = _plural(key, acronym=acronym)
    if plural is not None:
        longer = gap + bytes(max(0, len(plural) - len(key)))
        yield plural, entry._replace(gap=longer[: len(plural) - 1], acronym=folded.cased + "s" if acronym else None)


def _plural(key: str, *, acronym: bool) -> str | None:
    """The regular plural of the last word: -s, -es, -ies, and -es for -is; None for what is no English word."""
    last = _LAST_LETTERS.search(key)
    if last is None or not last.group().isascii() or len(last.group()) < (1 if acronym else 3):
        return None
    if acronym:
        return key + "s"
    if key.endswith("is"):
        return key[:-2] + "es"
    if key.endswith(("s", "x", "z", "ch", "sh")):
        return key + "es"
    if key.endswith("y") and key[-2] not in "aeiou":
        return key[:-1] + "ies"
    return key + "s"


def _gaps_fit(folded: Folded, start: int, end: int, form: _Form) -> bool:
    """Whether the text's gaps within `[start, end)` may differ from the form's as they do."""
    more = 0
    for place, (of_text, of_form) in enumerate(zip(folded.gap[start + 1 : end], form.gap, strict=True), start + 1):
        if of_text == of_form:
            continue
        korean = is_hangul(folded.key[place - 1]) + is_hangul(folded.key[place])
        if of_text == BREAK or korean == 0:
            return False
        if korean == 2 and of_text == GAP:
            more += 1
    return more <= (1 if form.syllables >= _SPACED_SYLLABLES else 0)
