"""The process that holds the model: started, spoken to in lines of JSON, and ended.

    to it     {"run": id, "do": "steer" | "compare" | "open", ...}        {"cancel": id}
    from it   {"run": id, "event": name, "data": {...}}

It ends when its input does, so that none is left over when the server is killed. It is in a group of its own, so that
Ctrl-C in a terminal reaches the server alone. What it writes to stderr goes where the server's goes.

Out of scope: what is run (`child`), and whose turn it is (`runs`).
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sae_lens_med
from sae_lens_med.runs.files import json_line
from sae_lens_med.runs.parsing import ParseError, parse_json

_WAIT = 5.0
"""Seconds that the system may take to end a process that was killed."""


def python_module(name: str) -> list[str]:
    """The command that runs a module of this package with this Python."""
    return [sys.executable, "-P", "-m", name]  # -P: a file `torch.py` in the working directory is not torch


class ProcessEnded(Exception):
    """The process has ended by itself; `code` as the system gives it."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the process ended with code {code}")
        self.code = code


class ModelProcess:
    """One process; see the module."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises `OSError` where it cannot be."""
        root = str(Path(sae_lens_med.__file__).parent.parent)
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._child = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._over = False
        threading.Thread(target=self._read, name="model-lines", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the system."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._over and self._child.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """One line to it; one that has ended is noticed by `receive`."""
        assert self._child.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.write(json_line(message).encode("utf-8"))
            self._child.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line from it; None where none comes in time. Raises `ProcessEnded`."""
        try:
            message = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if message is None:
            self._over = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_WAIT)
            raise ProcessEnded(self._child.returncode)
        return message

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._over = True
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_WAIT)
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                with contextlib.suppress(ParseError):  # half a line of a process that was killed
                    message = parse_json(line)
                    if isinstance(message, dict):
                        self._lines.put(message)
        self._lines.put(None)
