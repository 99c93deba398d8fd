"""Forgets users: first in Redis, which notifies the other processes, then in this process and its backlog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.fetch.backlog import Backlog
from proxy.profile.parts import Identity
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.tiered import TieredStore

if TYPE_CHECKING:
    from proxy.storage.redis.profiles import RedisProfiles
    from proxy.storage.redis.snapshots import RedisSnapshots


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """The numbers of forgotten records (in this process or Redis), and of users removed from the backlog.

    The state of `sync` counts as a record of its user.
    """

    records: int
    waiting: int


class ForgetService:
    """Forgets users. Thread-safe, except that only the thread of the Redis client calls `catch_up`."""

    def __init__(
        self,
        store: TieredStore,
        backlog: Backlog,
        shared: RedisProfiles | None = None,
        snapshots: RedisSnapshots | None = None,
        forget_sent: Callable[[Sequence[str]], int] | None = None,
    ) -> None:
        self._store = store
        self._digests = store.memory.digester.ids
        self._backlog = backlog
        self._shared = shared
        self._snapshots = snapshots
        self._forget_sent = forget_sent
        self._caught_up_to = 0.0

    def forget(self, ids: Identity) -> ForgetResult:
        """Forget every identity with the user id or device id of `ids`, as requested or as returned by Amplitude.

        The results of calls in progress are not cached. Raises RedisUnavailable if only this process forgot the user,
        because the other processes could not be notified.
        """
        unavailable: RedisUnavailable | None = None
        shared_records: set[bytes] = set()
        states = 0
        if self._shared is not None:
            # Redis comes first, so that this process cannot cache the copy in Redis again.
            try:
                shared_records = self._shared.forget(ids)
                if self._snapshots is not None:
                    self._snapshots.forget(self._digests(ids))
            except RedisUnavailable as error:
                unavailable = error
        if self._forget_sent is not None and ids.user_id is not None:
            try:
                states = self._forget_sent([ids.user_id])
            except RedisUnavailable as error:
                unavailable = error
        local_records, waiting = self._forget_locally(self._digests(ids))
        if unavailable is not None:
            raise unavailable
        return ForgetResult(len(shared_records | local_records) + states, waiting)

    def catch_up(self) -> None:
        """Forget the users that other processes forgot since the last call. Raises RedisUnavailable."""
        if self._shared is None:
            return
        forgotten = self._shared.forgotten(self._caught_up_to)
        if forgotten:
            self._forget_locally({name for name, _ in forgotten}, {name: moment / 1e6 for name, moment in forgotten})
            self._caught_up_to = max(moment for _, moment in forgotten)

    def _forget_locally(
        self, forgotten: Collection[bytes], moments: Mapping[bytes, float] | None = None
    ) -> tuple[set[bytes], int]:
        records = self._store.memory.forget(forgotten, moments, Checkpoint())
        waiting = self._backlog.forget(lambda identity: not self._digests(identity).isdisjoint(forgotten))
        return records, waiting
