"""Texts of the interface: key -> (Korean, English). Placeholders stand in braces and are the same in both.

Numbers and names are set apart from Korean words by a space or a dot, so that no particle depends on them. One module
for each half of the interface; a key stands in one of them.

Out of scope: names and sentences of metrics (`languages`), sentences on a case (`sentences`).
"""

from typing import Literal

from sae_lens_med.app.strings.labels import LABELS
from sae_lens_med.app.strings.maps import MAPS
from sae_lens_med.app.strings.rating import RATING
from sae_lens_med.app.strings.reading import READING
from sae_lens_med.app.strings.refusals import REFUSALS
from sae_lens_med.app.strings.steering import STEERING

STRINGS: dict[str, tuple[str, str]] = {**READING, **STEERING, **RATING, **LABELS, **MAPS, **REFUSALS}
"""Key -> (Korean, English)."""


def text(key: str, language: Literal["ko", "en"], **values: object) -> str:
    """The text of `key`, its placeholders filled. `KeyError` for an unknown key, which a test excludes."""
    pair = STRINGS[key]
    return pair[0 if language == "ko" else 1].format(**values)
