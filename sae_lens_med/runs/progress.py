"""What long work says while it runs, on stderr: lines, and a bar of what is done, and how long the rest will take."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Where tables and lines are printed: text is text, whatever brackets and colons it holds."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def progress_bar(shown: bool, *more: ProgressColumn) -> Progress:
    """A bar to add tasks to; `shown=False` gives one that prints nothing.

    `more` stand between the count and the time that is left.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not shown,
    )
