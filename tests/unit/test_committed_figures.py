"""The committed pictures are those that `benchmarks/figures.py` draws from the committed numbers."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "figures.py"
SVG = "{http://www.w3.org/2000/svg}"
PICTURES = ("frontier.svg", "steering.svg", "overview.svg", "twins.svg", "release")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks/ is not in a source distribution")
    spec = importlib.util.spec_from_file_location("figures", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(text: str) -> list[str]:
    """All words; where exactly they are is matplotlib's."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(text).iter() if e.tag != f"{SVG}svg" and e.text]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_what_its_numbers_say(figures: ModuleType, name: str) -> None:
    path, draw = {
        "frontier.svg": (figures.RESULTS / name, lambda: figures.frontier("blocks.9.hook_resid_post")),
        "steering.svg": (figures.RESULTS / name, figures.steering),
        "overview.svg": (ROOT / "docs" / "images" / name, figures.overview),
        "twins.svg": (ROOT / "docs" / "images" / name, figures.twins),
        "release": (figures.RELEASE / "frontier.svg", figures.frontier),
    }[name]
    assert said(path.read_text(encoding="utf-8")) == said(draw())


def test_the_releases_numbers_are_those_of_its_metrics(figures: ModuleType) -> None:
    """Its own SAEs, to the digits that are kept."""
    points = {(p["hook_name"], p["l0"]): p for p in figures.read("frontier.json")["points"] if p["curve"] == "tied_l1"}
    for path in figures.RELEASE.glob("*/metrics.json"):
        measured = json.loads(path.read_text(encoding="utf-8"))["heldout"]
        point = points[path.parent.name, round(measured["l0"], 1)]
        assert point["explained_variance"] == round(measured["explained_variance"], 3)
        assert point["ce_loss_score"] == round(measured["ce_loss_score"], 3)
