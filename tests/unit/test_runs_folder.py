"""The folder of a run: who may write there, what changed since it was begun, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_lens_med import distributed
from sae_lens_med.errors import StudyError
from sae_lens_med.runs.files import atomic_path, told_apart, write_json
from sae_lens_med.runs.folder import Kind, RunFolder, read_manifest, require_writable, require_writable_file
from sae_lens_med.runs.provenance import changes

KIND = Kind(
    "baking", format=3, identity=lambda manifest: manifest["recipe"], leftovers=lambda names: names == {"dough"}
)
BEGIN = {"recipe": {"flour": {"kind": "rye", "grams": 500}, "steps": ["knead", "rest"]}, "parts": {}, "notes": []}
YAML = Kind("training run", format=None, manifest="recipe.yaml")


def recipe(**changed: Any) -> dict[str, Any]:
    return BEGIN | {"recipe": BEGIN["recipe"] | changed}  # type: ignore[operator]  # the recipe is a dict


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def refused(folder: Path, values: Mapping[str, Any] = BEGIN, kind: Kind = KIND, resume: bool | None = None) -> str:
    """The one sentence with which a folder is refused; nothing in it changes."""
    before = snapshot(folder)
    with pytest.raises(StudyError) as raised:
        RunFolder(folder, kind, values, resume=resume)
    assert snapshot(folder) == before
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    return str(raised.value)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [folder] if folder.is_file() else folder.rglob("*")
    return {str(path): path.read_bytes() for path in files if path.is_file()}


# --- a run that begins, and one that goes on


def test_opening_writes_nothing_and_beginning_writes_the_manifest(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "b", KIND, BEGIN)
    assert not run.begun and not (tmp_path / "a").exists()
    run.begin()
    assert manifest(tmp_path / "a" / "b") == {"format": 3, "kind": "baking", **BEGIN}


def test_what_is_done_and_noted_is_found_again(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, KIND, BEGIN)
    first.begin()
    first.note(["warm", "warm", "humid"])
    first.finish("knead", 1.2345, files=["dough"])
    again = RunFolder(tmp_path, KIND, BEGIN)
    assert again.begun
    assert again.values["notes"] == ["warm", "humid"]
    [(name, part)] = again.parts.items()
    assert name == "knead" and part.pop("done").endswith("+00:00")
    assert part == {"seconds": 1.23, "files": ["dough"]}
    before = snapshot(tmp_path)
    again.begin()
    assert snapshot(tmp_path) == before


def test_a_tuple_is_the_list_that_json_makes_of_it(tmp_path: Path) -> None:
    RunFolder(tmp_path, KIND, recipe(steps=("knead", "rest"))).begin()
    assert RunFolder(tmp_path, KIND, BEGIN).begun


def test_a_manifest_without_a_kind_is_read(tmp_path: Path) -> None:
    """As they were written before there were kinds; what is not of this kind is told by what it lacks."""
    write_json(tmp_path / "manifest.json", {"format": 3, **BEGIN})
    run = RunFolder(tmp_path, KIND, BEGIN)
    run.write()
    assert manifest(tmp_path) == {"format": 3, "kind": "baking", **BEGIN}
    write_json(tmp_path / "manifest.json", {"format": 3, "provenance": {}})
    assert "manifest.json is damaged (the key 'recipe' is missing); delete" in refused(tmp_path)


def test_a_yaml_file_of_the_user_is_a_manifest_without_marks(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, YAML, {"lr": 0.1, "model": {"name": "발열"}}, resume=False)
    run.begin()
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {"lr": 0.1, "model": {"name": "발열"}} and "발열" in text
    assert RunFolder(tmp_path, YAML, {"lr": 0.1, "model": {"name": "발열"}}, resume=True).begun
    assert "(lr: 0.1 -> 0.2)" in refused(tmp_path, {"lr": 0.2, "model": {"name": "발열"}}, YAML, resume=True)
    (tmp_path / "recipe.yaml").write_text("a: [1", encoding="utf-8")
    assert "recipe.yaml is damaged (" in refused(tmp_path, {"lr": 0.1}, YAML, resume=True)


# --- what is refused


def test_changed_settings_are_named_from_old_to_new(tmp_path: Path) -> None:
    RunFolder(tmp_path, KIND, BEGIN).begin()
    assert refused(tmp_path, recipe(flour={"kind": "oat", "grams": 500}, salt=2)) == (
        f'{tmp_path} was started with other settings (flour.kind: "rye" -> "oat"; salt: (absent) -> 2); choose '
        "another folder, use the settings that it was started with, or delete it to start again."
    )


def test_many_changes_are_counted(tmp_path: Path) -> None:
    RunFolder(tmp_path, KIND, BEGIN).begin()
    spices = {f"s{i}": i for i in range(10, 23)}
    assert "; s17: (absent) -> 17; and 5 more); choose" in refused(tmp_path, recipe(**spices))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"sha256": "a" * 64}, {"sha256": "b" * 64}, ["sha256: aaaaaaaaaaaa -> bbbbbbbbbbbb"]),
        ({"a": None}, {}, ["a: null -> (absent)"]),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 3, "d": 2}}}, ["a.b.c: 1 -> 3"]),
        ({"a": {"b": 1}}, {"a": [1]}, ['a: {"b": 1} -> [1]']),
        ({"a": "x" * 99}, {"a": "열"}, [f'a: "{"x" * 56}... -> "열"']),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 -> 2", "b: 1 -> 2"]),
        # Names are told beside what they name, and are no change of their own, flat or nested.
        ({"sae": {"source": "x", "sha256": "1"}}, {"sae": {"source": "y", "sha256": "1"}}, []),
        ({"sae.trained_on": {"text": 1}, "seed": 0}, {"sae.trained_on": {"text": 2}, "seed": 0}, []),
        (
            {"data.source": "x", "data.sha256": "1", "sae.source": "s"},
            {"data.source": "y", "data.sha256": "2", "sae.source": "t"},
            ['data.sha256: "1" -> "2"', 'data.source: "x" -> "y"'],
        ),
    ],
)
def test_a_change_in_words(old: dict[str, Any], new: dict[str, Any], said: list[str]) -> None:
    assert changes(old, new) == said
    assert changes(old, old) == []


def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    assert refused(tmp_path) == f"{tmp_path} is not empty and contains no baking; choose an empty or new folder."
    file = tmp_path / "thesis.txt"
    assert refused(file) == f"{file} is a file; choose a folder."
    below = file / "deep" / "er"
    with pytest.raises(StudyError, match=f"^{below} cannot be made: {file} is a file; choose a folder.$"):
        RunFolder(below, KIND, BEGIN)


def test_a_file_that_cannot_be_written_is_refused_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    for given in (tmp_path / "new.json", tmp_path / "old.json", tmp_path / "deep" / "new.json"):
        require_writable_file(given)
    for given, said in (
        (tmp_path, "is a folder; name a file"),
        (Path("/dev/null"), "is no regular file; name another file"),
        (tmp_path / "loop", "is a link to nothing; name another file"),
        (tmp_path / "old.json" / "below", "old.json is a file; choose a folder"),
        (tmp_path / ("n" * 300), "has 300 bytes, more than the 255"),
    ):
        with pytest.raises(StudyError, match=said):
            require_writable_file(given)
    assert (tmp_path / "old.json").read_text(encoding="utf-8") == "old"


def test_what_an_interrupted_run_may_leave_is_ours(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.x1").touch()
    RunFolder(tmp_path, KIND, BEGIN)
    (tmp_path / "dough").touch()
    RunFolder(tmp_path, KIND, BEGIN)
    (tmp_path / "thesis.txt").touch()
    assert "is not empty and contains no baking" in refused(tmp_path)


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    RunFolder(tmp_path, Kind("brewing", format=3), BEGIN).begin()
    assert refused(tmp_path) == f"{tmp_path} contains no baking: manifest.json says 'brewing'; choose another folder."


def test_another_format(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": 4, "kind": "baking", **BEGIN})
    assert refused(tmp_path) == (
        f"{tmp_path / 'manifest.json'} has format 4, but this version reads 3; delete {tmp_path} to start again, or "
        "choose another folder."
    )


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": 3', b"\x00", b"\xff\xfe", b'{"format": 3, "kind": 1']
)
def test_a_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    said = refused(tmp_path)
    assert said.startswith(f"{tmp_path / 'manifest.json'} is damaged (")
    assert said.endswith(f"; delete {tmp_path} to start again, or choose another folder.")


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=f"^{tmp_path} contains no baking: manifest.json is missing; choose another folder"
    ):
        read_manifest(tmp_path, KIND)


def test_a_run_that_goes_on_only_when_it_is_asked_to(tmp_path: Path) -> None:
    assert refused(tmp_path, resume=True) == (
        f"{tmp_path} contains no baking to resume; leave out --resume to start one."
    )
    RunFolder(tmp_path, KIND, BEGIN, resume=False).begin()
    assert refused(tmp_path, resume=False) == (
        f"{tmp_path} contains an unfinished baking; add --resume to continue it, or choose another folder."
    )
    assert RunFolder(tmp_path, KIND, BEGIN, resume=True).begun
    assert "other settings" in refused(tmp_path, recipe(salt=1), resume=True)


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder(tmp_path / "done", KIND, BEGIN).begin()
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may be allowed everything
    new = tmp_path / "new"
    with pytest.raises(
        StudyError, match=f"^{new} cannot be made: you may not write to {tmp_path}; choose another folder"
    ):
        require_writable(new)
    assert "you may not write" in refused(new)
    assert RunFolder(tmp_path / "done", KIND, BEGIN).begun  # to be read


# --- interruption


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"old": float("nan")})
    with pytest.raises(OSError, match="no space"), atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == '{\n  "old": true\n}\n'
        raise OSError("no space left on device")
    assert snapshot(tmp_path) == {str(path): b'{\n  "old": true\n}\n'}


_KILLED = """
import os, signal, sys
from pathlib import Path
from sae_lens_med.runs import files
from sae_lens_med.runs.folder import Kind, RunFolder

