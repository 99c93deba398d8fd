"""Relays the events of Braze Currents to Amplitude's Batch API, and decides which events Braze must send again.

Braze sends a batch again after a 503, but not after most 4xx. The relay skips events that Amplitude can never accept.
After any other failure, the answer is 503, and Braze sends the whole batch again. Amplitude ignores repeated events.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal

from cachetools import TTLCache

from proxy.amplitude.ingestion import (
    MAX_EVENTS,
    Accepted,
    BatchClient,
    DailyQuotaExceeded,
    InvalidEvents,
    Unprocessable,
)
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamRejected, UpstreamTimeout
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.weighted_semaphore import WeightedSemaphore
from proxy.sync.currents import SkipReason, to_amplitude

Outcome = Literal["accepted", "repeated", "invalid", "over_quota", "unprocessable", "not_delivered"] | SkipReason
_SKIPPED: Collection[Outcome] = ("unreadable", "no_id", "invalid", "over_quota", "unprocessable")

MAX_SECONDS = 20.0
"""Seconds for a whole batch. Heroku's router gives up after 30 seconds, and Braze documents no timeout."""
_MAX_BYTES = 24 * 1024 * 1024
"""The size of all bodies whose events are being sent. Their events take a multiple of this memory."""
_WAIT_SECONDS = 1.0
_MAX_SETTLED = 10_000
_SETTLED_SECONDS = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RelayResult:
    """The result of a batch at the Unix time `at`.

    events: the number of events by outcome. error: the reason for `not_delivered` events; None if Braze does not have
    to send the batch again.
    """

    at: float
    events: Mapping[str, int]
    error: UpstreamError | None = None


@dataclass(frozen=True, slots=True)
class RelayStats:
    """The state of the relay, for the status page. Times are Unix seconds of batches with events.

    is_rejected: whether Amplitude rejected the API key when the last batch was sent.
    """

    accepted_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    is_rejected: bool = False


@dataclass(slots=True)
class _Batch:
    """The readable events of a batch, the `insert_id`s of the settled events, and the number of events by outcome."""

    events: list[dict[str, Any]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def settle(self, events: Collection[Mapping[str, Any]], outcome: Outcome) -> None:
        self.settled += [event["insert_id"] for event in events]
        self.outcomes[outcome] += len(events)


def _next_stats(stats: RelayStats, result: RelayResult) -> RelayStats:
    if result.error is None:
        return replace(stats, accepted_at=result.at, is_rejected=False)
    rejected = isinstance(result.error, UpstreamRejected)
    return replace(stats, failed_at=result.at, failure=str(result.error), is_rejected=rejected)


def skipped_events(events: Mapping[str, int]) -> dict[str, int]:
    """Return the number of skipped events by outcome."""
    return {outcome: count for outcome, count in events.items() if outcome in _SKIPPED}


class CurrentsRelay:
    """Sends batches of events to Amplitude. Thread-safe.

    timeout: seconds for one request to Amplitude.
    """

    def __init__(self, client: BatchClient, *, timeout: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = client
        self._timeout = timeout
        self._clock = clock
        self._memory = WeightedSemaphore(_MAX_BYTES, wait_seconds=_WAIT_SECONDS)
        self._lock = Lock()
        self._settled: TTLCache[str, bool] = TTLCache(_MAX_SETTLED, _SETTLED_SECONDS, timer=clock.monotonic)
        self._failures = OncePerMinute(_log, "currents_not_relayed", clock)
        self._stats = RelayStats()

    def stats(self) -> RelayStats:
        """Return the state of the relay."""
        return self._stats

    def reserve_memory(self, size: int) -> AbstractContextManager[None]:
        """Reserve memory to read a body of at most `size` bytes, or to send its events. Raises Busy."""
        return self._memory.hold(size)

    def relay(self, braze_events: Iterable[Any]) -> RelayResult:
        """Send the events to Amplitude. Events that Amplitude can never accept are skipped and counted."""
        batch, skipped = self._read(braze_events)
        error = None
        try:
            self._send(batch)
            batch.outcomes.update(skipped)  # not after a failure, because Braze sends these events again
        except UpstreamError as raised:
            error = raised
            self._note_failure(batch, error)
        if counts := skipped_events(batch.outcomes):
            _log.warning("currents_events_skipped", extra={"skipped": counts})
        result = RelayResult(self._clock.now(), dict(batch.outcomes), error)
        if result.events:
            self._stats = _next_stats(self._stats, result)
        return result

    def _read(self, braze_events: Iterable[Any]) -> tuple[_Batch, Counter[str]]:
        """Return the events to send, and the number of all other events by outcome."""
        batch, outcomes = _Batch(), Counter[str]()
        checkpoint = Checkpoint()
        for braze_event in braze_events:
            checkpoint()
            event = to_amplitude(braze_event)
            if isinstance(event, str):
                outcomes[event] += 1
            elif self._is_settled(event["insert_id"]):
                outcomes["repeated"] += 1
            else:
                batch.events.append(event)
        return batch, outcomes

    def _is_settled(self, insert_id: str) -> bool:
        with self._lock:
            return insert_id in self._settled

    def _note_failure(self, batch: _Batch, error: UpstreamError) -> None:
        undelivered = batch.outcomes["not_delivered"] = len(batch.events) - len(batch.settled)
        level = logging.ERROR if isinstance(error, UpstreamRejected) else logging.WARNING
        self._failures.note(error.word, level=level, error=error.word, why=str(error), events=undelivered)
        # The next attempt skips these events. Otherwise, a batch with many requests would always exceed the time limit.
        with self._lock:
            self._settled.update(dict.fromkeys(batch.settled, True))

    def _send(self, batch: _Batch) -> None:
        """Send all events of the batch. Raises UpstreamError.

        Each answer settles events or divides them among smaller requests, so the loop ends.
        """
        deadline = self._clock.monotonic() + MAX_SECONDS
        pending: list[Sequence[dict[str, Any]]] = [
            batch.events[start : start + MAX_EVENTS] for start in range(0, len(batch.events), MAX_EVENTS)
        ]
        while pending:
            events = pending.pop()
            seconds_left = deadline - self._clock.monotonic()
            if seconds_left <= 0:
                raise UpstreamTimeout(f"the batch was not sent within {MAX_SECONDS:.0f} seconds", retry_after=1)
            indexes: Collection[int]
            outcome: Outcome
            match self._client.send(events, min(self._timeout, seconds_left)):
                case Accepted():
                    indexes, outcome = range(len(events)), "accepted"
                case InvalidEvents(invalid):
                    indexes, outcome = invalid, "invalid"
                case DailyQuotaExceeded() as exceeded:
                    indexes, outcome = _over_quota(events, exceeded), "over_quota"
                    if not indexes:
                        raise QuotaExhausted("Amplitude's Batch API reports the daily quota of other users")
                case Unprocessable() if len(events) == 1:
                    indexes, outcome = range(1), "unprocessable"
                case Unprocessable():
                    middle = len(events) // 2
                    pending += [events[middle:], events[:middle]]
                    continue
            batch.settle([events[index] for index in indexes], outcome)
            if remaining := [event for index, event in enumerate(events) if index not in indexes]:
                pending.append(remaining)


def _over_quota(events: Sequence[Mapping[str, Any]], exceeded: DailyQuotaExceeded) -> set[int]:
    return {
        index
        for index, event in enumerate(events)
        if event.get("user_id") in exceeded.user_ids or event.get("device_id") in exceeded.device_ids
    }
