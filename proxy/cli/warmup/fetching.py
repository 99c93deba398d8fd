"""Fetches the data of an audience by calls, and summarises the outcome."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import click

from proxy.cli.client import ServiceRefused
from proxy.cli.formats import format_count
from proxy.cli.warmup.audience import Audience
from proxy.cli.warmup.destination import Destination
from proxy.cli.warmup.progress import WarmupProgress, progress_report
from proxy.cli.warmup.runner import Warmer


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The outcome of a run. `stopped_by`: why fetched data would be lost. `refused`: the error that ended the run."""

    progress: WarmupProgress
    stopped_by: str | None
    refused: ServiceRefused | None

    @property
    def missing(self) -> bool:
        """Return whether the data of some users is missing."""
        return bool(self.progress.failed or self.progress.remaining or self.stopped_by is not None)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        progress = self.progress
        yield (
            f"{progress.done:,} fetched, {progress.fresh:,} already cached, {progress.unknown:,} unknown to Amplitude, "
            f"{progress.failed:,} failed, {progress.remaining:,} not requested; {format_count(progress.calls, 'call')}"
        )
        if progress.unknown:
            yield (
                "unknown users stay unknown for CACHE_NEGATIVE_SECONDS; the next request after that fetches them again"
            )
        for error, times in sorted(progress.failures.items()):
            yield f"failed: {error}, {format_count(times, 'time')}"

    def print_advice(self, source: str) -> None:
        """Print how to complete the run. `source`: the word for the input of the run."""
        if self.stopped_by is not None:
            click.echo(f"{self.stopped_by}; data fetched in the last seconds may be lost too")
        # A service that refused all users will refuse them again.
        if self.missing and (self.progress.finished or self.refused is None):
            click.echo(f"run the command again with the same {source}; users already cached are skipped")


def fetch(
    audience: Audience, question: Mapping[str, str], calls_a_minute: float, destination: Destination
) -> FetchResult:
    """Request the profile of each user, until all are cached or the first SIGINT or SIGTERM."""
    with progress_report() as report:
        warmer = Warmer(
            destination.ask_functions, question, calls_a_minute, report=report, loss_reason=destination.loss_reason
        )
        with set_by_signals(warmer.stop):
            progress = warmer.run(audience, len(audience))
    return FetchResult(progress, warmer.stopped_by, warmer.refused)


@contextmanager
def set_by_signals(stop: Event) -> Iterator[None]:
    """Set `stop` on the first SIGINT or SIGTERM; the second signal ends the process at once."""

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
