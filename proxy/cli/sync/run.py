"""Plans the changes of staged users, sends the changes, and records the values that Braze accepted."""

from __future__ import annotations

import csv
import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TextIO

import click

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.cli.formats import format_count
from proxy.cli.sync.staging import Staging
from proxy.cli.warmup.fetching import set_by_signals
from proxy.cli.warmup.progress import Report, progress_report
from proxy.storage.redis import RedisUnavailable
from proxy.storage.sent_values import Sent
from proxy.sync.changes import ChangeCounts, ChangePlanner
from proxy.sync.delivery import Change, DeliveryStopped, deliver
from proxy.sync.sqlite_state import StateUnavailable
from proxy.sync.state import SentState

_REPORT_SECONDS = 5.0
_STATE_TRIES = 30
_STATE_RETRY_SECONDS = 1.0
_PAGE_USERS = 1000
_LIMITS = {
    "text_cut": "cut to 255 characters",
    "list_cut": "cut to 500 items",
    "name_empty": "the name is empty",
    "name_too_long": "the name is longer than 255 characters",
    "name_invalid": "the name has a dot or $; choose another name with --rename",
    "operation": "Braze would apply an object with only inc, add or remove, and not store it",
    "list_in_list": "Braze does not support a list in a list",
    "key_invalid": "an object has a key that Braze rejects, for example with a space, a dot or $",
    "object_too_large": "the object is larger than 100 KB",
}


