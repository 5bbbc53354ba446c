"""`STUDY/alignment/` -> its report: every value with its null, and what it allows to say; in English and Korean.

It begins with one figure of all numbers that count, each against its null; a reservation that several metrics share
stands once, and the values of the single metrics are folded. Reads what `measured` wrote and the study's own files;
needs no model. Concepts, contexts, groups and ids are untrusted text, which `pages` escapes; a content security policy
forbids whatever might slip through.

Out of scope: measuring anything but q, which depends on all numbers of the folder.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from sae_lens_med import plots
from sae_lens_med.alignment import METRICS
from sae_lens_med.data.mappings import subject_stratum
from sae_lens_med.errors import StudyError
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import load_features
from sae_lens_med.languages import Language, Sentence
from sae_lens_med.metrics.duplicates import near_duplicates
from sae_lens_med.metrics.metric import FAMILIES, Metric
from sae_lens_med.pages import page_names, write_pages
from sae_lens_med.records import McqItem, MetricValue
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO, json_sha256
from sae_lens_med.statistics import ALPHA
from sae_lens_med.study.claims import (
    VARIANT_NAMES,
    limits_of,
    sentence_of,
    shared_reservations,
    title_of,
    warnings,
)
from sae_lens_med.study.counted import Confirmatory, by_family, confirmatory
from sae_lens_med.study.folder import StudyFolder, read_study
from sae_lens_med.study.measured import AlignmentFolder

REPORTS = (*page_names("report"), *page_names("features", ("md",)))
"""The files that `write_alignment_report` writes into `STUDY/alignment/`."""
CONCEPTS_SHOWN = 40
FEATURES_SHOWN = 2
CONTEXTS_SHOWN = 3


def write_alignment_report(
    study: Path, *, absent: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Write `REPORTS` into `STUDY/alignment/`, each atomically; return their paths in that order.

    Args:
        study: its folder, with or without measured metrics.
        absent: metrics that could not be measured -> why.
        notes: what else the reader should know.

    Raises `StudyError` when the study or its alignment folder is damaged.
    """
    records = read_study(study)
    folder = AlignmentFolder(study)
    concepts = _concepts(study, folder)

    def view(language: Language) -> dict[str, Any]:
        return _view(records, folder, concepts, dict(absent or {}), list(notes), language)

    return (
        *write_pages(folder.path, "report", "alignment", view),
        *write_pages(folder.path, "features", "features", view, ("md",)),
    )


def gave_nothing(folder: AlignmentFolder, absent: Mapping[str, str]) -> dict[str, str]:
    """Metrics without a single value -> why: those that could not be measured, as `absent` says, and those that were
    measured and found nothing to measure, as their notes say."""
    found = {}
    for metric in METRICS:
        if metric.name not in folder.done:
            if metric.name in absent:
                found[metric.name] = absent[metric.name]
        elif not any(metric.owns(value.name) for value in folder.metrics):
            why = " ".join(folder.notes.get(metric.name, [])) or "it does not say why."
            found[metric.name] = f"{metric.title} (#{metric.number}) gave no value: {why}"
    return found


def _view(
    records: StudyFolder,
    folder: AlignmentFolder,
    concepts: list[dict[str, Any]],
    absent: dict[str, str],
    notes: list[str],
    language: Language,
) -> dict[str, Any]:
    say = language.text
    items = list(records.items.values())
    limits = limits_of(records.metrics, items)
    notes = [*notes, *material_notes(items)]
    entries = confirmatory(folder.metrics)
    shared = shared_reservations(entries, folder.metrics, limits)
    provenance = records.provenance
    return {
        "provenance": provenance,
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO) if language.code == "en" else (DISCLAIMER_KO,),
        "warnings": warnings(folder.metrics, limits),
        "families": [
            {
                "title": FAMILIES[family],
                "entries": own,
                "n_tested": sum(entry.q is not None for entry in own),
            }
            for family, own in by_family(entries)
        ],
        "forest": _forest([entry for entry in entries if entry.metric.family != "features"], language),
        "not_drawn": [entry.metric.title for entry in entries if not _drawable(entry)],
        "sentences": [sentence_of(entry, folder.metrics, limits, shared) for entry in entries],
        "shared": _shared(shared, entries, language),
        "sections": _sections(folder, language),
        "verdicts": verdict_counts(folder.path / "verdicts.csv"),
        "absent": [language.note(reason) or reason for reason in gave_nothing(folder, absent).values()],
        "notes": [language.note(note) or note for note in notes],
        "concepts": concepts,
        "variant_names": VARIANT_NAMES,
        "run_tables": [
            (say("Model"), list(provenance.model.items())),
            (say("SAE"), [] if provenance.sae is None else list(provenance.sae.items())),
            (say("Data"), list(provenance.data.items())),
            *(
                (
                    language.name(metric.title),
                    [*folder.done[metric.name]["settings"].items(), ("seconds", folder.done[metric.name]["seconds"])],
                )
                for metric in METRICS
                if metric.name in folder.done
            ),
        ],
    }


