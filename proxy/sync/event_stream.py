"""Forwards Amplitude's event stream to Braze: in small batches, in order for each user, and each event once.

Amplitude sends a message again until the status is 200. Therefore this module has no queue on disk: the status is 200
only after Braze has accepted or finally rejected every object of the message.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import Any

from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.braze.track import Accepted, Failed, RateLimited, Refused, TooLarge, TrackClient, Unavailable
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import WeightedSemaphore
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.state import AcceptedValue, AcceptedValues
from proxy.sync.stream_objects import Kind, Selection, StreamObject
from proxy.sync.stream_queue import Item, Outcome, take_batch

_log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 16
_MAX_WAITING = 20_000
"""The maximum number of waiting objects. More messages get status 503. A message that is larger may wait alone."""
_MAX_BYTES = 32 * 1024 * 1024
"""The maximum size of all bodies with waiting objects. The objects take a multiple of this memory."""
_MEMORY_WAIT_SECONDS = 0.5
_RATE_LIMITED_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 3600.0
_REFUSED_SECONDS = 10.0
"""Seconds without a request after Braze refused the key."""
_REFUSAL_SHOWN_SECONDS = 600.0
"""Seconds for which the status page shows a refusal. The permission may have been added to the key since then."""
_RESERVE_AGAIN_SECONDS = 0.1
_QUEUED_AT_ONCE = 100
"""Objects that are queued between two turns of other requests, in a millisecond."""
_MAY_ARRIVE_SECONDS = 1.0
"""Seconds for which an abandoned request may still reach Braze."""


_LATE = Outcome("late", 1.0)


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """The number of objects by outcome. `retry_after`: seconds after which Amplitude must send the message again; None
    if Braze has accepted or rejected all objects."""

    outcomes: Mapping[str, int]
    retry_after: float | None

    @property
    def duplicate(self) -> bool:
        """Return whether Braze had accepted all objects before."""
        return not self.outcomes.keys() & {"accepted", "rejected"}


@dataclass(slots=True)
class StreamStats:
    """The state of the forwarding, for the status page. Times are Unix seconds."""

    accepted_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    waiting: int = 0
    is_refused: bool = False
    """Whether Braze refused the key or the instance, and has accepted nothing since."""


class EventStream:
    """Forwards objects. Thread-safe. Starts its threads with the first object.

    `on_outcome`: called with the kind of objects (or `skipped`), the outcome and the number.
    """

    def __init__(
        self,
        selection: Selection,
        client: TrackClient,
        limiter: RateLimiter,
        delivered: DeliveredEvents,
        state: AcceptedValues,
        *,
        batch_objects: int,
        on_outcome: Callable[[str, str, int], None] = lambda *_: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.selection = selection
        self._client = client
        self._limiter = limiter
        self._delivered = delivered
        self._state = state
        self._batch_objects = batch_objects
        self._on_outcome = on_outcome
        self._clock = clock
        self._changed = Condition()
        self._waiting: deque[Item] = deque()
        self._busy_users: set[str] = set()
        self._requests = 0
        self._dispatcher: Thread | None = None
        self._memory = WeightedSemaphore(_MAX_BYTES, wait_seconds=_MEMORY_WAIT_SECONDS)
        self._refused_until = float("-inf")
        self._stats = StreamStats()
        self._failures = OncePerMinute(_log, "forwarding_failed", clock)

    def stats(self) -> StreamStats:
        """Return the state of the forwarding."""
        with self._changed:
            waiting = sum(not item.outcome.cancelled() for item in self._waiting)
        refused_for = self._clock.monotonic() - self._refused_until
        return replace(
            self._stats,
            waiting=waiting,
            is_refused=self._stats.is_refused and refused_for < _REFUSAL_SHOWN_SECONDS,
        )

    def reserve_memory(self, size: int) -> AbstractContextManager[None]:
        """Reserve memory for the objects of a body of `size` bytes. Raises Busy."""
        return self._memory.hold(size)

    def drain(self, seconds: float) -> None:
        """Wait until the outcomes of all requests in progress are recorded, for at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._requests, timeout=max(0.0, seconds))

    def forward(self, objects: Sequence[StreamObject], wait_seconds: float, skipped: Counter[str]) -> ForwardResult:
        """Send the objects, and wait for their outcomes for at most `wait_seconds`.

        `skipped`: the number of objects that are not forwarded, by reason.
        """
        now = self._clock.monotonic()
        checkpoint = Checkpoint()  # 100,000 objects take seconds, in which other requests need answers
        items: list[Item] = []
        with self._changed:
            refusal = self._refusal(now, wait_seconds, len(objects))
            if refusal is None:
                self._start()
        for start in range(0, len(objects), _QUEUED_AT_ONCE):
            checkpoint()
            queued = [Item(content, now, now + wait_seconds) for content in objects[start : start + _QUEUED_AT_ONCE]]
            items += queued
            if refusal is None:
                with self._changed:
                    self._waiting.extend(queued)
                    self._changed.notify_all()
        if refusal is not None:
            self._settle(items, refusal)
        for item in items:
            checkpoint()
            remaining = now + wait_seconds - self._clock.monotonic()
            if remaining <= 0 or not wait([item.outcome], timeout=remaining).done:
                break
        outcomes: list[Outcome] = []
        late: list[Item] = []
        for item in items:
            checkpoint()
            # An object whose request is in progress cannot be cancelled. Its outcome is recorded for the next try.
            if item.outcome.cancel():
                late.append(item)
            is_known = item.outcome.done() and not item.outcome.cancelled()
            outcomes.append(item.outcome.result() if is_known else _LATE)
        self._count(late, "late")
        pauses = [outcome.retry_after for outcome in outcomes if outcome.retry_after is not None]
        skipped = +skipped  # without zeros
        if not pauses:  # otherwise Amplitude sends the message again, and these objects would be counted twice
            for reason, number in skipped.items():
                self._on_outcome("skipped", reason, number)
        words = Counter(outcome.word for outcome in outcomes)
        return ForwardResult(words + skipped, max(pauses, default=None))

    def _refusal(self, now: float, wait_seconds: float, objects: int) -> Outcome | None:
        """Return the outcome of objects that cannot be sent in time."""
        if now < self._refused_until:
            return Outcome("refused", self._refused_until - now)
        if self._limiter.paused_for > wait_seconds:
            return Outcome("rate_limited", self._limiter.paused_for)
        if self._waiting and len(self._waiting) + objects > _MAX_WAITING:
            return Outcome("busy", 1.0)
        return None

    def _start(self) -> None:
        if self._dispatcher is None:
            dispatcher = Thread(target=self._dispatch, name="event-stream", daemon=True)
            dispatcher.start()
            self._dispatcher = dispatcher  # after `start`, which raises RuntimeError if no thread can be created

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests < _REQUESTS_AT_ONCE)
                now = self._clock.monotonic()
                batch, pause = take_batch(self._waiting, self._busy_users, self._batch_objects, now)
                if not batch:
                    self._changed.wait(pause)
                    continue
                self._requests += 1
                self._busy_users.update(item.content.user_id for item in batch)
            try:
                Thread(target=self._deliver, args=(batch,), name="braze", daemon=True).start()
            except RuntimeError:  # no thread can be created
                _log.exception("forwarding_error")
                self._settle(batch, Outcome("failed", 1.0))
                self._end_request(batch)

    def _deliver(self, batch: Sequence[Item]) -> None:
        try:
            self._send(self._unsent(batch))
        except RedisUnavailable:
            self._settle([item for item in batch if not item.outcome.done()], Outcome("redis_unavailable", 1.0))
        except Exception:  # noqa: BLE001  # logged; the messages must get an answer
            _log.exception("forwarding_error")
            self._settle([item for item in batch if not item.outcome.done()], Outcome("failed", 1.0))
        finally:
            self._end_request(batch)

    def _end_request(self, batch: Sequence[Item]) -> None:
        with self._changed:
            self._requests -= 1
            self._busy_users.difference_update(item.content.user_id for item in batch)
            self._changed.notify_all()

    def _unsent(self, batch: Sequence[Item]) -> list[Item]:
        """Settle the objects that Braze has already accepted, and return the other objects. Raises RedisUnavailable."""
        events = [item for item in batch if item.content.kind == "events"]
        attributes = [item for item in batch if item.content.kind == "attributes"]
        event_ids = self._delivered.known(item.content.event_id for item in events if item.content.event_id is not None)
        duplicates = [item for item in events if item.content.event_id in event_ids]
        self._settle(duplicates, Outcome("duplicate"))
        unsent = [item for item in events if item.content.event_id not in event_ids]
        accepted = self._state.read([item.content.user_id for item in attributes]) if attributes else []
        for item, stored in zip(attributes, accepted, strict=True):
            content = item.content
            latest = {
                name: self._state.digest(value)
                for name, value in content.content.items()
                if name not in stored or content.at >= stored[name].at
            }
            unchanged = {
                name: AcceptedValue(digest, content.at)
                for name, digest in latest.items()
                if _is_same(stored, name, digest)
            }
            if unchanged:
                # The later time is recorded, so that an older value that arrives later does not replace the value.
                self._state.record([(content.user_id, unchanged)])
            changed = {name: content.content[name] for name in latest if name not in unchanged}
            if changed:
                item.content = replace(content, content=changed)
                unsent.append(item)
            else:
                self._settle([item], Outcome("unchanged" if unchanged else "outdated"))
        return unsent

    def _send(self, items: Sequence[Item]) -> None:
        """Send the objects in one request, and settle them. Halves a request that Braze does not accept as a whole."""
        if not items:
            return
        reservation = self._reserve(max(item.deadline for item in items))
        if reservation is None:
            self._settle(items, Outcome("rate_limited", max(self._limiter.wait() or 0.0, 1.0)))
            return
        arrays: dict[Kind, list[Item]] = {"attributes": [], "events": []}
        for item in items:
            arrays[item.content.kind].append(item)
        with reservation:
            self._clock.sleep(max(0.0, reservation.at - self._clock.monotonic()))
            if self._limiter.paused:
                self._settle(items, Outcome("rate_limited", self._limiter.paused_for))
                return
            result = self._client.send(*([_payload(item.content) for item in array] for array in arrays.values()))
            uncertain = isinstance(result, Unavailable) and result.uncertain
            reservation.complete(may_arrive_for=_MAY_ARRIVE_SECONDS if uncertain else 0.0)
        match result:
            case Accepted(errors):
                self._stats.is_refused = False
                rejections = {
                    id(item): errors[kind, index]
                    for kind, array in arrays.items()
                    for index, item in enumerate(array)
                    if (kind, index) in errors
                }
                self._accepted([item for item in items if id(item) not in rejections])
                for item in items:
                    if id(item) in rejections:
                        self._reject(item, rejections[id(item)])
            case Failed(reason, status) if status < 300:  # says nothing about the objects
                self._fail(items, "unavailable", reason, 1.0)
            case TooLarge() | Failed() if len(items) > 1:
                middle = len(items) // 2
                self._send(items[:middle])
                self._send(items[middle:])
            case TooLarge():
                self._reject(items[0], "the object is too large")
            case Failed(reason):
                self._reject(items[0], reason)
            case RateLimited(seconds):
                pause = min(_RATE_LIMITED_SECONDS if seconds is None else seconds, _LONGEST_PAUSE_SECONDS)
                self._limiter.pause(pause)
                self._fail(items, "rate_limited", "Braze limits the rate of requests (429)", pause)
            case Refused(reason):
                self._refused_until = self._clock.monotonic() + _REFUSED_SECONDS
                self._stats.is_refused = True
                self._fail(items, "refused", reason, _REFUSED_SECONDS)
            case Unavailable(reason):
                self._fail(items, "uncertain" if uncertain else "unavailable", reason, 1.0)

    def _reserve(self, latest: float) -> Reservation | None:
        """Reserve a request that can be sent by `latest` (monotonic seconds); None if that is not possible.

        Retries until `latest`, because the limiter may first have to learn the requests of other processes.
        """
        while (reservation := self._limiter.reserve(latest)) is None:
            wait = self._limiter.wait()
            if wait is None or self._clock.monotonic() + max(wait, _RESERVE_AGAIN_SECONDS) > latest:
                return None
            self._clock.sleep(_RESERVE_AGAIN_SECONDS)
        return reservation

    def _accepted(self, items: Sequence[Item]) -> None:
        """Record the objects before Amplitude gets an answer, so that a repeated message is recognised."""
        if not items:
            return
        self._stats.accepted_at = self._clock.now()
        contents = [item.content for item in items]
        # If Redis fails now, only this process records the objects. With an error, Amplitude would send them again.
        with suppress(RedisUnavailable):
            self._delivered.add([content.event_id for content in contents if content.event_id is not None])
        with suppress(RedisUnavailable):
            self._record_values([content for content in contents if content.kind == "attributes"])
        self._settle(items, Outcome("accepted"))

    def _record_values(self, contents: Sequence[StreamObject]) -> None:
        values = [
            (
                content.user_id,
                {name: AcceptedValue(self._state.digest(value), content.at) for name, value in content.content.items()},
            )
            for content in contents
        ]
        if values:
            self._state.record(values)

    def _reject(self, item: Item, reason: str) -> None:
        self._report_failure(reason)
        self._settle([item], Outcome("rejected"))

    def _fail(self, items: Sequence[Item], word: str, reason: str, retry_after: float) -> None:
        self._report_failure(reason)
        self._settle(items, Outcome(word, retry_after))

    def _report_failure(self, reason: str) -> None:
        self._stats.failed_at, self._stats.failure = self._clock.now(), reason
        self._failures.note(reason, reason=reason)

    def _settle(self, items: Iterable[Item], outcome: Outcome) -> None:
        items = list(items)
        self._count(items, outcome.word)
        for item in items:
            item.outcome.set_result(outcome)

    def _count(self, items: Iterable[Item], word: str) -> None:
        for kind, number in Counter(item.content.kind for item in items).items():
            self._on_outcome(kind, word, number)


def _is_same(stored: Mapping[str, AcceptedValue], name: str, digest: bytes) -> bool:
    return name in stored and stored[name].digest == digest


def _payload(content: StreamObject) -> dict[str, Any]:
    return {"external_id": content.user_id, **content.content}
