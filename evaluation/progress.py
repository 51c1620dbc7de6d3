"""How far a long run is: a bar with the time left on a terminal, a plain line now and then elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between plain lines


class Task:
    """One stretch of work, counted."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, total, 0

    def advance(self, count: int = 1):
        """Count `count` more as done."""
        self.done += count


class _LineTask(Task):
    def __init__(self, label: str, total: int):
        super().__init__(label, total)
        self.started = self.last = monotonic()

    def advance(self, count: int = 1):
        super().advance(count)
        now = monotonic()
        if self.done < self.total and now - self.last < LINE_EVERY:
            return
        self.last = now
        left = (now - self.started) / self.done * (self.total - self.done)
        print(f"{self.label}: {self.done} of {self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


class _BarTask(Task):
    def __init__(self, label: str, total: int, bars: Progress):
        super().__init__(label, total)
        self.bars, self.bar = bars, bars.add_task(label, total=total)

    def advance(self, count: int = 1):
        super().advance(count)
        self.bars.advance(self.bar, count)


@contextmanager
def track(label: str, total: int) -> Iterator[Task]:
    """Count a stretch of work on stderr.

    Args:
        label: what is being done.
        total: how much of it there is; at 0, nothing is shown.
    """
    console = Console(stderr=True)
    if total == 0:
        yield Task(label, total)
    elif not console.is_terminal:
        yield _LineTask(label, total)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
            yield _BarTask(label, total, bars)
