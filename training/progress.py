"""Progress for people: bars on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
    track,
)
from rich.progress import Progress as Bars

# Wraps what is iterated over, and yields the same; `iter` shows nothing.
Progress = Callable[[Iterable[Any]], Iterable[Any]]


def on_terminal(description: str, console: Console | None = None) -> Progress:
    """Return what shows a bar with a description on a terminal.

    Args:
        description: what is done.
        console: where; stderr by default.
    """
    console = console or Console(stderr=True)
    return partial(track, description=description, console=console, disable=not console.is_terminal)


@contextmanager
def step_bar(console: Console, total: int, completed: int) -> Iterator[Callable[[str], None]]:
    """Show the bar of a training, and yield what advances it by one step, with a note.

    Args:
        console: where.
        total: steps of the whole training.
        completed: steps that an earlier process made.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        bar = bars.add_task("training", total=total, note="", completed=completed)
        yield lambda note: bars.update(bar, advance=1, note=note)


@contextmanager
def byte_bar(description: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many bytes have come, and yield what advances it by some.

    Args:
        description: what is done.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(description, total=None)
        yield lambda size: bars.update(bar, advance=size)
