"""Items + model -> a folder with one result an item and a summary with its provenance; resumable.

Layout: `items.jsonl` (one `ItemResult` a line, in item order) and `summary.json` (`format`, `provenance`, `metrics`);
while it runs, `items.partial.jsonl`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_lens_med import distributed
from sae_lens_med.config import write_json
from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.evaluation.letter import evaluate_letters
from sae_lens_med.evaluation.provenance import changes, identity, make_provenance
from sae_lens_med.evaluation.store import PartialResults, read_results, write_results
from sae_lens_med.evaluation.summary import accuracy_metrics
from sae_lens_med.models import MedBridge
from sae_lens_med.records import ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.saes.releases import LoadedSae

FORMAT = 1
RESULTS = "items.jsonl"
SUMMARY = "summary.json"
PARTIAL = "items.partial.jsonl"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` returns; all of it is in `folder`, too."""

    folder: Path
    results: tuple[ItemResult, ...]
    """In the order of the items."""
    metrics: tuple[MetricValue, ...]
    provenance: Provenance


def evaluate(
    model: MedBridge,
    data: LoadedItems,
    output: Path,
    *,
    shots: Sequence[McqItem] = (),
    chat: bool = False,
    enable_thinking: bool = False,
    batch_tokens: int = 8192,
    sae: LoadedSae | None = None,
    permutations: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Accuracy of `model` on `data` by the option-letter method, written to the folder `output`.

    The arguments are those of `evaluate_letters` and `accuracy_metrics`. Running again with the same settings goes on
    where the last run stopped, or reads what it finished. `data` must not hold the shots (`shots.choose_shots`).

    Raises `StudyError` when the folder holds something else or an evaluation with other settings, `DistributedError`
    when another process of the job ended.
    """
    settings = {
        "method": "option_letter",
        "shots": [shot.id for shot in shots],
        "chat": chat,
        "enable_thinking": enable_thinking,
        "sae_replaces_activation": sae is not None,
        "permutations": permutations,
        "batch_tokens": batch_tokens,
        "device": str(model.cfg.device),
    }
    provenance = make_provenance(model.provenance, sae, data, settings, seed)
    with distributed.initialised() as me:
        finished = _finished(output, provenance) if me.first else None
        if distributed.broadcast_object(finished is not None):
            return finished or read_evaluation(output)
        partial = PartialResults(output / PARTIAL, identity(provenance))
        results = evaluate_letters(
            model,
            data.items,
            shots=shots,
            chat=chat,
            enable_thinking=enable_thinking,
            batch_tokens=batch_tokens,
            progress=progress,
            sae=sae,
            done=partial.done,
            on_results=partial.append,
        )
        if me.first:
            metrics = accuracy_metrics(
                data.items, results, variant="model" if sae is None else "sae", permutations=permutations, seed=seed
            )
            write_results(output / RESULTS, results)
            write_json(
                output / SUMMARY,
                {"format": FORMAT, "provenance": provenance.to_dict(), "metrics": [m.to_dict() for m in metrics]},
            )
            partial.remove()
        distributed.barrier()
        return read_evaluation(output)


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
