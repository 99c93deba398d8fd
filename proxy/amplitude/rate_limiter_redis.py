"""The quota of all who share a Redis: its clock, its book of places, in a script each. Moments are seconds from now."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from proxy.amplitude.sliding_window import WINDOW_SECONDS, Rate
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"

_COUNTED_SECONDS = 15.0
"""For so long a process that is heard of no more counts as one."""
_SETTLE_SECONDS = 0.8
"""In which all who may have sent something unseen write it back: each tries Redis several times a second. Short enough
for a caller of the first moment to wait for it."""
_IDLE_MILLISECONDS = 2 * 3600 * 1000
"""Longer than any stand-back."""


@dataclass(frozen=True, slots=True)
class Found:
    """The first free moment, in `wait` seconds. `id`: of the place when it is booked, else None."""

    id: str | None
    wait: float
    even: bool
    closed_for: float
    """Seconds for which all stand back."""


class RedisRateLimiter:
    """Each method is one round trip and raises Gone."""

    def __init__(self, server: RedisClient, prefix: bytes) -> None:
        self._server = server
        self._places, self._bursts, self._rate, self._processes = (
            prefix + name for name in (b"quota:places", b"quota:bursts", b"quota:pace", b"quota:processes")
        )
        self._book = server.script(_LUA / "reserve.lua")
        self._cancel = server.script(_LUA / "cancel.lua")
        self._ended = server.script(_LUA / "complete.lua")
        self._register = server.script(_LUA / "register.lua")
        self._epoch = b""
        self._numbers = itertools.count(1)

    @property
    def gone_since(self) -> float | None:
        """Return when Redis was found gone (monotonic seconds), None while it is there."""
        return self._server.unavailable_since

    def new_id(self) -> str:
        """Return an id for a booking, unlike any of another process."""
        return f"{self._server.id}:{next(self._numbers)}"

    def reserve(self, latest: float, rate: Rate, longest: float, *, burst: float) -> Found | None:
        """Book the first free place if it is no later than `latest`. None when this process must enroll first."""
        id = self.new_id()
        held = longest + WINDOW_SECONDS
        booked, *rest = self._book(
            [self._places, self._bursts, self._rate],
            [
                id,
                rate.per_minute,
                int(rate.burst * burst),
                rate.interval,
                latest,
                held,
                self._epoch,
                _IDLE_MILLISECONDS,
            ],
        )
        if booked == -1:
            return None
        wait, even, closed_for = rest
        return Found(id if booked else None, float(wait), bool(even), float(closed_for))

    def cancel(self, id: str, at: float, rate: Rate, *, even: bool) -> None:
        """Give back the place that was booked for the moment `at`."""
        self._cancel([self._places, self._bursts, self._rate], [id, int(even), rate.interval, at])

    def complete(self, id: str, free_in: float, stand_back: float) -> float:
        """Tell when the place is free, and for how long all are to stand back. Return for how long they do."""
        return float(self._ended([self._places, self._rate], [id, free_in, stand_back, _IDLE_MILLISECONDS]))

    @property
    def registered(self) -> bool:
        """Say whether this process was ever enrolled."""
        return self._epoch != b""

    def register_soon(self) -> None:
        """Have this process enrolled, but by another thread: no caller has time for it."""
        self._server.register_soon()

    def register(
        self, held: Callable[[], Iterable[tuple[str, float]]], *, stand_back: float, unseen: bool
    ) -> tuple[int, float]:
        """Be counted for a while. Return how many processes are, and for how many seconds all stand back.

        What `held` returns and `stand_back` are what a new Redis, or an old state of one, cannot know of; `unseen`: nor
        this one.
        """
        keys = [self._places, self._bursts, self._rate, self._processes]
        unseen = unseen or self._server.unavailable_since is not None
        who = [self._server.id, _COUNTED_SECONDS, _SETTLE_SECONDS, int(unseen), _IDLE_MILLISECONDS]
        processes, epoch, closed_for = self._register(keys, [*who, 0])
        if epoch != self._epoch or unseen:
            places = itertools.chain.from_iterable(held())
            processes, epoch, closed_for = self._register(keys, [*who, stand_back, *places])
            self._epoch = epoch
        return int(processes), float(closed_for)
