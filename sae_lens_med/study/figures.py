"""Figures of a report as inline SVG: no plotting library, no external resource, no script.

Each function takes plain numbers and returns `Markup`: one `<svg>` with a title and a description that says in words
what the picture shows. Labels are escaped by `Markup.format`, so a subject or a title may hold any text. Colours come
from the CSS classes of `templates/report.html.j2` (`m-*` marks, `t-*` text), so that light, dark and print each have
their own. Horizontal axes grow to the right; the drawing is `WIDTH` units wide, whatever size it is shown at.

Out of scope: raster output, interaction, anything that needs a model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

WIDTH = 400
"""Units of the view box; narrow, so that text stays readable on a telephone."""

_LEFT, _RIGHT = 14, WIDTH - 14
_LABEL_CHARS = 40


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One value with its interval, and the value that guessing would give."""

    label: str
    value: float
    interval: tuple[float, float] | None
    chance: float | None
    n: int


def interval_plot(rows: Sequence[IntervalRow], *, figure_id: str, title: str) -> Markup:
    """Dots with 95 % intervals on [0, 1], one row each, a dashed mark at each row's chance level."""
    x = _scale(0.0, 1.0)
    parts: list[Markup] = []
    top, step = 22, 34
    bottom = top + step * len(rows)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(x(tick), 14, x(tick), bottom, "m-grid"))
    for i, row in enumerate(rows):
        y = top + step * i
        parts.append(_text(_LEFT + 4, y + 4, _short(row.label), "t-label", full=row.label))
        parts.append(_text(_RIGHT - 4, y + 4, f"{row.value:.3f} · n {row.n}", "t-value", anchor="end"))
        if row.chance is not None:
            parts.append(_line(x(row.chance), y + 8, x(row.chance), y + 26, "m-chance"))
        if row.interval is not None:
            low, high = row.interval
            parts.append(_line(x(low), y + 17, x(high), y + 17, "m-interval"))
        parts.append(Markup('<circle cx="{:.2f}" cy="{}" r="4.5" class="m-dot"/>').format(x(row.value), y + 17))
    parts.append(_axis(x, (0.0, 0.25, 0.5, 0.75, 1.0), bottom))
    return _svg(figure_id, bottom + 24, title, "; ".join(_row_text(row) for row in rows) + ".", parts)


def similarity_plot(
    matched: npt.NDArray[np.floating], mismatched: npt.NDArray[np.floating], *, figure_id: str, title: str
) -> Markup:
    """Histograms over the same bins of two float arrays `[n]` (n > 0): similarity to the own explanation and to others.

    Bars show the share of items; a vertical line marks each mean.
    """
    low, high = _limits(np.concatenate([matched, mismatched]))
    edges = np.linspace(low, high, int(np.clip(math.isqrt(len(matched)) * 2, 8, 32)) + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (matched, mismatched)]
    tallest = max(float(share.max()) for share in shares)
    x, top, bottom = _scale(low, high), 46, 196
    parts: list[Markup] = []
    legend = (("own explanation", matched, "a"), ("other explanations (mean)", mismatched, "b"))
    for i, ((name, values, key), share) in enumerate(zip(legend, shares, strict=True)):
        parts.append(_steps(edges, share / tallest, x, top, bottom, f"m-hist-{key}"))
        mean = float(values.mean())
        parts.append(_line(x(mean), top, x(mean), bottom, f"m-mean-{key}"))
        parts.append(
            Markup('<rect x="{}" y="{}" width="12" height="10" class="m-hist-{}"/>').format(_LEFT, 6 + 18 * i, key)
        )
        parts.append(_text(_LEFT + 18, 15 + 18 * i, f"{name}: mean {_signed(mean)}", "t-label"))
    parts.append(_axis(x, _ticks(low, high), bottom))
    desc = (
        f"{len(matched)} items. Mean similarity to the own explanation {_signed(float(matched.mean()))}, to the other "
        f"explanations {_signed(float(mismatched.mean()))}; horizontal axis from {_signed(low)} to {_signed(high)}."
    )
    return _svg(figure_id, bottom + 24, title, desc, parts)


def null_plot(null: npt.NDArray[np.floating], observed: float, *, figure_id: str, title: str) -> Markup:
    """Histogram of the permutation null (float array `[B]`, B > 0), its central 95 % and the observed value."""
    low, high = _limits(np.append(null, observed))
    edges = np.linspace(low, high, int(np.clip(math.isqrt(len(null)), 12, 40)) + 1)
    counts = np.histogram(null, edges)[0]
    q_low, q_high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
    x, top, bottom = _scale(low, high), 46, 196
    at_least = int((null >= observed).sum())
    parts = [
        Markup('<rect x="{:.2f}" y="{}" width="{:.2f}" height="{}" class="m-band"/>').format(
            x(q_low), top, max(x(q_high) - x(q_low), 0.5), bottom - top
        ),
        _steps(edges, counts / counts.max(), x, top, bottom, "m-hist-b"),
        _line(x(observed), top - 6, x(observed), bottom, "m-observed"),
        _text(_LEFT, 15, f"null: 95 % in {_signed(q_low)} to {_signed(q_high)}", "t-label"),
        _text(
            x(observed),
            top - 11,
            f"observed {_signed(observed)}",
            "t-strong",
            anchor="end" if x(observed) > WIDTH / 2 else "start",
        ),
        _axis(x, _ticks(low, high), bottom),
    ]
    desc = (
        f"{len(null)} permutations; 95 % of the null lies between {_signed(q_low)} and {_signed(q_high)}; the observed "
        f"value is {_signed(observed)}, and {at_least} permutations reach it."
    )
    return _svg(figure_id, bottom + 24, title, desc, parts)


