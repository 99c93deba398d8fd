"""Forwards Amplitude's event stream to Braze: in small batches, in order for each user, and each event once.

Amplitude sends a message again until the status is 200. Therefore this module has no queue on disk: the status is 200
only after Braze has accepted or finally rejected every object of the message.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import TYPE_CHECKING

from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.track import TrackClient
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import Busy, WeightedSemaphore
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.state import AcceptedValues
from proxy.sync.stream_delivery import StreamDelivery, StreamStats
from proxy.sync.stream_objects import Selection, StreamObject
from proxy.sync.stream_queue import Item, Message, Outcome, take_batch

if TYPE_CHECKING:
    from proxy.storage.redis.user_locks import RedisUserLocks

_log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 16
_MAX_WAITING = 3_000
"""The maximum number of waiting objects. A busy machine sends so many within the deadline. More messages get status
503. A larger message may wait alone."""
_MAX_BYTES = 32 * 1024 * 1024
"""The maximum size of all bodies with waiting objects. The objects take a multiple of this memory."""
_MEMORY_WAIT_SECONDS = 0.5
_MAX_MESSAGES = 300
"""The maximum number of messages in progress. With more, a busy process delivers none of them before the deadline."""
_QUEUED_AT_ONCE = 100
"""Objects that are queued between two turns of other requests, in a millisecond."""
_LOCKED_SECONDS = 0.05
"""Seconds after which the stream tries again to send data of a user that another process has locked."""
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


class EventStream:
    """Forwards objects. Thread-safe. Starts its threads with the first object.

    `locks`: locks users across processes; None without Redis. `on_outcome`: called with the kind of objects (or
    `skipped`), the outcome and the number.
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
        locks: RedisUserLocks | None = None,
        on_outcome: Callable[[str, str, int], None] = lambda *_: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.selection = selection
        self._delivery = StreamDelivery(client, limiter, delivered, state, settle=self._settle, clock=clock)
        self._locks = locks
        self._batch_objects = batch_objects
        self._on_outcome = on_outcome
        self._clock = clock
        self._changed = Condition()
        self._waiting: deque[Item] = deque()
        self._busy_users: set[str] = set()
        self._requests = 0
        self._dispatcher: Thread | None = None
        self._memory = WeightedSemaphore(_MAX_BYTES, wait_seconds=_MEMORY_WAIT_SECONDS)
        self._messages = 0
        self._new_objects = 0
        """The number of objects that arrived since the dispatcher last selected a batch."""

    def stats(self) -> StreamStats:
        """Return the state of the forwarding."""
        with self._changed:
            waiting = sum(not item.message.is_abandoned for item in self._waiting)
        return replace(self._delivery.stats(), waiting=waiting)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a message in progress during the `with` block. Raises Busy if too many messages are in progress."""
        with self._changed:
            if self._messages >= _MAX_MESSAGES:
                raise Busy
            self._messages += 1
        try:
            yield
        finally:
            with self._changed:
                self._messages -= 1

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
        message = Message(now + wait_seconds, len(objects))
        items = [Item(content, message, now) for content in objects]
        refusal = self._delivery.refusal(wait_seconds)
        if refusal is None and self._waiting and len(self._waiting) + len(items) > _MAX_WAITING:
            refusal = Outcome("busy", 1.0)
        if refusal is not None:
            self._settle(items, refusal)
        elif items:
            self._enqueue(items)
            message.settled.wait(message.deadline - self._clock.monotonic())
        with self._changed:
            message.is_abandoned = True
            outcomes = [item.outcome or _LATE for item in items]
            # The outcome of a request in progress is recorded for the next attempt.
            late = [item for item in items if item.outcome is None and not item.is_sending]
        self._count(late, _LATE.word)
        pauses = [outcome.retry_after for outcome in outcomes if outcome.retry_after is not None]
        skipped = +skipped  # without zeros
        if not pauses:  # otherwise Amplitude sends the message again, and these objects would be counted twice
            for reason, number in skipped.items():
                self._on_outcome("skipped", reason, number)
        words = Counter(outcome.word for outcome in outcomes)
        return ForwardResult(words + skipped, max(pauses, default=None))

    def _enqueue(self, items: Sequence[Item]) -> None:
        with self._changed:
            self._start()
        checkpoint = Checkpoint()  # 10,000 objects take milliseconds, in which other requests need answers
        for start in range(0, len(items), _QUEUED_AT_ONCE):
            checkpoint()
            queued = items[start : start + _QUEUED_AT_ONCE]
            with self._changed:
                self._waiting.extend(queued)
                self._new_objects += len(queued)
                # Between these two cases the dispatcher waits for more objects, so most messages do not wake it.
                if len(self._waiting) == len(queued) or self._new_objects >= self._batch_objects:
                    self._changed.notify_all()

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
                self._new_objects = 0
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
        user_ids = {item.content.user_id for item in batch}
        try:
            with nullcontext(user_ids) if self._locks is None else self._locks.hold(user_ids) as locked_users:
                self._postpone([item for item in batch if item.content.user_id not in locked_users])
                batch = [item for item in batch if item.content.user_id in locked_users]
                self._delivery.deliver(batch)
        except RedisUnavailable:
            self._settle([item for item in batch if item.outcome is None], Outcome("redis_unavailable", 1.0))
        finally:
            self._end_request(batch)

    def _end_request(self, batch: Sequence[Item]) -> None:
        with self._changed:
            self._requests -= 1
            self._busy_users.difference_update(item.content.user_id for item in batch)
            self._changed.notify_all()

    def _postpone(self, items: Sequence[Item]) -> None:
        """Return objects to the start of the queue, because another process sends data of their users."""
        if not items:
            return
        with self._changed:
            abandoned = [item for item in items if item.message.is_abandoned]
            waiting = [item for item in items if not item.message.is_abandoned]
            not_before = self._clock.monotonic() + _LOCKED_SECONDS
            for item in waiting:
                item.is_sending, item.not_before = False, not_before
            self._waiting.extendleft(reversed(waiting))
            self._busy_users.difference_update(item.content.user_id for item in items)
            self._changed.notify_all()
        self._count(abandoned, _LATE.word)

    def _settle(self, items: Iterable[Item], outcome: Outcome) -> None:
        items = list(items)
        self._count(items, outcome.word)
        with self._changed:
            for item in items:
                item.settle(outcome)

    def _count(self, items: Iterable[Item], word: str) -> None:
        for kind, number in Counter(item.content.kind for item in items).items():
            self._on_outcome(kind, word, number)
