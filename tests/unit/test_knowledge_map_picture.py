"""Pictures by UMAP: beside what they must be compared with, or a sentence that names the extra."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.knowledge_map import answering, picture
from tests.synthetic_map import made_lists, made_material, write_map_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(answering, "packaged_lists", made_lists)
    (tmp_path / "map").mkdir()
    material = made_material(["mechanism"], draws=19, domains=("drugs",))
    return write_map_folder(tmp_path / "map", material)


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["map", "picture", *arguments])
    return ended.exit_code, str(ended.exception or "") + ended.output


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    code, said = run(str(folder), "--depth", "3", "--domain", "drugs")
    assert code != 0 and "pip install 'sae-lens-med[maps]'" in said
    assert not list(folder.glob("picture*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--depth", "10", "--domain", "drugs"], "--depth must be from 0 to 9, got 10"),
        (["--depth", "1", "--domain", "age"], "the map has no age (en); it has drugs (ko), drugs (en)"),
    ],
)
def test_what_the_map_has_not_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr(picture, "find_spec", lambda name: True)
    code, said = run(str(folder), *arguments)
    assert code != 0 and sentence in said


def test_planted_clusters_are_drawn_beside_the_embedding_and_a_gaussian(folder: Path) -> None:
    pytest.importorskip("umap", reason="pictures need the extra [maps]")
    depth, embedding, gaussian = picture.pictures_of(folder, "drugs", "en", 3)
    assert depth.labels == embedding.labels and len(set(depth.labels)) == 12
    assert 0 <= embedding.trustworthiness < depth.trustworthiness <= 1, "noise has no neighbours to keep"
    assert gaussian.points.shape == depth.points.shape == (48, 2)
    code, said = run(str(folder), "--depth", "3", "--domain", "drugs")
    assert code == 0 and f"depth 3: trustworthiness {depth.trustworthiness:.3f}" in said and "nothing may" in said
    drawn = (folder / "picture-drugs-en-3.svg").read_text(encoding="utf-8")
    assert "Gaussian of the same covariance" in drawn and f"(trust {depth.trustworthiness:.2f})" in drawn
