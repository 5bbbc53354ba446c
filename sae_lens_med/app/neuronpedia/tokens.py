"""Tokens as a reader sees them: whole characters, which joined are the text exactly.

A token of a model may be a byte of a syllable, a piece of an emoji, or nothing at all (BOS). Here a text is cut at the
ends of all tokens' spans, but never inside a written character (`spans`): three tokens that share a syllable are one
piece, whose value is the maximum over them, never the sum. White space that no token covers goes to the piece behind it
(at the end of the text, to the last one); other characters that no token covers are a piece of value 0. Tokens without
characters have no piece, and no piece is empty.

Out of scope: which tokens count, and where a context ends (`contexts`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from sae_lens_med.app.spans import TokenRange, continues


def whole_tokens(
    text: str, ranges: Sequence[TokenRange], values: Mapping[int, float]
) -> tuple[list[str], list[float], dict[int, int]]:
    """Pieces of `text`, their values, and token -> the first piece that it covers.

    Args:
        text: what the pieces are of.
        ranges: first character, one past the last (in `text`), and number of each token; in any order, overlapping or
            not.
        values: of the tokens that have one, >= 0; the others count as 0.

    `"".join(pieces) == text`, for any ranges within it. No pieces for an empty text.
    """
    widened = [(*_whole(text, start, end), token) for start, end, token in ranges if start < end]
    bounds = sorted({0, len(text), *(bound for start, end, _ in widened for bound in (start, end))})
    place = {bound: number for number, bound in enumerate(bounds)}
    covering: list[list[int]] = [[] for _ in bounds]
    for start, end, token in widened:
        for number in range(place[start], place[end]):
            covering[number].append(token)
    pieces: list[str] = []
    found: list[float] = []
    at: dict[int, int] = {}
    waiting = ""
    for number, (start, end) in enumerate(pairwise(bounds)):
        piece, tokens = text[start:end], covering[number]
        if not tokens and piece.isspace():
            waiting += piece
            continue
        for token in tokens:
            at.setdefault(token, len(pieces))
        pieces.append(waiting + piece)
        found.append(max((values.get(token, 0.0) for token in tokens), default=0.0))
        waiting = ""
    if waiting and pieces:
        pieces[-1] += waiting
    elif waiting:
        pieces, found = [waiting], [0.0]
    return pieces, found, at


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters `start` to `end`, with the rest of the written characters at both ends."""
    while start > 0 and continues(text, start):
        start -= 1
    while end < len(text) and continues(text, end):
        end += 1
    return start, end