def material_notes(items: Sequence[McqItem]) -> list[str]:
    """What items share that no permutation and no split may part: near-duplicates, subjects, blocks, each counted."""
    sizes = np.bincount(near_duplicates([item.question for item in items]))
    subjects, strata = {item.subject for item in items}, {subject_stratum(item) for item in items}
    blocks = {item.provenance["block"] for item in items if "block" in item.provenance}
    notes = []
    if (sizes > 1).any():
        notes.append(
            f"{int(sizes[sizes > 1].sum())} items are near-duplicates, in {int(np.count_nonzero(sizes > 1))} clusters: "
            "one of each cluster is measured."
        )
    if len(strata) < len(subjects):
        notes.append(f"{len(subjects)} subjects are read as {len(strata)}: spellings of one subject exchange.")
    if blocks:
        notes.append(f"Items exchange within {len(blocks)} blocks.")
    return notes


def _drawable(entry: Confirmatory) -> bool:
    """Whether a number has a null with a spread, which its distance is measured in."""
    low, high = entry.value.null_interval or (0.0, 0.0)
    return entry.value.null_mean is not None and high > low


def forest_rows(entries: Sequence[Confirmatory], language: Language) -> list[plots.ForestRow]:
    """What `plots.forest` draws of the numbers whose null has a spread."""
    return [
        plots.ForestRow(
            label=re.sub(r" ?\([^()]*\)", "", title_of(entry, language)),  # the room is for the value's name
            value=entry.value.value,
            null_mean=entry.value.null_mean,
            null_interval=entry.value.null_interval,
            interval=entry.value.interval,
            q=entry.q,
            stands_out=entry.stands_out,
        )
        for entry in entries
        if _drawable(entry) and entry.value.null_mean is not None and entry.value.null_interval is not None
    ]


def forest(entries: Sequence[Confirmatory], language: Language) -> str | None:
    """Every number that can be drawn against its null, as SVG; None where there is none."""
    if not (rows := forest_rows(entries, language)):
        return None
    return plots.svg(
        plots.forest(rows, language=language),
        title=language.text("Every metric against its null"),
        description=plots.describe_forest(rows, language=language),
    )


def _forest(entries: Sequence[Confirmatory], language: Language) -> Markup | None:
    drawn = forest(entries, language)
    return None if drawn is None else Markup(drawn)  # every text in it is escaped by `plots.svg`


def _shared(
    shared: Mapping[Sentence, Sequence[Metric]], entries: Sequence[Confirmatory], language: Language
) -> list[dict[str, Any]]:
    """Each reservation that holds for several metrics, with the titles of these; None for all of them."""
    every = {entry.metric.name for entry in entries}
    return [
        {
            "sentence": sentence,
            "titles": None
            if {metric.name for metric in metrics} == every
            else ", ".join(language.name(metric.title) for metric in metrics),
        }
        for sentence, metrics in shared.items()
    ]


def _sections(folder: AlignmentFolder, language: Language) -> list[dict[str, Any]]:
    """Each metric that gave something: its values, and what it noted."""
    sections = []
    for metric in METRICS:
        own = [value for value in folder.metrics if metric.owns(value.name)]
        noted = [*folder.notes.get(metric.name, []), *dict.fromkeys(value.notes for value in own if value.notes)]
        if own or noted:
            notes = [language.note(note) or note for note in noted]
            sections.append({"metric": metric, "rows": _rows(own, language), "notes": notes})
    return sections


def _rows(values: Sequence[MetricValue], language: Language) -> list[dict[str, Any]]:
    """The values of one metric; those that are the same number by construction, with the same interval and null, are
    one row with all their names: precision and recall of sets of equal size."""
    rows: dict[str, dict[str, Any]] = {}
    for value in values:
        same = json_sha256({**value.to_dict(), "name": None})
        rows.setdefault(same, {"value": value, "names": []})["names"].append(language.metric(value.name))
    return [{**row, "name": " = ".join(row["names"])} for row in rows.values()]


def _concepts(study: Path, folder: AlignmentFolder) -> list[dict[str, Any]]:
    """The concepts to show, each with its strongest features and their top contexts."""
    path = folder.path / "concepts.json"
    table = folder.read_file("concepts.json") or []
    try:
        shown = [
            {**row, "features": [f for f in row["features"] if f["p"] <= ALPHA][:FEATURES_SHOWN]}
            for row in table
            if row["q"] <= ALPHA
        ][:CONCEPTS_SHOWN]
        if not shown:
            return []
        contexts = top_contexts(load_features(study / "features"), k=CONTEXTS_SHOWN)
        for row in shown:
            row["features"] = [{**f, "contexts": contexts.get(int(f["feature"]), [])} for f in row["features"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{path} is damaged ({error}); measure the metric 'concepts' again with --force.") from error
    return shown


def verdict_counts(path: Path) -> dict[str, int]:
    """How many features have each verdict; empty where none was measured."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as handle:
        return dict(Counter(row["verdict"] for row in csv.DictReader(handle) if row.get("verdict")))
