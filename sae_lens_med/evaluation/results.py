"""What an evaluation found: a result per item, the metrics over them, and both in a folder.

Layout: `items.jsonl` (one `ItemResult` a line, in item order) and `summary.json` (`format`, `provenance`, `metrics`,
`reasons`: how many items have no answer and why, `usage`: what an endpoint counted, `deferral`: the curve of a method
with confidences, which is in `deferral.csv` and `deferral.svg`, too), and the report (`report.REPORTS`);
while it runs, `items.partial.jsonl`.

Loads no model and no torch.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.evaluation.accuracy import ACCURACY, ACCURACY_PAPER, accuracy_metrics, reason_counts
from sae_lens_med.evaluation.deferral import DeferralPoint, deferral_area, deferral_csv, deferral_curve
from sae_lens_med.evaluation.method import Method
from sae_lens_med.evaluation.report import REPORTS, write_evaluation_report
from sae_lens_med.plots import deferral, describe_deferral, svg
from sae_lens_med.records import ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import json_sha256, write_text
from sae_lens_med.runs.folder import Kind, RunFolder, read_manifest
from sae_lens_med.runs.partial import read_results, write_results
from sae_lens_med.runs.provenance import identity
from sae_lens_med.runs.written import hashes, not_as_written

RESULTS = "items.jsonl"
PARTIAL = "items.partial.jsonl"
DEFERRAL = "deferral"
# Written last: where it is, the evaluation is finished. Until then `PARTIAL` says whose the folder is.
KIND = Kind(
    "evaluation",
    format=2,
    manifest="summary.json",
    identity=lambda summary: identity(Provenance.from_dict(summary["provenance"])),
    leftovers=lambda names: PARTIAL in names,
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` returns; all of it is in `folder`, too, where there is one."""

    folder: Path | None
    """None where nothing was written."""
    results: tuple[ItemResult, ...]
    """In the order of the items."""
    metrics: tuple[MetricValue, ...]
    """Accuracy overall, per subject and per gold letter; empty where no item has a known answer."""
    provenance: Provenance
    reasons: dict[str, int]
    """How many items have no answer, by reason."""
    deferral: tuple[DeferralPoint, ...]
    """Empty for methods without confidences."""
    usage: dict[str, Any] | None = None
    """Of a model behind an endpoint: `prompt_tokens`, `generated_tokens`, `not_counted` (items whose tokens the
    endpoint did not say), and, where prices are known, `cost`."""


def in_memory(items: Sequence[McqItem]) -> LoadedItems:
    """Items that come from no file; their hash says what they are."""
    values = list(items)
    return LoadedItems(values, "memory", None, json_sha256([item.to_dict() for item in values]), (), None)


def summarised(
    folder: Path | None,
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    provenance: Provenance,
    method: Method,
    variant: str,
    usage: dict[str, Any] | None = None,
) -> Evaluation:
    """The metrics of an evaluation over its results."""
    permutations, seed = provenance.settings["permutations"], provenance.seed
    extractors = (ACCURACY, ACCURACY_PAPER) if method.generates else (ACCURACY,)
    metrics = accuracy_metrics(
        items, results, variant=variant, permutations=permutations, seed=seed, extractors=extractors
    )
    area = deferral_area(results, variant=variant, permutations=permutations, seed=seed)
    if area is not None:
        metrics.append(area)
    curve = tuple(deferral_curve(results))
    return Evaluation(folder, tuple(results), tuple(metrics), provenance, reason_counts(results), curve, usage)


def kept_results(run: RunFolder) -> tuple[bool, dict[str, ItemResult]]:
    """Whether the evaluation in the folder is finished, with every file as it was written; where it is not, the results
    that still stand, by id. A file that is not as it was written is warned of: it is made again."""
    broken = not_as_written(run.path, run.values.get("files", {})) if run.begun else {}
    for name, state in broken.items():
        warnings.warn(f"{run.path / name} {state}; it is made again.", stacklevel=3)
    if not run.begun or RESULTS in broken:
        return False, {}
    return not broken, {result.id: result for result in read_results(run.path / RESULTS)} if broken else {}


def write_evaluation(run: RunFolder, found: Evaluation, items: Sequence[McqItem]) -> None:
    """Write all of it, the summary last: where it is, the rest is."""
    if found.deferral:
        write_text(run.path / f"{DEFERRAL}.csv", deferral_csv(found.deferral))
        picture = svg(
            deferral(found.deferral),
            title="Accuracy when the least confident items are deferred",
            description=describe_deferral(found.deferral),
        )
        write_text(run.path / f"{DEFERRAL}.svg", picture)
    write_results(run.path / RESULTS, found.results)
    write_evaluation_report(
        run.path,
        items,
        found.results,
        found.metrics,
        found.provenance,
        reasons=found.reasons,
        curve=found.deferral,
    )
    run.values |= {
        "files": hashes(run.path, (RESULTS, f"{DEFERRAL}.*", *REPORTS)),
        "metrics": [metric.to_dict() for metric in found.metrics],
        "reasons": found.reasons,
        "usage": found.usage,
        "deferral": [point.to_dict() for point in found.deferral],
    }
    run.write()


def read_evaluation(folder: Path) -> Evaluation:
    """The inverse of `write_evaluation`. Raises `StudyError` when the folder is not whole."""
    values = read_manifest(folder, KIND)
    try:
        return Evaluation(
            folder,
            tuple(read_results(folder / RESULTS)),
            tuple(MetricValue.from_dict(m) for m in values["metrics"]),
            Provenance.from_dict(values["provenance"]),
            dict(values["reasons"]),
            tuple(DeferralPoint.from_dict(point) for point in values["deferral"]),
            values.get("usage"),
        )
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise StudyError(
            f"{folder} does not contain a complete evaluation ({error}); evaluate into another folder."
        ) from error
