"""Records in memory, bounded by the bytes they take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Lock

from cachetools import LRUCache

from proxy.parts import EMPTY, Identity, Lifetimes, Record, merge

_LINKS = 360
"""Bytes that the cache's own three tables and the record's shell take per entry; a test holds it to the truth."""


def size_of(identity: Identity, record: Record) -> int:
    """Return the bytes that keeping `record` takes, everything that is not shared between records counted."""
    size = _LINKS + sys.getsizeof(identity) + sys.getsizeof(record.parts)
    for text in (*identity, record.user_id, record.device_id):
        size += sys.getsizeof(text) if text is not None else 0
    for part, kept in record.parts.items():
        size += sys.getsizeof(kept) + sys.getsizeof(kept.value) + sys.getsizeof(kept.at)
        if part.id:
            size += sys.getsizeof(part) + sys.getsizeof(part.id) + (sys.getsizeof(part.type) if part.type else 0)
    return size


class Store:
    """Least recently used records leave first. Safe for threads; no I/O, so its lock is held briefly."""

    def __init__(self, *, max_bytes: int, lifetimes: Lifetimes, now: Callable[[], float]) -> None:
        self._cache: LRUCache[Identity, _Entry] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)
        self._lifetimes = lifetimes
        self._now = now
        self._lock = Lock()

    def read(self, identity: Identity) -> Record:
        """Return what is kept about `identity`, fresh or not; an empty record when there is nothing."""
        with self._lock:
            entry = self._cache.get(identity)
        return entry.record if entry else EMPTY

    def merge(self, identity: Identity, news: Record) -> None:
        """Add `news` to what is kept, the later word winning, and drop what may not be served any more.

        A record larger than the whole cache is not kept: the caller that waits for it is answered all the same.
        """
        with self._lock:
            entry = self._cache.get(identity)
            record = self._lifetimes.pruned(merge(entry.record if entry else EMPTY, news), self._now())
            try:
                self._cache[identity] = _Entry(record, size_of(identity, record))
            except ValueError:
                self._cache.pop(identity, None)

    @property
    def empty(self) -> bool:
        """Say whether nothing at all is kept."""
        return not self._cache

    @property
    def size(self) -> int:
        """Return the bytes kept."""
        return int(self._cache.currsize)


class _Entry:
    __slots__ = ("record", "size")

    def __init__(self, record: Record, size: int) -> None:
        self.record = record
        self.size = size
