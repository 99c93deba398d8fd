"""Stores the totals of the runs of `sync` in Redis, so that the service can report them."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from proxy.monitoring.sync_runs import SyncRun, SyncRuns, add_run
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient

_FIELD = "runs"
_EXPIRY_SECONDS = 90 * 86400.0
"""Seconds after the last run until the totals expire."""


class RedisSyncRuns:
    """The totals of all runs with the same Redis. `prefix`: prefix of the key, which all processes share."""

    def __init__(self, server: RedisClient, prefix: bytes) -> None:
        self._server = server
        self._key = prefix + b"sync-runs"
        self._latest: SyncRuns | None = None

    def record_run(self, run: SyncRun) -> None:
        """Add a run to the totals. Raises RedisUnavailable.

        Only the run that holds the lock of the state may call this method. Two calls at the same time would lose a run.
        """
        totals = add_run(self._stored(), run)
        self._server.put_fields(self._key, {_FIELD: msgspec.json.encode(totals)}, _EXPIRY_SECONDS)

    def read(self) -> SyncRuns | None:
        """Return the totals; None if no run was recorded. While Redis is unavailable, return the last known totals."""
        with suppress(RedisUnavailable):
            self._latest = self._stored()
        return self._latest

    def _stored(self) -> SyncRuns | None:
        stored = self._server.hash(self._key).get(_FIELD.encode())
        try:
            return None if stored is None else msgspec.json.decode(stored, type=SyncRuns)
        except msgspec.DecodeError:  # written by another version
            return None
