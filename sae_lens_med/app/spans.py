"""Which characters of a case belong to which tokens: what painting and clicking go by.

The spans that are stored with the features point into the texts that were run: the question's *prompt* (its layout, its
solved examples) and the *masked* explanation. They are brought back to the item's own texts:

- question: the prompt ends with what the layout `letter` makes of the item alone, so where stem and options stand in
  that says where they stand in the prompt;
- explanation: between two placeholders the masked text is the original, moved by what the placeholders before it stand
  for (`data.leakage.MaskedText.originals`).

**Segments.** The boundaries of all tokens' spans, without white space at their ends, cut a text into segments, each
with all the tokens that cover it. No boundary lies inside a written character (a syllable spelled out in jamo, a letter
with its accents, an emoji with its modifiers), so that a syllable that is split over three tokens is one segment with
three tokens; its activation is the maximum over them, never the sum. Tokens without characters (BOS) have no
segment; how many stand before a text is counted.

Where the texts that were run are not what the package makes of the item today, there are no segments and `problem`
says so: a span in another text would paint the wrong words.

Out of scope: what fires (`cases`), and how it is drawn.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from sae_lens_med.app.text import visible
from sae_lens_med.app.views import PartText, Segment
from sae_lens_med.data.leakage import MaskedText, joins_previous, mask_leakage
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.features.part import CollectedPart
from sae_lens_med.features.store import TEXTS
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import OPTION_LETTERS, PARTS, McqItem

_QUESTION, _EXPLANATION = (TEXTS.index(name) for name in ("question", "explanation"))
_OF_QUESTION = tuple(PARTS.index(name) for name in ("stem", "option"))
_OF_EXPLANATION = PARTS.index("explanation")
_ZWJ, _SELECTORS, _TONES = "\u200d", ("\ufe00", "\ufe0f"), ("\U0001f3fb", "\U0001f3ff")

TokenRange = tuple[int, int, int]
"""First character, one past the last, and the token's row within its item."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The texts of one case with their segments."""

    parts: tuple[PartText, ...]
    """Stem, options in order, and the explanation where there is one."""
    at: dict[int, tuple[tuple[int, int], ...]]
    """Token -> numbers of the part and the segment that it covers; without tokens that cover none."""
    problem: str = ""
    """Why a text has no segments, in one sentence; empty where all is well."""

    def part(self, key: str) -> int | None:
        """The number of the part of this key."""
        return next((number for number, part in enumerate(self.parts) if part.key == key), None)


def lay_out(item: McqItem, collected: CollectedPart | None) -> Layout:
    """The texts of `item`, with segments where its features were collected (`collected`: of this item alone)."""
    texts = {"stem": item.question}
    texts |= {f"option:{letter}": text for letter, text in zip(OPTION_LETTERS, item.options, strict=False)}
    ranges: dict[str, list[TokenRange]] = {key: [] for key in texts}
    problems: list[str] = []
    masks: tuple[tuple[int, int], ...] = ()
    if collected is not None:
        run = collected.texts[item.id]["question"]
        places = question_places(item, run)
        if places is None:
            problems.append(f"the question of {item.id!r} was run in another layout than it has today")
        else:
            _into_question(ranges, places, collected)
    if item.explanation is not None:
        texts["explanation"] = item.explanation
        ranges["explanation"] = []
        masked = mask_leakage(item)
        run = None if collected is None else collected.texts[item.id].get("explanation")
        if run is None or run == masked.text:
            masks = tuple((span.start, span.end) for span in masked.originals)
        if run is not None and run == masked.text:
            assert collected is not None  # a text was run
            ranges["explanation"] = _into_explanation(masked, collected)
        elif run is not None:
            problems.append(f"the explanation of {item.id!r} was masked otherwise than it is today")
    before = {} if collected is None else _without_characters(collected)
    parts: list[PartText] = []
    at: dict[int, list[tuple[int, int]]] = {}
    excluded: list[bool] = [] if collected is None else collected.acts.excluded.tolist()
    for number, (key, text) in enumerate(texts.items()):
        shown = visible(text)
        found = [
            Segment(*shown.span(start, end), tokens, all(excluded[token] for token in tokens))
            for start, end, tokens in segments(text, ranges[key])
            if shown.units[start] < shown.units[end]
        ]
        for place, segment in enumerate(found):
            for token in segment.tokens:
                at.setdefault(token, []).append((number, place))
        hidden = tuple(shown.span(*span) for span in masks) if key == "explanation" else ()
        parts.append(PartText(key, shown.text, tuple(found), hidden, before.get(key, 0)))
    problem = f"{' and '.join(problems)}; collect the features again." if problems else ""
    return Layout(tuple(parts), {token: tuple(places) for token, places in at.items()}, problem)


