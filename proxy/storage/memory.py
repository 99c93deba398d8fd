"""Records in memory, bounded by the bytes they take: what was fetched, what was pushed, answers as they were written.

Nothing here does I/O.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import NamedTuple

from cachetools import LRUCache

from proxy.profile.freshness import Freshness, FreshnessPolicy, freshness
from proxy.profile.overlay import apply_updates
from proxy.profile.parts import Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.record import EMPTY, Record, merge
from proxy.profile.updates import Updates, known, merged, pack, shrink, since, too_large, unpack
from proxy.storage.lru import Entry, SizedLRU, size_of
from proxy.storage.tombstones import Tombstones, names, pair_digest

_AT_ONCE = 500
"""Records that are looked at, in half a millisecond, before others have their turn."""
_READY_SHARE = 16
"""What part of the memory is for answers that are ready: those asked again within moments, not those of a campaign."""
_READY_LINKS = 600
"""Bytes that an answer that is ready takes beside its body."""


class Ready(NamedTuple):
    """An answer as it was written: its body, the body's ETag, when the oldest part was said, until when it is fresh."""

    body: bytes
    etag: str
    said_at: float
    fresh_until: float


class Hit(NamedTuple):
    """What is kept of a user that answers a wish, and for how long it is fresh.

    `ready`: the answer as it was written from it; `record` is empty then. `again`: the same was the last that was asked
    of this user, which is seldom so in a send: the answer is worth keeping.
    """

    record: Record
    freshness: Freshness
    ready: Ready | None
    again: bool


