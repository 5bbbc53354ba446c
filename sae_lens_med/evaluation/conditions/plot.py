"""Accuracy and margin against steering strength, as a self-contained SVG.

One row of two panels for each entry with strengths: accuracy at the left, the change of the gold option's margin at
the right. The line with points is the entry itself, with 95 % intervals over items; the hatched band is where 95 % of
its matched random feature sets lie, the dashed line their mean; the dotted horizontal line is plain, and so is the open
point at strength 0 of what only steers. The colour is one of Okabe and Ito's; dashes and hatching say the same. Values
are hover texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from sae_lens_med.evaluation.conditions.compare import Comparison, ConditionResult
from sae_lens_med.plots import INK, line, words
from sae_lens_med.statistics import quantile_interval

_BLUE, _GREY = "#0072B2", "#6b6b6b"
_PANEL_W, _PANEL_H, _LEFT, _BETWEEN, _TOP, _ROW_GAP, _RIGHT = 330, 210, 66, 84, 116, 96, 24
_WIDTH = _LEFT + 2 * _PANEL_W + _BETWEEN + _RIGHT

What = Literal["accuracy", "margin"]
_TITLES: dict[What, str] = {"accuracy": "accuracy", "margin": "change of margin (nats)"}


@dataclass(frozen=True, slots=True)
class _Point:
    strength: float
    value: float
    interval: tuple[float, float] | None
    band: tuple[float, float] | None
    band_mean: float | None
    hover: str
    plain: bool = False


def steering_svg(comparison: Comparison) -> str | None:
    """The plot; None when no condition has a strength."""
    plain = comparison.results[0]
    families: dict[str, list[ConditionResult]] = {}
    for result in comparison.results:
        if result.condition.strength is not None:
            families.setdefault(result.condition.family, []).append(result)
    if not families:
        return None
    rows = {name: {what: _points(own, plain, what) for what in _TITLES} for name, own in families.items()}
    height = _TOP + len(rows) * (_PANEL_H + _ROW_GAP) - 26
    n_sets = max(len(r.random.sets) if r.random else 0 for own in families.values() for r in own)
    model, data = comparison.provenance.model.get("name", "model"), comparison.provenance.data.get("source", "")
    parts = [
        words(_LEFT, 26, "Steering: accuracy and margin against strength", size=16, weight="bold"),
        words(
            _LEFT,
            46,
            f"{model} on {_short(str(data), 50)}, {plain.n} items. Margin: ln P(gold option) - ln P(best other).",
            colour="#555",
        ),
        *_legend(n_sets),
    ]
    limits = {what: _limits([p for row in rows.values() for p in row[what]], plain, what) for what in _TITLES}
    for i, (name, row) in enumerate(rows.items()):
        top = _TOP + i * (_PANEL_H + _ROW_GAP)
        parts.append(words(_LEFT, top - 12, _family_title(name, families[name]), size=13, weight="bold"))
        for k, what in enumerate(_TITLES):
            left = _LEFT + k * (_PANEL_W + _BETWEEN)
            base = plain.accuracy if what == "accuracy" else 0.0
            parts.append(_panel(row[what], base, left, top, limits[what], what))
    desc = "; ".join(p.hover for row in rows.values() for what in row for p in row[what])
    svg = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" role="img" font-family="sans-serif" '
        'font-size="12" fill="{ink}"><title>Accuracy and margin against steering strength</title><desc>{desc}</desc>'
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" fill="#ececec"/><path d="M0 0V6" stroke="#c2c2c2" stroke-width="1.6"/></pattern>'
        '</defs><rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )
    return str(svg.format(w=_WIDTH, h=height, ink=INK, desc=desc, body=Markup("").join(parts)))


def _points(own: Sequence[ConditionResult], plain: ConditionResult, what: What) -> list[_Point]:
    """By strength; with plain at 0 where it belongs to the line."""
    base = plain.accuracy if what == "accuracy" else 0.0
    zero = plain.accuracy_interval if what == "accuracy" else None
    found = []
    for result in own:
        strength = result.condition.strength
        assert strength is not None  # chosen for it
        value = result.accuracy if what == "accuracy" else result.margin_change
        interval = result.accuracy_interval if what == "accuracy" else result.margin_change_interval
        hover = f"{result.condition.name}: {value:.3f}" + ("" if interval is None else f" ({_range(interval)})")
        band = mean = None
        if result.random is not None:
            sets = result.random.accuracy_change if what == "accuracy" else result.random.margin_change
            low, high = quantile_interval([base + v for v in sets.values])
            band, mean = (low, high), base + sets.mean
            hover += f", random sets {_range(band)}, p {sets.p:.3f}"
        found.append(_Point(strength, value, interval, band, mean, hover))
    if own[0].condition.plain_at_zero:
        banded = any(p.band is not None for p in found)
        found.append(
            _Point(
                0.0, base, zero, (base, base) if banded else None, base if banded else None, f"plain: {base:.3f}", True
            )
        )
    return sorted(found, key=lambda p: p.strength)


def _panel(
    points: Sequence[_Point], base: float, left: float, top: float, limits: tuple[float, float], what: What
) -> Markup:
    """`base` is the value of plain."""
    low, high = limits
    first, last = points[0].strength, points[-1].strength
    pad = 0.05 * (last - first) or 1.0  # one strength alone

    def x(strength: float) -> float:
        return left + _PANEL_W * (strength - first + pad) / (last - first + 2 * pad)

    def y(value: float) -> float:
        return top + _PANEL_H * (high - value) / (high - low)

    bottom, right = top + _PANEL_H, left + _PANEL_W
    parts = []
    for tick in _ticks(low, high):
        parts.append(line(f"M{left} {y(tick):.1f}H{right}", "#e3e3e3"))
        parts.append(words(left - 7, y(tick) + 4, f"{tick:.4g}", anchor="end"))
    shown = -math.inf
    for point in points:
        parts.append(line(f"M{x(point.strength):.1f} {bottom}v4", "#888"))
        label = f"{point.strength:g}"
        if x(point.strength) - shown >= 7 * len(label) + 5:  # labels of near strengths would overlap
            parts.append(words(x(point.strength), bottom + 18, label, anchor="middle"))
            shown = x(point.strength)
    banded = [p for p in points if p.band is not None]
    if banded:
        upper = [f"{x(p.strength):.1f} {y(p.band[1]):.1f}" for p in banded if p.band]
        lower = [f"{x(p.strength):.1f} {y(p.band[0]):.1f}" for p in reversed(banded) if p.band]
        parts.append(Markup('<path d="M{}Z" fill="url(#hatch)" stroke="#9a9a9a"/>').format("L".join(upper + lower)))
        middle = "L".join(f"{x(p.strength):.1f} {y(p.band_mean):.1f}" for p in banded if p.band_mean is not None)
        parts.append(line(f"M{middle}", _GREY, width=1.5, dash="6 3"))
    parts.append(line(f"M{left} {y(base):.1f}H{right}", INK, width=1.2, dash="1.5 3"))
    parts.append(line("M" + "L".join(f"{x(p.strength):.1f} {y(p.value):.1f}" for p in points), _BLUE, width=2))
    for p in points:
        if p.interval is not None:
            a, b, at = y(p.interval[0]), y(p.interval[1]), x(p.strength)
            parts.append(line(f"M{at:.1f} {a:.1f}V{b:.1f}M{at - 4:.1f} {a:.1f}h8M{at - 4:.1f} {b:.1f}h8", _BLUE))
        fill = "white" if p.plain else _BLUE
        parts.append(
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}" stroke="{}" stroke-width="1.5"><title>{}</title>'
                "</circle>"
            ).format(x(p.strength), y(p.value), fill, _BLUE, p.hover)
        )
    parts.append(line(f"M{left} {top}V{bottom}H{right}", "#888"))
    parts.append(words((left + right) / 2, bottom + 38, "strength", anchor="middle"))
    parts.append(
        Markup('<text transform="translate({:.0f} {:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            left - 48, (top + bottom) / 2, _TITLES[what]
        )
    )
    return Markup("").join(parts)


def _legend(n_sets: int) -> list[Markup]:
    y, at = 70, float(_LEFT)
    parts = [
        line(f"M{at} {y}h26M{at + 13} {y - 7}v14M{at + 9} {y - 7}h8M{at + 9} {y + 7}h8", _BLUE, width=1.5),
        Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/>').format(at + 13, y, _BLUE),
        words(at + 33, y + 4, "these features, 95 % over items"),
    ]
    at += 240
    parts += [line(f"M{at} {y}h26", INK, width=1.2, dash="1.5 3"), words(at + 33, y + 4, "plain")]
    at += 90
    if n_sets:
        parts += [
            Markup('<rect x="{}" y="{}" width="26" height="14" fill="url(#hatch)" stroke="#9a9a9a"/>').format(
                at, y - 7
            ),
            line(f"M{at} {y}h26", _GREY, width=1.5, dash="6 3"),
            words(at + 33, y + 4, f"{n_sets} matched random sets: 95 % and mean"),
        ]
    return parts


def _limits(points: Sequence[_Point], plain: ConditionResult, what: What) -> tuple[float, float]:
    values = [v for p in points for v in (p.value, *(p.interval or ()), *(p.band or ()))]
    values.append(plain.accuracy if what == "accuracy" else 0.0)
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05
    low, high = low - margin, high + margin
    return (max(0.0, low), min(1.0, high)) if what == "accuracy" else (low, high)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(np.round(k * step, 12)) for k in range(first, last + 1)]


def _family_title(name: str, own: Sequence[ConditionResult]) -> str:
    condition = own[0].condition
    indices = [str(index) for _, index in condition.features]
    listed = ", ".join(indices[:6]) + (", ..." if len(indices) > 6 else "")
    units = dict.fromkeys(each["unit"] for each in condition.interventions if "unit" in each)
    about = f"{condition.kind}, feature{'s' if len(indices) > 1 else ''} {listed}"
    return f"{_short(name, 40)}: {about}" + (f", unit {', '.join(units)}" if units else "")


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
