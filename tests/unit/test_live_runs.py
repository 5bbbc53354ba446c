"""Runs of the model: in order, one at a time, bounded, and never left over. The process is a fake one; one test starts
the real one, which opens nothing before it is asked to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.app.live.runs import Live, Run
from sae_lens_med.app.live.settings import LiveSettings
from sae_lens_med.errors import BusyError, ConfigError, NotFoundError
from sae_lens_med.records import Record
from tests import fake_model

WAIT = 20.0
"""Seconds: what a machine under load needs, and never what a test is about."""


@dataclass
class Told(Record):
    told: tuple[str, ...]


@dataclass
class Something:
    """A job that says what its process does (`fake_model`)."""

    act: str = ""
    case: int = 0
    told: list[str] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        return {"do": "open", "folder": "x", "act": self.act}

    def take(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        self.told.append(event)
        return {"seen": data}

    def view(self) -> Told:
        return Told(tuple(self.told))


@contextmanager
def live(pause: float = 0.0, **settings: Any) -> Iterator[Live]:
    opened = Live(fake_model.command(pause), LiveSettings(**settings))
    try:
        yield opened
    finally:
        opened.close()


def until(held: Callable[[], Any]) -> None:
    began = time.monotonic()
    while not held():
        assert time.monotonic() - began < WAIT, "it did not happen"
        time.sleep(0.01)


def over(run: Run) -> str:
    until(lambda: run.over)
    return run.state


def names(run: Run, since: int = 0) -> list[str]:
    return [event.name for event in run.since(since)]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


def test_what_happens_is_told_in_order_and_can_be_read_on_from_anywhere() -> None:
    with live() as runs:
        assert runs.pid is None  # nothing is started before it is needed
        run = runs.submit(1, Something())
        assert over(run) == "done"
        assert names(run) == ["queued", "loading", "opened", "done"]
        assert [event.number for event in run.since(0)] == [1, 2, 3, 4]
        assert names(run, 2) == ["opened", "done"] and names(run, 4) == [] and names(run, 99) == []
        again = runs.submit(1, Something())
        assert over(again) == "done" and names(again) == ["queued", "opened", "done"]  # the model is there now
        assert runs.get(1, run.id) is run
        for slot, name in ((2, run.id), (1, "another-run")):
            with pytest.raises(NotFoundError, match="Start it again"):
                runs.get(slot, name)


def test_a_reader_is_woken_by_every_event() -> None:
    with live(0.02) as runs:
        run, woken = runs.submit(1, Something()), []
        with run.reading(lambda: woken.append(len(run.since(0)))):
            over(run)
        assert woken and woken[-1] == len(run.since(0)) == 4


def test_one_runs_at_a_time_and_the_others_wait_in_order_until_the_queue_is_full() -> None:
    with live(waiting=2) as runs:
        first = runs.submit(1, Something("stuck"))
        until(lambda: first.state == "running")
        others = [runs.submit(1, Something()) for _ in range(2)]
        assert [runs.place(each) for each in (first, *others)] == [0, 1, 2]
        assert [each.since(0)[0].data for each in others] == [{"place": 1}, {"place": 2}]
        with pytest.raises(BusyError, match="2 wait for the model"):
            runs.submit(1, Something())
        runs.cancel(others[0])
        assert others[0].state == "cancelled"  # at once, though another runs
        runs.cancel(first)
        assert over(others[1]) == "done"
        assert [e.data for e in others[1].since(0) if e.name == "queued"][0] == {"place": 2}


def test_a_run_that_is_cancelled_lets_the_process_live_if_it_reacts() -> None:
    with live(0.05) as runs:
        run = runs.submit(1, Something())
        until(lambda: run.state == "running")
        pid = runs.pid
        runs.cancel(run)
        assert run.state == "cancelled" and names(run)[-1] == "cancelled"
        assert over(runs.submit(1, Something())) == "done" and runs.pid == pid
        assert "done" not in names(run)


def test_a_process_that_does_not_react_is_killed_and_the_next_run_starts_another() -> None:
    with live(cancel_seconds=0.2) as runs:
        run = runs.submit(1, Something("stuck"))
        until(lambda: run.state == "running")
        pid = runs.pid
        assert pid is not None
        runs.cancel(run)
        until(lambda: gone(pid))
        assert over(runs.submit(1, Something())) == "done" and runs.pid != pid


def test_a_model_that_is_being_opened_is_kept_for_whoever_comes_next() -> None:
    with live(cancel_seconds=0.05) as runs:
        run = runs.submit(1, Something("slow"))
        until(lambda: run.state == "loading")
        pid = runs.pid
        runs.cancel(run)
        assert run.state == "cancelled"
        again = runs.submit(1, Something())
        assert over(again) == "done" and names(again) == ["queued", "opened", "done"] and runs.pid == pid


def test_opening_has_a_limit_of_its_own() -> None:
    with live(load_seconds=0.3, cancel_seconds=0.05) as runs:
        run = runs.submit(1, Something("slow"))
        until(lambda: run.state == "loading")
        pid = runs.pid
        assert pid is not None
        assert over(run) == "failed" and run.problem == "steer.problem.time"
        until(lambda: gone(pid))


@pytest.mark.parametrize(
    ("act", "problem"),
    [("die", "steer.problem.ended"), ("garbage", "steer.problem.ended"), ("fail", "steer.problem.model")],
)
def test_a_failure_is_told_and_the_next_run_goes(act: str, problem: str) -> None:
    with live() as runs:
        run = runs.submit(1, Something(act))
        assert over(run) == "failed" and run.problem == problem
        assert run.detail == {"die": "(9)", "garbage": "(1)", "fail": "the model is not there."}[act]
        assert run.since(0)[-1].data == {"problem": problem, "detail": run.detail}
        assert over(runs.submit(1, Something())) == "done"


def test_a_process_that_cannot_be_started_is_a_sentence() -> None:
    runs = Live(["/nonexistent/python"])
    run = runs.submit(1, Something())
    assert over(run) == "failed" and run.problem == "steer.problem.start" and "No such file" in run.detail
    runs.close()


def test_a_run_ends_at_its_limit_of_time() -> None:
    with live(run_seconds=0.2, cancel_seconds=0.1) as runs:
        run = runs.submit(1, Something("stuck"))
        assert over(run) == "failed" and run.problem == "steer.problem.time"


def test_a_page_that_was_left_does_not_keep_the_model_busy() -> None:
    with live(unread_seconds=0.3, cancel_seconds=0.1) as runs:
        read, left = runs.submit(1, Something("stuck")), runs.submit(1, Something())
        with read.reading(lambda: None):
            until(lambda: read.state == "running")
            time.sleep(0.6)
            assert not read.over  # somebody reads it
        assert over(read) == "cancelled" and read.problem == "steer.problem.unread"
        assert over(left) == "cancelled" and left.problem == "steer.problem.unread"


def test_looking_at_a_run_now_and_then_is_reading_it() -> None:
    with live(unread_seconds=0.5, cancel_seconds=0.1) as runs:
        run = runs.submit(1, Something("stuck"))
        for _ in range(10):
            run.seen()
            time.sleep(0.1)
        assert not run.over


def test_a_model_that_nobody_uses_is_closed_and_opened_again() -> None:
    with live(idle_seconds=0.3) as runs:
        assert over(runs.submit(1, Something())) == "done"
        pid = runs.pid
        assert pid is not None
        until(lambda: gone(pid))
        again = runs.submit(1, Something())
        assert over(again) == "done" and names(again) == ["queued", "loading", "opened", "done"]


def test_the_end_of_the_server_ends_everything() -> None:
    with live() as runs:
        run, waiting = runs.submit(1, Something("stuck")), runs.submit(1, Something())
        until(lambda: run.state == "running")
        pid = runs.pid
        assert pid is not None
    assert gone(pid) and run.state == waiting.state == "cancelled" and run.problem == "steer.problem.closed"


def test_old_runs_are_forgotten_and_running_ones_are_not() -> None:
    with live(kept=2) as runs:
        done = []
        for _ in range(4):
            done.append(runs.submit(1, Something()))
            over(done[-1])
        assert runs.get(1, done[-1].id) is done[-1]
        with pytest.raises(NotFoundError):
            runs.get(1, done[0].id)


@pytest.mark.parametrize("wrong", [{"waiting": -1}, {"sets": 1}, {"run_seconds": 0}, {"idle_seconds": float("nan")}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LiveSettings(**wrong)


def test_no_process_is_left_over_when_the_server_is_killed() -> None:
    """The real process, which has not opened a model: it ends when its input does."""
    code = """
