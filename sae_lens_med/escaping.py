"""Foreign text made safe to show: on a terminal, on one line, in a cell of a Markdown table.

Questions, ids, subjects, file names, names of models and what an endpoint says were written by others. Whoever shows
them escapes them here, so that they can neither move a terminal's cursor, turn the direction of a line, end a cell nor
become markup. HTML is escaped by its template, SVG by its XML writer; both take `harmless` text.
"""

import codecs
import json
import re
from collections.abc import Iterable
from typing import Any, TextIO

# C0 without tab and line feed, DEL, C1, the characters that embed, override or isolate a direction of writing, and lone
# surrogates, which no file in UTF-8 can hold.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_ENDS = re.compile(r"[\t-\r\x1c-\x1e\x85\u2028\u2029]+")
# Not an underscore within a word, which is none to Markdown either: names stay readable.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|#~&$!]|(?<![^\W_])_|_(?![^\W_]))")


def harmless(text: str) -> str:
    r"""`text` with its lines, each control character and turn of direction shown as its code (`\x1b`)."""
    return _CONTROLS.sub(lambda found: _code(found[0]), text.replace("\r\n", "\n"))


def plain(text: object) -> str:
    """`text` on one line, `harmless`: for a terminal. Blanks stay as they are, so that a path can be copied."""
    return harmless(_LINE_ENDS.sub(" ", str(text)))


def markdown(text: object) -> str:
    r"""`text` on one line, `harmless`, every character that Markdown or HTML reads as markup behind a backslash."""
    return _MARKDOWN.sub(r"\\\1", harmless(" ".join(str(text).split())))


def markdown_row(cells: Iterable[object]) -> str:
    """A row of a Markdown table; the cells are escaped."""
    return f"| {' | '.join(map(markdown, cells))} |"


def markdown_head(cells: Iterable[object], aligned: Iterable[str]) -> list[str]:
    """The two rows that a Markdown table begins with; `aligned` are `---`, `---:` and the like, one for each cell."""
    return [markdown_row(cells), f"| {' | '.join(aligned)} |"]


def code(text: object) -> str:
    """`text` as a code span of Markdown, outside of tables."""
    line = harmless(" ".join(str(text).split()))
    marks = fence(line, least=1)
    return f"{marks}{line}{marks}" if len(marks) == 1 else f"{marks} {line} {marks}"


def fence(text: str, least: int = 3) -> str:
    """As many backticks as `text` has nowhere in a row."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON to be seen on a terminal: letters of all languages as they are, what is not `harmless` as its code."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _CONTROLS.sub(lambda found: _json_code(found[0]), text)


def print_whatever_it_holds(*streams: TextIO | None) -> None:
    r"""Let streams print what their encoding lacks as its code (`\uc5f4`, which JSON reads back), not fail at it."""
    codecs.register_error(_HANDLER, _as_codes)
    for stream in streams:
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=_HANDLER)


_HANDLER = "sae_lens_med.escaping"


def _as_codes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_json_code, error.object[error.start : error.end])), error.end


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _json_code(character: str) -> str:
    # Beyond the first plane JSON has two codes, as UTF-16 has.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
