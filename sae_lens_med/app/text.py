"""Text of a dataset or a model as it is shown, and how its characters are counted there.

A browser drops NUL, turns CR LF into LF and obeys characters that turn the direction of writing. `visible` puts
pictures and badges in their places, so that what is shown is what is there, and says for every character where it
stands in UTF-16 code units of the shown text, which is what a browser counts in.

Out of scope: HTML (templates escape it), and terminals (`escaping`).
"""

import re
from dataclasses import dataclass

import numpy as np

from sae_lens_med.records import IntArray

# C0 but tab and line feed, DEL, C1, what turns the direction of writing, and halves of surrogate pairs.
_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True, eq=False)
class Visible:
    """A text as it is shown."""

    text: str
    units: IntArray
    """`[n + 1]`: where each of the n characters of the text as it was begins in `text`, in UTF-16 code units, and the
    end; ascending. Equal neighbours: nothing is shown of a character (the CR of a CR LF)."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The code units of the characters `start` to `end`."""
        return int(self.units[start]), int(self.units[end])


def visible(text: str) -> Visible:
    """`text` with pictures in the place of control characters and badges in that of turns of direction."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (codes > 0xFFFF).astype(np.int64)
    pieces, last = [], 0
    for found in _SHOWN.finditer(text):
        before_line_feed = found[0] == "\r" and text.startswith("\n", found.end())
        shown = "" if before_line_feed else _picture(found[0])
        widths[found.start()] = len(shown)
        pieces += [text[last : found.start()], shown]
        last = found.end()
    units = np.zeros(len(text) + 1, dtype=np.int64)
    np.cumsum(widths, out=units[1:])
    return Visible("".join([*pieces, text[last:]]), units)


def as_shown(text: str) -> str:
    """`visible(text).text`, where nobody counts characters in it."""
    return visible(text).text if _SHOWN.search(text) else text


def _picture(character: str) -> str:
    """Of characters of the first plane alone, so that its length is that in UTF-16."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def cut(text: str, most: int) -> str:
    """The first `most` characters on one line, visible, with "…" where there are more."""
    line = " ".join(text[: 2 * most].split())
    return as_shown(line if len(line) <= most else line[: most - 1] + "…")
