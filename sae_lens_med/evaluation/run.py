"""Items + model -> a folder with one result an item and a summary with its provenance; resumable.

Layout: `items.jsonl` (one `ItemResult` a line, in item order) and `summary.json` (`format`, `provenance`, `metrics`,
`reasons`: how many items have no answer and why, `deferral`: the curve of a method with confidences, which is in
`deferral.csv` and `deferral.svg`, too); while it runs, `items.partial.jsonl`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med import distributed
from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.evaluation.accuracy import ACCURACY, ACCURACY_PAPER, accuracy_metrics, reason_counts
from sae_lens_med.evaluation.deferral import DeferralPoint, deferral_area, deferral_csv, deferral_curve
from sae_lens_med.evaluation.hooks import evaluation_hooks, splices
from sae_lens_med.evaluation.methods import Method, as_method, ask, run_method
from sae_lens_med.interventions import Intervention
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine, Hook
from sae_lens_med.plots import deferral, describe_deferral, svg
from sae_lens_med.records import ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import write_json, write_text
from sae_lens_med.runs.partial import PartialResults, read_results, write_results
from sae_lens_med.runs.provenance import changes, identity, make_provenance
from sae_lens_med.saes.releases import LoadedSae

FORMAT = 2
RESULTS = "items.jsonl"
SUMMARY = "summary.json"
PARTIAL = "items.partial.jsonl"
DEFERRAL = "deferral"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` returns; all of it is in `folder`, too."""

    folder: Path
    results: tuple[ItemResult, ...]
    """In the order of the items."""
    metrics: tuple[MetricValue, ...]
    provenance: Provenance
    reasons: dict[str, int]
    """How many items have no answer, by reason."""
    deferral: tuple[DeferralPoint, ...]
    """Empty for methods without confidences."""


def evaluate(
    model: MedBridge,
    data: LoadedItems,
    output: Path,
    *,
    method: Method | str = "letter",
    shots: Sequence[McqItem] = (),
    batch_tokens: int | None = None,
    sae: LoadedSae | None = None,
    error_term: bool | None = None,
    interventions: Sequence[Intervention] = (),
    hooks: Sequence[Hook] = (),
    about_hooks: Any = None,
    permutations: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Accuracy of `model` on `data`, written to the folder `output`.

    Running again with the same settings goes on where the last run stopped, or reads what it finished; a run that is
    killed loses one batch at most.

    Args:
        model: from `load_model`.
        data: must not hold the shots (`shots.choose_shots`).
        output: new, empty, or the folder of the same run.
        method: a `Method`, or the name of one with its defaults.
        shots: solved examples put before every question; with explanations for the methods that reason.
        batch_tokens: the most tokens, padding included, of one forward pass. Does not change the results.
        sae: see `hooks`.
        error_term: see `hooks`.
        interventions: on features of `sae` (`interventions.read_interventions`).
        hooks: further `(hook_name, fn)` pairs, which run after the others.
        about_hooks: JSON value that says what `hooks` do; required with them, because it decides whether a folder holds
            the same run.
        permutations: of every null.
        seed: of sampling and permutations.
        progress: show a bar on stderr.

    Raises `ConfigError` for hooks that nothing is said about and for interventions without an SAE, `StudyError` when
    the folder holds something else or an evaluation with other settings, `DistributedError` when another process of
    the job ended, and what `run_method` raises.
    """
    method = as_method(method)
    if bool(hooks) != (about_hooks is not None):
        raise ConfigError("hooks and about_hooks belong together; give both or neither.")
    settings = {
        **method.settings([item.language for item in data.items]),
        "shots": [shot.id for shot in shots],
        "sae_replaces_activation": splices(sae, error_term, interventions),
        "error_term": error_term,
        "interventions": [each.to_dict() for each in interventions],
        "hooks": about_hooks,
        "permutations": permutations,
        "batch_tokens": batch_tokens,
        "device": str(model.cfg.device),
    }
    provenance = make_provenance(model.provenance, sae, data, settings, seed)
    with distributed.initialised() as me:
        finished = _finished(output, provenance) if me.first else None
        if distributed.broadcast_object(finished is not None):
            return finished or read_evaluation(output)
        own = evaluation_hooks(
            model,
            sae,
            lambda: [each.prompt for each in ask(model, data.items, method, shots)],
            error_term=error_term,
            interventions=interventions,
            progress=progress and me.first,
        )
        engine = Engine(model, [*own, *hooks], batch_tokens=batch_tokens)
        partial = PartialResults(output / PARTIAL, identity(provenance))
        results = run_method(
            engine,
            data.items,
            method,
            shots=shots,
            seed=seed,
            progress=progress,
            done=partial.done,
            on_results=partial.append,
        )
        if me.first:
            variant = "model" if sae is None and not hooks else "sae"
            _write(output, data.items, results, provenance, method, variant)
            partial.remove()
        distributed.barrier()
        return read_evaluation(output)


def _write(
    output: Path,
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    provenance: Provenance,
    method: Method,
    variant: str,
) -> None:
    permutations, seed = provenance.settings["permutations"], provenance.seed
    extractors = (ACCURACY, ACCURACY_PAPER) if method.generates else (ACCURACY,)
    metrics = accuracy_metrics(
        items, results, variant=variant, permutations=permutations, seed=seed, extractors=extractors
    )
    area = deferral_area(results, variant=variant, permutations=permutations, seed=seed)
    curve = deferral_curve(results)
    if area is not None:
        metrics.append(area)
        write_text(output / f"{DEFERRAL}.csv", deferral_csv(curve))
        picture = svg(
            deferral(curve),
            title="Accuracy when the least confident items are deferred",
            description=describe_deferral(curve),
        )
        write_text(output / f"{DEFERRAL}.svg", picture)
    write_results(output / RESULTS, results)
    write_json(
        output / SUMMARY,
        {
            "format": FORMAT,
            "provenance": provenance.to_dict(),
            "metrics": [metric.to_dict() for metric in metrics],
            "reasons": reason_counts(results),
            "deferral": [point.to_dict() for point in curve],
        },
    )


def read_evaluation(folder: Path) -> Evaluation:
    """The inverse of `evaluate`'s writing. Raises `StudyError` when the folder is not whole."""
    try:
        values = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise StudyError(f"{folder / SUMMARY} has format {values['format']!r}, this version reads {FORMAT}.")
        return Evaluation(
            folder,
            tuple(read_results(folder / RESULTS)),
            tuple(MetricValue.from_dict(m) for m in values["metrics"]),
            Provenance.from_dict(values["provenance"]),
            dict(values["reasons"]),
            tuple(DeferralPoint.from_dict(point) for point in values["deferral"]),
        )
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise StudyError(f"{folder} holds no whole evaluation ({error}); evaluate into another folder.") from error


def _finished(output: Path, provenance: Provenance) -> Evaluation | None:
    """What an earlier run finished in `output`, or None when there is still work to do. Raises when it is foreign."""
    if (output / SUMMARY).exists():
        found = read_evaluation(output)
        if different := changes(identity(found.provenance), identity(provenance)):
            raise StudyError(
                f"{output} holds an evaluation with other settings ({'; '.join(different)}); give another folder."
            )
        return found
    if output.exists() and not output.is_dir():
        raise StudyError(f"{output} is a file; give a folder as output.")
    if output.is_dir() and not (output / PARTIAL).exists() and any(output.iterdir()):
        raise StudyError(f"{output} is not empty and holds no evaluation; give an empty or a new folder as output.")
    return None
