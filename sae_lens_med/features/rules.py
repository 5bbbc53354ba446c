"""What features are read with: which SAEs, which settings, and which tokens never count."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sae_lens_med.errors import ConfigError, ReleaseError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.saes.releases import LoadedSae

CALIBRATION_ITEMS = 32
"""Items whose tokens give the median norm of the sink rule: at most as many as a shard holds."""


def require_settings(batch_tokens: int, sink_multiple: float) -> None:
    """Raise `ConfigError` for settings of a collection that cannot be."""
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be at least 1, got {batch_tokens}.")
    if not (math.isfinite(sink_multiple) and sink_multiple > 1):
        raise ConfigError(f"sink_multiple must be a finite number above 1, got {sink_multiple}.")


def require_sae(loaded_sae: LoadedSae) -> None:
    """Raise `ReleaseError` for a dictionary whose features cannot be collected."""
    sae, name = loaded_sae.sae, f"the SAE {loaded_sae.source}"
    if sae.dtype != torch.float32:
        raise ReleaseError(f"{name} is in {sae.dtype}; features are computed in float32, so convert it with .to().")
    written = sae.cfg.metadata.hook_name_out
    if written is not None and written != loaded_sae.hook_name:
        raise ReleaseError(
            f"{name} is a transcoder: it reads {loaded_sae.hook_name} and writes {written}; use an SAE, which "
            "reconstructs what it reads."
        )


def special_ids(model: MedBridge) -> npt.NDArray[np.int64]:
    """Ids of the tokens that are no text: the tokenizer's own special ones, and those that are marked special."""
    tokenizer = model.text_tokenizer
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.array(sorted(marked | set(tokenizer.all_special_ids)), dtype=np.int64)


@contextmanager
def flat_input(sae: Any) -> Iterator[None]:
    """The SAE takes `[n, d_in]`, also one for hook_z, whose own reshaping expects heads."""
    reshaping = sae.hook_z_reshaping_mode
    if reshaping:
        sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        if reshaping:
            sae.turn_on_forward_pass_hook_z_reshaping()
