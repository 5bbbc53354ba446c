"""May the texts of a study be passed on? What the licences of its data sets say, and what a user has to say himself.

A licence that lets anybody pass the texts on, for any purpose, is known by its name (`OPEN`). Any other one, a
non-commercial one and none at all among them, is for the user to judge: without his word nothing leaves.

Out of scope: legal advice, and the licence of the model or of the SAE.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens_med.errors import ConfigError
from sae_lens_med.records import McqItem, Record

OPTION = "--accept-licence"
OPEN = re.compile(
    r"(?:CC0|CC[- ]BY(?:[- ]SA)?(?![- ]?(?:NC|ND|SA))|MIT|Apache|BSD|public domain|ODC-BY|PDDL|Unlicense)\b",
    re.IGNORECASE,
)
"""How the names of licences begin that allow passing texts on."""


@dataclass(frozen=True, slots=True)
class TextLicence(Record):
    """One data set of a study, and its licence."""

    dataset: str
    licence: str | None
    """None where nobody says."""
    items: int

    @property
    def is_open(self) -> bool:
        """Whether texts may be passed on, whoever gets them and whatever for."""
        return self.licence is not None and OPEN.match(self.licence.strip()) is not None


def licences_of(items: Iterable[McqItem], data: Mapping[str, Any]) -> tuple[TextLicence, ...]:
    """The data sets of `items` with their licences; `data` is a study's `Provenance.data`, for items that name none."""
    whole = data.get("licence")
    counts = Counter(
        (
            item.provenance.get("dataset") or str(data["source"]),
            item.provenance.get("licence") or (whole if isinstance(whole, str) else None),
        )
        for item in items
    )
    return tuple(TextLicence(dataset, licence, n) for (dataset, licence), n in counts.items())


def require_open(licences: Iterable[TextLicence], *, accepted: bool, what: str) -> None:
    """Refuse, in one sentence, to let go of texts that may not be passed on by everybody, unless the user has said so.

    `what`: what would happen to the texts: "an export to Neuronpedia republishes texts of the questions". Raises
    `ConfigError`.
    """
    closed = [each for each in licences if not each.is_open]
    if not closed or accepted:
        return
    named = "; ".join(
        f"{each.dataset} ({f'licence: {each.licence}' if each.licence else 'no licence is stated'})" for each in closed
    )
    raise ConfigError(
        f"{what}, and the licence of the data does not allow everybody to pass them on: {named}; if you may, add "
        f"{OPTION}."
    )
