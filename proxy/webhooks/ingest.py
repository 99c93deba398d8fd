"""Takes what Amplitude pushes: into Redis first, whence every other process hears of it, then here.

A message counts as taken only when all of it was, so that a try that failed half-way is made good by the next one; to
apply a part of it twice changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import TTLCache

from proxy.profile.updates import MESSAGE_SECONDS, Updates, checksum, since
from proxy.storage.budget import Budget
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.tiered import TieredStore

if TYPE_CHECKING:
    from proxy.storage.redis.updates import RedisUpdates
    from proxy.webhooks.parse import Batch

_log = logging.getLogger(__name__)

_REMEMBERED = 10_000
_USERS_AT_ONCE = 250
_BYTES_AT_ONCE = 128 * 1024
"""What Redis takes at once, in a few milliseconds in which it does nothing else."""
_SMALL_BYTES = 256 * 1024
"""Largest body in the lane for small ones: read and applied within 50 ms, it never waits for one that takes seconds."""
_ROOM_SECONDS = 1.0
"""How long a body waits until it may be read. Amplitude gives an answer 1 to 2 seconds."""
_PLACE_SECONDS = 5.0
"""How long a body that has been read waits until it is parsed. Amplitude may have given up, but its retry is short."""
_LOOKED_UP = 5_000
"""Users who are looked up at a time when others were pushed; the rest waits for the next time."""


class _Lane:
    """Limits the bytes of bodies that are read or applied at once, and the number of batches that are applied."""

    def __init__(self, max_bytes: int, max_batches: int) -> None:
        self.room = Budget(max_bytes, wait_seconds=_ROOM_SECONDS)
        self.places = Budget(max_batches, wait_seconds=_PLACE_SECONDS)


class UpdateIngester:
    """Safe for threads. `catch_up` is for the thread that keeps the connection to Redis."""

    def __init__(
        self,
        store: TieredStore,
        shared: RedisUpdates | None = None,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._shared = shared
        self._now = now
        self._monotonic = monotonic
        self._messages: TTLCache[str, bool] = TTLCache(_REMEMBERED, MESSAGE_SECONDS, timer=now)
        self._lock = Lock()
        # Parsing a body of 8 MiB takes up to 60 MiB more, and two at once finish no sooner on one core.
        self._large = _Lane(24 * 1024 * 1024, 1)
        self._small = _Lane(8 * 1024 * 1024, 2)
        self._alone_told = False
        self._heard = 0.0
        self._heard_at: float | None = None
        self._waiting: list[str] = []

    def room(self, size: int) -> AbstractContextManager[None]:
        """Hold room in memory for a body of at most `size` bytes, before it is read. Raises Busy."""
        return self._lane(size).room.hold(size)

    def place(self, size: int) -> AbstractContextManager[None]:
        """Hold a place for parsing and applying a body of `size` bytes. Raises Busy."""
        return self._lane(size).places.hold(1)

    def _lane(self, size: int) -> _Lane:
        return self._small if size <= _SMALL_BYTES else self._large

    @property
    def generation(self) -> int:
        """Return what to hand to `push` with what has come by now: nobody who is forgotten later is kept by it."""
        return self._store.generation

    def push(self, batch: Batch, generation: int) -> bool:
        """Take `batch`; False when it is a repeated message. Raises Gone when only this process has it."""
        if batch.message is not None and self._remembers(batch.message):
            return False
        gone: RedisUnavailable | None = None
        checkpoint = Checkpoint()
        forgotten = 0
        for some in _portions(self._useful(batch, checkpoint)):
            kept = some
            if self._shared is not None and gone is None:
                try:
                    refused = self._shared.save(some, self._now())
                except RedisUnavailable as error:
                    gone = error
                else:
                    kept = [one for place, one in enumerate(some) if place not in refused]
                    for why in refused.values():
                        batch.refuse(why)
                        forgotten += why == "forgotten"
            # What Redis has is found there by who needs it, and is no reason for others to leave the memory.
            everybody = self._shared is None or gone is not None
            for why, users in self._store.push(kept, generation, all_of_them=everybody, checkpoint=checkpoint).items():
                if everybody:
                    batch.refuse(why, users)
                    forgotten += users if why == "forgotten" else 0
        if gone is not None:
            raise gone
        if batch.message is not None and not forgotten:
            self._remember(batch.message)
        if self._shared is None and not self._alone_told:
            self._alone_told = True
            _log.warning("what is pushed is kept in the memory of this one process: there is no REDIS_URL")
        return True

    def _useful(self, batch: Batch, checkpoint: Checkpoint) -> list[tuple[str, Updates]]:
        """Return the news without what is too old to be of any use."""
        horizon = self._now() - self._store.memory.updates_usable_for
        found = []
        last: tuple[Updates, Updates] | None = None
        for user_id, pushed in batch.news:
            checkpoint()
            if last is None or last[0] is not pushed:  # of a cohort's batch all are the same
                last = pushed, since(pushed, horizon)
            if last[1]:
                found.append((user_id, last[1]))
            else:
                batch.refuse("too_old")
        return found

    def catch_up(self) -> None:
        """Look up those users of whom something is kept here who were pushed to other processes. Raises Gone."""
        if self._shared is None:
            return
        checkpoint, began = Checkpoint(), self._monotonic()
        told, last = self._shared.announced(self._heard)
        if self._heard_at is not None and not self._shared.announces_for(began - self._heard_at):
            self._waiting = self._store.held(lambda _: True, checkpoint)
        elif told:
            held = self._store.held(lambda user_id: checksum(user_id) in told, checkpoint)
            self._waiting = list(dict.fromkeys([*self._waiting, *held]))  # in their order, or some might wait for ever
        self._heard, self._heard_at = last, began
        for _ in range(_LOOKED_UP // _USERS_AT_ONCE):
            some, self._waiting = self._waiting[:_USERS_AT_ONCE], self._waiting[_USERS_AT_ONCE:]
            if not some:
                return
            generation = self._store.generation
            try:
                found = self._shared.read(some)
            except RedisUnavailable:
                self._waiting += some
                raise
            there = [(user, pushed) for user, pushed in zip(some, found, strict=True) if pushed]
            self._store.push(there, generation, checkpoint=checkpoint)

    def _remembers(self, message: str) -> bool:
        with self._lock:
            if message in self._messages:
                return True
        if self._shared is None:
            return False
        try:
            return self._shared.remembers(message)
        except RedisUnavailable:
            return False

    def _remember(self, message: str) -> None:
        with self._lock:
            self._messages[message] = True
        if self._shared is not None:
            with contextlib.suppress(RedisUnavailable):  # a repeated one is applied again, and changes nothing
                self._shared.remember(message)


def _portions(news: list[tuple[str, Updates]]) -> Iterator[list[tuple[str, Updates]]]:
    """Return the news in as many parts as Redis, and who waits here, must be spared to take at once."""
    some: list[tuple[str, Updates]] = []
    size = 0
    for user_id, pushed in news:
        some.append((user_id, pushed))
        size += sum(len(field) + len(value) for field, value in pushed.items())
        if len(some) >= _USERS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
