"""The frontier as a self-contained SVG: L0 (logarithmic) against explained variance, one panel a hook.

Curves are named where they end, not in a legend, and told apart by colour (Okabe and Ito's set, which readers with a
colour-vision deficiency can tell apart), by the shape of their marks and, past seven, by dashes. All panels share both
axes. A point's run, coefficient and values are its hover text.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from sae_lens_med.plots import line, words

if TYPE_CHECKING:
    from sae_lens_med.training.frontier import FrontierPoint

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_SHAPES = ("circle", "square", "triangle", "diamond", "cross")
_DASHES = ("", "6 3", "2 3")
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _LABEL_ROW = 480, 260, 62, 64, 84, 17
_CHAR = 6.6
"""Width of a character of the labels, about."""

_End = tuple[float, float, str, str, str]
"""Where a curve ends (y, x), its name, colour and shape."""


def frontier_svg(points: "Sequence[FrontierPoint]") -> str:
    """Draw the points whose L0 is above 0; without any, a picture that says so."""
    drawn = [p for p in points if p.l0 > 0 and math.isfinite(p.l0) and math.isfinite(p.explained_variance)]
    hooks = list(dict.fromkeys(p.hook_name for p in drawn))
    curves = sorted({p.curve for p in drawn})
    margin = 44 + _CHAR * max((len(c) for c in curves), default=0)
    width, height = _LEFT + _WIDTH + margin, _TOP + max(1, len(hooks)) * (_HEIGHT + _GAP) - 20
    parts = [
        words(_LEFT, 26, "Sparsity against reconstruction, on held-out text", size=16, weight="bold"),
        words(_LEFT, 44, "Up and to the left is better. Each mark is one trained SAE.", colour="#555"),
    ]
    if not drawn:
        parts.append(words(_LEFT, _TOP + 40, "No run with an L0 above 0."))
    else:
        x, x_ticks = _log_axis([p.l0 for p in drawn])
        low, high, y_ticks = _linear_axis([p.explained_variance for p in drawn])
        for i, hook in enumerate(hooks):
            top = _TOP + 18 + i * (_HEIGHT + _GAP)

            def y(value: float, top: int = top) -> float:
                return top + _HEIGHT * (high - value) / (high - low)

            parts.append(_axes(hook, top, x, x_ticks, y, y_ticks))
            parts.append(_curves([p for p in drawn if p.hook_name == hook], curves, x, y, top))
    desc = "; ".join(f"{p.hook_name}, {p.curve}: L0 {p.l0:.1f}, EV {p.explained_variance:.3f}" for p in drawn)
    svg = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" role="img" font-family="sans-serif" '
        'font-size="12" fill="#333"><title>L0 against explained variance</title><desc>{desc}</desc>'
        '<rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )
    return str(svg.format(w=width, h=height, desc=desc, body=Markup("").join(parts)))


def _log_axis(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    low, high = math.log10(min(values)), math.log10(max(values))
    pad = max(0.06 * (high - low), 0.05)
    low, high = low - pad, high + pad
    inside: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(range(10, 100))):
        if len(inside) < 4:  # the narrower the range, the finer the ticks
            scale = 1 if steps[-1] < 10 else 0.1
            ticks = [m * scale * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
            inside = [tick for tick in ticks if low <= math.log10(tick) <= high]
    inside = inside[:: max(1, len(inside) // 8)]
    return (lambda v: _LEFT + _WIDTH * (math.log10(v) - low) / (high - low)), inside


def _linear_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    low, high = min(values), max(values)
    spread = max(high - low, 0.01)
    step = next(s for e in range(-3, 12) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if spread / s <= 6)
    first, last = math.floor(low / step - 0.2), math.ceil(high / step + 0.2)
    if high <= 1:  # nothing explains more than everything
        last = min(last, max(math.floor(1 / step + 1e-9), math.ceil(high / step)))
    return first * step, last * step, [k * step for k in range(first, last + 1)]


def _axes(
    hook: str,
    top: int,
    x: Callable[[float], float],
    x_ticks: Sequence[float],
    y: Callable[[float], float],
    y_ticks: Sequence[float],
) -> Markup:
    bottom, right = top + _HEIGHT, _LEFT + _WIDTH
    parts = [words(_LEFT, top - 10, hook, size=13, weight="bold")]
    for tick in y_ticks:
        parts.append(line(f"M{_LEFT} {y(tick):.1f}H{right}", "#e3e3e3"))
        parts.append(words(_LEFT - 7, y(tick) + 4, f"{tick:.3g}", anchor="end"))
    for tick in x_ticks:
        parts.append(line(f"M{x(tick):.1f} {top}V{bottom}", "#efefef"))
        parts.append(words(x(tick), bottom + 17, f"{tick:.3g}", anchor="middle"))
    parts.append(line(f"M{_LEFT} {top}V{bottom}H{right}", "#888"))
    parts.append(words((_LEFT + right) / 2, bottom + 36, "L0: active features a token (log scale)", anchor="middle"))
    middle = (top + bottom) / 2
    parts.append(
        Markup(
            '<text transform="translate(16 {:.0f}) rotate(-90)" text-anchor="middle">explained variance</text>'
        ).format(middle)
    )
    return Markup("").join(parts)


def _curves(
    points: "Sequence[FrontierPoint]",
    curves: Sequence[str],
    x: Callable[[float], float],
    y: Callable[[float], float],
    top: int,
) -> Markup:
    parts: list[Markup] = []
    ends: list[_End] = []
    for i, name in enumerate(curves):
        own = sorted((p for p in points if p.curve == name), key=lambda p: p.l0)
        if not own:
            continue
        colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)]
        route = "L".join(f"{x(p.l0):.1f} {y(p.explained_variance):.1f}" for p in own)
        parts.append(line(f"M{route}", colour, width=2, dash=dash))
        for p in own:
            hover = f"{p.curve}, {p.coefficient}: L0 {p.l0:.1f}, EV {p.explained_variance:.3f}, "
            hover += f"dead {p.dead_fraction:.1%}, CE-loss score {p.ce_loss_score:.3f}"
            parts.append(_mark(_SHAPES[i % len(_SHAPES)], x(p.l0), y(p.explained_variance), colour, hover))
        ends.append((y(own[-1].explained_variance), x(own[-1].l0), name, colour, _SHAPES[i % len(_SHAPES)]))
    return Markup("").join([*parts, *_labels(ends, top)])


def _labels(ends: "Sequence[_End]", top: int) -> list[Markup]:
    """Names right of the panel, each at the height where its curve ends, moved apart where they would overlap."""
    ordered = sorted(ends)
    heights: list[float] = []
    for end, *_ in ordered:
        heights.append(max(end, heights[-1] + _LABEL_ROW) if heights else end)
    # What was pushed below the panel moves back up, and its neighbours with it.
    limit = top + _HEIGHT
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], limit)
        limit = heights[i] - _LABEL_ROW
    start = _LEFT + _WIDTH + 10
    parts = []
    for height, (end, at, name, colour, shape) in zip(heights, ordered, strict=True):
        parts.append(line(f"M{at + 7:.1f} {end:.1f}L{start - 2} {height:.1f}", colour, dash="1 3"))
        parts.append(_mark(shape, start + 5, height, colour, name))
        parts.append(words(start + 15, height + 4, name))
    return parts


def _mark(shape: str, x: float, y: float, colour: str, hover: str) -> Markup:
    corners = {
        "square": "M{0} {2}H{1}V{3}H{0}Z".format(*(f"{v:.1f}" for v in (x - 4, x + 4, y - 4, y + 4))),
        "triangle": f"M{x:.1f} {y - 5:.1f}L{x + 5:.1f} {y + 4:.1f}H{x - 5:.1f}Z",
        "diamond": f"M{x:.1f} {y - 5.5:.1f}L{x + 5.5:.1f} {y:.1f}L{x:.1f} {y + 5.5:.1f}L{x - 5.5:.1f} {y:.1f}Z",
        "cross": f"M{x - 4:.1f} {y - 4:.1f}l8 8m-8 0l8 -8",
    }
    if shape == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" fill="{}"><title>{}</title></circle>').format(
            x, y, colour, hover
        )
    stroke = Markup(' stroke="{}" stroke-width="2.5"').format(colour) if shape == "cross" else ""
    return Markup('<path d="{}" fill="{}"{}><title>{}</title></path>').format(corners[shape], colour, stroke, hover)
