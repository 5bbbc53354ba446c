"""Which SAE features carry a cell of a map: what `map features` wrote, as far as a page shows it.

Out of scope: finding them (`map features`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.records import Record
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.statistics import ALPHA

FEATURES = "features.json"


@dataclass(frozen=True, slots=True)
class Carrier(Record):
    """One feature for one label, at the depth of its SAE."""

    domain: str
    language: str
    labels: str
    """The label set."""
    label: str
    depth: int
    feature: int
    auroc: float
    """On concepts that the feature was not chosen on."""
    auroc_null_high: float
    """95 % quantile of the largest AUROC over the features, labels permuted."""
    p: float
    q: float
    sae: str = ""
    """Where the SAE is from; empty where the file does not say."""
    stands_out: bool = True
    """Above every control that `map features` has."""
    top: tuple[str, ...] = ()
    """Names on which the feature is strongest."""


def read_carriers(folder: Path) -> list[Carrier]:
    """Of `features.json`, of whose rows other fields are left aside; empty where there is none.

    Raises `StudyError` for a damaged file.
    """
    path = folder / FEATURES
    if not path.is_file():
        return []
    known = Carrier.__dataclass_fields__
    try:
        rows = read_json(path)
        found = [Carrier.from_dict({name: row[name] for name in known if name in row}) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, DataError) as error:
        raise StudyError(f"{path} is damaged ({error}); run map features again.") from error
    for each in found:
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in (each.depth, each.feature)):
            raise StudyError(f"{path} is damaged (depth and feature must be whole numbers); run map features again.")
        if not all(isinstance(value, int | float) for value in (each.auroc, each.auroc_null_high, each.p, each.q)):
            raise StudyError(f"{path} is damaged (AUROC, p and q must be numbers); run map features again.")
        if not all(isinstance(name, str) for name in (each.label, each.labels, each.sae, *each.top)):
            raise StudyError(f"{path} is damaged (labels, names and the SAE must be texts); run map features again.")
    return found


def carriers_of(carriers: Sequence[Carrier], row: MapRow, depth: int) -> list[Carrier]:
    """Those of the cell of `row` at `depth`, strongest first. A row across languages has those of either."""
    languages = {row.language, *row.language.split("-")}
    own = [
        each
        for each in carriers
        if (each.domain, each.depth) == (row.domain, depth)
        and each.language in languages
        and row.labels in ("", each.labels)
    ]
    return sorted(own, key=lambda each: (-each.auroc, each.feature))


def strongest(carriers: Sequence[Carrier], most: int) -> list[Carrier]:
    """Those whose q is below 0.05, strongest first."""
    return sorted((each for each in carriers if each.q < ALPHA), key=lambda each: (-each.auroc, each.feature))[:most]
