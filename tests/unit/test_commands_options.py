"""Options that several commands share mean the same in each of them."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sae_lens_med.data
from sae_lens_med.cli import app
from sae_lens_med.commands.options import Reading
from sae_lens_med.errors import ConfigError

GIVEN = (
    *("--split", "dev", "--skip-bad-items", "--limit", "7", "--explanation-source", "model", "--encoding", "cp949"),
    *("--answers-from", "0", "--extra-columns", "ignore", "--exclude", "a, b", "--exclude", "c"),
)
SAID = {
    "skip_bad_rows": True,
    "limit": 7,
    "explanation_source": "model",
    "encoding": "cp949",
    "answers_from": 0,
    "extra_columns": "ignore",
    "exclude": ["a", "b", "c"],
}
COMMANDS = {
    "evaluate": ("evaluate", "-m", "m", "-o", "out", "-d", "FILE"),
    "evaluate, endpoint": (
        *("evaluate", "--endpoint", "http://127.0.0.1:9", "--endpoint-model", "m", "--method", "cot"),
        *("-o", "out", "-d", "FILE"),
    ),
    "study": ("study", "-m", "m", "-s", "s", "-o", "out", "-d", "FILE"),
    "collect": ("collect", "-m", "m", "-s", "s", "-o", "out", "-d", "FILE"),
    "intervene": ("intervene", "-m", "m", "-o", "out", "-d", "FILE", "-c", "c.yaml"),
}


class Seen(Exception):
    pass


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_items(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs))
        raise Seen

    monkeypatch.setattr(sae_lens_med.data, "load_items", load_items)
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("conditions:\n- {name: s, kind: splice}\n", encoding="utf-8")
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_reads_the_data_by_the_same_options(name: str, seen: list[tuple[Any, ...]]) -> None:
    for given, split, said in (
        (GIVEN, "dev", SAID),
        ((), None, {**dict.fromkeys(SAID), "skip_bad_rows": False, "extra_columns": "refuse", "exclude": []}),
    ):
        done = CliRunner().invoke(app, [*COMMANDS[name], *given])
        assert isinstance(done.exception, Seen), done.output
        assert seen.pop() == ("FILE", split, said)


def test_what_is_given_is_told_from_what_is_not() -> None:
    assert Reading().given == Reading(exclude=[]).given == set()
    assert Reading("dev", True, 3, answers_from=0).given == {"split", "skip_bad_items", "limit", "answers_from"}


@pytest.mark.parametrize(
    "option", [("--split", "dev"), ("--answers-from", "0"), ("--exclude", "a"), ("--skip-bad-items",)]
)
def test_collecting_answers_refuses_options_that_it_would_not_heed(option: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["collect", "-m", "m", "-s", "s", "-o", "out", "--answers", "run", *option])
    assert isinstance(done.exception, ConfigError)
    assert f"leave out {option[0]}, or name the questions with --data" in str(done.exception)
