"""Figures of a study for a page and as files, and its numbers as a table.

A page's policy allows no style in its text, so that what the figures say in `style` becomes attributes; colours that
follow the text follow the page's theme. Drawing is not made for several threads, so that one draws at a time.

Out of scope: what is drawn (`study.alignment_report`, `study.beside`).
"""

import csv
import io
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from sae_lens_med.languages import ENGLISH, KOREAN, Language

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWING = threading.Lock()
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
PNG_DPI = 200
_GA = ord("가")


def one_at_a_time(draw: Callable[[], Any]) -> Any:
    """What `draw` makes, while nothing else is drawn."""
    with _DRAWING:
        return draw()


def inline(svg: str) -> Markup:
    """An SVG of `plots.svg` as part of a page: without styles of its own."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for style in parent.findall("{*}style"):
            parent.remove(style)
    for element in root.iter():
        element.tag = re.sub(r"^\{[^}]*\}", "", element.tag)
        for rule in filter(None, (element.attrib.pop("style", "")).split(";")):
            name, _, value = (part.strip() for part in rule.partition(":"))
            if name == "font":
                size = re.search(r"([\d.]+)px", value)
                element.attrib |= {"font-size": size[1]} if size else {}
                element.attrib |= {"font-weight": "bold"} if re.search(r"\b(bold|[67]00)\b", value) else {}
            elif name and value:
                element.set(name, value)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # every text in it is escaped by the XML writer


def png(draw: Callable[[Language], "Axes | Sequence[Axes]"], language: Language) -> bytes:
    """What `draw` draws, on white: in `language` where this machine has letters for it (`png_language`)."""
    from matplotlib.text import Text

    from sae_lens_med.plots.style import figure_of

    axes = draw(png_language(language))
    figure = figure_of(axes if not isinstance(axes, Sequence) else axes[0])
    if (font := hangul_font()) is not None:
        for each in figure.findobj(Text):
            each.set_fontfamily([*each.get_fontfamily(), font])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white", bbox_inches="tight")
    return buffer.getvalue()


def png_language(language: Language) -> Language:
    """In which language a PNG is drawn: English where no font has Hangul. An SVG leaves the letters to the reader."""
    return ENGLISH if language is KOREAN and hangul_font() is None else language


@cache
def hangul_font() -> str | None:
    """The name of a font of this machine that has Hangul; None where there is none."""
    from matplotlib.font_manager import fontManager, get_font

    likely = re.compile(
        "CJK KR|Nanum|Malgun|Apple SD|Pretendard|Noto Sans KR|CJK|Gothic|Batang|Un ?Dotum", re.IGNORECASE
    )
    for entry in sorted(fontManager.ttflist, key=lambda each: ("KR" not in each.name, each.name)):
        try:
            if likely.search(entry.name) and get_font(entry.fname).get_char_index(_GA):
                return entry.name
        except (OSError, RuntimeError):  # listed by matplotlib, and gone or damaged since
            continue
    return None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV, UTF-8 with lines that end in LF; a text that a spreadsheet would take for a formula begins with `'`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return "" if value is None else value
