"""Locks users in Redis while one process sends their data, so that no other process sends older data later."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proxy.storage.id_digests import UNKEYED, IdDigester
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"
_LOCK_SECONDS = 30.0
"""Seconds after which the lock of a killed process ends. A request to Braze takes less."""


class RedisUserLocks:
    """Holds a lock for each user, by a digest of the user id."""

    def __init__(self, server: RedisClient, prefix: bytes, *, digester: IdDigester = UNKEYED) -> None:
        self._prefix = prefix + b"sending:"
        self._digester = digester
        self._hold = server.script(_LUA / "hold_locks.lua")

    @contextmanager
    def hold(self, user_ids: Collection[str]) -> Iterator[set[str]]:
        """Lock users during the `with` block. Yields the locked users, without those that another holder has.

        Raises RedisUnavailable if the users cannot be locked.
        """
        holder, by_key = secrets.token_bytes(8), {self._prefix + self._digester.user_id(id): id for id in user_ids}
        results = self._hold([*by_key], [holder, int(_LOCK_SECONDS * 1000)])
        keys = [key for key, held in zip(by_key, results, strict=True) if held]
        try:
            yield {by_key[key] for key in keys}
        finally:
            if keys:
                with suppress(RedisUnavailable):  # the locks then expire
                    self._hold(keys, [holder, 0])
