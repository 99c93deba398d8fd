"""Asks that meet go together: who comes while all trips are under way waits for the next, and goes with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from proxy.storage.redis import RedisUnavailable

Asked = TypeVar("Asked")
Told = TypeVar("Told")

TRIPS = 4
"""At once. Who finds one free goes alone and at once; with a Redis that is far away a single one would be too few."""
MOST = 64
"""Asks that go in one trip: so many answers are read in half a millisecond."""


class AutoPipeline(Generic[Asked, Told]):
    """Safe for threads. `trip`: asks -> what is told each, in their order. `patience`: seconds, for all of an ask;
    `on_late` is called when it is out.
    """

    def __init__(
        self, trip: Callable[[Sequence[Asked]], Sequence[Told]], *, patience: float, on_late: Callable[[], None]
    ) -> None:
        self._trip = trip
        self._patience = patience
        self._on_late = on_late
        self._waiting: deque[_Ask[Asked, Told]] = deque()
        self._free = TRIPS
        self._lock = Lock()

    def ask(self, asked: Asked) -> Told:
        """Return what is told. Raises Gone when the trip failed, or could not be made in time."""
        mine: _Ask[Asked, Told] = _Ask(asked)
        with self._lock:
            if self._free:
                self._free -= 1
                mine.leads = [mine]
            else:
                self._waiting.append(mine)
        if not mine.leads and not mine.woken.acquire(timeout=self._patience):
            self._on_late()
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
        if mine.leads:
            self._go(mine.leads)
        if not mine.told:
            raise RedisUnavailable
        return mine.told[0]

    def _go(self, together: Sequence[_Ask[Asked, Told]]) -> None:
        try:
            for one, told in zip(together, self._trip([one.asked for one in together]), strict=True):
                one.told.append(told)
        except RedisUnavailable:
            pass
        finally:
            for one in together:
                one.leads = []
                if one is not together[0]:
                    one.woken.release()
            self._next()

    def _next(self) -> None:
        """Let the first who waits go, and others with it."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            together = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
            together[0].leads = together
        together[0].woken.release()


class _Ask(Generic[Asked, Told]):
    __slots__ = ("asked", "leads", "told", "woken")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.told: list[Told] = []
        self.leads: Sequence[_Ask[Asked, Told]] = []
        """Whom this one goes for, itself first; nobody while another goes for it."""
        self.woken = Lock()
        self.woken.acquire()
