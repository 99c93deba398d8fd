"""What the memory keeps of each user or pair, and the bytes that it takes. Pure."""

from __future__ import annotations

import sys
from weakref import ref

from cachetools import LRUCache

from proxy.profile.parts import Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, CachedPart, Record

_LINKS = 368
"""Bytes that the cache's own three tables and the record's shell take per entry; a test holds it to the truth."""
_KEPT = sys.getsizeof(CachedPart(b"", 0.0)) + sys.getsizeof(0.0)


class Entry:
    """What is kept of one user or pair."""

    __slots__ = ("asked", "pushed", "record", "size")

    def __init__(self, record: Record, size: int, pushed: bytes | None) -> None:
        self.record = record
        self.size = size
        self.pushed = pushed
        """What was pushed about the user: in the entry of the `user_id` alone."""
        self.asked: ref[ProfileQuery] | None = None


def size_of(identity: Identity, record: Record, pushed: bytes | None = None) -> int:
    """Return the bytes that keeping `record` takes, everything that is not shared between records counted."""
    size = _LINKS + sys.getsizeof(identity) + (sys.getsizeof(pushed) if pushed else 0)
    size += sys.getsizeof(record.parts) if record is not EMPTY else 0
    for text in (*identity, record.user_id, record.device_id):
        size += sys.getsizeof(text) if text is not None else 0
    for part, kept in record.parts.items():
        size += _KEPT + sys.getsizeof(kept.value)
        if part.id:
            size += sys.getsizeof(part) + sys.getsizeof(part.id) + (sys.getsizeof(part.type) if part.type else 0)
    return size


class SizedLRU(LRUCache[Identity, Entry]):
    """The least recently used leaves first. Not safe for threads: `Memory` is."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.size)
        self.evicted = 0
        """How many have left for others."""

    def popitem(self) -> tuple[Identity, Entry]:
        """Let the least recently used go, and count it."""
        self.evicted += 1
        return super().popitem()
