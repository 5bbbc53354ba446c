"""The two marks that the plots are drawn with, as SVG; every text is escaped."""

from markupsafe import Markup

INK = "#333"


def line(d: str, colour: str, *, width: float = 1, dash: str = "") -> Markup:
    """A line along the SVG path data `d`."""
    dashes = Markup(' stroke-dasharray="{}"').format(dash) if dash else ""
    return Markup('<path d="{}" fill="none" stroke="{}" stroke-width="{}"{}/>').format(d, colour, width, dashes)


def words(
    x: float,
    y: float,
    what: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "normal",
    colour: str = INK,
) -> Markup:
    """Words at a place in pixels."""
    return Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="{}" font-weight="{}" fill="{}">{}</text>'
    ).format(x, y, anchor, size, weight, colour, what)
