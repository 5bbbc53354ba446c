"""Items + model -> one result per item and a summary with its provenance; in a folder, too, where one is given.

The folder is that of `results`. An interrupted run goes on from its `items.partial.jsonl`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med import distributed
from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError
from sae_lens_med.evaluation.hooks import evaluation_hooks, splices
from sae_lens_med.evaluation.method import Method, as_method
from sae_lens_med.evaluation.methods import ask, run_method
from sae_lens_med.evaluation.results import (
    KIND,
    PARTIAL,
    Evaluation,
    in_memory,
    kept_results,
    read_evaluation,
    summarised,
    write_evaluation,
)
from sae_lens_med.interventions import Intervention
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine, Hook
from sae_lens_med.records import ItemResult, McqItem, require_options
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.provenance import identity, make_provenance
from sae_lens_med.saes.releases import LoadedSae


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
    below 1, `UnfitItemsError` for all items whose prompts are longer than the model's context, before anything is run,
    `ModelError` when the model gives no number, `DataError` when two items share an id or a template does not fit the
    data, `StudyError` when the folder holds something else or an evaluation with other settings, `DistributedError`
    when another process of the job ended.
    """
    method = as_method(method)
    if about_hooks is None and hooks and output is None:
        about_hooks = [name for name, _ in hooks]
    if bool(hooks) != (about_hooks is not None):
        raise ConfigError("hooks and about_hooks belong together; pass both or neither.")
    data = items if isinstance(items, LoadedItems) else in_memory(items)
    require_options(data.items, "accuracy")
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
            return summarised(None, data.items, answers({}, None), provenance, method, variant)
        output = Path(output)
        run = RunFolder(output, KIND, {"provenance": provenance.to_dict()})
        finished, kept = kept_results(run)
        if distributed.broadcast_object(finished):
            return read_evaluation(output)
        run.hold()
        partial = PartialResults(output / PARTIAL, identity(provenance))
        results = answers(partial.records(ItemResult) | kept, partial.append)
        if me.first:
            write_evaluation(run, summarised(output, data.items, results, provenance, method, variant), data.items)
            partial.remove()
        distributed.barrier()
        return read_evaluation(output)
