"""How strongly a feature fires -> one of eight steps, their colours, and text cut into painted pieces.

Step = ceil(8 v / maximum), at least 1 and at most 8; 0 where the feature does not fire. The maximum is the feature's
over the study, so that cases can be compared, or that of one text. One hue, amber, darker with every step on a light
page and lighter on a dark one; the colour of the text does not change. An underline says the same without colour: it
grows with the step and is double from step 6.

Out of scope: finding the activations (`opened`) and painting in a browser (`static/paint.js`, which has the same rule).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 8
LIGHT = ("#fff3cc", "#f8e3b5", "#f1d39d", "#eac286", "#e2b26d", "#daa254", "#d29236", "#ca8200")
"""Backgrounds on a light page, step 1 first."""
DARK = ("#2b2412", "#382b13", "#443313", "#523b12", "#5f4311", "#6d4b0e", "#7b5308", "#8a5b00")
LINES = ("#7a4f00", "#f0b43c")
"""The underline on a light and on a dark page."""
PAGE, TEXT = ("#ffffff", "#14171b"), ("#1b1f24", "#e4e8ec")
"""Background and text of the page, as `app.css` has them."""
_UNDERLINES = ("1px", "1px", "2px", "2px", "3px", "double 1px", "double 2px", "double 3px")


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters of a text that are painted alike."""

    text: str
    step: int
    """0: not painted."""
    value: float
    """The activation; 0 where it is not painted."""


def step(value: float, maximum: float) -> int:
    """The step of an activation, 0 to `STEPS`; a value above the maximum has the highest."""
    if value <= 0 or maximum <= 0:
        return 0
    return max(1, min(STEPS, math.ceil(STEPS * value / maximum)))


def pieces(text: str, spans: Sequence[tuple[int, int, float]], maximum: float) -> tuple[Piece, ...]:
    """`text` cut at the painted spans: UTF-16 start and end, and the activation; in order, not overlapping."""
    units = text.encode("utf-16-le", "surrogatepass")

    def part(start: int, end: int | None) -> str:
        return units[2 * start : None if end is None else 2 * end].decode("utf-16-le", "surrogatepass")

    found: list[Piece] = []
    at = 0
    for start, end, value in spans:
        if start > at:
            found.append(Piece(part(at, start), 0, 0.0))
        found.append(Piece(part(start, end), step(value, maximum), value))
        at = end
    if rest := part(at, None):
        found.append(Piece(rest, 0, 0.0))
    return tuple(found)


def css() -> str:
    """The rules of the eight steps: `mark.h1` for what the server paints, `::highlight(h1)` for the browser, `.k1` for
    the key to the colours. Where the system forces its own colours, the underline stays alone."""
    line = f"light-dark({LINES[0]}, {LINES[1]})"
    rules = []
    for n, (light, dark, under) in enumerate(zip(LIGHT, DARK, _UNDERLINES, strict=True), 1):
        rules.append(
            f"mark.h{n}, .k{n} {{ background-color: light-dark({light}, {dark}); }}\n"
            f"::highlight(h{n}) {{ background-color: light-dark({light}, {dark}); }}\n"
            f"mark.h{n}, ::highlight(h{n}) {{ text-decoration: underline {under} {line}; }}"
        )
    plain = "background-color: Canvas; color: CanvasText;"
    steps = range(1, STEPS + 1)
    forced = [f"  {', '.join(f'mark.h{n}' for n in steps)} {{ {plain} }}"]
    forced += [f"  ::highlight(h{n}) {{ {plain} }}" for n in steps]
    return "\n".join([*rules, "@media (forced-colors: active) {", *forced, "}"]) + "\n"
