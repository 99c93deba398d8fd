"""Installs snapshots in this process and, through Redis, in all other processes."""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING

from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.profile.snapshot import Snapshot
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisUnavailable

if TYPE_CHECKING:
    from proxy.storage.redis.snapshots import PublishedSnapshot, RedisSnapshots


def _release_memory() -> None:
    """Return freed memory to the system: 24 MiB after a snapshot of 2,000,000 members is replaced, in 4 ms."""
    with contextlib.suppress(AttributeError, OSError):  # only glibc has the function
        ctypes.CDLL(None).malloc_trim(0)


class SharedSnapshots:
    """Installs and removes snapshots. Thread-safe, except that only the thread of the Redis client calls `catch_up`.

    `start`: runs a function in a thread; tests replace it.
    """

    def __init__(
        self,
        memory: MemoryStore,
        shared: RedisSnapshots | None = None,
        *,
        clock: Clock,
        start: Callable[[Callable[[], None]], None] = lambda load: Thread(target=load, daemon=True).start(),
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._clock = clock
        self._start = start
        self._loaded: dict[str, PublishedSnapshot] = {}
        """The entries of the index in Redis that this process has applied, by cohort id."""
        self._changing = Lock()
        """Held while `_loaded` and the memory differ from Redis."""
        self.caught_up = False
        """Whether this process has loaded all snapshots in Redis at least once since its start."""
        self._failures = OncePerMinute(logging.getLogger(__name__), "snapshot_load_failed", clock)

    def install(self, cohort_id: str, snapshot: Snapshot) -> Snapshot | None:
        """Replace the cohort's snapshot in all processes. Return None if the current snapshot is newer.

        Return the installed snapshot, without the users who were forgotten after `snapshot.as_of`. The other processes
        install it within a few seconds. Raises RedisUnavailable if Redis fails. In this case, nothing is installed.
        """
        try:
            return self._install(cohort_id, snapshot)
        finally:
            _release_memory()

    def _install(self, cohort_id: str, snapshot: Snapshot) -> Snapshot | None:
        if self._shared is None:
            return self._memory.install_snapshot(cohort_id, snapshot, Checkpoint())
        with self._changing:
            published = self._shared.publish(cohort_id, snapshot, Checkpoint())
            if published is None:
                return None
            self._loaded[cohort_id] = published
            # Redis has decided that this snapshot is the newest.
            snapshot = Snapshot(published.as_of, snapshot.pieces)
            return self._memory.install_snapshot(cohort_id, snapshot, Checkpoint(), overwrite=True)

    def remove(self, cohort_id: str) -> bool:
        """Remove the cohort's snapshot from all processes. Return whether it existed. Raises RedisUnavailable."""
        with self._changing:
            existed = self._shared is not None and self._shared.withdraw(cohort_id)
            return self._memory.remove_snapshot(cohort_id) or existed

    def catch_up(self) -> None:
        """Apply the changes of other processes in a new thread. Raises RedisUnavailable.

        A new thread, because loading 2,000,000 members would block the thread of the Redis client for too long.
        """
        if self._shared is None or not self._changing.acquire(blocking=False):
            return
        loading = False
        try:
            published = self._shared.published(self._clock.now())
            if published != self._loaded:
                self._start(partial(self._load, self._shared, published))
                loading = True
            else:
                self.caught_up = True
        finally:
            if not loading:
                self._changing.release()

    def _load(self, shared: RedisSnapshots, published: dict[str, PublishedSnapshot]) -> None:
        try:
            for cohort_id, entry in published.items():
                if entry != self._loaded.get(cohort_id) and self._apply(shared, cohort_id, entry):
                    self._loaded[cohort_id] = entry
            for cohort_id in self._loaded.keys() - published.keys():
                # The snapshot is too old, or Redis has lost or evicted its data.
                snapshot = self._memory.snapshots.get(cohort_id)
                if snapshot is None:
                    self._memory.remove_snapshot(cohort_id)
                else:
                    shared.publish(cohort_id, snapshot, Checkpoint(), only_missing=True)
                del self._loaded[cohort_id]  # the next call loads the published snapshot
        except RedisUnavailable:
            pass  # the next call tries again
        except Exception as error:  # noqa: BLE001  # the thread would end without a log line
            self._failures.note("", error=type(error).__name__)
        finally:
            self._changing.release()
            _release_memory()

    def _apply(self, shared: RedisSnapshots, cohort_id: str, entry: PublishedSnapshot) -> bool:
        """Install or remove a snapshot as in Redis. Return False if Redis no longer has the snapshot."""
        if entry.key is None:
            self._memory.remove_snapshot(cohort_id)
            return True
        snapshot = shared.read(entry, Checkpoint())
        if snapshot is None:
            shared.discard(cohort_id, entry)
            return False
        self._memory.install_snapshot(cohort_id, snapshot, Checkpoint(), overwrite=True)
        return True
