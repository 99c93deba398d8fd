"""Forwards Amplitude's event stream to Braze: in small batches, in order for each user, and each event once.

Amplitude sends a message again until it is answered with 200. So nothing is stored here: a message is answered with 200
only after Braze has accepted its objects.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import Condition, Thread
from typing import Any

from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.braze.track import Accepted, Failed, RateLimited, Refused, TooLarge, TrackClient, Unavailable
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.storage.redis import RedisUnavailable
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.state import AcceptedValues, Sent
from proxy.sync.stream_objects import Kind, Selection, StreamObject

_log = logging.getLogger(__name__)

_GATHER_SECONDS = 0.05
"""Seconds for which objects wait for others, to be sent in the same request."""
_REQUESTS_AT_ONCE = 16
_MAX_WAITING = 20_000
"""Limit on the objects that wait. Further messages are answered with 503."""
_RATE_LIMITED_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 3600.0
_REFUSED_SECONDS = 10.0
"""Seconds without a request after Braze refused the key."""
_RESERVE_AGAIN_SECONDS = 0.1
_MAY_ARRIVE_SECONDS = 1.0
"""Seconds for which an abandoned request may still reach Braze."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an object. `retry_after`: seconds after which to send it again; None if the object is done."""

    word: str
    retry_after: float | None = None


_LATE = Outcome("late", 1.0)


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """The number of objects by outcome, and the seconds after which to send the message again; None if it is done."""

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


