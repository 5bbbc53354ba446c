"""A map folder as the pages need it: its rows by depth, the answers to the registered hypotheses, and the features that
carry a cell. Reads JSON alone; activations stay where they are.

Out of scope: HTML (`routes`), answering (`map answer`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import NotFoundError
from sae_lens_med.knowledge_map.answering import read_answers, read_rows
from sae_lens_med.knowledge_map.carried import FEATURES, Carrier, carriers_of, read_carriers
from sae_lens_med.knowledge_map.hypotheses import Answer
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.knowledge_map.run import KIND
from sae_lens_med.records import Record
from sae_lens_med.runs.folder import read_manifest
from sae_lens_med.statistics import ALPHA

FOLDER, FEATURES_FOLDER = "map", "map-features"
"""Of a study, where its map, and the features of it, are looked for."""
LEVELS = 6
"""Steps of colour above 0; the last is as full as in `plots.maps`."""


@dataclass(frozen=True, slots=True)
class MapCell(Record):
    """One read-out at one depth."""

    _nested: ClassVar[dict[str, type[Record]]] = {"carriers": Carrier}

    row: int
    """Place among the rows of the map, from 0."""
    depth: int
    value: float
    interval: tuple[float, float] | None
    null_mean: float
    null_high: float
    p: float
    q: float
    stands_out: bool
    level: int
    """How far above its null, from 0 to `LEVELS`."""
    controls: dict[str, float]
    """`characters`, `embedding`, `random` (the largest), `plain`: those that there are."""
    not_beaten: tuple[str, ...]
    """Of `null` and the controls, those that the value does not beat; the embedding itself stands out from nothing."""
    carriers: tuple[Carrier, ...]
    """Features, strongest first."""


@dataclass(frozen=True, slots=True)
class MapView(Record):
    """A whole map."""

    _nested: ClassVar[dict[str, type[Record]]] = {"rows": MapRow, "answers": Answer}

    model: str
    source: str
    """Of the lists."""
    rows: tuple[MapRow, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OpenMap:
    """A map that is served."""

    view: MapView
    carriers: tuple[Carrier, ...]

    @classmethod
    def open(cls, folder: Path, features: Path | None = None) -> "OpenMap":
        """The map of a folder; `features`: that of `map features`, by default what lies in the map's folder.

        Raises `StudyError` for a folder that is no finished map, or damaged.
        """
        identity = read_manifest(folder, KIND)["identity"]
        rows = tuple(row for row in read_rows(folder) if row.q)
        view = MapView(
            str(identity["model"].get("name", "?")), str(identity["lists"]["source"]), rows, tuple(read_answers(folder))
        )
        return cls(view, tuple(read_carriers(folder if features is None else features)))

    @classmethod
    def beside(cls, study: Path) -> "OpenMap | None":
        """The map that lies in a study's folder; None where there is none."""
        folder, features = study / FOLDER, study / FEATURES_FOLDER
        if not (folder / KIND.manifest).is_file():
            return None
        return OpenMap.open(folder, features if (features / FEATURES).is_file() else None)

    def cell(self, number: int, depth: int) -> MapCell:
        """One cell. Raises `NotFoundError` for a row or a depth that is not there."""
        if number >= len(self.view.rows):
            raise refusal(NotFoundError, "refused.map.row", of=len(self.view.rows), row=number)
        row = self.view.rows[number]
        if depth >= len(row.values):
            raise refusal(NotFoundError, "refused.map.depth", of=len(row.values), depth=depth)
        value, mean, high = row.values[depth], row.null_mean[depth], row.null_high[depth]
        controls = {} if row.characters is None else {"characters": row.characters, "embedding": row.embedding}
        controls |= {"random": max(each[depth] for each in row.random)} if row.random else {}
        controls |= {"plain": row.plain[depth]} if row.plain else {}
        not_beaten = ["null"] if row.q[depth] >= ALPHA else []
        not_beaten += [name for name, other in controls.items() if value <= other]
        above = (value - mean) / (high - mean) if high > mean else 0.0
        return MapCell(
            row=number,
            depth=depth,
            value=value,
            interval=row.intervals[depth],
            null_mean=mean,
            null_high=high,
            p=row.p[depth],
            q=row.q[depth],
            stands_out=row.stands_out[depth],
            level=int(min(max(above, 0.0), LEVELS)),
            controls=controls,
            not_beaten=tuple(not_beaten),
            carriers=tuple(carriers_of(self.carriers, row, depth)),
        )
