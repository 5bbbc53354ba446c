"""Axes -> SVG text that a report can hold and a file can be.

What matplotlib writes is made to fit a page:

- `role="img"`, a `<title>` and a `<desc>`, so that a reader who does not see the picture gets its numbers;
- black becomes `currentColor` and the background is left out, so that the picture follows the page it is in. As a file
  of its own it brings a light and a dark page along (`prefers-color-scheme`);
- text stays text, in the page's font, so that Korean needs no font here, can be searched and is read aloud. Widths are
  those of DejaVu Sans, which matplotlib brings: the layout does not depend on the fonts of the machine;
- no script, no link, no date; marks are written where they stand instead of being referred to; ids begin with a hash of
  the picture, so that several can be in one page. The same data give the same bytes with the same matplotlib.

Every text is escaped by the XML writer.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from sae_lens_med.plots.style import figure_of, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONTS = (
    "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans KR', 'Apple SD Gothic Neo', 'Malgun Gothic', "
    "'Noto Sans CJK KR', sans-serif"
)
# `:root` is this picture only where it is a file of its own; inside a page the page decides.
_AS_FILE = (
    "svg:root{color:#1f2328;background:#ffffff}"
    "@media screen and (prefers-color-scheme:dark){svg:root{color:#e6edf3;background:#0d1117}}"
)
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SVG = "{http://www.w3.org/2000/svg}"


def svg(axes: "Axes | Sequence[Axes]", *, title: str, description: str) -> str:
    """The whole figure that `axes` are on as SVG, ending in a line break.

    `title` names the picture and `description` says in words what it shows; both are escaped. Works with any axes,
    those of `pyplot` too. matplotlib's settings are changed while it draws, so not in several threads at a time.
    """
    first = axes[0] if isinstance(axes, Sequence) else axes
    drawn = _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", _written(figure_of(first)))
    title, description = shown(title), shown(description)
    prefix = f"slm-{hashlib.sha256(f'{title} {description} {drawn}'.encode()).hexdigest()[:10]}"
    root = ElementTree.fromstring(drawn)
    _without_namespaces(root)
    _marks_in_place(root)
    _clean(root)
    _scope_ids(root, prefix)
    _flatten(root)
    head = {
        "xmlns": _SVG[1:-1],
        "viewBox": root.attrib["viewBox"],
        "width": root.attrib["width"],
        "height": root.attrib["height"],
        "role": "img",
        "aria-labelledby": f"{prefix}-title {prefix}-desc",
        "fill": "currentColor",
        "font-family": FONTS,
        "stroke-linejoin": "round",
    }
    root.attrib.clear()
    root.attrib.update(head)
    for position, (tag, text) in enumerate((("title", title), ("desc", description), ("style", _AS_FILE))):
        element = ElementTree.Element(tag, {} if tag == "style" else {"id": f"{prefix}-{tag}"})
        element.text = text
        root.insert(position, element)
    ElementTree.indent(root, space=" ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _written(figure: "Figure") -> str:
    import matplotlib

    text = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sae-lens-med"}), warnings.catch_warnings():
        # The reader's fonts draw the text; what the measuring font lacks does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ", category=UserWarning)
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return text.getvalue()


def _without_namespaces(root: ElementTree.Element) -> None:
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name in [name for name in element.attrib if name.endswith("}href")]:
            element.set("href", element.attrib.pop(name))


def _marks_in_place(root: ElementTree.Element) -> None:
    """Every `use` of a path becomes that path, moved to its place."""
    paths = {path.get("id"): path for defs in root.iter("defs") for path in defs.findall("path")}
    for parent in list(root.iter()):
        for position, child in enumerate(list(parent)):
            path = paths.get(child.get("href", "").removeprefix("#")) if child.tag == "use" else None
            if path is not None:
                style = "; ".join(dict.fromkeys(s for s in (child.get("style"), path.get("style")) if s))
                moved = {"d": path.attrib["d"], "transform": f"translate({child.get('x', 0)} {child.get('y', 0)})"}
                parent[position] = ElementTree.Element("path", moved | {"style": style})
    for parent in list(root.iter()):
        for defs in parent.findall("defs"):
            for unused in [child for child in defs if child.tag in ("path", "style")]:
                defs.remove(unused)
            if len(defs) == 0:
                parent.remove(defs)


def _clean(root: ElementTree.Element) -> None:
    for element in root.iter():
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
        if (style := element.get("style")) is not None:
            style = re.sub(r"font-family:[^;]*;? ?", "", style.replace("#000000", "currentColor"))
            style = re.sub(r"('[^']*', )+sans-serif", "sans-serif", style)  # the shorthand of older matplotlib
            element.set("style", re.sub(r"; *$", "", style))
        if re.match(r"rotate\(-?0 ", element.get("transform", "")):
            del element.attrib["transform"]
        for name in ("d", "x", "y", "transform", "points"):
            if (value := element.get(name)) is not None:
                rounded = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", value)
                element.set(name, " ".join(rounded.split()))


def _scope_ids(root: ElementTree.Element, prefix: str) -> None:
    """Ids that something refers to begin with `prefix`; the others go."""
    reference = re.compile(r"(?<=url\(#)[^)]+")
    used = {name for e in root.iter() for v in e.attrib.values() for name in reference.findall(v)}
    used |= {e.attrib["href"][1:] for e in root.iter() if e.get("href", "").startswith("#")}
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                del element.attrib[name]
                if value in used:
                    element.set(name, f"{prefix}-{value}")
            elif name == "href" and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, reference.sub(lambda m: f"{prefix}-{m[0]}", value))


def _flatten(parent: ElementTree.Element) -> None:
    """Groups without attributes and paths that are not seen go."""
    kept: list[ElementTree.Element] = []
    for child in parent:
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            kept += child
        elif not (child.tag == "path" and child.get("style") == "fill: none"):
            kept.append(child)
    parent[:] = kept
