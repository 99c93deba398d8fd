"""Response bodies that are kept as written, for identities that get the same query again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from typing import NamedTuple

from cachetools import LRUCache

from proxy.profile.parts import Identity

_ENTRY_BYTES = 600
"""Bytes that an entry takes in addition to its body. Checked by a test."""


class ReadyBody(NamedTuple):
    """A response body, and what it was written from.

    `fetched_at`: when the oldest part was fetched; `fresh_until`: when the first part goes stale (both Unix seconds).
    `updates`: the packed updates of the user at that time.
    """

    body: bytes
    etag: str
    fetched_at: float
    fresh_until: float
    query: int
    updates: bytes | None


class ReadyBodies:
    """The last body of each identity, bounded in bytes. Not safe for threads: MemoryStore locks."""

    def __init__(self, max_bytes: int) -> None:
        self._bodies: LRUCache[Identity, ReadyBody] = LRUCache(
            max_bytes, getsizeof=lambda ready: len(ready.body) + _ENTRY_BYTES
        )

    def find(self, identity: Identity, query: int, updates: bytes | None) -> ReadyBody | None:
        """Return the body if it answers the query of this number and includes exactly these updates."""
        ready = self._bodies.get(identity)
        if ready is None or ready.query != query or ready.updates != updates:
            return None
        return ready

    def keep(self, identity: Identity, ready: ReadyBody) -> None:
        """Keep a body instead of the previous one of `identity`, unless it exceeds the bound alone."""
        with contextlib.suppress(ValueError):
            self._bodies[identity] = ready

    def discard(self, identity: Identity) -> None:
        """Drop the body of `identity`, if any."""
        self._bodies.pop(identity, None)

    def discard_others(self, identities: Container[Identity]) -> None:
        """Drop every body whose identity is not in `identities`."""
        for identity in [identity for identity in self._bodies if identity not in identities]:
            del self._bodies[identity]

    @property
    def size(self) -> int:
        """The bytes in use."""
        return int(self._bodies.currsize)
