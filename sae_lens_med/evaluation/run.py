"""Items + model -> one result per item and a summary with its provenance; in a folder, too, where one is given.

Layout: `items.jsonl` (one `ItemResult` a line, in item order) and `summary.json` (`format`, `provenance`, `metrics`,
`reasons`: how many items have no answer and why, `deferral`: the curve of a method with confidences, which is in
`deferral.csv` and `deferral.svg`, too), and the report (`report.REPORTS`); while it runs, `items.partial.jsonl`. An
interrupted run goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
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
from sae_lens_med.evaluation.report import write_evaluation_report
from sae_lens_med.interventions import Intervention
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine, Hook
from sae_lens_med.plots import deferral, describe_deferral, svg
from sae_lens_med.records import ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import json_sha256, write_text
from sae_lens_med.runs.folder import Kind, RunFolder, read_manifest
from sae_lens_med.runs.partial import PartialResults, read_results, write_results
from sae_lens_med.runs.provenance import identity, make_provenance
from sae_lens_med.saes.releases import LoadedSae

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


def evaluate(
    model: MedBridge,
    items: LoadedItems | Sequence[McqItem],
    method: Method | str = "letter",
    *,
    shots: Sequence[McqItem] = (),
    sae: LoadedSae | None = None,
    error_term: bool | None = None,
    interventions: Sequence[Intervention] = (),
    hooks: Sequence[Hook] = (),
    about_hooks: Any = None,
    output: Path | str | None = None,
    batch_tokens: int | None = None,
    permutations: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """The answers of `model` to `items`, and their accuracy.

    With `output`, all of it is written to that folder: running again with the same settings goes on where the last run
    stopped, or reads what it finished; a run that is killed loses one batch at most.

    Args:
        model: from `load_model`.
        items: from `load_items`, or any items; must not hold the shots (`shots.choose_shots`). An item without a known
            answer is asked, and not scored.
        method: a `Method`, or the name of one with its defaults: `letter`, `option-text`, `generate`, `cot` or
            `self-consistency`.
        shots: solved examples put before every question; with explanations for the methods that reason.
        sae: attached at its hook. Without interventions, its reconstruction replaces the activation (no error term),
            so that the result is what the model answers through the SAE; special tokens pass unchanged.
        error_term: True or False: the reconstruction with or without the error term, interventions or not.
        interventions: on features of `sae` (`load_interventions`); without `error_term` they act on the activation.
        hooks: further `(hook_name, fn)` pairs, which run after the others.
        about_hooks: JSON value that says what `hooks` do. With `output` it is required, because it decides whether a
            folder holds the same run; without, the names of the hook points take its place.
        output: a new or empty folder, or that of the same run; None: nothing is written.
        batch_tokens: the most tokens, padding included, of one forward pass. Does not change the results.
        permutations: of every null.
        seed: of sampling and permutations.
        progress: show a bar on stderr.

    Raises `ConfigError` for hooks that nothing is said about, for interventions without an SAE and for a batch size
    below 1, `ModelError` when a prompt is longer than the model's context or the model gives no number, `DataError`
    when two items share an id or a template does not fit the data, `StudyError` when the folder holds something else or
    an evaluation with other settings, `DistributedError` when another process of the job ended.
    """
    method = as_method(method)
    if about_hooks is None and hooks and output is None:
        about_hooks = [name for name, _ in hooks]
    if bool(hooks) != (about_hooks is not None):
        raise ConfigError("hooks and about_hooks belong together; pass both or neither.")
    data = items if isinstance(items, LoadedItems) else _in_memory(items)
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
    variant = "model" if sae is None and not hooks else "sae"

    def answers(
        done: Mapping[str, ItemResult], on_results: Callable[[list[ItemResult]], None] | None
    ) -> list[ItemResult]:
        own = evaluation_hooks(
            model,
            sae,
            lambda: [each.prompt for each in ask(model, data.items, method, shots)],
            error_term=error_term,
            interventions=interventions,
            progress=progress and distributed.ranks().first,
        )
        return run_method(
            Engine(model, [*own, *hooks], batch_tokens=batch_tokens),
            data.items,
            method,
            shots=shots,
            seed=seed,
            progress=progress,
            done=done,
            on_results=on_results,
        )

    with distributed.initialised() as me:
        if output is None:
            return _summarised(None, data.items, answers({}, None), provenance, method, variant)
        output = Path(output)
        run = RunFolder(output, KIND, {"provenance": provenance.to_dict()})
        if run.begun:
            return read_evaluation(output)
        partial = PartialResults(output / PARTIAL, identity(provenance))
        results = answers(partial.records(ItemResult), partial.append)
        if me.first:
            _write(run, _summarised(output, data.items, results, provenance, method, variant), data.items)
            partial.remove()
        distributed.barrier()
        return read_evaluation(output)


def _in_memory(items: Sequence[McqItem]) -> LoadedItems:
    """Items that come from no file; their hash says what they are."""
    values = list(items)
    return LoadedItems(values, "memory", None, json_sha256([item.to_dict() for item in values]), (), None)


def _summarised(
    folder: Path | None,
    items: Sequence[McqItem],
    results: Sequence[ItemResult],
    provenance: Provenance,
    method: Method,
    variant: str,
) -> Evaluation:
    permutations, seed = provenance.settings["permutations"], provenance.seed
    extractors = (ACCURACY, ACCURACY_PAPER) if method.generates else (ACCURACY,)
    metrics = accuracy_metrics(
        items, results, variant=variant, permutations=permutations, seed=seed, extractors=extractors
    )
    area = deferral_area(results, variant=variant, permutations=permutations, seed=seed)
    if area is not None:
        metrics.append(area)
    curve = tuple(deferral_curve(results))
    return Evaluation(folder, tuple(results), tuple(metrics), provenance, reason_counts(results), curve)


def _write(run: RunFolder, found: Evaluation, items: Sequence[McqItem]) -> None:
    """The summary last: where it is, the rest is."""
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
        "metrics": [metric.to_dict() for metric in found.metrics],
        "reasons": found.reasons,
        "deferral": [point.to_dict() for point in found.deferral],
    }
    run.write()


def read_evaluation(folder: Path) -> Evaluation:
    """The inverse of `evaluate`'s writing. Raises `StudyError` when the folder is not whole."""
    values = read_manifest(folder, KIND)
    try:
        return Evaluation(
            folder,
            tuple(read_results(folder / RESULTS)),
            tuple(MetricValue.from_dict(m) for m in values["metrics"]),
            Provenance.from_dict(values["provenance"]),
            dict(values["reasons"]),
            tuple(DeferralPoint.from_dict(point) for point in values["deferral"]),
        )
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise StudyError(
            f"{folder} does not contain a complete evaluation ({error}); evaluate into another folder."
        ) from error
