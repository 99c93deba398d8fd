"""Locks users in Redis while one process sends their data, so that no other process sends older data later."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proxy.storage.id_digests import UNKEYED, IdDigester
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"


class RedisUserLocks:
    """Holds a lock for each user, by a digest of the user id. A process must not hold a user twice at the same time.

    `seconds`: after this time, the lock of a killed process ends. It must be longer than a request to Braze.
    """

    def __init__(self, server: RedisClient, prefix: bytes, *, seconds: float, digester: IdDigester = UNKEYED) -> None:
        self._prefix = prefix + b"sending:"
        self._digester = digester
        self._milliseconds = int(seconds * 1000)
        # All locks of this process have the same holder. So it can take a lock again if a release or a reply was lost.
        self._holder = server.id.encode()
        self._hold = server.script(_LUA / "hold_locks.lua")

    @contextmanager
    def hold(self, user_ids: Collection[str]) -> Iterator[set[str]]:
        """Lock users during the `with` block. Yields the locked users. Skips users that another process has locked.

        Raises RedisUnavailable if the users cannot be locked.
        """
        by_key = {self._prefix + self._digester.user_id(id): id for id in user_ids}
        results = self._hold([*by_key], [self._holder, self._milliseconds])
        keys = [key for key, is_locked in zip(by_key, results, strict=True) if is_locked]
        try:
            yield {by_key[key] for key in keys}
        finally:
            if keys:
                with suppress(RedisUnavailable):  # the locks then expire
                    self._hold(keys, [self._holder, 0])
