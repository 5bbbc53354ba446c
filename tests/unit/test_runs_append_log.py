"""Lines that are only ever added to: what was written whole is read back, whatever happened to the end of the file."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.errors import ReadOnlyError
from sae_lens_med.runs.append_log import AppendLog


def _opened(path: Path) -> tuple[AppendLog, list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def note(values: dict[str, Any]) -> None:
        if not isinstance(values["n"], int):
            raise TypeError("n is no number")
        found.append(values)

    return AppendLog(path, note), found


def _write(log: AppendLog, values: dict[str, Any]) -> None:
    with log.writing() as write:
        write(values)


@given(
    texts=st.lists(st.text(), min_size=1, max_size=6),
    cut=st.integers(0, 60),
    junk=st.binary(max_size=12),
    more=st.lists(st.text(), max_size=3),
)
@settings(deadline=None, max_examples=60)
def test_what_was_written_whole_is_read_whatever_became_of_the_end(
    texts: list[str], cut: int, junk: bytes, more: list[str]
) -> None:
    """Cut anywhere in the last line, with something behind it, and written on: the lines before and after count."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        log, _ = _opened(path)
        for n, text in enumerate(texts):
            _write(log, {"n": n, "text": text})
        lines = path.read_bytes().splitlines(keepends=True)
        kept = lines[-1][: max(0, len(lines[-1]) - cut)]
        path.write_bytes(b"".join(lines[:-1]) + kept + junk)
        whole = _parsed(path.read_bytes())
        log, found = _opened(path)
        assert found == whole
        assert found[: len(texts) - 1] == [{"n": n, "text": text} for n, text in enumerate(texts[:-1])]
        for n, text in enumerate(more):
            _write(log, {"n": n, "text": text})
        again, read = _opened(path)
        assert read == found and read[len(read) - len(more) :] == [{"n": n, "text": t} for n, t in enumerate(more)]
        assert bool(again.problem) == bool(log.problem)


def _parsed(content: bytes) -> list[dict[str, Any]]:
    """The entries among the lines, by Python's own reader."""
    found = []
    for raw in content.split(b"\n"):
        try:
            values = json.loads(raw.decode("utf-8"))
            if isinstance(values, dict) and isinstance(values["n"], int):
                found.append(values)
        except (ValueError, KeyError):
            continue
    return found


def test_lines_of_several_processes_stand_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = """
import sys
from pathlib import Path
from sae_lens_med.runs.append_log import AppendLog
log = AppendLog(Path(sys.argv[1]), lambda values: None)
for n in range(40):
    with log.writing() as write:
        write({"n": n, "who": sys.argv[2], "text": "x" * 3000})
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "abc"]
    assert [each.wait() for each in running] == [0, 0, 0]
    log, found = _opened(path)
    assert not log.problem and len(found) == 120
    for who in "abc":
        assert [each["n"] for each in found if each["who"] == who] == list(range(40))


def test_a_reader_sees_what_another_process_has_written_when_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ours, seen = _opened(path)
    theirs, _ = _opened(path)
    _write(theirs, {"n": 1})
    assert seen == []
    ours.refresh()
    assert seen == [{"n": 1}]


def test_a_decision_is_made_on_the_newest_lines_and_may_be_not_to_write(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ours, seen = _opened(path)
    _write(_opened(path)[0], {"n": 1})
    with pytest.raises(LookupError), ours.writing():
        if seen:
            raise LookupError
    assert len(path.read_bytes().splitlines()) == 1


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, seen = _opened(tmp_path / "log.jsonl")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReadOnlyError, match=r"log\.jsonl cannot be written \(No space left on device\)"):
        _write(log, {"n": 1})
    assert seen == []
