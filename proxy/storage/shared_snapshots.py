"""Installs snapshots in this process and, through Redis, in all other processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock, Thread
from typing import TYPE_CHECKING

from proxy.monitoring.clock import Clock
from proxy.profile.snapshot import Snapshot
from proxy.storage.memory import MemoryStore
from proxy.storage.redis import RedisUnavailable

if TYPE_CHECKING:
    from proxy.storage.redis.snapshots import PublishedSnapshot, RedisSnapshots

_log = logging.getLogger(__name__)


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
        """The snapshots of Redis that this process has installed, by cohort id."""
        self._loading = Lock()
        """Held while `_loaded` and the memory differ from Redis."""

    def install(self, cohort_id: str, snapshot: Snapshot) -> bool:
        """Replace the cohort's snapshot in all processes. Return False if the current snapshot is newer.

        The other processes install the snapshot within a second. Raises RedisUnavailable; nothing is installed then.
        """
        if self._shared is None:
            return self._memory.install_snapshot(cohort_id, snapshot)
        with self._loading:
            published = self._shared.publish(cohort_id, snapshot, self._clock.now())
            if published is not None:
                self._memory.install_snapshot(cohort_id, Snapshot(published.as_of, snapshot.pieces))
                self._loaded[cohort_id] = published
        return published is not None

    def remove(self, cohort_id: str) -> bool:
        """Remove the cohort's snapshot from all processes. Return whether it existed. Raises RedisUnavailable."""
        with self._loading:
            existed = self._shared is not None and self._shared.withdraw(cohort_id)
            self._loaded.pop(cohort_id, None)
            return self._memory.remove_snapshot(cohort_id) or existed

    def catch_up(self) -> None:
        """Start to install the snapshots that other processes published. Raises RedisUnavailable.

        Loading 2,000,000 members takes longer than this thread may be busy.
        """
        if self._shared is None or not self._loading.acquire(blocking=False):
            return
        try:
            published = self._shared.published()
        except BaseException:
            self._loading.release()
            raise
        if published == self._loaded:
            self._loading.release()
            return
        self._start(lambda: self._load(published))

    def _load(self, published: dict[str, PublishedSnapshot]) -> None:
        try:
            for cohort_id in self._loaded.keys() - published.keys():
                self._memory.remove_snapshot(cohort_id)
                del self._loaded[cohort_id]
            for cohort_id, entry in published.items():
                if self._shared is None or self._loaded.get(cohort_id) == entry:
                    continue
                snapshot = self._shared.read(entry)
                if snapshot is not None:  # otherwise it was replaced, and the next call sees the replacement
                    as_of = min(snapshot.as_of, self._clock.now())  # the clock of this machine may be behind
                    self._memory.install_snapshot(cohort_id, Snapshot(as_of, snapshot.pieces))
                    self._loaded[cohort_id] = entry
        except RedisUnavailable:
            pass  # the next call tries again
        except Exception:  # noqa: BLE001  # the thread would end without a log line
            _log.exception("snapshot_load_failed")
        finally:
            self._loading.release()
