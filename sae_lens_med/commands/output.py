"""What commands print: lines, tables and JSON, foreign text made safe. Light: no command waits for it."""

import sys
from typing import Any

from sae_lens_med.escaping import json_text, plain


def say(text: object = "", *, err: bool = False) -> None:
    """One line on stdout, or on stderr."""
    write(f"{plain(text)}\n", err=err)


def say_json(value: Any, indent: int | None = 2) -> None:
    """A result for programs, on stdout."""
    write(f"{json_text(value, indent)}\n")


def write(text: str, *, err: bool = False) -> None:
    """`text` as it is, at once. Without such a stream (`>&-`) nothing is written."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        stream.write(text)
        stream.flush()
