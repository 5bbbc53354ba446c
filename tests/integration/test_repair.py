"""A finished run whose files are missing or were changed is not taken for done: what is broken is made again, and said.

The study has its own tests of this (`test_study.py`)."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.evaluation.conditions.run import run_conditions
from sae_lens_med.evaluation.conditions.spec import Condition, Conditions
from sae_lens_med.evaluation.run import evaluate
from sae_lens_med.interventions import Intervention
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.runs.written import hashes, not_as_written
from sae_lens_med.saes.releases import LoadedSae
from tests.tiny import tiny_model, tiny_sae

HOOK = "blocks.1.hook_resid_post"
ABLATE = Intervention.from_dict({"kind": "ablate", "features": [3]}).to_dict()


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model: MedBridge) -> LoadedSae:
    return LoadedSae(tiny_sae(model), "tiny/sae", "sae", "0" * 64, HOOK, None)


@pytest.fixture(scope="module")
def data() -> LoadedItems:
    return load_items("sample", limit=4)


def evaluation(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    evaluate(model, data, sae=sae, output=output, permutations=10, progress=False)


def comparison(model: MedBridge, sae: LoadedSae, data: LoadedItems, output: Path) -> None:
    conditions = Conditions((Condition("plain", "plain", "plain"), Condition("less", "ablate", "less", (ABLATE,))), 2)
    run_conditions(model, data, conditions, output, saes=sae, resamples=10, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    """What each file holds, whenever it was made."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: re.sub(rb"\d{4}-\d\d-\d\dT[\d:+]+", b"TIME", content) for name, content in found.items()}


@pytest.mark.parametrize("run", [evaluation, comparison], ids=lambda run: run.__name__)
def test_whatever_file_is_broken_is_made_again(
    run: Any, model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path: Path
) -> None:
    run(model, sae, data, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    breakable = [
        name for name in whole if not name.endswith(("summary.json", "manifest.json")) and "statistics" not in name
    ]
    assert breakable
    # All of a kind at once, then the results alone: what is made of them is made again with them.
    results = [name for name in breakable if name.endswith(".jsonl")]
    for number, (names, damage) in enumerate(((breakable, _cut), (results, Path.unlink))):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(number)))
        for name in names:
            damage(folder / name)
        with pytest.warns(UserWarning, match="it is made again"):
            run(model, sae, data, folder)
        again = contents(folder)
        assert again.keys() == whole.keys()
        assert [name for name in breakable if again[name] != whole[name]] == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_written_files_are_known_by_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, text in (("a/one.txt", "1"), ("a/two.txt", "2"), ("other", "3")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    written = hashes(tmp_path, ["a/*.txt"])
    assert list(written) == ["a/one.txt", "a/two.txt"]
    assert not_as_written(tmp_path, written) == {}
    (tmp_path / "a" / "one.txt").write_text("0", encoding="utf-8")
    (tmp_path / "a" / "two.txt").unlink()
    assert not_as_written(tmp_path, written) == {
        "a/one.txt": "was changed since it was written",
        "a/two.txt": "is missing",
    }
