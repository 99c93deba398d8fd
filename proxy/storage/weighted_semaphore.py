"""Limits how much of a resource is in use at once, such as bytes of request bodies in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock


class Busy(Exception):
    """All is in use and nothing was released in time."""


class WeightedSemaphore:
    """Hands out amounts of a limited resource in the order in which they were requested. Safe for threads.

    The order matters: if small requests could overtake, a stream of them would keep a large one waiting forever.
    """

    def __init__(self, limit: int, *, wait_seconds: float) -> None:
        self._free = limit
        self._wait_seconds = wait_seconds
        self._lock = Lock()
        self._waiting: deque[_Request] = deque()

    @property
    def waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold `amount` for the length of the block. Raises Busy when it is not free in time."""
        request = _Request(amount)
        with self._lock:
            self._waiting.append(request)
            self._grant()
        # The wait is inside the `try`: a greenlet that is killed while it waits must leave the queue.
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
