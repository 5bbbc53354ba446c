"""A case as the browser needs it: texts cut to a bearable length and into painted pieces, and the data for painting.

Offsets are UTF-16 units, as in the records. The data stand in the page as JSON in which nothing can end a script.

Out of scope: HTML (`render`), and which characters a feature fires at (`opened`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sae_lens_med.app.heat import Piece, pieces
from sae_lens_med.app.views import FeatureName, PaintedSegment, PartText, Segment

_LONG = 1_500
"""Characters beyond which a text scrolls in a box of its own."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One text of a case, as far as it is shown."""

    key: str
    pieces: tuple[Piece, ...]
    segments: tuple[Segment, ...]
    masked: tuple[tuple[int, int], ...]
    length: int
    """Of the whole text, in characters."""
    cut: bool
    before: int
    """Tokens without characters that stand before it."""
    is_long: bool


def shown(part: PartText, most: int, painted: Iterable[PaintedSegment] = (), maximum: float = 0.0) -> Shown:
    """The first `most` characters of a part, painted."""
    text = part.text[:most]
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    segments = tuple(each for each in part.segments if each.end <= units)
    spans = sorted(
        (segments[p.segment].start, segments[p.segment].end, p.value)
        for p in painted
        if p.part == part.key and p.segment < len(segments)
    )
    return Shown(
        part.key,
        pieces(text, spans, maximum),
        segments,
        tuple(span for span in part.masked if span[1] <= units),
        len(part.text),
        cut=len(text) < len(part.text),
        before=part.before,
        is_long=len(text) > _LONG,
    )


def named(name: FeatureName, unnamed: str) -> str:
    """What a feature is called on one line; `unnamed` where there is nothing but its number."""
    return name.label or " · ".join(name.phrases) or unnamed


def painting_data(
    texts: Sequence[Shown],
    features: Mapping[int, tuple[str, float | None, Sequence[PaintedSegment]]],
    rest: Mapping[str, Any],
) -> Markup:
    """JSON for `paint.js`: per part its segments, as the steps from one edge to the next, and which of them no metric
    counts; per feature its name, its maximum and where it fires."""
    place = {text.key: i for i, text in enumerate(texts)}
    parts = [
        {
            "key": text.key,
            "segments": _steps(text.segments),
            "masked": text.masked,
            "excluded": [i for i, segment in enumerate(text.segments) if segment.excluded],
        }
        for text in texts
    ]
    painted = {
        index: {
            "name": name,
            "maximum": maximum,
            "paint": [[place[p.part], p.segment, float(f"{p.value:.4g}")] for p in paint if p.part in place],
        }
        for index, (name, maximum, paint) in features.items()
    }
    return script_json({"parts": parts, "features": painted, **rest})


def script_json(value: Any) -> Markup:
    """JSON that can stand in a `<script type="application/json">`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # nothing in it can end the script


def _steps(segments: Sequence[Segment]) -> list[int]:
    edges = [edge for segment in segments for edge in (segment.start, segment.end)]
    return [edge - before for edge, before in zip(edges, [0, *edges], strict=False)]
