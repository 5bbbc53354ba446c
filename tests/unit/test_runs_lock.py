"""One writer for each folder, whoever it is, and however it ends."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sae_lens_med import distributed
from sae_lens_med.errors import StudyError
from sae_lens_med.runs import lock
from sae_lens_med.runs.folder import Kind, RunFolder, read_manifest, require_output

KIND = Kind("baking", format=1, identity=lambda manifest: {"kind": manifest["kind"]})
WRITER = """
import sys, time
from pathlib import Path
from sae_lens_med.runs.folder import Kind, RunFolder
run = RunFolder(Path(sys.argv[1]), Kind("baking", format=1), {"parts": {}})
run.begin()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, "-c", WRITER, str(folder)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        try:
            yield writer
        finally:
            writer.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def opened(folder: Path) -> RunFolder:
    return RunFolder(folder, KIND, {"parts": {}})


def test_a_second_process_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with another_writer(folder) as writer:
        said = (
            f"another process (pid {writer.pid}) is writing to {folder}; wait until it has ended, or choose another "
            "folder."
        )
        run = opened(folder)  # to read
        assert run.begun and read_manifest(folder, KIND)["parts"] == {}
        for write in (run.hold, run.begin, run.write, lambda: run.finish("knead", 1.0)):
            with pytest.raises(StudyError) as raised:
                write()
            assert str(raised.value) == said
        with pytest.raises(StudyError) as raised:
            require_output(folder, KIND)
        assert str(raised.value) == said
        assert read_manifest(folder, KIND)["parts"] == {}


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_a_killed_writer_holds_nothing_and_its_file_is_no_content(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with another_writer(folder) as writer:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert names(folder) == {"manifest.json", lock.LOCK}
        (folder / "manifest.json").unlink()
        require_output(folder, KIND)  # hidden: the folder is empty
        run = opened(folder)
        run.begin()
        assert (folder / lock.LOCK).read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_one_process_holds_it_as_often_as_it_likes(tmp_path: Path) -> None:
    outer, inner = opened(tmp_path / "a"), opened(tmp_path / "a")
    outer.begin()
    inner.hold()
    opened(tmp_path / "a" / "nested").begin()
    require_output(tmp_path / "a", KIND)
    own = [each for each in lock.held() if each.is_relative_to(tmp_path)]  # a failed run of another test may linger
    assert own[0] == tmp_path / "a"
    del inner
    gc.collect()
    with pytest.raises(AssertionError), another_writer(tmp_path / "a"):  # it was refused and printed nothing
        pass
    del outer
    gc.collect()
    assert names(tmp_path / "a") == {"manifest.json", "nested"}
    with another_writer(tmp_path / "a"):
        pass


def test_a_child_that_was_forked_ends_nothing(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.begin()
    code = (
        "import os, sys; from pathlib import Path; from sae_lens_med.runs.folder import Kind, RunFolder\n"
        f"run = RunFolder(Path({str(tmp_path / 'b')!r}), Kind('baking', format=1), {{'parts': {{}}}}); run.begin()\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        f"print(sorted(os.listdir({str(tmp_path / 'b')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{[lock.LOCK, 'manifest.json']}\n"
    assert names(tmp_path / "b") == {"manifest.json"}


def test_what_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    run = opened(tmp_path / "deep" / "er")
    run.hold()
    assert names(tmp_path / "deep" / "er") == {lock.LOCK}
    del run
    gc.collect()
    assert not (tmp_path / "deep").exists()


def test_a_run_that_began_meanwhile_goes_on(tmp_path: Path) -> None:
    late = opened(tmp_path)
    first = opened(tmp_path)
    first.begin()
    first.finish("knead", 1.0)
    late.begin()
    assert late.begun and list(late.parts) == ["knead"]
    # So does one that had begun when it was opened.
    stale = opened(tmp_path)
    late.finish("bake", 1.0)
    stale.finish("cool", 1.0)
    assert list(read_manifest(tmp_path, KIND)["parts"]) == ["knead", "bake", "cool"]


def test_only_rank_0_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "ranks", lambda: distributed.Ranks(1, 2, 1))
    monkeypatch.setattr(distributed, "broadcast_object", lambda _: None)
    with another_writer(tmp_path):
        opened(tmp_path).begin()
        require_output(tmp_path, KIND)


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).begin()
    gc.collect()

    def refused(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refused)
    run = opened(tmp_path)
    run.hold()
    run.begin()
    assert run.begun


def test_a_disk_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unknown)
    run = opened(tmp_path)
    run.begin()
    assert names(tmp_path) == {"manifest.json"}
