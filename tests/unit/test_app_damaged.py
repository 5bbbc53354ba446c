"""A study folder that lacks something, holds something stale or damaged, or is written into: what is there is shown,
and the command that makes the rest is said."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from sae_lens_med.app.index_files import FOLDER
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.views import Filters
from sae_lens_med.errors import NotFoundError, StudyError
from sae_lens_med.features.store import shard_paths
from tests.app_study import D_SAE, EVERYWHERE, make_study, make_whole_study

N = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study, indexed; copy it before changing it."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    make_whole_study(folder, N)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def whats(study: OpenStudy) -> set[str]:
    return {each.what for each in study.missing}


def test_a_whole_study_misses_nothing_but_what_was_not_asked_for(made: Path) -> None:
    study = OpenStudy.open(made)
    assert study.missing == ()
    assert study.records is not None
    assert study.name == "whole"
    assert study.d_sae == D_SAE


@pytest.mark.parametrize("lost", ["manifest.json", "questions.jsonl"])
def test_without_manifest_or_questions_there_is_no_study(copy: Path, lost: str) -> None:
    (copy / lost).unlink()
    with pytest.raises(StudyError, match=lost):
        OpenStudy.open(copy)
    with pytest.raises(StudyError, match="not a study folder"):
        OpenStudy.open(copy.parent / "elsewhere")


def walk(study: OpenStudy) -> None:
    """Ask for everything once."""
    for number in (0, 4, N - 1):
        view = study.case(number)
        study.case(number, order="effect")
        for name in ("paint", "token"):
            try:
                study.paint(number, 3) if name == "paint" else study.token(number, "stem", 0)
            except NotFoundError:
                assert not view.groups
    gone = [each for each in study.feature(3).missing if each.what == "missing.features"]
    assert bool(gone) == ("shard" in "".join(each.reason for each in study.missing))
    study.features()
    study.search("폐렴")
    study.cases(Filters(text="폐렴", order="-margin"))


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("items.jsonl", Path.unlink, "missing.items", "sae-lens-med study"),
    ("items.jsonl", torn, "missing.items", "sae-lens-med study"),
    ("metrics.json", torn, "missing.metrics", "sae-lens-med study"),
    ("alignment.safetensors", Path.unlink, "missing.alignment", "sae-lens-med study"),
    ("alignment.safetensors", torn, "missing.alignment", "sae-lens-med study"),
    ("features/manifest.json", Path.unlink, "missing.features", "sae-lens-med study"),
    ("features/manifest.json", torn, "missing.features", "sae-lens-med study"),
    ("features/shard-00001.safetensors", torn, "missing.features", "sae-lens-med study"),
    ("features/shard-00001.safetensors", Path.unlink, "missing.features", "sae-lens-med study"),
    ("features/shard-00000.jsonl", Path.unlink, "missing.features", "sae-lens-med study"),
    ("app/manifest.json", Path.unlink, "missing.index", "sae-lens-med index"),
    ("app/manifest.json", torn, "missing.index", "sae-lens-med index"),
    ("app/features.safetensors", torn, "missing.index", "sae-lens-med index"),
    ("app/words.json", torn, "missing.index", "sae-lens-med index"),
    ("alignment/manifest.json", torn, "missing.verdicts", "sae-lens-med align"),
    ("alignment/verdicts.csv", torn, "missing.verdicts", "sae-lens-med align"),
    ("alignment/concepts.json", Path.unlink, "missing.concepts", "sae-lens-med align"),
]


@pytest.mark.parametrize(("file", "damage", "what", "command"), DAMAGES)
def test_a_damaged_folder_shows_the_rest_and_says_what_makes_it(
    copy: Path, file: str, damage: Callable[[Path], object], what: str, command: str
) -> None:
    damage(copy / file)
    study = OpenStudy.open(copy)
    said = [each for each in study.missing if each.what == what]
    assert said
    assert all(each.command.startswith(command) and str(copy) in each.command for each in said)
    if damage is torn:
        assert all(each.reason for each in said)
    assert len(study.items) == N
    walk(study)


def test_a_study_of_an_earlier_version_says_what_to_delete(copy: Path) -> None:
    path = copy / "alignment.safetensors"
    arrays = load_file(path)
    del arrays["items"]  # which items it is about
    save_file(arrays, path)
    (missing,) = OpenStudy.open(copy).missing
    assert missing.what == "missing.alignment" and "no items, as earlier versions wrote it; delete it" in missing.reason


def test_an_empty_study_shows_its_questions(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in ("manifest.json", "questions.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    study = OpenStudy.open(copy)
    assert whats(study) == {
        "missing.items", "missing.metrics", "missing.features", "missing.alignment", "missing.concepts",
        "missing.verdicts",
    }  # fmt: skip
    view = study.case(0)
    assert view.groups == ()
    assert view.parts[0].text
    assert view.parts[0].segments == ()
    assert study.features().rows == ()
    with pytest.raises(NotFoundError):
        study.paint(0, 0)


def test_without_an_index_cases_are_painted_and_groups_are_left_empty(copy: Path) -> None:
    shutil.rmtree(copy / FOLDER)
    study = OpenStudy.open(copy)
    assert whats(study) == {"missing.index"}
    view = study.case(0)
    assert view.groups == ()
    assert view.parts[0].segments
    assert study.paint(0, EVERYWHERE)
    assert study.token(0, "stem", 0).features
    feature = study.feature(11)
    assert (feature.density, feature.n_tokens, feature.histogram, feature.contexts) == (None, None, (), ())
    assert feature.concepts
    with pytest.raises(NotFoundError, match="sae-lens-med index"):
        study.cases(Filters(feature=3))


def test_an_index_of_other_features_is_stale_and_not_used(copy: Path, tmp_path: Path) -> None:
    make_study(tmp_path / "other", N, seed=1)
    shutil.rmtree(copy / "features")
    shutil.copytree(tmp_path / "other" / "features", copy / "features")
    study = OpenStudy.open(copy)
    (missing,) = [each for each in study.missing if each.what == "missing.index"]
    assert "stale" in missing.reason
    assert study.case(0).groups == ()


def test_features_of_other_items_are_not_painted_on_these(copy: Path) -> None:
    lines = (copy / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    (copy / "questions.jsonl").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    study = OpenStudy.open(copy)
    view = study.case(0)
    assert not any(part.segments for part in view.parts)
    assert any("other items" in each.reason for each in view.missing)
    assert study.case(2).parts[0].segments


def test_changed_bytes_are_seen_when_verifying_is_asked_for(copy: Path) -> None:
    path = shard_paths(copy / "features", 0)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "missing.features" not in whats(OpenStudy.open(copy))
    assert "missing.features" in whats(OpenStudy.open(copy, verify=True))


def test_a_label_of_a_study_changes_its_names(copy: Path) -> None:
    study = OpenStudy.open(copy)
    study.label(11, "발열 \u202e표현", "clinician", 0, "one")
    assert study.feature(11).name.label == "발열 ⟨U+202E⟩표현"
    assert study.search("발열 ")[0].kind == "label"
    assert OpenStudy.open(copy).feature(11).labels[0].author == "clinician"
    given = study.feature(10).labels
    assert [(entry.label, entry.source, entry.revision) for entry in given] == [("폐렴 소견", "file", 0)]


def test_a_hostile_item_is_shown_whole(tmp_path: Path) -> None:
    items, features = make_study(tmp_path, 3, shard_items=3)
    odd = replace(items[0], question="<script>alert(1)</script>\0\u202e" + "가" * 100_000 + "?", explanation=None,
                  explanation_source=None)  # fmt: skip
    lines = [json.dumps(item.to_dict(), ensure_ascii=False) for item in (odd, *items[1:])]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    view = OpenStudy.open(tmp_path).case(0)
    assert view.parts[0].text.startswith("<script>alert(1)</script>␀⟨U+202E⟩가가")
    assert len(view.parts[0].text) > 100_000
    assert len(view.row.text) < 200
    assert "missing.spans" in [each.what for each in view.missing]
