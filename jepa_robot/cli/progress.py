"""A progress bar with the time left, where there is a terminal to draw it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error; yields a function to call with what is done and the total."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True))
    bar = bars.add_task(title, total=None)

    def report(done: int, total: int) -> None:
        bars.start()  # not before something is under way: an error may come first
        bars.update(bar, completed=done, total=total)

    try:
        yield report
    finally:
        bars.stop()
