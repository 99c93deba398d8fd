"""Stores the updates of users in Redis: one value per user. A script merges new updates and announces them.

Keys are digests, as for records. An announcement contains checksums of user ids. Each process looks up its cached users
with matching checksums. A false match costs one lookup.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from proxy.profile.updates import MAX_BYTES, MAX_FIELDS, MESSAGE_SECONDS, Updates, checksum, pack, unpack
from proxy.storage.id_digests import UNKEYED, IdDigester
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"

_ANNOUNCED_SECONDS = 120.0
"""Seconds for which announcements are kept. A process that was disconnected for less time misses none."""
_MARGIN_SECONDS = 20.0
_MAX_UNPACKED_BYTES = 512 * 1024
"""Limit on the bytes that one script unpacks and merges. They block Redis for about 10 ms."""
_CHECKSUM = Struct(">I")


def updates_key(prefix: bytes, digester: IdDigester, user_id: str) -> bytes:
    """Return the key of the updates of a user."""
    return prefix + b"pushed:" + digester.user_id(user_id)


def read_updates(value: bytes | None) -> Updates:
    """Return the updates in a value from Redis; no updates if the value is unreadable."""
    try:
        return unpack(value or b"")
    except ValueError:
        return {}


class RedisUpdates:
    """Stores updates. Each method may raise RedisUnavailable, and takes one round trip; `save` may take several.

    `kept_for`: seconds for which updates are kept.
    """

    def __init__(self, server: RedisClient, prefix: bytes, *, kept_for: float, digester: IdDigester = UNKEYED) -> None:
        self._server = server
        self._digester = digester
        self._prefix = prefix
        self._kept_for = kept_for
        self._update = server.script(_LUA / "update.lua")

    def save(self, updates: Sequence[tuple[str, Updates]], now: float) -> dict[int, str]:
        """Merge `updates` (user ids and their new updates) into the stored updates.

        Return the reasons of skips by index.
        `forgotten`: the updates are older than the request to forget the user. `too_large`: the user's updates would
        exceed the maximum. Large updates take several scripts, and Redis serves other clients in between.
        """
        skipped: dict[int, str] = {}
        start = 0
        while start < len(updates):
            processed, forgotten, too_large = self._save_some(updates[start:], now)
            skipped |= {start + place - 1: "forgotten" for place in forgotten}
            skipped |= {start + place - 1: "too_large" for place in too_large}
            start += processed
        return skipped

    def _save_some(self, updates: Sequence[tuple[str, Updates]], now: float) -> tuple[int, list[int], list[int]]:
        """Merge the first updates.

        Return the number of processed users, and the positions (from 1) of skipped users.
        """
        keys, checksums = [self._announcements], []
        for user_id, _ in updates:
            digest = self._digester.user_id(user_id)
            keys += [self._prefix + b"pushed:" + digest, self._prefix + b"forgot:" + digest]
            checksums.append(_CHECKSUM.pack(checksum(user_id)))
        packed: list[bytes] = []
        for place, (_, new) in enumerate(updates):
            # All users of a cohort webhook share the same updates.
            packed.append(packed[-1] if place and new is updates[place - 1][1] else pack(new))
        head = [int(self._kept_for * 1000), now - self._kept_for, b"".join(checksums), int(_ANNOUNCED_SECONDS * 1000)]
        processed, forgotten, too_large = self._update(
            keys, [*head, MAX_BYTES, MAX_FIELDS, _MAX_UNPACKED_BYTES, *packed]
        )
        return processed, forgotten, too_large

    def read(self, user_ids: Sequence[str]) -> list[Updates]:
        """Return the updates of each of these users."""
        keys = [updates_key(self._prefix, self._digester, user_id) for user_id in user_ids]
        return [read_updates(value) for value in self._server.values(keys)]

    def announced(self, since: float) -> tuple[frozenset[int], float]:
        """Return the checksums of users with updates after `since`, and the time of the last announcement.

        Times are microseconds on the clock of Redis.
        """
        members = self._server.members_above(self._announcements, since)
        checksums = {value for member, _ in members for (value,) in _CHECKSUM.iter_unpack(member.partition(b" ")[2])}
        return frozenset(checksums), max((moment for _, moment in members), default=since)

    def keeps_announcements_for(self, seconds: float) -> bool:
        """Return whether announcements are kept for at least `seconds`, so that a disconnected process misses none."""
        return seconds < _ANNOUNCED_SECONDS - _MARGIN_SECONDS

    def remembers(self, message: str) -> bool:
        """Return whether this message was applied before."""
        return self._server.values([self._message_key(message)]) != [None]

    def remember(self, message: str) -> None:
        """Record that this message was applied."""
        self._server.put(self._message_key(message), MESSAGE_SECONDS)

    @property
    def _announcements(self) -> bytes:
        return self._prefix + b"news"

    def _message_key(self, message: str) -> bytes:
        digest = blake2b(message.encode("utf-8", "replace"), digest_size=16).hexdigest()
        return self._prefix + b"message:" + digest.encode()
