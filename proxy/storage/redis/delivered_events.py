"""Records in Redis which events Braze accepted: an expiring key for each event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"


class RedisDeliveredEvents:
    """Each method may raise RedisUnavailable, and takes one round trip. `kept_for`: seconds."""

    def __init__(self, server: RedisClient, prefix: bytes, *, kept_for: float) -> None:
        self._server = server
        self._prefix = prefix + b"delivered:"
        self._milliseconds = int(kept_for * 1000)
        self._add = server.script(_LUA / "deliver.lua")

    def known(self, event_ids: Sequence[int]) -> set[int]:
        """Return the given events that any process recorded."""
        values = self._server.values([self._key(id) for id in event_ids])
        return {id for id, value in zip(event_ids, values, strict=True) if value is not None}

    def add(self, event_ids: Sequence[int]) -> None:
        """Record events."""
        self._add([self._key(id) for id in event_ids], [self._milliseconds])

    def _key(self, id: int) -> bytes:
        return self._prefix + b"%016x" % id
