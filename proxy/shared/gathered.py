"""Asks that meet go together: whoever comes while one trip is on its way waits for the next, and goes with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from proxy.shared import Gone

Asked = TypeVar("Asked")
Told = TypeVar("Told")

MOST = 64
"""Asks that go in one trip: so many answers are read in half a millisecond."""


class Gathered(Generic[Asked, Told]):
    """One trip at a time, for all who ask. Safe for threads. `trip`: asks -> what is told each, in their order."""

    def __init__(self, trip: Callable[[Sequence[Asked]], Sequence[Told]]) -> None:
        self._trip = trip
        self._waiting: deque[_Ask[Asked, Told]] = deque()
        self._turn = Lock()

    def ask(self, asked: Asked) -> Told:
        """Return what is told. What a trip raises, all raise who were on it or waited: they have waited as long."""
        mine: _Ask[Asked, Told] = _Ask(asked)
        self._waiting.append(mine)
        while not mine.told and mine.fault is None:
            with self._turn:
                if not mine.told and mine.fault is None:
                    self._go()
        if mine.fault is not None:
            raise mine.fault
        return mine.told[0]

    def _go(self) -> None:
        together = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        try:
            for one, told in zip(together, self._trip([one.asked for one in together]), strict=True):
                one.told.append(told)
        except BaseException as fault:
            while self._waiting:
                together.append(self._waiting.popleft())
            for one in together:
                one.fault = fault if isinstance(fault, Exception) else Gone()
            if not isinstance(fault, Exception):
                raise


class _Ask(Generic[Asked, Told]):
    __slots__ = ("asked", "fault", "told")

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.told: list[Told] = []
        self.fault: Exception | None = None
