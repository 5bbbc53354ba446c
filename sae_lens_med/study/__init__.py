"""The main job, its folder, its report, and what may be concluded from it."""

import warnings
from importlib import import_module
from typing import Any

_OF_0_1_0 = ("run_study",)
"""What this module held when it was one file; its place is `run`, and the package itself."""


def __getattr__(name: str) -> Any:
    if name not in _OF_0_1_0:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"import {name} from sae_lens_med, not from {__name__}.", DeprecationWarning, stacklevel=2)
    return getattr(import_module(f"{__name__}.run"), name)
