"""Forgets a user: in Redis first, whence every other process hears of it, then here, and in who waits for a call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.fetch.backlog import Backlog
from proxy.profile.parts import Identity
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.tiered import TieredStore
from proxy.storage.tombstones import names

if TYPE_CHECKING:
    from proxy.storage.redis.profiles import RedisProfiles


@dataclass(frozen=True, slots=True)
class Forgot:
    """What there was: records here or in Redis, and users who waited here for a call."""

    records: int
    waiting: int


class ForgetService:
    """Safe for threads. `catch_up` is for the thread that keeps the connection to Redis."""

    def __init__(self, store: TieredStore, backlog: Backlog, shared: RedisProfiles | None = None) -> None:
        self._store = store
        self._backlog = backlog
        self._shared = shared
        self._heard = 0.0

    def forget(self, ids: Identity) -> Forgot:
        """Forget all pairs that have the user id or the device id of `ids`, as asked or as Amplitude returned it.

        What is on its way about them is not kept when it lands. Raises Gone when it is forgotten here, but Redis
        does not answer: the others cannot be told.
        """
        meant = names(ids)
        gone: RedisUnavailable | None = None
        there: set[bytes] = set()
        if self._shared is not None:
            # First: a copy there would come back here.
            try:
                there = self._shared.forget(ids)
            except RedisUnavailable as error:
                gone = error
        here, waiting = self._forget_here(meant)
        if gone is not None:
            raise gone
        return Forgot(len(there | here), waiting)

    def catch_up(self) -> None:
        """Forget whom other processes were told to forget since the last time. Raises Gone."""
        if self._shared is None:
            return
        told = self._shared.forgotten(self._heard)
        if told:
            self._forget_here({name for name, _ in told}, {name: moment / 1e6 for name, moment in told})
            self._heard = max(moment for _, moment in told)

    def _forget_here(
        self, meant: Collection[bytes], moments: Mapping[bytes, float] | None = None
    ) -> tuple[set[bytes], int]:
        here = self._store.forget(meant, moments, Checkpoint())
        waiting = self._backlog.forget(lambda identity: not names(identity).isdisjoint(meant))
        return here, waiting
