"""How a command ends that does not come to its end: by Ctrl-C, a full disk, a closed pipe. One sentence, no traceback.

`Commands` is the group of all commands: it says what is kept and how to go on. What is kept is what lies in the folder
that the process was writing to (`runs.lock`).
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from sae_lens_med import distributed
from sae_lens_med.commands import output
from sae_lens_med.errors import shortened
from sae_lens_med.runs import lock
from sae_lens_med.runs.files import FULL, system_error

INTERRUPTED = 130
"""The status after Ctrl-C, as shells have it; after SIGTERM, too."""

_ADVICE = {
    **dict.fromkeys(FULL, "free some space"),
    errno.EACCES: "choose another one, or change who may use it",
    errno.EPERM: "choose another one, or change who may use it",
    errno.EROFS: "choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check its name",
    errno.ENOTDIR: "choose another name",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
}


class Commands(TyperGroup):
    """The commands, each of which ends with a sentence when it is interrupted or the system refuses."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options that stand before a command."""
        with _short_complaints():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            with _short_complaints():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            early = not lock.held() and "output" in self._options(ctx)
            again = " before anything was written; run the same command again."
            _tell(f"Interrupted{again if early else self._go_on(ctx)}")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            number, words = _of_the_system(error)
            if words is None:
                raise
            status = 1 if lock.held() else 2
            if _of_stdout(error):
                if number == errno.EPIPE:  # whoever reads has read enough
                    raise
                words, status = f"nothing can be written to stdout ({words})", 1
                if not lock.held() and "output" in self._options(ctx):
                    words += ", but what was done is in the folder of --output"
            _tell(f"error: {words}{self._go_on(ctx, _ADVICE.get(number or 0, ''))}")
            raise typer.Exit(status) from None

    def _go_on(self, ctx: Any, first: str = "") -> str:
        """The end of the sentence: what is kept, and what to do."""
        options = self._options(ctx)
        if folders := lock.held():
            again = "add --resume to the same command" if "resume" in options else "run the same command again"
            first = f"{first}, then " if first else ""
            return f"; what was done is kept in {folders[0]}: {first}{again} to continue."
        if first:
            return f"; {first}."
        return "."

    def _options(self, ctx: Any) -> set[str | None]:
        """Of the command that was called."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        return set() if command is None else {parameter.name for parameter in command.params}


@contextmanager
def _short_complaints() -> Iterator[None]:
    """What typer says of options quotes them in full."""
    try:
        yield
    except Exception as error:
        # Typer's errors of usage have no public base class.
        if hasattr(error, "exit_code") and isinstance(said := getattr(error, "message", None), str):
            error.message = shortened(said)  # pyright: ignore[reportAttributeAccessIssue]
        raise


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does. Where several processes do one job, `distributed` sees to it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def flushed(status: int) -> int:
    """The status of a process whose output is out: not 0 where it cannot be. A pipe that was closed is quiet."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            _tell(f"error: nothing can be written to stdout ({_of_the_system(error)[1]}).")
        # Python flushes once more when it ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]  # there is one
        return status or 1
    return status


def _tell(sentence: str) -> None:
    if distributed.ranks().first:
        with suppress(OSError):  # stderr may be what is full
            output.say(shortened(sentence), err=True)


def _of_the_system(error: Exception) -> tuple[int | None, str | None]:
    """The number of the system's error, where there is one, and what to say; None for what is no such error."""
    here = next(iter(lock.held()), Path())
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return None, (
            f"file names are in {error.encoding} here, which lacks {error.object[error.start : error.end]!r}; set "
            "LANG to a locale in UTF-8, such as C.UTF-8"
        )
    if (number := system_error(error, here)) is None and not isinstance(error, OSError):
        return None, None
    said = str(error).strip().split("\n")[0].rstrip(".") if number is None else os.strerror(number)
    named = error.filename if isinstance(error, OSError) else None
    return number, f"{os.fsdecode(named)}: {said}" if isinstance(named, str | bytes) else said


def _of_stdout(error: Exception) -> bool:
    """Whether printing failed: files are named in their errors, and it is what prints that raised this one."""
    if not isinstance(error, OSError) or error.filename is not None or (trace := error.__traceback__) is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = str(trace.tb_frame.f_globals.get("__name__"))
    return name == output.__name__ or name.split(".")[0] in ("typer", "click", "rich")
