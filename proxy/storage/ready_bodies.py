"""Stores finished response bodies for identities that repeat the same query."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Container
from typing import NamedTuple

from cachetools import LRUCache

from proxy.profile.parts import Identity

_ENTRY_BYTES = 600
"""Bytes that an entry takes in addition to its body. A test checks the number."""
_ADMITTED_SHARE = 1 / 16
"""When the memory is full, this share of the offered bodies is kept."""


class ReadyBody(NamedTuple):
    """A response body and the data on which it depends.

    `fetched_at`: when the oldest part was fetched. `fresh_until`: when the first part becomes stale (Unix seconds).
    `updates`: the packed updates of the user that the body includes.
    """

    body: bytes
    etag: str
    fetched_at: float
    fresh_until: float
    query: int
    updates: bytes | None


class ReadyBodies:
    """Stores the last body of each identity, up to a number of bytes. Not thread-safe; MemoryStore locks.

    A large send offers more bodies than fit. If each one evicted another, no body would last until it is needed, and
    the evictions would take a tenth of a cached answer's time.
    """

    def __init__(self, max_bytes: int) -> None:
        self._bodies: LRUCache[Identity, ReadyBody] = LRUCache(
            max_bytes, getsizeof=lambda ready: len(ready.body) + _ENTRY_BYTES
        )

    def find(self, identity: Identity, query: int, updates: bytes | None) -> ReadyBody | None:
        """Return the body if it answers the query with this number and includes exactly these updates."""
        ready = self._bodies.get(identity)
        if ready is None or ready.query != query or ready.updates != updates:
            return None
        return ready

    def admits(self, body: bytes) -> bool:
        """Return whether to keep an offered `body`."""
        has_room = self._bodies.currsize + len(body) + _ENTRY_BYTES <= self._bodies.maxsize
        # At random. With every 16th offer instead, a user whose offers alternate with others' offers may never be kept.
        return has_room or random.random() < _ADMITTED_SHARE  # noqa: S311  # not secret

    def keep(self, identity: Identity, ready: ReadyBody) -> None:
        """Replace the body of `identity`, unless the new body exceeds the maximum size."""
        with contextlib.suppress(ValueError):
            self._bodies[identity] = ready

    def discard(self, identity: Identity) -> None:
        """Remove the body of `identity`, if any."""
        self._bodies.pop(identity, None)

    def discard_others(self, identities: Container[Identity]) -> None:
        """Remove every body whose identity is not in `identities`."""
        for identity in [identity for identity in self._bodies if identity not in identities]:
            del self._bodies[identity]

    def clear(self) -> None:
        """Remove all bodies."""
        self._bodies.clear()

    @property
    def size(self) -> int:
        """Return the bytes in use."""
        return int(self._bodies.currsize)
