"""Runs of the model: one at a time, the others in a queue, each with what has happened in it.

A run tells its readers, in order and numbered from 1,

    queued      place: how many are before it            loading     the model is being opened
    opened      it is there, and the run's time begins   ...         what its job tells (`Job.take`)
    done, failed, cancelled                              the last one of every run

Every event is kept as long as the run, so that a reader who was cut off goes on behind the last one that it saw.

A run ends early where somebody cancels it, where nobody has read it for `unread_seconds`, or past `run_seconds`.
Readers are told at once; the process is asked to let the run go, and killed where it has not after `cancel_seconds`. A
model that is being opened may go on to be: whoever comes next needs it.
The next run starts another one. After `idle_seconds` without a run the process is ended.

Everything here is safe from several threads. Out of scope: what a job is (`steering`, `edited`).
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sae_lens_med.app.live.process import ModelProcess, ProcessEnded
from sae_lens_med.app.live.settings import LiveSettings
from sae_lens_med.app.refusals import refusal
from sae_lens_med.errors import BusyError, NotFoundError
from sae_lens_med.records import Record

State = Literal["queued", "loading", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
_TICK = 0.05
"""Seconds between two looks at what has to end."""


class Job(Protocol):
    """What a run does."""

    @property
    def case(self) -> int:
        """Number of the case."""
        ...

    def request(self) -> dict[str, Any]:
        """What the process is sent; JSON values."""
        ...

    def take(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """Note what the process tells, and return what readers are told of it."""
        ...

    def view(self) -> Record:
        """What is known so far."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run."""

    number: int
    """From 1."""
    name: str
    data: dict[str, Any]


class Run:
    """One run."""

    def __init__(self, slot: int, job: Job, *, lasting: bool = False) -> None:
        """`slot`: of the study; `lasting`: it goes on though nobody reads it."""
        self.id, self.slot, self.job = secrets.token_urlsafe(12), slot, job
        self.state: State = "queued"
        self.problem, self.detail = "", ""
        """Why it failed or was cancelled: a key of `strings`, and a sentence of whoever knows more."""
        self._lasting = lasting
        self._events: list[Event] = []
        self._guard = threading.Lock()
        self._wake: list[Callable[[], None]] = []
        self._readers, self._seen = 0, time.monotonic()

    @property
    def over(self) -> bool:
        """Whether nothing more happens in it."""
        return self.state in OVER

    def since(self, number: int) -> list[Event]:
        """The events behind this one."""
        with self._guard:
            return self._events[max(0, number) :]

    def tell(self, name: str, data: dict[str, Any] | None = None, state: State | None = None) -> None:
        """Add an event, unless the run is over."""
        with self._guard:
            if self.over:
                return
            self._events.append(Event(len(self._events) + 1, name, data or {}))
            if state is not None:
                self.state = state
            wake = list(self._wake)
        for each in wake:
            each()

    def fail(self, problem: str, detail: str = "") -> None:
        """It has failed."""
        self._ended("failed", problem, detail)

    def cancel(self, problem: str) -> None:
        """It is not wanted any more."""
        self._ended("cancelled", problem, "")

    def _ended(self, state: State, problem: str, detail: str) -> None:
        if not self.over:
            self.problem, self.detail = problem, detail
            self.tell(state, {"problem": problem, "detail": detail}, state)

    @contextmanager
    def reading(self, wake: Callable[[], None]) -> Iterator[None]:
        """Somebody reads it meanwhile; `wake` is called, from another thread, after each event."""
        with self._guard:
            self._readers += 1
            self._wake.append(wake)
        try:
            yield
        finally:
            with self._guard:
                self._readers -= 1
                self._wake.remove(wake)
                self._seen = time.monotonic()

    def seen(self) -> None:
        """Somebody has looked at it."""
        self._seen = time.monotonic()

    def unread(self, seconds: float) -> bool:
        """Whether nobody has read it for so long."""
        return not self._lasting and not self._readers and time.monotonic() - self._seen > seconds


