"""The training curve as a self-contained SVG: four small panels over the steps, and when features were revived."""

from collections.abc import Sequence

PANELS = (
    ("loss", "loss"),
    ("l0", "L0 (active features per token)"),
    ("explained_variance", "explained variance (of the batch)"),
    ("dead_fraction", "dead features (share)"),
)
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 720, 120, 64, 28, 52


def curve_svg(curve: Sequence[dict[str, float]]) -> str:
    """Draw `curve`'s points (`step`, the keys of `PANELS`, `revived` or not); an empty curve gives empty panels."""
    height = _TOP + len(PANELS) * (_HEIGHT + _GAP)
    steps = [point["step"] for point in curve] or [0.0, 1.0]
    body = "".join(
        _panel(label, steps, [point[key] for point in curve], _TOP + i * (_HEIGHT + _GAP))
        for i, (key, label) in enumerate(PANELS)
    )
    body += _revivals(curve, steps[-1] or 1.0, _TOP + (len(PANELS) - 1) * (_HEIGHT + _GAP))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + _LEFT + 24} {height}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#333"><title>Training curve</title>'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _panel(label: str, steps: Sequence[float], values: Sequence[float], top: int) -> str:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spread, last = (high - low) or 1.0, steps[-1] or 1.0
    points = " ".join(
        f"{_LEFT + _WIDTH * s / last:.1f},{top + _HEIGHT * (1 - (v - low) / spread):.1f}"
        for s, v in zip(steps, values, strict=False)
    )
    bottom = top + _HEIGHT
    return (
        f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{label}</text>'
        f'<path d="M{_LEFT} {top}V{bottom}H{_LEFT + _WIDTH}" fill="none" stroke="#999"/>'
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT + _WIDTH}" y="{bottom + 16}" text-anchor="end">step {last:,.0f}</text>'
        f'<polyline points="{points}" fill="none" stroke="#2b6cb0" stroke-width="1.5"/>'
    )


def _revivals(curve: Sequence[dict[str, float]], last: float, top: int) -> str:
    marks = ""
    for point in curve:
        if point.get("revived"):
            x = _LEFT + _WIDTH * point["step"] / last
            says = f"{point['revived']:,.0f} dead features revived at step {point['step']:,.0f}"
            line = f'<path d="M{x:.1f} {top}v{_HEIGHT}" stroke="#c05621" stroke-dasharray="2 3">'
            marks += f"{line}<title>{says}</title></path>"
    return marks
