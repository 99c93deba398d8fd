"""Remembers the events that Braze accepted, so that a repeated event is not sent again."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING

from proxy.monitoring.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from proxy.storage.redis.delivered_events import RedisDeliveredEvents

REMEMBERED_SECONDS = 6 * 3600.0
"""Amplitude sends an event again for four hours."""
MAX_EVENTS = 2_000_000
"""The maximum number of events in the memory of a process. They take 16 MB."""
_CHUNK_EVENTS = 50_000
_CHUNK_SECONDS = 600.0


class DeliveredEvents:
    """The digests (64 bits) of accepted events: in this process, and in Redis for all processes. Thread-safe.

    A set of 2,000,000 integers would take 180 MB. Sorted arrays take 16 MB, and a lookup takes 30 microseconds.
    """

    def __init__(self, shared: RedisDeliveredEvents | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._shared = shared
        self._clock = clock
        self._lock = Lock()
        self._recent: set[int] = set()
        self._recent_since = clock.monotonic()
        self._chunks: deque[tuple[float, array[int]]] = deque()  # each with the latest time of its events

    def __len__(self) -> int:
        return len(self._recent) + sum(len(chunk) for _, chunk in self._chunks)

    def known(self, event_ids: Iterable[int]) -> set[int]:
        """Return the given events that Braze accepted in the last six hours; with Redis, from any process."""
        ids = set(event_ids)
        with self._lock:
            self._expire()
            accepted = {
                id for id in ids if id in self._recent or any(_contains(chunk, id) for _, chunk in self._chunks)
            }
        remaining_ids = sorted(ids - accepted)
        if self._shared is not None and remaining_ids:
            accepted |= self._shared.known(remaining_ids)
        return accepted

    def add(self, event_ids: Iterable[int]) -> None:
        """Record accepted events. Raises RedisUnavailable if only this process recorded them."""
        ids = list(event_ids)
        with self._lock:
            self._expire()
            self._recent.update(ids)
        if self._shared is not None and ids:
            self._shared.add(ids)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        if self._recent and (len(self._recent) >= _CHUNK_EVENTS or now - self._recent_since >= _CHUNK_SECONDS):
            self._chunks.append((self._recent_since + _CHUNK_SECONDS, array("Q", sorted(self._recent))))
            self._recent = set()
        if not self._recent:
            self._recent_since = now
        max_events = MAX_EVENTS - _CHUNK_EVENTS  # the difference is for the recent events
        while self._chunks and (self._chunks[0][0] < now - REMEMBERED_SECONDS or len(self) > max_events):
            self._chunks.popleft()


def _contains(chunk: array[int], id: int) -> bool:
    place = bisect_left(chunk, id)
    return place < len(chunk) and chunk[place] == id
