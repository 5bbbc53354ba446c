"""The progress bar of long work, on stderr: what is done of how much, and how long the rest will take."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(shown: bool, *more: ProgressColumn) -> Progress:
    """A bar to add tasks to; `shown=False` gives one that prints nothing.

    `more` stand between the count and the time that is left.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *more,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
