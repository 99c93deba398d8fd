"""Caches records up to a number of bytes, and evicts the least recently used records first."""

from __future__ import annotations

import sys

from cachetools import LRUCache

from proxy.profile.parts import Identity
from proxy.profile.record import EMPTY, CachedPart, Record

_ENTRY_BYTES = 368
"""Bytes per entry in the three tables of the cache and in the objects around a record. A test checks the number."""
_PART_BYTES = sys.getsizeof(CachedPart(b"", 0.0)) + sys.getsizeof(0.0)


class Entry:
    """The cached record of one identity.

    `size`: bytes. `updates`: the packed updates of the user; only for an identity without a device id.
    `last_query`: the number of the last query that this entry answered; 0 for none.
    """

    __slots__ = ("last_query", "record", "size", "updates")

    def __init__(self, record: Record, size: int, updates: bytes | None) -> None:
        self.record = record
        self.size = size
        self.updates = updates
        self.last_query = 0


def size_of(identity: Identity, record: Record, updates: bytes | None = None) -> int:
    """Return the bytes that an entry takes, without the objects that entries share."""
    size = _ENTRY_BYTES + sys.getsizeof(identity) + (sys.getsizeof(updates) if updates else 0)
    size += sys.getsizeof(record.parts) if record is not EMPTY else 0
    for text in (*identity, record.user_id, record.device_id):
        size += sys.getsizeof(text) if text is not None else 0
    for part, cached in record.parts.items():
        size += _PART_BYTES + sys.getsizeof(cached.value)
        if part.id:
            size += sys.getsizeof(part) + sys.getsizeof(part.id) + (sys.getsizeof(part.type) if part.type else 0)
    return size


class SizedLRU(LRUCache[Identity, Entry]):
    """Evicts the least recently used entry first. Not thread-safe; MemoryStore locks."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.size)
        self.evicted = 0
        """The number of evicted entries."""

    def popitem(self) -> tuple[Identity, Entry]:
        """Evict the least recently used entry, and count the eviction."""
        self.evicted += 1
        return super().popitem()