import sys, time
from sae_lens_med.app.live.process import ModelProcess, python_module
process = ModelProcess(python_module("sae_lens_med.commands.model_process"))
process.send({"run": "r", "do": "open", "folder": "/nonexistent", "model": None, "sae": None})
while True:
    message = process.receive(60)
    if message["event"] == "failed":
        break
print(process.pid, message["data"]["sentence"], flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid, _, sentence = server.stdout.readline().partition(" ")
        server.send_signal(signal.SIGKILL)
    assert "/nonexistent" in sentence and "Traceback" not in sentence
    until(lambda: gone(int(pid)))


BUSY = """
import os, sys, time
from sae_lens_med.app.live import child
child._opened = lambda request, opener: time.sleep(600)
child.serve(sys.stdin.buffer, os.fdopen(1, "w"), None)
"""
"""The real loop of the process, which opens a model for ever."""
REQUEST = {"run": "r", "do": "open", "folder": "x", "model": None, "sae": None}


@pytest.mark.parametrize("torn", [b"", b'{"run": "half of a li', b'{"cancel": "r"', '{"run": "한'.encode()[:-1]])
def test_a_server_that_is_killed_within_a_line_leaves_no_process_though_it_is_busy(torn: bytes) -> None:
    code = f"""
import sys, time
from sae_lens_med.app.live.process import ModelProcess
process = ModelProcess([sys.executable, "-c", {BUSY!r}])
process.send({REQUEST!r})
while process.receive(60)["event"] != "loading":
    pass
process._child.stdin.write({torn!r})
process._child.stdin.flush()
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert not gone(pid)
        time.sleep(0.3)
        assert not gone(pid), "half a line alone ends nothing"
        server.send_signal(signal.SIGKILL)
    until(lambda: gone(pid))


def test_a_line_that_is_no_request_ends_the_process_and_leaves_none_that_hears_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"12\n")
        process.stdin.flush()
        try:
            process.wait(WAIT)
        finally:
            process.kill()
    assert process.returncode == 0
