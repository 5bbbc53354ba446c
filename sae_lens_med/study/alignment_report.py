"""`STUDY/alignment/` -> report.md, report.html and features.md: every value with its null, and what it allows to say.

Reads what `measured` wrote and the study's own files; needs no model. Concepts, contexts, groups and ids are untrusted
text: all templates escape every value (`report.html_environment`, `report.markdown_environment`), and a content
security policy forbids whatever might slip through.

Out of scope: measuring anything but q, which depends on all numbers of the folder.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.alignment import METRICS
from sae_lens_med.errors import StudyError
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import load_features
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO, write_text
from sae_lens_med.statistics import ALPHA
from sae_lens_med.study.claims import VARIANT_NAMES, confirmatory, limits_of, sentence_of, warnings
from sae_lens_med.study.folder import StudyFolder, read_study
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.report import html_environment, markdown_environment

CONCEPTS_SHOWN = 40
FEATURES_SHOWN = 2
CONTEXTS_SHOWN = 3


def write_alignment_report(
    study: Path, *, absent: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Write `report.md`, `report.html` and `features.md` into `STUDY/alignment/`, each atomically; return their paths.

    Args:
        study: its folder, with or without measured metrics.
        absent: metrics that could not be measured -> why.
        notes: what else the reader should know.

    Raises `StudyError` when the study or its alignment folder is damaged.
    """
    records = read_study(study)
    folder = AlignmentFolder(study)
    concepts = _concepts(study, folder)
    values = _view(records, folder, concepts, dict(absent or {}), list(notes))
    written = []
    for target, template, environment in (
        ("report.md", "alignment.md.j2", markdown_environment()),
        ("report.html", "alignment.html.j2", html_environment()),
        ("features.md", "features.md.j2", markdown_environment()),
    ):
        path = folder.path / target
        write_text(path, environment.get_template(template).render(values))
        written.append(path)
    return tuple(written)


def _view(
    records: StudyFolder,
    folder: AlignmentFolder,
    concepts: list[dict[str, Any]],
    absent: dict[str, str],
    notes: list[str],
) -> dict[str, Any]:
    limits = limits_of(records.metrics, list(records.items.values()))
    entries = confirmatory(folder.metrics)
    provenance = records.provenance
    sections = []
    for metric in METRICS:
        own = [value for value in folder.metrics if metric.owns(value.name)]
        notes_of = [*folder.notes.get(metric.name, []), *dict.fromkeys(value.notes for value in own if value.notes)]
        if own or notes_of:
            sections.append({"metric": metric, "values": own, "notes": notes_of})
    return {
        "provenance": provenance,
        "disclaimers": (DISCLAIMER, DISCLAIMER_KO),
        "warnings": warnings(folder.metrics, limits),
        "entries": entries,
        "n_tested": sum(entry.q is not None for entry in entries),
        "sentences": [sentence_of(entry, folder.metrics, limits) for entry in entries],
        "sections": sections,
        "verdicts": _verdicts(folder.path / "verdicts.csv"),
        "absent": {name: reason for name, reason in absent.items() if name not in folder.done},
        "notes": notes,
        "concepts": concepts,
        "variant_names": VARIANT_NAMES,
        "run_tables": [
            ("Model", list(provenance.model.items())),
            ("SAE", [] if provenance.sae is None else list(provenance.sae.items())),
            ("Data", list(provenance.data.items())),
            *(
                (
                    metric.title,
                    [*folder.done[metric.name]["settings"].items(), ("seconds", folder.done[metric.name]["seconds"])],
                )
                for metric in METRICS
                if metric.name in folder.done
            ),
        ],
    }


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


def _verdicts(path: Path) -> dict[str, int]:
    """How many features have each verdict; empty where none was measured."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as handle:
        return dict(Counter(row["verdict"] for row in csv.DictReader(handle) if row.get("verdict")))
