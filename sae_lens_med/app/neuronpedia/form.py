"""The two forms as their readers have them: limits, names, numbers, and the commits at which they were read.

**Upload batches**: the body of `POST /api/feature/upload-batch`. **Bulk layout**: the tables of the database as JSON
lines; its reader takes the columns from the keys of a file's first line, so that all lines of a file have the same.

Own code: the `neuronpedia` package only sends, and says what is wrong by what the server answers; the tests read what
is written here with its classes.

Out of scope: the records themselves (`record`), sending.
"""

import hashlib
import math
import re
from typing import Any

from sae_lens_med.errors import ConfigError

COMMITS = {
    "neuronpedia": {
        "repository": "https://github.com/hijohnnylin/neuronpedia",
        "commit": "ebb8426",
        "of": "2026-08-20",
    },
    "SAEDashboard": {
        "repository": "https://github.com/jbloomAus/SAEDashboard",
        "commit": "db4839a",
        "of": "2026-05-11",
    },
}
"""At which commits the forms were read."""
BATCH = 64
"""Features of a file; the API takes up to `MOST_FEATURES`, and a batch has to go through in one request."""
MOST_FEATURES, MOST_INDEX, MOST_LOGITS, MOST_TOKENS, MOST_TEXT, MOST_DESCRIPTION = 128, 10_000_000, 20, 1024, 512, 128
"""Of the API: features of a request, the largest index, logits of a side, tokens of a context, characters of an
explanation, and of a source set's description."""
CONTEXT = 128
"""Tokens of a context here at most, as in the dashboards that are there."""
CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The user under which Neuronpedia's own scripts write a bulk layout; its maintainers put another in its place."""
_MODEL = re.compile(r"[a-z0-9_-]{1,128}")
_SET = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])")
_SOURCE = re.compile(r"(\d{1,4})-(.+)")


def require_model_id(name: str) -> str:
    """`name`, if Neuronpedia can have a model of this id. Raises `ConfigError`."""
    if not _MODEL.fullmatch(name):
        raise ConfigError(
            f"a model is called by up to 128 lower-case letters, digits, '-' and '_' at Neuronpedia, not {name!r}; "
            f"write --model-id {model_id_of(name)}."
        )
    return name


def model_id_of(name: str) -> str:
    """The id that a model called `name` (a Hub id, a folder) would have at Neuronpedia."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
    return re.sub(r"[^a-z0-9_-]+", "-", last).strip("-")[:128] or "model"


def require_source(name: str) -> tuple[int, str]:
    """Layer and source set of a source's id, `LAYER-SET`. Raises `ConfigError`."""
    found = _SOURCE.fullmatch(name)
    if found is None or not _SET.fullmatch(found[2]) or "--" in found[2] or found[2] == "neurons":
        raise ConfigError(
            f"a source is called LAYER-SET at Neuronpedia, SET of lower-case letters, digits and single '-', beginning "
            f"with a letter (and not 'neurons'): 9-med-res-16k; not {name!r}."
        )
    return int(found[1]), found[2]


def source_of(hook_name: str, d_sae: int) -> str | None:
    """The id that a source at this hook would have; None where the hook names no layer."""
    found = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)\.", hook_name)
    if found is None:
        return None
    kind = next((short for part, short in (("mlp", "mlp"), ("attn", "att"), ("resid", "res"), ("hook_out", "res"),
                                           ("hook_in", "res")) if part in hook_name), "sae")  # fmt: skip
    size = f"{d_sae // 1024}k" if d_sae % 1024 == 0 else str(d_sae)
    return f"{int(found[1])}-med-{kind}-{size}"


def number(value: float) -> float | int:
    """Four significant digits; whole ones as an integer, which is shorter. Raises `ValueError` for what is not finite.

    Rounding keeps order, so that a value stays within its interval.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def storable(text: str) -> str:
    """`text` without what a database cannot hold: NUL becomes its picture, half of a surrogate pair U+FFFD; as many
    characters."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text.replace("\0", "\u2400"))


def row_id(*parts: Any) -> str:
    """An id of a row, 25 characters as a cuid has: the same parts, the same id, so that an import that is made again
    doubles nothing."""
    value = int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest())
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    found = ""
    for _ in range(24):
        value, digit = divmod(value, 36)
        found += digits[digit]
    return f"c{found}"
