"""Tells SAELens about `tied_l1` and the releases, as soon as both packages are imported, in either order.

SAELens has no plugin discovery and takes seconds to import, which `sae-lens-med --help` must not. So importing this
package registers at once when SAELens is there, and otherwise leaves a finder that registers right after SAELens has
been imported, and then steps aside.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SAE_LENS = "sae_lens"


def register_with_sae_lens() -> None:
    """Register now, or when SAELens is imported; safe to call twice."""
    if _SAE_LENS in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterSaeLens) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterSaeLens())


def _register() -> None:
    # Importing tied_l1 registers it; where it is what imports SAELens, it does so when it is complete.
    from sae_lens_med.saes import (
        releases,
        tied_l1,  # noqa: F401 - imported for what it registers
    )

    releases.register_releases()


class _AfterSaeLens(importlib.abc.MetaPathFinder):
    """Finds SAELens as the other finders do, with a loader that registers afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != _SAE_LENS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # SAELens' own loader from here on, so that importlib.resources finds its files.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()