class Live:
    """The queue, and the process that runs what is in it."""

    def __init__(self, command: Sequence[str], settings: LiveSettings | None = None) -> None:
        """`command` starts the process (`process`); nothing is started before the first run."""
        self.command, self.settings = tuple(command), settings or LiveSettings()
        self._waiting: list[Run] = []
        self._running: Run | None = None
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._changed = threading.Condition()
        self._process: ModelProcess | None = None
        self._worker: threading.Thread | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    def submit(self, slot: int, job: Job, *, lasting: bool = False) -> Run:
        """Put a run into the queue. Raises `BusyError` where so many wait that it is full."""
        with self._changed:
            for each in [each for each in self._waiting if each.unread(self.settings.unread_seconds)]:
                self._waiting.remove(each)
                each.cancel("steer.problem.unread")
            if len(self._waiting) + (self._running is not None) > self.settings.waiting:
                raise refusal(BusyError, "refused.busy", n=len(self._waiting))
            run = Run(slot, job, lasting=lasting)
            self._waiting.append(run)
            self._runs[run.id] = run
            finished = [name for name, each in self._runs.items() if each.over]
            for name in finished[: max(0, len(self._runs) - self.settings.kept)]:
                del self._runs[name]
            run.tell("queued", {"place": self._place(run)})
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="live-runs", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return run

    def get(self, slot: int, run_id: str) -> Run:
        """Raises `NotFoundError` for a run that is not there, or not there any more."""
        run = self._runs.get(run_id)
        if run is None or run.slot != slot:
            raise refusal(NotFoundError, "refused.run", run=repr(run_id))
        return run

    def place(self, run: Run) -> int:
        """How many are before a run; 0 for one that is not waiting."""
        with self._changed:
            return self._place(run)

    def cancel(self, run: Run) -> None:
        """End a run; one that is over stays as it is."""
        with self._changed:
            if run in self._waiting:
                self._waiting.remove(run)
            run.cancel("steer.problem.cancelled")
            self._changed.notify_all()

    def close(self) -> None:
        """End all runs and the process."""
        with self._changed:
            self._closing = True
            for run in [*self._waiting, *([] if self._running is None else [self._running])]:
                run.cancel("steer.problem.closed")
            self._waiting.clear()
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join(self.settings.cancel_seconds + 2)
        if self._process is not None:
            self._process.end()

    def _place(self, run: Run) -> int:
        return self._waiting.index(run) + (self._running is not None) if run in self._waiting else 0

    # --- the worker -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            run = self._next()
            if run is None:
                continue
            try:
                self._serve(run)
            finally:
                with self._changed:
                    self._running = None

    def _next(self) -> Run | None:
        with self._changed:
            if not self._waiting and not self._changed.wait_for(
                lambda: self._waiting or self._closing, self.settings.idle_seconds
            ):
                self._end_process()
            while self._waiting:
                run = self._waiting.pop(0)
                if run.unread(self.settings.unread_seconds):
                    run.cancel("steer.problem.unread")
                if run.over:
                    continue
                self._running = run
                for each in self._waiting:
                    each.tell("queued", {"place": self._place(each)})
                return run
        return None

    def _serve(self, run: Run) -> None:
        try:
            process = self._opened()
        except OSError as error:
            run.fail("steer.problem.start", error.strerror or "")
            return
        process.send({"run": run.id, **run.job.request()})
        until, opening = time.monotonic() + self.settings.load_seconds, True
        while not run.over:
            try:
                message = process.receive(_TICK)
            except ProcessEnded as ended:
                self._end_process()
                run.fail("steer.problem.ended", f"({ended.code})")
                return
            if message is not None and message.get("run") == run.id:
                if message["event"] == "opened":
                    until, opening = time.monotonic() + self.settings.run_seconds, False
                self._note(run, message)
                if message["event"] in OVER:
                    return
            if run.unread(self.settings.unread_seconds):
                run.cancel("steer.problem.unread")
            elif time.monotonic() > until:
                run.fail("steer.problem.time")
        patient = time.monotonic() + self.settings.cancel_seconds
        self._let_go(process, run, max(patient, until) if opening else patient)

    def _note(self, run: Run, message: dict[str, Any]) -> None:
        event, data = message["event"], message.get("data", {})
        if event == "failed":
            run.fail(str(data.get("problem", "steer.problem.model")), str(data.get("sentence", "")))
        elif event == "cancelled":
            run.cancel("steer.problem.cancelled")
        elif event == "loading":
            run.tell("loading", {}, "loading")
        elif event == "opened":
            run.tell("opened", {}, "running")
        else:
            told = run.job.take(event, data)
            run.tell(event, told, "done" if event == "done" else None)

    def _let_go(self, process: ModelProcess, run: Run, until: float) -> None:
        """The process stops a run that is over for its readers, or is stopped."""
        process.send({"cancel": run.id})
        while not self._closing and (left := until - time.monotonic()) > 0:
            try:
                message = process.receive(min(_TICK, left))
            except ProcessEnded:
                break
            if message is not None and message.get("run") == run.id and message["event"] in OVER:
                return
        self._end_process()

    def _opened(self) -> ModelProcess:
        if self._process is None or not self._process.alive:
            self._process = ModelProcess(self.command)
        return self._process

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None
