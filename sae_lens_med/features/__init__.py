"""Feature activations of items: `collect` makes them, `store` keeps them, `contexts` shows where each feature fires.

Nothing is imported here: what reads features from disk needs no torch.
"""

import warnings
from importlib import import_module
from typing import Any

_OF_0_1_0 = {"load_features": "store", "top_contexts": "contexts"}
"""What this package exported; the names are those of `sae_lens_med` itself. (`collect` is the module here.)"""


def __getattr__(name: str) -> Any:
    if name not in _OF_0_1_0:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"import {name} from sae_lens_med, not from {__name__}.", DeprecationWarning, stacklevel=2)
    return getattr(import_module(f"{__name__}.{_OF_0_1_0[name]}"), name)
