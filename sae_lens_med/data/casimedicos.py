"""CasiMedicos-Arg: Spanish residency-exam cases that physicians explained and annotated (English and other languages).

Sviridova et al., EMNLP 2024; licence CC BY 4.0; nothing of it is in this package. It comes as local files (`local`) in
the generic schema of `rows`, with what is special about it stated here:

- `specialty` stands for the subject; `question_spans` and `explanation_spans` hold the annotators' premises and claims;
- rows that have all three of these columns were explained by physicians, so their explanation's source is `expert`;
- its ids begin with `casimedicos-`, from which an item's data set and licence are known.
"""

from collections.abc import Mapping
from typing import Any

_COLUMNS = {"specialty", "question_spans", "explanation_spans"}
_ID_PREFIX = "casimedicos-"
_PROVENANCE = {"dataset": "CasiMedicos-Arg", "licence": "CC BY 4.0"}


def is_explained_by_physicians(row: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of CasiMedicos, whatever is in them."""
    return row.keys() >= _COLUMNS


def provenance_of(item_id: str) -> dict[str, str]:
    """Data set and licence of an item with this id; empty for an item of another data set."""
    return dict(_PROVENANCE) if item_id.startswith(_ID_PREFIX) else {}
