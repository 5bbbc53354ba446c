"""Activation sinks: tokens, such as the first of a text, whose activation is many times longer than all others.

    a token is a sink when    ||x|| > sink_multiple * m        m the median norm

What a model stores there is not about the text, so sinks are neither trained on nor measured nor counted, by the same
rule everywhere. Over which tokens the median is taken is for the caller to say, and to record.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_lens_med.records import FloatArray

SINK_MULTIPLE = 5.0
"""The multiple of the median norm, unless another is asked for."""


def sink_rule(norms: Sequence[FloatArray], sink_multiple: float, measured_on: str) -> dict[str, Any]:
    """The rule, measured on `norms` (one array per text, special tokens left out), as it is recorded.

    `measured_on` says in words which texts these are. Returns `rule` in words, `sink_multiple`, `median_norm` and
    `sink_threshold`.
    """
    median = float(np.median(np.concatenate(norms).astype(np.float64)))
    return {
        "rule": (
            f"special tokens, and activation sinks: norm > {sink_multiple:g} x {median:.6g}, the median norm over the "
            f"tokens that are not special of {measured_on}"
        ),
        "sink_multiple": sink_multiple,
        "median_norm": median,
        "sink_threshold": sink_multiple * median,
    }
