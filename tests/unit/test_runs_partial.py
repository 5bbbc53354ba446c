"""Results that are appended as they come: what an interruption costs, and whose they are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med import distributed
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.records import ItemResult
from sae_lens_med.runs.partial import PartialResults, read_results, write_results

RUN = {"seed": 0, "model": {"name": "m", "sha256": "a" * 64}}


def result(name: str) -> ItemResult:
    return ItemResult(name, "내과\u2028", "A", "A", (-1.0, -2.0), True, None)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def refused(path: Path, run: dict[str, Any] = RUN) -> str:
    before = path.read_bytes()
    with pytest.raises(StudyError) as raised:
        PartialResults(path, run)
    assert path.read_bytes() == before
    return str(raised.value)


def test_results_of_a_finished_run_round_trip(tmp_path: Path) -> None:
    results = [result("a"), result("b")]
    write_results(tmp_path / "items.jsonl", results)
    assert read_results(tmp_path / "items.jsonl") == results
    (tmp_path / "items.jsonl").write_text('{"id": "q0"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1 is not a result"):
        read_results(tmp_path / "items.jsonl")


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "items.partial.jsonl"
    first = PartialResults(path, RUN)
    assert first.done == {}
    first.append([result("a"), result("b")])
    first.append([{"id": "c", "logits": (0.1, 1 / 3)}])
    assert lines(path) == [RUN, [result(n).to_dict() for n in "ab"], [{"id": "c", "logits": [0.1, 1 / 3]}]]
    again = PartialResults(path, RUN)
    assert again.done == first.done
    assert list(again.done) == ["a", "b", "c"] and again.done["c"]["logits"] == [0.1, 1 / 3]
    with pytest.raises(DataError, match="ItemResult"):
        again.records(ItemResult)
    again.remove()
    assert not list(path.parent.iterdir())


def test_records_are_given_back(tmp_path: Path) -> None:
    partial = PartialResults(tmp_path / "a.jsonl", RUN)
    partial.append([result("a")])
    assert partial.records(ItemResult) == PartialResults(partial.path, RUN).records(ItemResult) == {"a": result("a")}


def test_every_place_where_an_interruption_may_cut_the_file(tmp_path: Path) -> None:
    """Cut after any byte of the last line, what was whole before it is found, and appending goes on."""
    path = tmp_path / "items.partial.jsonl"
    partial = PartialResults(path, RUN)
    partial.append([{"id": "a"}, {"id": "b"}])
    kept = path.read_bytes()
    partial.append([{"id": "c", "text": "열"}])
    whole = path.read_bytes()
    for cut in range(len(kept), len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = PartialResults(path, RUN)
        # Without its line end alone, a line is whole.
        assert list(again.done) == (["a", "b", "c"] if cut >= len(whole) - 1 else ["a", "b"]), cut
        again.append([{"id": "d"}])
        assert list(PartialResults(path, RUN).done) == [*again.done], cut
        assert path.read_bytes().startswith(kept)


_KILLED = """
import os, signal, sys
from pathlib import Path
from sae_lens_med.runs.partial import PartialResults

partial = PartialResults(Path(sys.argv[1]), {"seed": 0})
for number in range(5):
    if number == 3:
        with partial.path.open("a") as handle:
            handle.write('[{"id": "3", "te')
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    partial.append([{"id": str(number)}])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_a_process_killed_while_it_appends_loses_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "items.partial.jsonl"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(PartialResults(path, {"seed": 0}).done) == ["0", "1", "2"]


def test_one_result_a_line_as_it_was_written_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "causal.partial.jsonl"
    path.write_text(f'{json.dumps(RUN)}\n{{"id": "a", "x": 1}}\n{{"id": "b", "x": 2}}\n', encoding="utf-8")
    assert PartialResults(path, RUN).done == {"a": {"id": "a", "x": 1}, "b": {"id": "b", "x": 2}}


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "items.partial.jsonl"
    PartialResults(path, RUN).append([{"id": "a"}])
    assert refused(path, {"seed": 1, "model": RUN["model"]}) == (
        f"{path} was started with other settings (seed: 0 -> 1); choose another folder, use the settings that it was "
        "started with, or delete it to start again."
    )
    assert PartialResults(path, {**RUN, "data.source": "moved"}).done  # a name is no setting


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{run}\n[{{}}]\n", "line 2 is damaged"),
        ('{run}\n[{{"id": 3}}]\n', "line 2 is damaged"),
        ('{run}\n[{{"id": "a"\n[{{"id": "b"}}]\n', "line 2 is damaged"),
        ('{run}\n7\n[{{"id": "b"}}]\n', "line 2 is damaged"),
        ("my thesis", "line 1 is damaged"),
        ('{{"id": "a", "reasoning": "..."}}\n', r"line 1 is damaged \(it is not the identity of a run\)"),
        ('[{{"id": "a"}}]\n', r"line 1 is damaged \(it is not the identity of a run\)"),
    ],
)
def test_what_no_interruption_leaves_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "items.partial.jsonl"
    path.write_text(content.format(run=json.dumps(RUN)), encoding="utf-8")
    message = refused(path)
    with pytest.raises(StudyError, match=rf"items.partial.jsonl: {said}.*; delete the file to start again.$"):
        raise StudyError(message)


def test_results_of_all_ranks_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "items.partial.jsonl"
    first = PartialResults(path, RUN)
    first.append([result("a")])
    other = tmp_path / "items.partial.rank1.jsonl"
    other.write_text(path.read_text(encoding="utf-8").replace('"a"', '"b"') + '{"id": "torn', encoding="utf-8")
    again = PartialResults(path, RUN)
    assert again.records(ItemResult) == {name: result(name) for name in "ab"}
    assert not other.exists()
    again.append([result("c")])
    assert list(PartialResults(path, RUN).done) == ["a", "b", "c"]
    other.write_text('{"seed": 1}\n[{"id": "d"}]\n', encoding="utf-8")
    assert refused(path).startswith(f"{other} was started with other settings (")
    again.remove()
    assert not list(tmp_path.iterdir())


def test_another_rank_writes_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.partial.jsonl"
    PartialResults(path, RUN).append([{"id": "a"}])
    before = path.read_bytes()
    monkeypatch.setattr(distributed, "ranks", lambda: distributed.Ranks(3, 4, 3))
    monkeypatch.setattr(distributed, "broadcast_object", lambda _: [[{"id": "a"}]])  # what rank 0 found
    mine = PartialResults(path, RUN)
    assert list(mine.done) == ["a"]
    mine.append([{"id": "b"}])
    assert path.read_bytes() == before
    assert lines(tmp_path / "items.partial.rank3.jsonl") == [RUN, [{"id": "b"}]]


def test_the_folder_is_light_to_import() -> None:
    code = "import sys, sae_lens_med.runs.folder, sae_lens_med.runs.partial; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
