"""What was pushed about users, in Redis: a value a user, merged there, and of which users the others must hear.

Keys are digests, as those of records. Whom the others are told of is a checksum of the id, by which a process finds
those users that it holds: to look up one too many costs a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from proxy.profile.parts import Identity
from proxy.profile.updates import MAX_BYTES, MAX_FIELDS, MESSAGE_SECONDS, Updates, checksum, pack, unpack
from proxy.storage.redis.client import RedisClient
from proxy.storage.tombstones import name_of

_LUA = Path(__file__).parent / "lua"

_HEARD_SECONDS = 120.0
"""For so long a process may be away and still hears of all that was pushed."""
_MARGIN_SECONDS = 20.0
_UNPACKED_AT_ONCE = 512 * 1024
"""Bytes that Redis takes apart and merges, in some ten milliseconds in which it does nothing else."""
_CHECKSUM = Struct(">I")


def key_of(prefix: bytes, identity: Identity) -> bytes | None:
    """Return the key of what was pushed about the user of a pair; None where the pair names no user."""
    if identity.user_id is None:
        return None
    return prefix + b"pushed:" + name_of(identity.user_id)


def unpacked(value: bytes | None) -> Updates:
    """Return what such a key holds. What is none of ours is as good as not there."""
    try:
        return unpack(value or b"")
    except ValueError:
        return {}


class RedisUpdates:
    """Each method is one round trip, `push` perhaps several, and raises Gone.

    `use`: seconds for which a push is of use.
    """

    def __init__(self, server: RedisClient, prefix: bytes, *, use: float) -> None:
        self._server = server
        self._prefix = prefix
        self._use = use
        self._push = server.script(_LUA / "update.lua")

    def save(self, news: Sequence[tuple[str, Updates]], now: float) -> dict[int, str]:
        """Merge `news` into what was pushed before. Return why nothing was kept of some, by their places.

        `forgotten`: all was said before the user was forgotten; `too_large`: it would be too much of one user. Where
        much is kept already it takes several round trips, between which Redis sees to others.
        """
        refused: dict[int, str] = {}
        start = 0
        while start < len(news):
            done, forgotten, large = self._pushed(news[start:], now)
            refused |= {start + place - 1: "forgotten" for place in forgotten}
            refused |= {start + place - 1: "too_large" for place in large}
            start += done
        return refused

    def _pushed(self, news: Sequence[tuple[str, Updates]], now: float) -> tuple[int, list[int], list[int]]:
        """Merge the first of `news`. Return how many, and the places, from 1, of the forgotten and the too large."""
        keys, told = [self._told], []
        for user_id, _ in news:
            name = name_of(user_id)
            keys += [self._prefix + b"pushed:" + name, self._prefix + b"forgot:" + name]
            told.append(_CHECKSUM.pack(checksum(user_id)))
        packed: list[bytes] = []
        for place, (_, pushed) in enumerate(news):
            # Of a cohort's batch all are the same.
            packed.append(packed[-1] if place and pushed is news[place - 1][1] else pack(pushed))
        head = [int(self._use * 1000), now - self._use, b"".join(told), int(_HEARD_SECONDS * 1000)]
        done, forgotten, large = self._push(keys, [*head, MAX_BYTES, MAX_FIELDS, _UNPACKED_AT_ONCE, *packed])
        return done, forgotten, large

    def read(self, user_ids: Sequence[str]) -> list[Updates]:
        """Return what was pushed about each of these users."""
        keys = [key for user_id in user_ids if (key := key_of(self._prefix, Identity(user_id, None)))]
        return [unpacked(value) for value in self._server.values(keys)]

    def told(self, since: float) -> tuple[frozenset[int], float]:
        """Return the checksums of those pushed after the moment `since`, and the last moment there is."""
        found = self._server.above(self._told, since)
        sums = {sum for member, _ in found for (sum,) in _CHECKSUM.iter_unpack(member.partition(b" ")[2])}
        return frozenset(sums), max((moment for _, moment in found), default=since)

    def remembers(self, message: str) -> bool:
        """Say whether this message was applied already."""
        return self._server.values([self._message(message)]) != [None]

    def remember(self, message: str) -> None:
        """Note that this message was applied."""
        self._server.put(self._message(message), MESSAGE_SECONDS)

    def heard_all(self, seconds: float) -> bool:
        """Say whether who asked that long ago has heard of all."""
        return seconds < _HEARD_SECONDS - _MARGIN_SECONDS

    @property
    def _told(self) -> bytes:
        return self._prefix + b"news"

    def _message(self, message: str) -> bytes:
        digest = blake2b(message.encode("utf-8", "replace"), digest_size=16).hexdigest()
        return self._prefix + b"message:" + digest.encode()
