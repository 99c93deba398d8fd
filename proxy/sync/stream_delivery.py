"""Sends batches of the event stream to Braze, and records what Braze accepted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.braze.track import Accepted, Failed, RateLimited, Refused, TooLarge, TrackClient, Unavailable
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.storage.accepted_values import AcceptedValue
from proxy.storage.redis import RedisUnavailable
from proxy.sync.delivered_events import DeliveredEvents
from proxy.sync.state import AcceptedValues, accepted_attributes
from proxy.sync.stream_objects import Kind, StreamObject
from proxy.sync.stream_queue import Item, Outcome

_log = logging.getLogger(__name__)

_RATE_LIMITED_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 3600.0
_REFUSED_SECONDS = 10.0
"""Seconds without a request after Braze refused the key."""
_REFUSAL_SHOWN_SECONDS = 600.0
"""Seconds for which the status page shows a refusal. The permission may have been added to the key since then."""
_FAILURES_BEFORE_PAUSE = 2
_UNAVAILABLE_SECONDS = 1.0
"""Seconds without new objects after Braze failed twice in a row. Each attempt costs processor time, which the repeated
messages need when Braze works again."""
_RESERVE_AGAIN_SECONDS = 0.1
_MAY_ARRIVE_SECONDS = 1.0
"""Seconds for which an abandoned request may still reach Braze."""


@dataclass(slots=True)
class StreamStats:
    """The state of the forwarding, for the status page. Times are Unix seconds."""

    accepted_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    waiting: int = 0
    is_refused: bool = False
    """Whether Braze refused the key or the instance, and has accepted nothing since."""


class StreamDelivery:
    """Delivers batches. Thread-safe. `settle`: called with objects and their outcome, once for each object."""

    def __init__(
        self,
        client: TrackClient,
        limiter: RateLimiter,
        delivered: DeliveredEvents,
        state: AcceptedValues,
        *,
        settle: Callable[[Iterable[Item], Outcome], None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._delivered = delivered
        self._state = state
        self._settle = settle
        self._clock = clock
        self._unavailable_in_a_row = 0
        self._unavailable_until = self._refused_until = float("-inf")
        self._stats = StreamStats()
        self._failures = OncePerMinute(_log, "forwarding_failed", clock)

    def stats(self) -> StreamStats:
        """Return the state of the forwarding, without the number of waiting objects."""
        refused_for = self._clock.monotonic() - self._refused_until
        return replace(self._stats, is_refused=self._stats.is_refused and refused_for < _REFUSAL_SHOWN_SECONDS)

    def refusal(self, wait_seconds: float) -> Outcome | None:
        """Return the outcome of new objects if Braze cannot accept them within `wait_seconds`."""
        now = self._clock.monotonic()
        if now < self._refused_until:
            return Outcome("refused", self._refused_until - now)
        if now < self._unavailable_until:
            return Outcome("unavailable", self._unavailable_until - now)
        if self._limiter.paused_for > wait_seconds:
            return Outcome("rate_limited", self._limiter.paused_for)
        return None

    def deliver(self, batch: Sequence[Item]) -> None:
        """Settle each object of a batch: send the object, unless Braze has already accepted it."""
        try:
            self._send(self._unsent_events(batch) + self._unsent_attributes(batch))
        except RedisUnavailable:
            self._settle([item for item in batch if item.outcome is None], Outcome("redis_unavailable", 1.0))
        except Exception:  # noqa: BLE001  # logged; the messages must get an answer
            _log.exception("forwarding_error")
            self._settle([item for item in batch if item.outcome is None], Outcome("failed", 1.0))

    def _unsent_events(self, batch: Sequence[Item]) -> list[Item]:
        """Settle the events that Braze has already accepted, and return the other events. Raises RedisUnavailable."""
        events = [item for item in batch if item.content.kind == "events"]
        event_ids = self._delivered.known(item.content.event_id for item in events if item.content.event_id is not None)
        self._settle([item for item in events if item.content.event_id in event_ids], Outcome("duplicate"))
        return [item for item in events if item.content.event_id not in event_ids]

    def _unsent_attributes(self, batch: Sequence[Item]) -> list[Item]:
        """Settle the attributes that Braze has already accepted or that are outdated, and return the other attributes.

        Removes such values from the returned attributes. Raises RedisUnavailable.
        """
        attributes = [item for item in batch if item.content.kind == "attributes"]
        if not attributes:
            return []
        unsent: list[Item] = []
        unchanged_items: list[Item] = []
        unchanged_values: list[tuple[str, Mapping[str, AcceptedValue]]] = []
        outdated: list[Item] = []
        accepted = self._state.read([item.content.user_id for item in attributes])
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
                unchanged_values.append((content.user_id, unchanged))
            changed = {name: content.content[name] for name in latest if name not in unchanged}
            if changed:
                item.content = replace(content, content=changed)
                unsent.append(item)
            else:
                (unchanged_items if unchanged else outdated).append(item)
        if unchanged_values:
            # The later time is recorded, so that an older value that arrives later does not replace the value.
            self._state.record(unchanged_values)
        self._settle(unchanged_items, Outcome("unchanged"))
        self._settle(outdated, Outcome("outdated"))
        return unsent

    def _send(self, items: Sequence[Item]) -> None:
        """Send the objects in one request, and settle them. Halves a request that Braze does not accept as a whole."""
        if not items:
            return
        reservation = self._reserve(max(item.message.deadline for item in items))
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
        self._unavailable_in_a_row = self._unavailable_in_a_row + 1 if isinstance(result, Unavailable) else 0
        if self._unavailable_in_a_row >= _FAILURES_BEFORE_PAUSE:
            self._unavailable_until = self._clock.monotonic() + _UNAVAILABLE_SECONDS
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
            values = [
                (content.user_id, accepted_attributes(self._state, content.content, content.at))
                for content in contents
                if content.kind == "attributes"
            ]
            if values:
                self._state.record(values)
        self._settle(items, Outcome("accepted"))

    def _reject(self, item: Item, reason: str) -> None:
        self._report_failure(reason)
        self._settle([item], Outcome("rejected"))

    def _fail(self, items: Sequence[Item], word: str, reason: str, retry_after: float) -> None:
        self._report_failure(reason)
        self._settle(items, Outcome(word, retry_after))

    def _report_failure(self, reason: str) -> None:
        self._stats.failed_at, self._stats.failure = self._clock.now(), reason
        self._failures.note(reason, reason=reason)


def _is_same(stored: Mapping[str, AcceptedValue], name: str, digest: bytes) -> bool:
    return name in stored and stored[name].digest == digest


def _payload(content: StreamObject) -> dict[str, Any]:
    return {"external_id": content.user_id, **content.content}
