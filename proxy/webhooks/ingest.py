"""Stores the batches that Amplitude pushes: first in Redis, for all processes, then in this process.

A message is recorded only after it was stored completely, so that a retry completes a message that failed in between.
Storing a part of a message twice changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import TTLCache

from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.updates import MESSAGE_SECONDS, Updates, checksum, packed_size, updates_since
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import WeightedSemaphore

if TYPE_CHECKING:
    from proxy.storage.redis.updates import RedisUpdates
    from proxy.webhooks.parse import Batch

_log = logging.getLogger(__name__)

_MAX_MESSAGES = 10_000
_USERS_AT_ONCE = 250
_BYTES_AT_ONCE = 128 * 1024
"""The size of a portion, which occupies Redis for a few milliseconds."""
_SMALL_BYTES = 256 * 1024
"""The maximum size of a small body, which takes up to 50 ms. Small bodies never wait for large bodies."""
_LEAST_BYTES = 8 * 1024
"""A smaller body counts as this size. So at most 64 small bodies use Redis at once, one for each connection."""
_MEMORY_WAIT_SECONDS = 1.0
"""Seconds for which a body may wait before it is read. Amplitude waits 1 to 2 seconds for an answer."""
_PARSE_WAIT_SECONDS = 5.0
"""Seconds for which a body may wait before it is parsed. After a timeout, Amplitude's retry is quick."""
CATCH_UP_USERS = 5_000
"""The maximum number of users that one `catch_up` looks up."""


class _Limits:
    """Limits the bytes of bodies in memory, and the bytes of batches that are parsed and stored at once."""

    def __init__(self, max_bytes: int, max_batch_bytes: int) -> None:
        self.memory = WeightedSemaphore(max_bytes, wait_seconds=_MEMORY_WAIT_SECONDS)
        self.batches = WeightedSemaphore(max_batch_bytes, wait_seconds=_PARSE_WAIT_SECONDS)


class UpdateIngester:
    """Stores updates of users, and fetches the updates that other processes stored. Thread-safe.

    Only the thread of the Redis client calls `catch_up`.
    """

    def __init__(
        self,
        memory: MemoryStore,
        shared: RedisUpdates | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._clock = clock
        self._messages: TTLCache[str, bool] = TTLCache(_MAX_MESSAGES, MESSAGE_SECONDS, timer=clock.monotonic)
        self._lock = Lock()
        # Parsing takes up to eight times the memory of a body, and two large bodies at once are not faster on one core.
        # A small body mostly waits for Redis. A burst has hundreds of bodies, each with one user.
        self._large = _Limits(24 * 1024 * 1024, 8 * 1024 * 1024)
        self._small = _Limits(8 * 1024 * 1024, 2 * _SMALL_BYTES)
        self._warned = False
        self._last_change = 0.0
        self._caught_up_at: float | None = None
        self._pending: list[str] = []

    def reserve_memory(self, size: int) -> AbstractContextManager[None]:
        """Reserve memory for a body of at most `size` bytes, before it is read. Raises Busy."""
        return self._limits(size).memory.hold(size)

    def reserve_batch(self, size: int) -> AbstractContextManager[None]:
        """Wait until a body of `size` bytes may be parsed and stored. Raises Busy."""
        return self._limits(size).batches.hold(max(size, _LEAST_BYTES))

    def _limits(self, size: int) -> _Limits:
        return self._small if size <= _SMALL_BYTES else self._large

    @property
    def generation(self) -> int:
        """Return the generation to pass to `push`.

        Read it before the batch, so that users who are forgotten later are skipped.
        """
        return self._memory.generation

    def push(self, batch: Batch, generation: int) -> bool:
        """Store `batch`. Return False for a repeated message.

        Raises RedisUnavailable if only this process stored the batch.
        """
        if batch.message is not None and self._is_repeated(batch.message):
            return False
        unavailable: RedisUnavailable | None = None
        checkpoint = Checkpoint()
        for portion in _portions(self._usable(batch, checkpoint)):
            stored = portion
            if self._shared is not None and unavailable is None:
                try:
                    refused = self._shared.save(portion, self._clock.now())
                except RedisUnavailable as error:
                    unavailable = error
                else:
                    stored = [update for place, update in enumerate(portion) if place not in refused]
                    for reason in refused.values():
                        batch.refuse(reason)
            # With Redis, only cached users are updated in memory, so that a push does not evict other users.
            all_users = self._shared is None or unavailable is not None
            refusals = self._memory.push(stored, generation, cached_only=not all_users, checkpoint=checkpoint)
            if all_users:
                for reason, users in refusals.items():
                    batch.refuse(reason, users)
        if unavailable is not None:
            raise unavailable
        # A retry of the message may contain new data about a forgotten user.
        if batch.message is not None and not batch.skipped["forgotten"]:
            self._remember(batch.message)
        if self._shared is None and not self._warned:
            self._warned = True
            _log.warning("webhooks_without_redis", extra={"why": "pushed data is only in the memory of this process"})
        return True

    def _usable(self, batch: Batch, checkpoint: Checkpoint) -> list[tuple[str, Updates]]:
        """Return the updates that are not too old to be served."""
        horizon = self._clock.now() - self._memory.updates_usable_for
        usable = []
        last: tuple[Updates, Updates] | None = None
        for user_id, updates in batch.updates:
            checkpoint()
            if last is None or last[0] is not updates:  # the users of a cohort share their updates
                last = updates, updates_since(updates, horizon)
            if last[1]:
                usable.append((user_id, last[1]))
            else:
                batch.refuse("too_old")
        return usable

    def catch_up(self) -> None:
        """Fetch the updates that other processes stored for cached users. Raises RedisUnavailable."""
        if self._shared is None:
            return
        checkpoint, started = Checkpoint(), self._clock.monotonic()
        checksums, last_change = self._shared.announced(self._last_change)
        if self._caught_up_at is not None and not self._shared.keeps_announcements_for(started - self._caught_up_at):
            self._pending = self._memory.cached_users(lambda _: True, checkpoint)
        elif checksums:
            users = self._memory.cached_users(lambda user_id: checksum(user_id) in checksums, checkpoint)
            self._pending = list(dict.fromkeys([*self._pending, *users]))  # in order, so that no user waits without end
        self._last_change, self._caught_up_at = last_change, started
        for _ in range(CATCH_UP_USERS // _USERS_AT_ONCE):
            users, self._pending = self._pending[:_USERS_AT_ONCE], self._pending[_USERS_AT_ONCE:]
            if not users:
                return
            generation = self._memory.generation
            try:
                updates = self._shared.read(users)
            except RedisUnavailable:
                self._pending += users
                raise
            changed = [(user, update) for user, update in zip(users, updates, strict=True) if update]
            self._memory.push(changed, generation, checkpoint=checkpoint)

    def _is_repeated(self, message: str) -> bool:
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
            with contextlib.suppress(
                RedisUnavailable
            ):  # otherwise a repeated message is stored again, which changes nothing
                self._shared.remember(message)


def _portions(updates: list[tuple[str, Updates]]) -> Iterator[list[tuple[str, Updates]]]:
    """Split the updates into portions that Redis stores quickly."""
    portion: list[tuple[str, Updates]] = []
    size = 0
    for user_id, update in updates:
        portion.append((user_id, update))
        size += packed_size(update)
        if len(portion) >= _USERS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