@dataclass(slots=True)
class _Item:
    content: StreamObject
    arrived: float
    deadline: float
    outcome: Future[Outcome] = field(default_factory=Future)


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
        self._waiting: deque[_Item] = deque()
        self._busy_users: set[str] = set()
        self._requests = 0
        self._pool: ThreadPoolExecutor | None = None
        self._refused_until = float("-inf")
        self._stats = StreamStats()
        self._failures = OncePerMinute(_log, "forwarding_failed", clock)

    def stats(self) -> StreamStats:
        """Return the state of the forwarding."""
        return replace(self._stats, waiting=len(self._waiting))

    def forward(self, objects: Sequence[StreamObject], wait_seconds: float, skipped: Counter[str]) -> ForwardResult:
        """Send the objects, and wait for their outcomes for at most `wait_seconds`.

        `skipped`: the number of objects that are not forwarded, by reason.
        """
        now = self._clock.monotonic()
        items = [_Item(content, now, now + wait_seconds) for content in objects]
        with self._changed:
            refusal = self._refusal(now, wait_seconds, len(items))
            if refusal is None:
                self._start()
                self._waiting.extend(items)
                self._changed.notify()
        if refusal is not None:
            self._settle(items, refusal)
        wait([item.outcome for item in items], timeout=wait_seconds)
        # An object whose request is in progress cannot be cancelled. Its outcome is recorded for the next try.
        self._count([item for item in items if item.outcome.cancel()], "late")
        outcomes = [
            _LATE if not item.outcome.done() or item.outcome.cancelled() else item.outcome.result() for item in items
        ]
        skipped = +skipped  # without zeros
        for reason, number in skipped.items():
            self._on_outcome("skipped", reason, number)
        pauses = [outcome.retry_after for outcome in outcomes if outcome.retry_after is not None]
        words = Counter(outcome.word for outcome in outcomes)
        return ForwardResult(words + skipped, max(pauses, default=None))

    def _refusal(self, now: float, wait_seconds: float, objects: int) -> Outcome | None:
        """Return the outcome of objects that cannot be sent in time."""
        if now < self._refused_until:
            return Outcome("refused", self._refused_until - now)
        if self._limiter.paused_for > wait_seconds:
            return Outcome("rate_limited", self._limiter.paused_for)
        if len(self._waiting) + objects > _MAX_WAITING:
            return Outcome("busy", 1.0)
        return None

    def _start(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE, "braze")
            Thread(target=self._dispatch, args=(self._pool,), name="event-stream", daemon=True).start()

    def _dispatch(self, pool: ThreadPoolExecutor) -> None:
        while True:
            with self._changed:
                batch, pause = self._next_batch()
                if not batch:
                    self._changed.wait(pause)
                    continue
                self._requests += 1
                self._busy_users.update(item.content.user_id for item in batch)
            pool.submit(self._deliver, batch)

    def _next_batch(self) -> tuple[list[_Item], float | None]:
        """Remove the next batch from the waiting objects, and return it. Without a batch, return when to look again."""
        if self._requests >= _REQUESTS_AT_ONCE:
            return [], None
        batch: list[_Item] = []
        left: deque[_Item] = deque()
        later_users = set(self._busy_users)
        with_attributes: set[str] = set()
        event_ids: set[int] = set()
        for item in self._waiting:
            user_id, kind = item.content.user_id, item.content.kind
            if item.outcome.cancelled():
                continue
            if len(batch) >= self._batch_objects or user_id in later_users:
                later_users.add(user_id)
                left.append(item)
            elif item.content.event_id in event_ids or (kind == "attributes" and user_id in with_attributes):
                # A repeated event waits for the outcome of the first. Of two values, the later must win.
                later_users.add(user_id)
                left.append(item)
            else:
                if kind == "attributes":
                    with_attributes.add(user_id)
                elif item.content.event_id is not None:
                    event_ids.add(item.content.event_id)
                batch.append(item)
        if not batch:
            self._waiting = left
            return [], None
        wait_until = batch[0].arrived + _GATHER_SECONDS
        if len(batch) < self._batch_objects and (now := self._clock.monotonic()) < wait_until:
            return [], wait_until - now
        self._waiting = left
        return [item for item in batch if item.outcome.set_running_or_notify_cancel()], None

    def _deliver(self, batch: Sequence[_Item]) -> None:
        try:
            self._send(self._unsent(batch))
        except RedisUnavailable:
            self._settle(_open(batch), Outcome("redis_unavailable", 1.0))
        except BaseException:
            self._settle(_open(batch), Outcome("failed", 1.0))
            _log.exception("forwarding_error")
            raise
        finally:
            with self._changed:
                self._requests -= 1
                self._busy_users.difference_update(item.content.user_id for item in batch)
                self._changed.notify()

    def _unsent(self, batch: Sequence[_Item]) -> list[_Item]:
        """Settle the objects that Braze has accepted before, and return the others. Raises RedisUnavailable."""
        events = [item for item in batch if item.content.kind == "events"]
        attributes = [item for item in batch if item.content.kind == "attributes"]
        known = self._delivered.known(item.content.event_id for item in events if item.content.event_id is not None)
        repeated = [item for item in events if item.content.event_id in known]
        self._settle(repeated, Outcome("duplicate"))
        unsent = [item for item in events if item.content.event_id not in known]
        sent = self._state.sent([item.content.user_id for item in attributes]) if attributes else []
        for item, stored in zip(attributes, sent, strict=True):
            content = item.content
            latest = {
                name: self._state.digest(value)
                for name, value in content.content.items()
                if name not in stored or content.at >= stored[name].at
            }
            same = {name: Sent(digest, content.at) for name, digest in latest.items() if _is_same(stored, name, digest)}
            if same:
                # An older value that arrives later must not replace the current value.
                self._state.record([(content.user_id, same)])
            changed = {name: content.content[name] for name in latest if name not in same}
            if changed:
                item.content = replace(content, content=changed)
                unsent.append(item)
            else:
                self._settle([item], Outcome("unchanged" if same else "outdated"))
        return unsent

    def _send(self, items: Sequence[_Item]) -> None:
        """Send the objects in one request, and settle them. Halves a request that Braze does not accept as a whole."""
        if not items:
            return
        reservation = self._reserve(max(item.deadline for item in items))
        if reservation is None:
            self._settle(items, Outcome("rate_limited", max(self._limiter.wait() or 0.0, 1.0)))
            return
        arrays: dict[Kind, list[_Item]] = {"attributes": [], "events": []}
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
                refused = {
                    id(item): errors[kind, index]
                    for kind, array in arrays.items()
                    for index, item in enumerate(array)
                    if (kind, index) in errors
                }
                self._accepted([item for item in items if id(item) not in refused])
                for item in items:
                    if id(item) in refused:
                        self._reject(item, refused[id(item)])
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
                self._fail(items, "refused", reason, _REFUSED_SECONDS)
            case Unavailable(reason):
                self._fail(items, "uncertain" if uncertain else "unavailable", reason, 1.0)

    def _reserve(self, latest: float) -> Reservation | None:
        """Reserve a request that can be sent by `latest`. Waits while Redis learns the requests of all processes."""
        while (reservation := self._limiter.reserve(latest)) is None:
            wait = self._limiter.wait()
            if wait is None or self._clock.monotonic() + max(wait, _RESERVE_AGAIN_SECONDS) > latest:
                return None
            self._clock.sleep(_RESERVE_AGAIN_SECONDS)
        return reservation

    def _accepted(self, items: Sequence[_Item]) -> None:
        """Record the objects before Amplitude gets an answer, so that a repeated message is recognised."""
        self._stats.accepted_at = self._clock.now()
        contents = [item.content for item in items]
        self._delivered.add([content.event_id for content in contents if content.event_id is not None])
        values = [
            (
                content.user_id,
                {name: Sent(self._state.digest(value), content.at) for name, value in content.content.items()},
            )
            for content in contents
            if content.kind == "attributes"
        ]
        if values:
            self._state.record(values)
        self._settle(items, Outcome("accepted"))

    def _reject(self, item: _Item, reason: str) -> None:
        self._report_failure(reason)
        self._settle([item], Outcome("rejected"))

    def _fail(self, items: Sequence[_Item], word: str, reason: str, retry_after: float) -> None:
        self._report_failure(reason)
        self._settle(items, Outcome(word, retry_after))

    def _report_failure(self, reason: str) -> None:
        self._stats.failed_at, self._stats.failure = self._clock.now(), reason
        self._failures.note(reason, reason=reason)

    def _settle(self, items: Iterable[_Item], outcome: Outcome) -> None:
        items = list(items)
        self._count(items, outcome.word)
        for item in items:
            item.outcome.set_result(outcome)

    def _count(self, items: Iterable[_Item], word: str) -> None:
        for kind, number in Counter(item.content.kind for item in items).items():
            self._on_outcome(kind, word, number)


def _open(items: Iterable[_Item]) -> list[_Item]:
    return [item for item in items if not item.outcome.done()]


def _is_same(stored: Mapping[str, Sent], name: str, digest: bytes) -> bool:
    return name in stored and stored[name].digest == digest


def _payload(content: StreamObject) -> dict[str, Any]:
    return {"external_id": content.user_id, **content.content}
