"""The option-letter method alone: which letter does the model hold likeliest in the answer slot?

`methods.run_method` with the method `letter`, for who has a model and items and wants nothing written.
"""

from collections.abc import Callable, Mapping, Sequence

from sae_lens_med.evaluation.hooks import spliced
from sae_lens_med.evaluation.methods import Method, run_method
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.saes.releases import LoadedSae


def evaluate_letters(
    model: MedBridge,
    items: Sequence[McqItem],
    *,
    shots: Sequence[McqItem] = (),
    chat: bool = False,
    batch_tokens: int | None = None,
    progress: bool = True,
    sae: LoadedSae | None = None,
    done: Mapping[str, ItemResult] | None = None,
    on_results: Callable[[list[ItemResult]], None] | None = None,
) -> list[ItemResult]:
    """One `ItemResult` per item, in the order of `items`.

    Args:
        model: from `load_model`.
        items: with or without a gold answer; without one, `correct` is None and the item is not scored.
        shots: solved examples put before every question.
        chat: put the prompt into the tokenizer's chat template.
        batch_tokens: the most tokens, padding included, of one forward pass. Does not change the results.
        progress: show a bar on stderr.
        sae: attached at its hook for the whole evaluation: its reconstruction replaces the activation (no error term),
            so that the result is what the model answers through the SAE. Special tokens pass by unchanged, because
            SAEs are not trained on them.
        done: results that are already there, by item id; these items are not run. The same in all processes.
        on_results: called with the results of each batch as they come, for writing them down; in each process with
            those of its own batches.

    Raises `ModelError` when a prompt is longer than the model's context or the model gives no number, `DataError`
    when two items share an id, `ConfigError` for a batch size below 1.
    """
    return run_method(
        Engine(model, [] if sae is None else spliced(model, sae), batch_tokens=batch_tokens),
        items,
        Method("letter", chat=chat),
        shots=shots,
        progress=progress,
        done=done,
        on_results=on_results,
    )