write_text = Path.write_text
def killed(self, text, **settings):
    write_text(self, text[: len(text) // 2], **settings)
    if "bake" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(self, text, **settings)
Path.write_text = killed

kind = Kind("baking", format=3, identity=lambda manifest: manifest["recipe"])
run = RunFolder(Path(sys.argv[1]), kind, {"recipe": {}, "parts": {}})
run.begin()
run.finish("rest", 1.0)
run.finish("bake", 1.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_a_run_killed_while_it_writes_goes_on_from_the_last_whole_manifest(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.iterdir())) == 3  # and the half-written one, and the lock that nobody holds
    run = RunFolder(tmp_path, KIND, {"recipe": {}})
    assert list(run.parts) == ["rest"]
    # Killed in its first write, there is no manifest, and the folder is still its own.
    (tmp_path / "manifest.json").unlink()
    assert not RunFolder(tmp_path, KIND, BEGIN).begun


# --- several processes


def test_rank_0_looks_and_writes_and_the_others_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(distributed, "ranks", lambda: distributed.Ranks(0, 2, 0))
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: (told.append(value), value)[1])
    RunFolder(tmp_path, KIND, BEGIN).begin()
    RunFolder(tmp_path, KIND, BEGIN)
    assert told == [None, {"format": 3, "kind": "baking", **BEGIN}]
    monkeypatch.setattr(distributed, "ranks", lambda: distributed.Ranks(1, 2, 1))
    monkeypatch.setattr(distributed, "broadcast_object", lambda _: told[1])
    # A disk on which the manifest has not arrived yet, and other settings: neither is this process's to see.
    other = RunFolder(tmp_path / "late", KIND, recipe(salt=1))
    assert other.begun and other.values["recipe"] == BEGIN["recipe"]
    other.finish("knead", 1.0)
    assert list(other.parts) == ["knead"]
    assert not (tmp_path / "late").exists()


def test_what_rank_0_does_alone_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(_value: Any) -> None:
        raise AssertionError("the others are not there")

    monkeypatch.setattr(distributed, "ranks", lambda: distributed.Ranks(0, 2, 0))
    monkeypatch.setattr(distributed, "broadcast_object", waits)
    RunFolder(tmp_path, replace(KIND, together=False), BEGIN).begin()
    assert RunFolder(tmp_path, replace(KIND, together=False), BEGIN).begun
    with pytest.raises(AssertionError, match="not there"):
        RunFolder(tmp_path, KIND, BEGIN)


def test_the_umask_holds_for_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        RunFolder(tmp_path, KIND, BEGIN).begin()
    finally:
        os.umask(before)
    assert (tmp_path / "manifest.json").stat().st_mode & 0o777 == 0o640


def test_what_has_the_same_name_is_told_apart_by_where_it_lies(tmp_path: Path) -> None:
    paths = [tmp_path / each for each in ("a/x.csv", "b/x.csv", "b/y.csv", "c/b/x.csv")]
    assert told_apart(paths) == ["a/x.csv", f"{tmp_path.name}/b/x.csv", "y.csv", "c/b/x.csv"]
    assert told_apart(paths[:3], lambda path: path.stem) == ["a/x.csv", "b/x.csv", "y"]
    assert len(set(told_apart([paths[0], paths[0]]))) == 1  # one thing, twice
    assert told_apart([]) == []
