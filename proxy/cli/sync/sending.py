"""Sends the planned changes, and records the values that Braze accepted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.cli.formats import format_count
from proxy.cli.sync.failures_file import FailuresFile
from proxy.cli.sync.staging import Staging
from proxy.cli.warmup.fetching import set_by_signals
from proxy.cli.warmup.progress import Report, progress_report
from proxy.storage.accepted_values import AcceptedValue
from proxy.storage.redis import RedisUnavailable
from proxy.sync.delivery import Change, DeliveryStopped, deliver
from proxy.sync.sqlite_state import StateUnavailable
from proxy.sync.state import SyncState, accepted_attributes

_REPORT_SECONDS = 5.0
_STATE_TRIES = 30
_STATE_RETRY_SECONDS = 1.0


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
        state: SyncState,
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
                    on_accepted=self._on_accepted,
                    on_failed=self._on_failed,
                    on_request=self._on_request,
                    on_uncertain=self._on_uncertain,
                    stop=stop,
                )
            except DeliveryStopped as error:
                return error
        return None

    def _on_accepted(self, changes: Sequence[Change]) -> None:
        if self._claim is not None:
            self._record(self._claim)
            self._claim = None
        self._record(lambda: self._state.record(self._accepted_values(changes)))
        self.progress.sent += len(changes)
        self.progress.values += sum(len(change.attributes) for change in changes)

    def _accepted_values(self, changes: Sequence[Change]) -> list[tuple[str, dict[str, AcceptedValue]]]:
        # At each try, because a state that Redis lost has a new key of the digests.
        return [(change.user_id, accepted_attributes(self._state, change.attributes, change.at)) for change in changes]

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

    def _on_failed(self, change: Change, reason: str) -> None:
        self.progress.failed += 1
        self.progress.failures[reason] += 1
        self._failures.add(change.user_id, reason)

    def _on_uncertain(self, changes: Sequence[Change]) -> None:
        self.progress.repeated += len(changes)

    def _on_request(self) -> None:
        self.progress.requests += 1
        if (now := time.monotonic()) - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self.progress, now - self._started, "")
