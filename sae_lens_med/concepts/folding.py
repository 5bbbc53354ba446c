"""A text as the matcher reads it: folded characters, the gaps between them, and the way back to the original.

Folding is NFC, then case folding; typographic apostrophes become plain ones. White space and hyphens are no characters
but gaps between characters, so that "beta-blocker", "beta blocker" and a line break inside a name read alike. A blank
line is a `BREAK`: no name goes over it. Every folded character knows the characters of the original that it comes
from, so that a span found here is a span of the text that was given, composed or not.

Out of scope: compatibility forms (full-width letters, ㎎), which keep their own characters.
"""

import re
import unicodedata
from dataclasses import dataclass

NO_GAP, GAP, BREAK = 0, 1, 2
"""What stands before a character: nothing, white space or hyphens, or a blank line."""

_HANGUL = "가-힣ㄱ-ㅎㅏ-ㅣ"
_LETTER = rf"[^\W_{_HANGUL}]"

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\r\n[^\S\n]*\r\n")
_CHUNK = re.compile(r"[^\s\-\u2010-\u2015\u2212\u200b]+")
# A new word begins where the script changes, and at every sign that is no letter.
_WORD_START = re.compile(rf"(?<!{_LETTER}){_LETTER}|(?<![{_HANGUL}])[{_HANGUL}]|\W|_")
_APOSTROPHES = str.maketrans("’‘ʼ＇`´", "''''''")


@dataclass(frozen=True, slots=True)
class Folded:
    """`key` is the text without gaps; all other fields are by position in `key`."""

    key: str
    cased: str
    """As `key`, before case folding."""
    gap: bytes
    """`NO_GAP`, `GAP` or `BREAK` before each character, and one more: `BREAK` at the end."""
    starts: list[int]
    """First character of the original that each character comes from."""
    ends: list[int]
    """One past the last such character."""
    word_starts: list[int]
    """Positions in `key` where a word begins, ascending."""


def fold(text: str) -> Folded:
    """`text` folded; see the module for the rules. Linear in its length."""
    cased, folded, starts, ends = _characters(text)
    key: list[str] = []
    kept: list[str] = []
    gap = bytearray()
    key_starts: list[int] = []
    key_ends: list[int] = []
    word_starts: list[int] = []
    previous_end = 0
    for chunk in _CHUNK.finditer(folded):
        a, b = chunk.span()
        offset = len(gap)
        between = folded[previous_end:a]
        if previous_end == 0 and offset == 0:
            before = BREAK
        else:
            before = BREAK if "\n" in between and _BLANK_LINE.search(between) else GAP
        gap.append(before)
        gap.extend(bytes(b - a - 1))
        key.append(chunk.group())
        kept.append(cased[a:b])
        key_starts.extend(range(a, b) if starts is None else starts[a:b])
        key_ends.extend(range(a + 1, b + 1) if ends is None else ends[a:b])
        word_starts.extend(offset + m.start() for m in _WORD_START.finditer(chunk.group()))
        previous_end = b
    gap.append(BREAK)
    return Folded("".join(key), "".join(kept), bytes(gap), key_starts, key_ends, word_starts)


def is_hangul(character: str) -> bool:
    """Whether a folded character is a Korean syllable or letter."""
    return "가" <= character <= "힣" or "ㄱ" <= character <= "ㅣ"


def is_letter(character: str) -> bool:
    """Whether a folded character belongs to a word of another script than Korean; digits count."""
    return character.isalnum() and not is_hangul(character)


def _characters(text: str) -> tuple[str, str, list[int] | None, list[int] | None]:
    """Text in NFC, the same case-folded, and per character its span in `text` (None: the characters are `text`'s)."""
    plain = text.translate(_APOSTROPHES)
    folded = plain.casefold()
    # Case folding never drops a character, so equal lengths mean that each character stayed in its place.
    if len(folded) == len(plain) and unicodedata.is_normalized("NFC", plain):
        return plain, folded, None, None
    cased_parts: list[str] = []
    folded_parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for a, b in _clusters(plain):
        for character in unicodedata.normalize("NFC", plain[a:b]):
            pieces = character.casefold()
            cased_parts.append(character * len(pieces))
            folded_parts.append(pieces)
            starts.extend([a] * len(pieces))
            ends.extend([b] * len(pieces))
    return "".join(cased_parts), "".join(folded_parts), starts, ends


def _clusters(text: str) -> list[tuple[int, int]]:
    """Spans of characters that normalise together: one character and the combining marks or jamo that follow it."""
    cuts = [
        i
        for i, character in enumerate(text)
        if i == 0 or not (unicodedata.combining(character) or "\u1160" <= character <= "\u11ff")
    ]
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True))