class FailuresFile:
    """A CSV file with a line for each failed user: the user id and the reason. Without a `path`, nothing is written.

    `inputs`: files of this run, which must not be overwritten. Raises ClickException if the file cannot be written.
    """

    def __init__(self, path: Path | None, inputs: Iterable[Path] = ()) -> None:
        self._path = path
        self._file: TextIO | None = None
        self.error: str | None = None
        """Why lines are missing, if the disk is full."""
        if path is None:
            return
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            self._file = open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: PTH123, SIM115
            state = os.fstat(descriptor)
            is_other = any(os.path.samestat(state, file.stat()) for file in inputs if file.exists())
            if stat.S_ISREG(state.st_mode) and not is_other:  # never changes the mode of a device, such as /dev/null
                os.fchmod(descriptor, 0o600)
                os.ftruncate(descriptor, 0)
        except OSError as error:
            raise click.ClickException(self._problem(error)) from None
        if is_other:
            self.close()
            raise click.ClickException(f"--failures {path} is an input or the state of this run; choose another file")

    def add(self, user_id: str, reason: str) -> None:
        """Write a line, unless an earlier line could not be written."""
        if self._file is None or self.error is not None:
            return
        try:
            csv.writer(self._file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow([user_id, reason])
        except OSError as error:  # the values of the other users are sent nevertheless
            self.error = self._problem(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # `add` writes each line at once, and has noted the error
                self._file.close()

    def _problem(self, error: OSError) -> str:
        return f"--failures {self._path} cannot be written ({error.strerror}); choose another file"


def plan(
    staging: Staging,
    state: SentState,
    *,
    computed: Sequence[str],
    membership: str | None,
    at: float,
    everything: bool,
    start_over: bool,
) -> ChangeCounts:
    """Add the changes of all staged users to the staging, and return their counts.

    `computed`: the attributes of computed values. `membership`: the attribute of a cohort that was read completely;
    None if a user outside of the staging may be a member. `at`: the time of the download. `start_over`: ignore the
    values in the state.
    """
    planner = ChangePlanner(state.digest, everything=everything)

    def departures() -> Iterator[Change | None]:
        former_members: set[str] = set()
        for user_id, accepted in state.users():
            if membership in accepted and user_id not in staging and user_id not in former_members:
                former_members.add(user_id)  # Redis may yield a user twice
                yield planner.departure(user_id, str(membership), accepted, at)

    for page in staging.users(computed):
        accepted = [{}] * len(page) if start_over else state.sent([user.user_id for user in page])
        staging.add_changes(planner.change(user, last) for user, last in zip(page, accepted, strict=True))
    if membership is not None and not start_over:
        staging.add_changes(departures())
    return planner.counts


def forecast(users: int, counts: ChangeCounts, batch_objects: int) -> str:
    """Return the line with the costs of a run."""
    requests = math.ceil(counts.users / batch_objects)
    return (
        f"{format_count(users, 'user')}, {format_count(counts.changed, 'changed value')}, "
        f"{format_count(requests, 'request')}, about {format_count(counts.changed, 'data point')}; "
        f"{counts.saved_percent} % saved by sending only changes"
    )


def limit_lines(counts: ChangeCounts) -> Iterator[str]:
    """Yield a line for each kind of values that are changed or left out."""
    for (name, reason), number in sorted(counts.fitted.items()):
        yield f"{_shown(name)}: {format_count(number, 'value')} {_LIMITS.get(reason, reason)}"
    for (name, reason), number in sorted(counts.left_out.items()):
        yield f"{_shown(name)}: {format_count(number, 'value')} left out: {_LIMITS.get(reason, reason)}"
    if counts.outdated:
        yield (
            f"skipped {format_count(counts.outdated, 'value')}: Braze has a newer value; if this repeats, a clock was "
            "ahead: correct it, and start with another state"
        )


def _shown(name: str) -> str:
    """Return a name of Amplitude without control characters, which could change the terminal."""
    return name if name.isprintable() else repr(name)


@dataclass(slots=True)
class SendProgress:
    """The progress of a delivery. `users`: the number of users with changes."""

    users: int
    sent: int = 0
    failed: int = 0
    values: int = 0
    requests: int = 0
    repeated: int = 0
    """Users in requests that were sent again, because the answer was lost."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def finished(self) -> int:
        """Return the number of users whose outcome is known."""
        return self.sent + self.failed

    def line(self, seconds: float) -> str:
        """Return the progress after `seconds` as one line."""
        rate = self.finished / seconds if seconds > 0 else 0.0
        remaining = f"{(self.users - self.finished) / rate / 60:.0f} min left" if rate > 0 else "no estimate yet"
        return (
            f"{self.finished:,} of {self.users:,}: {self.sent:,} sent, {self.failed:,} failed; "
            f"{format_count(self.requests, 'request')}, {remaining}"
        )

    def lines(self, unchanged: int) -> Iterator[str]:
        """Yield the lines of the summary."""
        yield (
            f"sent {format_count(self.values, 'value')} of {format_count(self.sent, 'user')} in "
            f"{format_count(self.requests, 'request')}; {unchanged:,} unchanged; "
            f"{format_count(self.failed, 'user')} failed"
        )
        for reason, number in sorted(self.failures.items()):
            yield f"failed: {reason}, {format_count(number, 'user')}"
        if self.repeated:
            yield f"sent again for {format_count(self.repeated, 'user')}, because Braze's answer was lost"


class Sender:
    """Sends the staged changes. `claim`: called once, after Braze accepts the first request."""

    def __init__(
        self,
        staging: Staging,
        state: SentState,
        client: TrackClient,
        limiter: RateLimiter,
        *,
        users: int,
        batch_objects: int,
        claim: Callable[[], None],
        failures: FailuresFile,
    ) -> None:
        self._staging = staging
        self._state = state
        self._client = client
        self._limiter = limiter
        self._batch_objects = batch_objects
        self._claim: Callable[[], None] | None = claim
        self._failures = failures
        self._started = self._reported = time.monotonic()
        self._report: Report = lambda *_: None
        self.progress = SendProgress(users)

    def run(self, stop: Event) -> DeliveryStopped | None:
        """Send all changes, until `stop` or the first SIGINT or SIGTERM sets `stop`.

        Return the error that ended the delivery, if any.
        """
        with set_by_signals(stop), progress_report() as self._report:
            try:
                deliver(
                    self._staging.changes(),
                    self._client,
                    self._limiter,
                    batch_objects=self._batch_objects,
                    on_accepted=self._accepted,
                    on_failed=self._failed,
                    on_request=self._requested,
                    on_uncertain=self._uncertain,
                    stop=stop,
                )
            except DeliveryStopped as error:
                return error
        return None

    def _accepted(self, changes: Sequence[Change]) -> None:
        if self._claim is not None:
            self._record(self._claim)
            self._claim = None
        self._record(lambda: self._state.record(self._accepted_values(changes)))
        self.progress.sent += len(changes)
        self.progress.values += sum(len(change.attributes) for change in changes)

    def _accepted_values(self, changes: Sequence[Change]) -> list[tuple[str, dict[str, Sent]]]:
        # At each try, because a state that Redis lost has a new key of the digests.
        return [
            (
                change.user_id,
                {name: Sent(self._state.digest(value), change.at) for name, value in change.attributes.items()},
            )
            for change in changes
        ]

    def _record(self, write: Callable[[], None]) -> None:
        """Write to the state, and wait while Redis is unavailable. Raises DeliveryStopped."""
        for _ in range(_STATE_TRIES):
            try:
                write()
            except StateUnavailable as error:
                raise DeliveryStopped(str(error)) from None
            except RedisUnavailable as error:
                problem = str(error) or "Redis does not answer"
                time.sleep(_STATE_RETRY_SECONDS)
            else:
                return
        raise DeliveryStopped(f"the state cannot be written ({problem}); run the command again when Redis answers")

    def _failed(self, change: Change, reason: str) -> None:
        self.progress.failed += 1
        self.progress.failures[reason] += 1
        self._failures.add(change.user_id, reason)

    def _uncertain(self, changes: Sequence[Change]) -> None:
        self.progress.repeated += len(changes)

    def _requested(self) -> None:
        self.progress.requests += 1
        if (now := time.monotonic()) - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self.progress, now - self._started, "")
