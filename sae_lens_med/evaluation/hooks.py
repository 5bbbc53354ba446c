"""What is attached to a model while it answers: an SAE in the place of an activation, interventions on its features.

    an SAE alone                       its reconstruction replaces the activation
    with interventions                 they act on the activation, what the SAE fails to reconstruct left as it is
    error_term given (True or False)   the reconstruction with or without the error term, then the interventions

Special tokens (BOS, EOS, padding, separators; not the marks of a chat template) pass an SAE unchanged, because SAEs are
not trained on them. Interventions say themselves where they act.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sae_lens_med.errors import ConfigError
from sae_lens_med.features.statistics import feature_statistics
from sae_lens_med.interventions import Intervention, intervention_pairs, splice
from sae_lens_med.interventions.positions import not_tokens
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Hook
from sae_lens_med.records import Prompt
from sae_lens_med.saes.releases import LoadedSae

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")


def splices(sae: LoadedSae | None, error_term: bool | None, interventions: Sequence[Intervention]) -> bool:
    """Whether the reconstruction takes the activation's place. Raises `ConfigError` without a needed SAE."""
    if sae is None and (error_term is not None or interventions):
        what = "interventions act on the features" if interventions else "the error term is that"
        raise ConfigError(f"{what} of an SAE; pass an SAE as well.")
    return sae is not None and (error_term is not None or not interventions)


def spliced(model: MedBridge, sae: LoadedSae, error_term: bool = False) -> list[Hook]:
    """The SAE's reconstruction in the place of the activation, special tokens excepted."""
    ids = [getattr(model.text_tokenizer, name, None) for name in SPECIAL]
    return splice(sae, error_term=error_term, positions=not_tokens(i for i in ids if i is not None))


def evaluation_hooks(
    model: MedBridge,
    sae: LoadedSae | None,
    prompts: Callable[[], Sequence[Prompt]],
    *,
    error_term: bool | None = None,
    interventions: Sequence[Intervention] = (),
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[Hook]:
    """The hooks, in the order in which they run.

    `prompts` gives those of the evaluation: maxima and means of features, where an intervention is in units of them,
    are taken over these. Raises `ConfigError` for an error term or interventions without an SAE, and for features that
    do not exist.
    """
    hooks: list[Hook] = []
    if splices(sae, error_term, interventions):
        assert sae is not None  # splices
        hooks += spliced(model, sae, bool(error_term))
    if interventions:
        assert sae is not None  # splices
        measured: Any = None
        if any(each.unit == "max" or (each.kind == "ablate" and each.mode == "mean") for each in interventions):
            measured = feature_statistics(model, sae, prompts(), batch_tokens=batch_tokens, progress=progress)
        ids = model.text_tokenizer.all_special_ids
        hooks += intervention_pairs(interventions, sae, statistics=measured, special_ids=ids)
    return hooks
