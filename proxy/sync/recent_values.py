"""The last values of attributes that Braze accepted, in the memory of a process without Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from cachetools import LRUCache

from proxy.storage.accepted_values import AcceptedValue, ValueDigester, merge, new_key

_MAX_USERS = 100_000


class RecentValues:
    """Accepted values in memory. If there are too many users, removes the least recently used users."""

    def __init__(self, max_users: int = _MAX_USERS) -> None:
        self._digester = ValueDigester(new_key())
        self._lock = Lock()
        self._users: LRUCache[str, dict[str, AcceptedValue]] = LRUCache(max_users)

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value."""
        return self._digester.value(value)

    def read(self, user_ids: Sequence[str]) -> list[Mapping[str, AcceptedValue]]:
        """Return the accepted attributes of each user."""
        with self._lock:
            return [dict(self._users.get(user_id, {})) for user_id in user_ids]

    def record(self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]]) -> None:
        """Store accepted attributes, except those with an older time than the stored ones."""
        with self._lock:
            for user_id, attributes in accepted:
                self._users[user_id] = merge(self._users.get(user_id, {}), attributes)

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users. Return the number of removed users."""
        with self._lock:
            return sum(self._users.pop(user_id, None) is not None for user_id in user_ids)
