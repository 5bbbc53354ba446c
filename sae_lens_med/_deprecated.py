"""Public names of 0.1.0 that have changed; each still works in this version, warns, and goes with the next one.

`sae_lens_med.__getattr__` hands these out. What merely moved to another module is warned about where it was.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_med.study.measure import run_alignment

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.records import ItemResult, McqItem
    from sae_lens_med.saes.releases import LoadedSae


def evaluate_letters(
    model: "MedBridge",
    items: "Sequence[McqItem]",
    *,
    shots: "Sequence[McqItem]" = (),
    chat: bool = False,
    enable_thinking: bool = False,
    batch_tokens: int | None = None,
    progress: bool = True,
    sae: "LoadedSae | None" = None,
    done: "Mapping[str, ItemResult] | None" = None,
    on_results: "Callable[[list[ItemResult]], None] | None" = None,
) -> "list[ItemResult]":
    """As in 0.1.0: one `ItemResult` per item by the method `letter`. Use `evaluate(model, items).results`."""
    from sae_lens_med.evaluation.hooks import spliced
    from sae_lens_med.evaluation.methods import Method, run_method
    from sae_lens_med.models.engine import Engine

    return run_method(
        Engine(model, [] if sae is None else spliced(model, sae), batch_tokens=batch_tokens),
        items,
        Method("letter", chat=chat, enable_thinking=enable_thinking),
        shots=shots,
        progress=progress,
        done=done,
        on_results=on_results,
    )


@functools.wraps(run_alignment)
def align(*args: Any, **kwargs: Any) -> Any:
    from sae_lens_med.features.store import CollectedFeatures

    first = args[0] if args else kwargs.get("features")
    if not isinstance(first, CollectedFeatures):
        return run_alignment(*args, **kwargs)
    from sae_lens_med.alignment.align import align as align_features

    warnings.warn(
        "sae_lens_med.align measures the metrics of a study folder; to align collected features, import align "
        "from sae_lens_med.alignment.align.",
        DeprecationWarning,
        stacklevel=2,
    )
    return align_features(*args, **kwargs)
