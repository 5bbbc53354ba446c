"""Interventions on SAE features, for any workflow: `(hook_name, fn)` pairs as TransformerLens takes them."""

from sae_lens_med.interventions.attach import attached
from sae_lens_med.interventions.hooks import Recording, ablate, clamp, record, splice, steer
from sae_lens_med.interventions.spec import (
    Intervention,
    intervention_pairs,
    load_interventions,
    read_interventions,
)

__all__ = [
    "Intervention",
    "Recording",
    "ablate",
    "attached",
    "clamp",
    "intervention_pairs",
    "load_interventions",
    "read_interventions",
    "record",
    "splice",
    "steer",
]