def share_plot(
    labels: Sequence[str], gold: Sequence[float], predicted: Sequence[float], *, figure_id: str, title: str
) -> Markup:
    """Two horizontal bars a label: its share among the gold answers and among the predictions, each in [0, 1]."""
    longest = max([*gold, *predicted, 0.05])
    start, end = _LEFT + 90, _RIGHT - 46
    parts = [
        Markup('<rect x="{}" y="6" width="12" height="10" class="m-bar-b"/>').format(_LEFT),
        _text(_LEFT + 18, 15, "gold answers", "t-label"),
        Markup('<rect x="{}" y="6" width="12" height="10" class="m-bar-a"/>').format(_LEFT + 130),
        _text(_LEFT + 148, 15, "predictions", "t-label"),
    ]
    y = 32
    for label, g, p in zip(labels, gold, predicted, strict=True):
        parts.append(_text(_LEFT, y + 16, label, "t-label"))
        for offset, value, key in ((0, g, "b"), (13, p, "a")):
            width = (end - start) * value / longest
            parts.append(
                Markup('<rect x="{}" y="{}" width="{:.2f}" height="11" class="m-bar-{}"/>').format(
                    start, y + offset, width, key
                )
            )
            parts.append(_text(start + width + 5, y + offset + 10, f"{value:.3f}", "t-value"))
        y += 36
    desc = "; ".join(
        f"{label}: gold {g:.3f}, predicted {p:.3f}" for label, g, p in zip(labels, gold, predicted, strict=True)
    )
    return _svg(figure_id, y, title, desc + ".", parts)


def _svg(figure_id: str, height: float, title: str, desc: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="{id}-title {id}-desc">'
        '<title id="{id}-title">{title}</title><desc id="{id}-desc">{desc}</desc>{body}</svg>'
    ).format(width=WIDTH, height=height, id=figure_id, title=title, desc=desc, body=Markup("").join(parts))


def _scale(low: float, high: float) -> Callable[[float], float]:
    return lambda value: _LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low)


def _limits(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    # A histogram of equal values still needs a width.
    margin = (high - low) * 0.04 or max(abs(low) * 0.1, 1e-3)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Up to 7 round numbers inside `[low, high]`."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axis(x: Callable[[float], float], ticks: Sequence[float], y: float) -> Markup:
    parts = [_line(_LEFT, y, _RIGHT, y, "m-axis")]
    for tick in ticks:
        parts.append(_line(x(tick), y, x(tick), y + 4, "m-axis"))
        parts.append(_text(x(tick), y + 17, f"{tick:.4g}", "t-tick", anchor="middle"))
    return Markup("").join(parts)


def _steps(
    edges: npt.NDArray[np.floating],
    heights: npt.NDArray[np.floating],
    x: Callable[[float], float],
    top: float,
    bottom: float,
    css: str,
) -> Markup:
    path = [f"M{x(float(edges[0])):.2f} {bottom}"]
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        y = bottom - (bottom - top) * float(height)
        path.append(f"L{x(float(left)):.2f} {y:.2f}L{x(float(right)):.2f} {y:.2f}")
    path.append(f"L{x(float(edges[-1])):.2f} {bottom}Z")
    return Markup('<path d="{}" class="{}"/>').format("".join(path), css)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<line x1="{:.2f}" y1="{:.2f}" x2="{:.2f}" y2="{:.2f}" class="{}"/>').format(x1, y1, x2, y2, css)


def _text(x: float, y: float, text: str, css: str, *, anchor: str = "start", full: str | None = None) -> Markup:
    hover = Markup("<title>{}</title>").format(full) if full is not None and full != text else Markup("")
    return Markup('<text x="{:.2f}" y="{:.2f}" text-anchor="{}" class="{}">{}{}</text>').format(
        x, y, anchor, css, hover, text
    )


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_CHARS else label[: _LABEL_CHARS - 1] + "…"


def _signed(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def _row_text(row: IntervalRow) -> str:
    interval = "" if row.interval is None else f" ({row.interval[0]:.3f} to {row.interval[1]:.3f})"
    chance = "" if row.chance is None else f", chance {row.chance:.3f}"
    return f"{row.label}: {row.value:.3f}{interval}{chance}, n {row.n}"