def question_places(item: McqItem, prompt: str) -> list[tuple[str, int, int, int]] | None:
    """Where the texts of `item` stand in the prompt that was run: key, first character, one past the last, and how far
    the item's own text is moved against it (to be added to a place of the prompt). None in another layout."""
    try:
        rendered = find_templates("letter").of(item).render(item)
    except (ConfigError, DataError):
        return None
    spans = {span.label: span for span in rendered.spans}
    if not prompt.endswith(rendered.text) or len(spans) != len(rendered.spans) or len(spans) != 1 + len(item.options):
        return None
    moved = len(prompt) - len(rendered.text)
    lead = len(item.question) - len(item.question.lstrip())
    places = []
    for key, span in spans.items():
        start = span.start + moved
        places.append((key, start, span.end + moved, (lead if key == "stem" else 0) - start))
    return places


def segments(text: str, ranges: Sequence[TokenRange]) -> list[tuple[int, int, tuple[int, ...]]]:
    """First character, one past the last, tokens ascending: the pieces of `text` that tokens cover; see the module."""
    whole: list[TokenRange] = []
    # Of most texts no character continues another, and nothing has to be looked at twice.
    joined = any(map(_may_continue, set(text)))
    for start, end, token in ranges:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        while joined and start > 0 and continues(text, start):
            start -= 1
        while joined and end < len(text) and continues(text, end):
            end += 1
        whole.append((start, end, token))
    bounds = sorted({bound for start, end, _ in whole for bound in (start, end)})
    place = {bound: number for number, bound in enumerate(bounds)}
    covering: list[list[int]] = [[] for _ in bounds]
    for start, end, token in whole:
        for number in range(place[start], place[end]):
            covering[number].append(token)
    return [
        (bounds[number], bounds[number + 1], tuple(sorted(tokens)))
        for number, tokens in enumerate(covering[:-1])
        if tokens
    ]


def continues(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the written character of the one before it."""
    return _may_continue(text[at]) or text[at - 1] == _ZWJ


@cache
def _may_continue(character: str) -> bool:
    """Whether a character belongs to the one before it, where there is one."""
    if character.isascii():
        return False
    return (
        joins_previous(character)
        or unicodedata.category(character) in ("Mn", "Mc", "Me")
        or character == _ZWJ
        or _SELECTORS[0] <= character <= _SELECTORS[1]
        or _TONES[0] <= character <= _TONES[1]
    )


def _without_characters(collected: CollectedPart) -> dict[str, int]:
    """Key of the text that they stand before -> how many tokens cover no character."""
    none = collected.acts.char_end <= collected.acts.char_start
    texts = {"stem": _QUESTION, "explanation": _EXPLANATION}
    return {key: int(np.count_nonzero(none & (collected.token_text == text))) for key, text in texts.items()}


def _into_question(
    ranges: dict[str, list[TokenRange]], places: list[tuple[str, int, int, int]], collected: CollectedPart
) -> None:
    acts = collected.acts
    own = np.flatnonzero((collected.token_text == _QUESTION) & np.isin(acts.token_part, _OF_QUESTION))
    for token, start, end in zip(own.tolist(), acts.char_start[own].tolist(), acts.char_end[own].tolist(), strict=True):
        for key, first, last, move in places:
            if start < last and end > first:
                ranges[key].append((max(start, first) + move, min(end, last) + move, token))


def _into_explanation(masked: MaskedText, collected: CollectedPart) -> list[TokenRange]:
    """The tokens of the explanation that touch no placeholder, in the characters of the original."""
    acts = collected.acts
    own = np.flatnonzero((collected.token_text == _EXPLANATION) & (acts.token_part == _OF_EXPLANATION))
    start, end = acts.char_start[own].astype(np.int64), acts.char_end[own].astype(np.int64)
    hidden = np.array([span.start for span in masked.placeholders], dtype=np.int64)
    longer = np.array([span.end - span.start - 1 for span in masked.originals], dtype=np.int64)
    before = np.searchsorted(hidden, start)
    clear = before == np.searchsorted(hidden, end)
    moved = np.concatenate([[0], np.cumsum(longer)])[before]
    rows = zip(own[clear].tolist(), (start + moved)[clear].tolist(), (end + moved)[clear].tolist(), strict=True)
    return [(first, last, token) for token, first, last in rows]
