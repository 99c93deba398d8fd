"""The state of sent values in Redis: one hash, with a field for each user. Runs of `sync` and the service share it.

A user's field is "u" and the user id. The field "key" has the key of the digests, and "owner" the fingerprints of the
endpoint and the API key. The hash does not expire.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from proxy.storage.accepted_values import (
    AcceptedValue,
    ValueDigester,
    differing_settings,
    encoded_ids,
    new_key,
    pack,
    unpack,
)
from proxy.storage.id_digests import UNKEYED, IdDigester
from proxy.storage.redis import RedisUnavailable, StateInUse
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"
_USER = b"u"
_AT_ONCE = 200
"""Users per command. A script merges 200 users in about 2 ms, and blocks Redis during this time."""
_LOCK_SECONDS = 30.0
"""Seconds for which a killed run still holds the lock."""
_EXTEND_SECONDS = 5.0


class RedisSyncState:
    """Implements `SyncState` in Redis. Every method may raise RedisUnavailable.

    `prefix`: prefix of the state's keys, which does not depend on `secret`. `cache_prefix`, `digester`: for the keys
    with the times at which users were forgotten. `secret`: REDIS_KEY_SECRET.
    """

    def __init__(
        self,
        server: RedisClient,
        prefix: bytes,
        cache_prefix: bytes,
        *,
        digester: IdDigester = UNKEYED,
        secret: str | None = None,
    ) -> None:
        self._server = server
        self._state = prefix + b"sent"
        self._lock = prefix + b"sent:lock"
        self._cache_prefix = cache_prefix
        self._id_digester = digester
        self._secret = secret
        self._creation = threading.Lock()
        self._current: ValueDigester | None = None
        self._record = server.script(_LUA / "record_sent.lua")
        self._hold = server.script(_LUA / "hold_locks.lua")

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value."""
        return self._digester().value(value)

    def read(self, user_ids: Sequence[str]) -> list[Mapping[str, AcceptedValue]]:
        """Return the accepted attributes of each user; empty for an unknown user."""
        fields = [_USER + id for id in encoded_ids(user_ids)]
        return [
            unpack(packed or b"")
            for start in range(0, len(fields), _AT_ONCE)
            for packed in self._server.fields(self._state, fields[start : start + _AT_ONCE])
        ]

    def record(self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]]) -> None:
        """Merge accepted attributes into the state. Ignores values from before the user was forgotten."""
        for start in range(0, len(accepted), _AT_ONCE):
            self._write(accepted[start : start + _AT_ONCE])

    def record_as_owner(
        self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]], endpoint: str, api_key: str
    ) -> bool:
        """Record accepted attributes, and make an endpoint and a key the owner of a state without an owner.

        Return False if the state has another owner. Nothing is recorded then.
        """
        owner = self._digester().owner(endpoint, api_key)
        starts = range(0, len(accepted), _AT_ONCE)
        return all(self._write(accepted[start : start + _AT_ONCE], owner) for start in starts)

    def _write(
        self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]], owner: bytes = b"", *, replaces: bool = False
    ) -> bool:
        """Return whether the state has this owner, or no `owner` was passed."""
        key = self._digester().key
        arguments: list[bytes] = [key, owner, b"1" if replaces else b""]
        for id, (_, sent) in zip(encoded_ids(user_id for user_id, _ in accepted), accepted, strict=True):
            arguments += [_USER + id, pack(sent)]
        forgotten = [self._cache_prefix + b"forgot:" + self._id_digester.user_id(user_id) for user_id, _ in accepted]
        stored_key = self._record([self._state, *forgotten], arguments)
        if stored_key is None:
            return False
        if stored_key != key:
            # Another process created the state at the same time, or again after Redis lost it.
            self._current = ValueDigester(stored_key, self._secret)
            raise RedisUnavailable("the state of sent values was replaced; run the command again")
        return True

    def users(self) -> Iterator[tuple[str, Mapping[str, AcceptedValue]]]:
        """Yield every user of the state. A user may be yielded twice while other processes write to the state."""
        for field, packed in self._server.scan_fields(self._state, _AT_ONCE):
            if field.startswith(_USER):
                yield field[len(_USER) :].decode("utf-8", "surrogatepass"), unpack(packed)

    def count(self) -> int:
        """Return the number of users."""
        metadata = self._server.fields(self._state, ["key", "owner"])
        return self._server.field_count(self._state) - sum(value is not None for value in metadata)

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users. Return the number of removed users."""
        return self._delete([_USER + id for id in encoded_ids(user_ids)])

    def _delete(self, fields: Sequence[bytes]) -> int:
        return self._server.delete_fields(self._state, fields) if fields else 0

    def compare_owner(self, endpoint: str, api_key: str) -> list[str]:
        """Return the names of the settings that differ from the settings of the owner; empty without an owner."""
        owner, key = self._server.fields(self._state, ["owner", "key"])
        if key is not None and key != self._digester().key:  # another process created the state at the same time
            self._current = ValueDigester(key, self._secret)
        return [] if owner is None else differing_settings(owner, self._digester().owner(endpoint, api_key))

    def claim(self, endpoint: str, api_key: str, *, clear: bool) -> None:
        """Make an endpoint and a key the owner of the state. `clear`: remove all users first."""
        if clear:
            # In pieces, because deleting millions of fields at once would block Redis for seconds.
            fields = [field for field, _ in self._server.scan_fields(self._state, _AT_ONCE) if field.startswith(_USER)]
            for start in range(0, len(fields), _AT_ONCE):
                self._delete(fields[start : start + _AT_ONCE])
        self._write([], self._digester().owner(endpoint, api_key), replaces=True)

    @contextmanager
    def locked(self, on_lost: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of the state, so that no other run uses the state. Raises StateInUse.

        `on_lost` is called once if the lock expired while Redis did not answer, and another run has the lock.
        """
        holder, stop = secrets.token_bytes(8), threading.Event()
        milliseconds = int(_LOCK_SECONDS * 1000)

        def hold(milliseconds: int) -> bool:
            (is_locked,) = self._hold([self._lock], [holder, milliseconds])
            return bool(is_locked)

        if not hold(milliseconds):
            raise StateInUse(
                "the state in Redis is in use by another run; wait until that run ends "
                f"(the lock of a killed run ends after {_LOCK_SECONDS:.0f} s)"
            )

        def extend() -> None:
            while not stop.wait(_EXTEND_SECONDS):
                try:
                    if not hold(milliseconds):
                        on_lost()
                        return
                except RedisUnavailable:
                    continue

        thread = threading.Thread(target=extend, name="sent-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(RedisUnavailable):  # the lock then expires
                hold(0)

    def _digester(self) -> ValueDigester:
        with self._creation:
            if self._current is None:
                (key,) = self._server.fields(self._state, ["key"])
                # `record` and `claim` store a new key, so a dry run stores nothing.
                self._current = ValueDigester(key or new_key(), self._secret)
            return self._current