class MemoryStore:
    """Least recently used records leave it first. Safe for threads."""

    def __init__(self, *, max_bytes: int, policy: FreshnessPolicy, now: Callable[[], float]) -> None:
        for_ready = max_bytes // _READY_SHARE
        self._cache = SizedLRU(max_bytes - for_ready)
        self._ready: LRUCache[Identity, tuple[ProfileQuery, Ready, bytes | None]] = LRUCache(
            for_ready, getsizeof=lambda kept: len(kept[1].body) + _READY_LINKS
        )
        self._policy = policy
        self._now = now
        self._forgotten = Tombstones(now)
        self._any_pushed = False
        self.updates_usable_for = policy.updates_usable_for
        """Seconds for which what was pushed is of use."""
        self.told = 0
        """How often others told of what was pushed so far."""
        self._lock = Lock()

    @property
    def generation(self) -> int:
        """Return what to hand to `merge` and `push` with what is asked from now on: before a later forgetting."""
        return self._forgotten.generation

    def forgotten(self, identity: Identity, generation: int) -> bool:
        """Say whether `identity` was forgotten after `mark`."""
        with self._lock:
            return self._forgotten.since(generation, identity)

    def forget(
        self,
        meant: Collection[bytes],
        moments: Mapping[bytes, float] | None = None,
        checkpoint: Callable[[], object] = lambda: None,
    ) -> set[bytes]:
        """Drop, here, every record with an id of these names, and what lands of them with an older mark.

        `moments`: when they were forgotten, if that was not now. Return the digests of the pairs there were. `breathe`
        is called often, to let others have their turn.
        """
        with self._lock:
            self._forgotten.add(meant, moments)
            kept = list(self._cache.items())
            # Of an answer whose record had to leave nobody knows any more whose ids it has.
            for identity in [one for one in self._ready if one not in self._cache]:
                del self._ready[identity]
        dropped = set()
        for number, (identity, entry) in enumerate(kept):
            if number % _AT_ONCE == 0:
                checkpoint()
            if not names(identity, Identity(entry.record.user_id, entry.record.device_id)).isdisjoint(meant):
                dropped.add(pair_digest(identity))
                with self._lock:
                    gone = self._cache.pop(identity, None)
                    self._ready.pop(identity, None)
                    # What was pushed is of the user alone, whatever device the record was seen on.
                    if gone and gone.pushed and names(identity).isdisjoint(meant):
                        self._keep(identity, EMPTY, gone.pushed)
        return dropped

    def read(self, identity: Identity) -> Record:
        """Return what is kept here about `identity`, fresh or not; an empty record when there is nothing."""
        with self._lock:
            entry = self._cache.get(identity)
        return entry.record if entry else EMPTY

    def fresh(self, identity: Identity, query: ProfileQuery) -> Hit | None:
        """Return what is kept here if it answers `wish`, all of it freshly; note that this was asked."""
        with self._lock:
            try:
                entry = self._cache[identity]
            except KeyError:
                return None
            # Of a wish there is one such reference: it tells wishes apart, and keeps none alive that nobody else asks.
            asked = weakref.ref(query)
            again, entry.asked = entry.asked is asked, asked
            written = self._ready.get(identity) if again else None
            pushed = self._pushed(identity) if self._any_pushed else None
        now = self._now()
        if written is not None and written[0] is query and written[2] is pushed and written[1].fresh_until > now:
            ready = written[1]
            return Hit(EMPTY, Freshness(max(0.0, now - ready.said_at), ready.fresh_until - now), ready, again)
        record = entry.record if pushed is None else apply_updates(entry.record, known(unpack(pushed)), query)
        found = freshness(record, query.parts, self._policy, now) if record.has_all(query.parts) else None
        return Hit(record, found, None, again) if found and found.ttl > 0 else None

    def keep_ready(self, identity: Identity, query: ProfileQuery, record: Record, body: bytes, etag: str) -> None:
        """Keep what was written from `record`, unless something newer has come meanwhile."""
        with self._lock:
            entry = self._cache.get(identity)
            pushed = self._pushed(identity)
            if entry is None or (entry.record is not record and pushed is None):
                return
            if pushed is not None and apply_updates(entry.record, known(unpack(pushed)), query) != record:
                return
            said_at = min(map(record.fetched_at, query.parts))
            fresh_until = min(self._policy.ttl(record, part, 0.0) for part in query.parts)
            with contextlib.suppress(ValueError):  # too large
                self._ready[identity] = query, Ready(body, etag, said_at, fresh_until), pushed

    def with_updates(self, identity: Identity, record: Record, query: ProfileQuery) -> Record:
        """Return `record`, of this identity, as what was pushed about its user has changed it."""
        if not self._any_pushed:
            return record
        with self._lock:
            pushed = self._pushed(identity)
        return record if pushed is None else apply_updates(record, known(unpack(pushed)), query)

    def push(
        self,
        news: Collection[tuple[str, Updates]],
        generation: int,
        *,
        all_of_them: bool = True,
        checkpoint: Callable[[], object] = lambda: None,
    ) -> Counter[str]:
        """Merge into what was pushed about these users before: of all, or of those of whom something is kept here.

        Nothing is kept of what was said before its user was forgotten, or came before that, by `mark`; nothing new of
        one of whom it would be too much. Return of how many nothing was kept, by reason. `breathe` is called often, to
        let others have their turn.
        """
        last: tuple[Updates, bytes] | None = None
        refused: Counter[str] = Counter()
        horizon = self._now() - self.updates_usable_for
        for user_id, pushed in news:
            checkpoint()
            identity = Identity(user_id, None)
            if not all_of_them and identity not in self._cache:
                continue
            with self._lock:
                if self._forgotten.since(generation, identity):
                    refused["forgotten"] += 1
                    continue
                forgotten = self._forgotten.at(identity)
                new = pushed if forgotten is None else since(pushed, horizon, forgotten=forgotten)
                if not new:
                    refused["forgotten"] += 1
                    continue
                entry = self._cache.get(identity)
                old = entry.pushed if entry else None
                if old is not None:
                    both = merged(since(unpack(old), horizon), new)
                    if too_large(both):
                        refused["too_large"] += 1
                        continue
                    packed = shrink(pack(both))
                    if packed == old:
                        continue
                else:
                    # Of a cohort's batch all are the same, and share what is kept.
                    if last is None or last[0] is not new:
                        last = new, shrink(pack(new))
                    packed = last[1]
                self._any_pushed = True
                self._keep(identity, entry.record if entry else EMPTY, packed)
        return refused

    def held(self, told: Callable[[str], bool], checkpoint: Callable[[], object] = lambda: None) -> list[str]:
        """Return those users of whom something is kept here whom others were told of; `breathe` as for `forget`."""
        with self._lock:
            self.told += 1
            kept = list(self._cache)
        found = set()
        for number, identity in enumerate(kept):
            if number % _AT_ONCE == 0:
                checkpoint()
            if identity.user_id is not None and told(identity.user_id):
                found.add(identity.user_id)
        return list(found)

    def merge(self, identity: Identity, news: Record, generation: int | None = None) -> Record:
        """Add `news` to what is kept here, the later word winning, drop what may not be served any more; return it.

        A record larger than the whole cache is not kept: the caller that waits for it is answered all the same.
        """
        with self._lock:
            entry = self._cache.get(identity)
            old = entry.record if entry else EMPTY
            returned = Identity(news.user_id, news.device_id)
            if news is EMPTY or (generation is not None and self._forgotten.since(generation, identity, returned)):
                return old
            record = self._policy.prune(merge(old, news), self._now())
            self._keep(identity, record, entry.pushed if entry else None)
            return record

    def _keep(self, identity: Identity, record: Record, pushed: bytes | None) -> None:
        """Called under the lock."""
        self._ready.pop(identity, None)
        try:
            self._cache[identity] = Entry(record, size_of(identity, record, pushed), pushed)
        except ValueError:
            self._cache.pop(identity, None)

    def _pushed(self, identity: Identity) -> bytes | None:
        """Return what was pushed about the user, and keep it from leaving before the pair. Called under the lock."""
        if identity.user_id is None or not self._any_pushed:
            return None
        entry = self._cache.get(identity if identity.device_id is None else Identity(identity.user_id, None))
        return entry.pushed if entry else None

    @property
    def empty(self) -> bool:
        """Say whether nothing at all is kept."""
        return not self._cache

    @property
    def size(self) -> int:
        """Return the bytes kept."""
        return int(self._cache.currsize + self._ready.currsize)

    @property
    def records(self) -> int:
        """Return how many users something is kept of."""
        return len(self._cache)

    @property
    def max_size(self) -> int:
        """Return the bytes that may be kept."""
        return int(self._cache.maxsize + self._ready.maxsize)

    @property
    def evicted(self) -> int:
        """Return how many records have left the memory for others."""
        return self._cache.evicted
