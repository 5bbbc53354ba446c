"""Interventions on SAE features, for any workflow: `(hook_name, fn)` pairs as TransformerLens takes them.

Each name is imported when it is first used: what reads the runs of interventions from disk needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lens_med.interventions.attach import attached
    from sae_lens_med.interventions.hooks import Recording, ablate, clamp, record, splice, steer
    from sae_lens_med.interventions.spec import (
        Intervention,
        intervention_pairs,
        load_interventions,
        read_interventions,
    )

_WHERE = {
    "attached": "attach",
    "Recording": "hooks",
    "ablate": "hooks",
    "clamp": "hooks",
    "record": "hooks",
    "splice": "hooks",
    "steer": "hooks",
    "Intervention": "spec",
    "intervention_pairs": "spec",
    "load_interventions": "spec",
    "read_interventions": "spec",
}

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


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
