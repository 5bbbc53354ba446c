"""The numbers of a finished study as rows that can stand beside those of another: each against its own null.

Accuracy stands against guessing; of the other numbers those that count (`counted`) and whose null has a spread.

Out of scope: paired differences over shared items (`compare`), and what two particular studies are about (`twins`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sae_lens_med import plots
from sae_lens_med.errors import StudyError
from sae_lens_med.evaluation.accuracy import ACCURACY
from sae_lens_med.evaluation.sentences import chance_level, find
from sae_lens_med.languages import Language
from sae_lens_med.metrics.metric import Family
from sae_lens_med.plots.forests import HALF_BAND
from sae_lens_med.records import McqItem, MetricValue
from sae_lens_med.study.counted import Confirmatory, confirmatory
from sae_lens_med.study.folder import read_study
from sae_lens_med.study.measured import AlignmentFolder

SHARED = "alignment/verdict_shared_reasoning"


@dataclass(frozen=True, slots=True)
class Side:
    """What was measured of one study."""

    accuracy: MetricValue
    items: tuple[McqItem, ...]
    values: tuple[Confirmatory, ...]
    verdicts: MetricValue | None
    """The share of features that are shared reasoning, with the counts of all verdicts."""

    def rows(self, language: Language) -> dict[str, tuple[str, Family | None, plots.ForestRow]]:
        """Name of a number -> its title, its family (None: accuracy), and the number beside its null."""
        n, chance = self.accuracy.n, chance_level(self.accuracy, self.items) or 0.0
        wide = HALF_BAND * math.sqrt(chance * (1 - chance) / n)
        found: dict[str, tuple[str, Family | None, plots.ForestRow]] = {}
        if wide > 0:
            above = self.accuracy.value > chance + wide
            band = (chance - wide, chance + wide)
            guessing = plots.ForestRow("", self.accuracy.value, chance, band, stands_out=above)
            found[ACCURACY] = (language.text("Accuracy"), None, guessing)
        for entry in self.values:
            null, band = entry.value.null_mean, entry.value.null_interval
            if null is not None and band is not None and band[1] > band[0]:
                row = plots.ForestRow("", entry.value.value, null, band, stands_out=entry.stands_out)
                title = f"#{entry.metric.number} {language.name(entry.metric.title)}"
                found[entry.value.name] = (title, entry.metric.family, row)
        return found


def read_side(study: Path) -> Side:
    """The numbers of `study`. Raises `StudyError` where it is damaged or has no accuracy."""
    records, folder = read_study(study), AlignmentFolder(study)
    accuracy = find(records.metrics, ACCURACY, "all", None)
    if accuracy is None:
        raise StudyError(f"the study {study} has no accuracy; run it again.")
    shared = next((value for value in folder.metrics if value.name == SHARED), None)
    return Side(accuracy, tuple(records.items.values()), confirmatory(folder.metrics), shared)


def beside(first: Side, second: Side, headings: Mapping[Family | None, str], language: Language) -> list[plots.PairRow]:
    """What `plots.pairs` draws of two studies; `headings`, in `language`, say what each family is about (None:
    accuracy)."""
    own, other = first.rows(language), second.rows(language)
    rows: list[plots.PairRow] = []
    last: Family | None = None
    for name in {**own, **other}:
        title, family, _ = own.get(name) or other[name]
        heading = headings[family] if not rows or family != last else None
        pair = (own[name][2] if name in own else None, other[name][2] if name in other else None)
        rows.append(plots.PairRow(re.sub(r" ?\([^()]*\)", "", title), *pair, heading=heading))
        last = family
    return rows
