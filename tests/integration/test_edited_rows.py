"""An edited question that a page has kept: every command that takes questions reads its row, as it is typed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="LLMXAI needs the extra [app]")
from starlette.testclient import TestClient  # noqa: E402

from sae_lens_med import cli, load_model, load_sae  # noqa: E402
from sae_lens_med.app.create import create_app  # noqa: E402
from sae_lens_med.app.guard import WRITE_TOKEN  # noqa: E402
from sae_lens_med.app.index import build_index  # noqa: E402
from sae_lens_med.app.opened import OpenStudy  # noqa: E402
from sae_lens_med.app.settings import Settings  # noqa: E402
from sae_lens_med.controls.organisms.rows import write_exam  # noqa: E402
from sae_lens_med.data import load_items  # noqa: E402
from sae_lens_med.features.part import FeaturePart  # noqa: E402
from sae_lens_med.study.folder import read_questions  # noqa: E402
from sae_lens_med.study.run import run_study  # noqa: E402
from sae_lens_med.study.twins import EXAM_SEED, TWINS  # noqa: E402

ORIGIN = "http://127.0.0.1:8000"
MODEL = TWINS["concepts"]
N = 6
"""Rows that are kept, more than one of each answer being known and unknown."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a page keeps: of the first questions the right answer changes places with the next option, and the
    stem ends in a question mark and a new line; of each third one nobody says the right answer."""
    folder = tmp_path_factory.mktemp("edited")
    write_exam(folder / "exam", "ko", 10, EXAM_SEED)
    data = load_items(str(folder / "exam" / "natural.jsonl"))
    run_study(load_model(MODEL), load_sae(MODEL), data, folder / "study", permutations=19, progress=False)
    build_index(folder / "study", progress=False)
    settings, study = Settings(), OpenStudy.open(folder / "study")
    client = TestClient(create_app([study], settings), ORIGIN)
    headers = {"origin": ORIGIN, "content-type": "application/json", WRITE_TOKEN: settings.write_token}
    kept = ""
    for number, item in enumerate(list(study.items.values())[:N]):
        assert item.answer is not None
        body = {
            "question": f"{item.question}\n정말?",
            "options": [item.options[(k + 1) % len(item.options)] for k in range(len(item.options))],
            "answer": None if number % 3 == 2 else "ABCDE"[(item.answer - 1) % len(item.options)],
            "author": "김 의사",
            "entry_id": f"entry-{number:04d}",
        }
        answer = client.post(f"/1/api/cases/{number}/keep", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        kept = answer.json()["file"]
    return folder / "study" / kept


def command(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def ids(kept: Path) -> list[str]:
    return [json.loads(line)["id"] for line in kept.read_text(encoding="utf-8").splitlines()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluate(kept: Path, tmp_path: Path) -> None:
    command("evaluate", "--model", MODEL, "--data", kept, "--permutations", "19", "--output", tmp_path / "e")
    results = read_lines(tmp_path / "e" / "items.jsonl")
    assert [each["id"] for each in results] == ids(kept)
    right = [each["correct"] for each in results]
    assert [each is None for each in right] == [n % 3 == 2 for n in range(N)]
    assert all(each["prediction"] in "ABCDE" for each in results)


def test_collect(kept: Path, tmp_path: Path) -> None:
    command("collect", "--model", MODEL, "--sae", MODEL, "--data", kept, "--output", tmp_path / "c")
    part = FeaturePart(tmp_path / "c")
    assert [part.texts(n)[0] for n in range(part.n_items)] == ids(kept)
    assert "정말?" in part.texts(0)[1]["question"]


def test_intervene(kept: Path, tmp_path: Path) -> None:
    conditions = tmp_path / "conditions.yaml"
    conditions.write_text("conditions:\n  - {name: splice, kind: splice}\n", encoding="utf-8")
    command("intervene", "--model", MODEL, "--sae", MODEL, "--data", kept, "--conditions", conditions,
            "--output", tmp_path / "i")  # fmt: skip
    written = "".join(path.read_text(encoding="utf-8") for path in sorted((tmp_path / "i").rglob("*.jsonl")))
    assert all(name in written for name in ids(kept))


def test_study_then_align_index_and_export(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command("study", "--model", MODEL, "--sae", MODEL, "--data", kept, "--permutations", "19", "--output", folder)
    assert list(read_questions(folder)) == ids(kept)
    command("align", folder, "--permutations", "19")
    command("index", folder)
    command("export", folder, "--static", tmp_path / "pages")
    page = (tmp_path / "pages" / "ko" / "case-0.html").read_text(encoding="utf-8")
    assert "정말?" in page
    study = OpenStudy.open(folder)
    item = next(iter(study.items.values()))
    assert item.explanation is None and "김 의사" in str(item.provenance["source"])
