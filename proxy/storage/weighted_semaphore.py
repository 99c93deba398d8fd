"""Limits the concurrent use of a resource, such as the memory for request bodies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock


class Busy(Exception):
    """The resource was not free in time."""


class WeightedSemaphore:
    """Grants amounts of a limited resource in the order of the requests. Thread-safe.

    Small requests do not overtake large requests, which could otherwise wait without end.
    """

    def __init__(self, limit: int, *, wait_seconds: float) -> None:
        self._free = limit
        self._wait_seconds = wait_seconds
        self._lock = Lock()
        self._waiting: deque[_Request] = deque()

    @property
    def waiting(self) -> int:
        """Return the number of waiting requests."""
        return len(self._waiting)

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold `amount` during the `with` block. Raises Busy if the amount is not free in time."""
        request = _Request(amount)
        with self._lock:
            self._waiting.append(request)
            self._grant()
        # The wait is inside the `try`, because a greenlet that is killed during the wait must leave the queue.
        try:
            if not request.granted.wait(self._wait_seconds):
                raise Busy
            yield
        finally:
            with self._lock:
                if request.granted.is_set():
                    self._free += amount
                else:
                    self._waiting.remove(request)
                self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0].amount <= self._free:
            request = self._waiting.popleft()
            self._free -= request.amount
            request.granted.set()


class _Request:
    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.granted = Event()
