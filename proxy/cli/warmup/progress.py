"""Shows the progress of a long run: a bar on a terminal, or a line every few seconds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from proxy.cli.formats import format_count


@dataclass(slots=True)
class WarmupProgress:
    """Users by outcome, and the calls that were made for them."""

    users: int
    done: int = 0
    fresh: int = 0
    """Users already in the cache."""
    unknown: int = 0
    """Users that Amplitude does not know."""
    failed: int = 0
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Number of failed users by error word."""

    @property
    def finished(self) -> int:
        """Return the number of users whose outcome is known."""
        return self.done + self.fresh + self.unknown + self.failed

    @property
    def remaining(self) -> int:
        """Return the number of users without an outcome."""
        return self.users - self.finished

    def line(self, seconds: float) -> str:
        """Return the progress after `seconds` as one line."""
        rate = self.finished / seconds if seconds > 0 else 0.0
        remaining = f"{self.remaining / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        return (
            f"{self.finished:,} of {self.users:,}: {self.done:,} fetched, {self.fresh:,} already cached, "
            f"{self.unknown:,} unknown, {self.failed:,} failed; {format_count(round(rate * 60), 'user')} a minute, "
            f"{remaining}"
        )


@dataclass(slots=True)
class StoreProgress:
    """The progress of storing the properties of a cohort's members. `finished`: the number of stored users."""

    users: int
    finished: int = 0

    def line(self, seconds: float) -> str:
        """Return the progress after `seconds` as one line."""
        rate = self.finished / seconds if seconds > 0 else 0.0
        remaining = f"{(self.users - self.finished) / rate:.0f} s left" if rate > 0 else "no estimate yet"
        pace = f"{format_count(round(rate * 60), 'user')} a minute"
        return f"{self.finished:,} of {self.users:,} stored; {pace}, {remaining}"


class AnyProgress(Protocol):
    """The progress of any run: the number of users, and how many of them are finished."""

    @property
    def users(self) -> int: ...

    @property
    def finished(self) -> int: ...

    def line(self, seconds: float) -> str:
        """Return the progress after `seconds` as one line."""


Report = Callable[[AnyProgress, float, str], None]
"""Called every few seconds with the progress, the seconds since the start, and the reason for a standstill or ""."""


@contextmanager
def progress_report() -> Iterator[Report]:
    """Yield the function that shows progress on standard error."""
    if not sys.stderr.isatty():
        yield print_progress
        return
    text = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1))
    with Progress(
        BarColumn(20), TaskProgressColumn(), text, console=Console(stderr=True), expand=True, transient=True
    ) as bar:
        # A second Ctrl-C ends the process at once and would leave the cursor hidden.
        bar.console.show_cursor()
        task = bar.add_task("", total=None)

        def update(progress: AnyProgress, seconds: float, obstacle: str) -> None:
            description = "\n".join(_lines(progress, seconds, obstacle))
            bar.update(task, total=progress.users, completed=progress.finished, description=description)

        yield update


def print_progress(progress: AnyProgress, seconds: float, obstacle: str) -> None:
    """Print the progress as plain lines."""
    for line in _lines(progress, seconds, obstacle):
        click.echo(line, err=True)


def _lines(progress: AnyProgress, seconds: float, obstacle: str) -> Iterator[str]:
    yield progress.line(seconds)
    if obstacle:
        yield f"no user was fetched since the last report: {obstacle}"
