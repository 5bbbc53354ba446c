"""What people call features is never lost, never doubled, and never written over unseen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae_lens_med.app.labels import Labels
from sae_lens_med.errors import ConflictError, DataError, ReadOnlyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app" / "labels.jsonl"


def test_versions_are_kept_newest_first(path: Path) -> None:
    labels = Labels(path, {3: "given"})
    assert labels.current(3) == "given"
    labels.add(3, "심전도 이상", "kim", 0, "a")
    labels.add(3, "ST 상승", "lee", 1, "b")
    labels.add(4, "발열", "kim", 0, "c")
    for read in (labels, Labels(path, {3: "given"})):
        assert [(e.label, e.author, e.revision, e.source) for e in read.of(3)] == [
            ("ST 상승", "lee", 2, "person"),
            ("심전도 이상", "kim", 1, "person"),
            ("given", "", 0, "file"),
        ]
        assert read.all() == {3: "ST 상승", 4: "발열"}
        assert read.of(5) == ()
        assert read.problem == ""
    assert labels.of(3)[0].time.startswith("20")


def test_an_empty_text_takes_a_label_back(path: Path) -> None:
    labels = Labels(path, {3: "given"})
    labels.add(3, "wrong", "kim", 0, "a")
    labels.add(3, "  ", "kim", 1, "b")
    assert labels.current(3) is None
    assert labels.all() == {}
    assert labels.add(3, "right", "kim", 2, "c").revision == 3


def test_whoever_saw_an_older_label_is_refused_and_nothing_is_written(path: Path) -> None:
    labels = Labels(path, {})
    labels.add(3, "one", "kim", 0, "a")
    before = path.read_bytes()
    for revision in (0, 2, -1):
        with pytest.raises(ConflictError, match="it is 1 now"):
            labels.add(3, "two", "lee", revision, f"b{revision}")
    assert path.read_bytes() == before


def test_sending_a_label_again_is_no_second_label(path: Path) -> None:
    labels = Labels(path, {})
    first = labels.add(3, "one", "kim", 0, "a")
    before = path.read_bytes()
    for again in (labels, Labels(path, {})):
        assert again.add(3, "one", "kim", 0, "a") == first
    assert path.read_bytes() == before


def test_two_processes_see_each_other(path: Path) -> None:
    """One reads what the other wrote before it writes."""
    ours = Labels(path, {})
    code = (
        "import sys; from pathlib import Path; from sae_lens_med.app.labels import Labels; "
        "Labels(Path(sys.argv[1]), {}).add(3, 'theirs', 'lee', 0, 'x')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    with pytest.raises(ConflictError):
        ours.add(3, "ours", "kim", 0, "y")
    assert ours.current(3) == "theirs"
    assert ours.add(3, "ours", "kim", 1, "y").revision == 2


@pytest.mark.parametrize("torn", [2, 5, 40])
def test_a_torn_last_line_costs_itself_alone(path: Path, torn: int) -> None:
    labels = Labels(path, {})
    labels.add(3, "하나", "kim", 0, "a")
    labels.add(3, "둘", "kim", 1, "b")
    path.write_bytes(path.read_bytes()[:-torn])
    read = Labels(path, {})
    assert read.current(3) == "하나"
    assert "1 of the lines" in read.problem
    assert read.add(3, "셋", "lee", 1, "c").revision == 2
    again = Labels(path, {})
    assert again.current(3) == "셋"
    assert "1 of the lines" in again.problem


def test_a_last_line_that_lacks_its_end_alone_is_whole(path: Path) -> None:
    labels = Labels(path, {})
    labels.add(3, "하나", "kim", 0, "a")
    path.write_bytes(path.read_bytes()[:-1])
    read = Labels(path, {})
    assert (read.current(3), read.problem) == ("하나", "")
    read.add(3, "둘", "kim", 1, "b")
    again = Labels(path, {})
    assert (again.current(3), again.problem) == ("둘", "")


def test_a_line_of_something_else_is_skipped_and_said(path: Path) -> None:
    path.parent.mkdir()
    good = {"id": "a", "feature": 1, "label": "x", "author": "y", "time": "2026-01-01T00:00:00+00:00", "revision": 1}
    lines = [b"[]", b"{", b"\xff", json.dumps(good | {"revision": 7}).encode(), json.dumps(good).encode()]
    path.write_bytes(b"\n".join(lines) + b"\n")
    read = Labels(path, {})
    assert read.all() == {1: "x"}
    assert "4 of the lines" in read.problem


@pytest.mark.parametrize(
    ("text", "author", "entry_id", "message"),
    [
        ("가" * 501, "kim", "a", "label has 501 characters"),
        ("x", "", "a", "author is empty"),
        ("x", "a" * 101, "a", "author has 101"),
        ("x", "kim", " ", "id is empty"),
        ("\ud800", "kim", "a", "surrogate"),
    ],
)
def test_what_cannot_be_a_label_is_refused(path: Path, text: str, author: str, entry_id: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Labels(path, {}).add(1, text, author, 0, entry_id)
    assert not path.exists()


def test_a_label_is_one_line_in_the_file_whatever_it_holds(path: Path) -> None:
    labels = Labels(path, {})
    assert labels.add(1, "a\nb\u2028c\0", "k\rim", 0, "i\nd").label == "a b c\0"
    assert Labels(path, {}).current(1) == "a b c\0"
    assert len(path.read_bytes().splitlines()) == 1


def test_a_label_is_on_the_disk_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(path, {})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReadOnlyError, match="No space left"):
        labels.add(1, "x", "kim", 0, "a")
    assert labels.current(1) is None


def test_a_label_that_cannot_be_written_is_said_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "app").write_text("a file where the folder should be", encoding="utf-8")
    labels = Labels(tmp_path / "app" / "labels.jsonl", {})
    with pytest.raises(ReadOnlyError, match=r"labels\.jsonl cannot be written .* a copy that you may write to"):
        labels.add(1, "심전도", "tester", 0, "0123456789")
    assert labels.current(1) is None
