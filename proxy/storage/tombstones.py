"""Records recently forgotten users, so that data requested or sent earlier is not cached when it arrives."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.monitoring.clock import Clock
from proxy.profile.parts import Identity
from proxy.storage.id_digests import IdDigester

REMEMBERED_SECONDS = 4 * 3600 + 600.0
"""Longer than any call, and longer than Amplitude retries a webhook."""
_MAX_TOMBSTONES = 100_000


class Tombstones:
    """The digests of recently forgotten ids, oldest first. Not thread-safe; MemoryStore locks.

    `seconds`: how long an id is remembered.
    """

    def __init__(self, clock: Clock, digester: IdDigester, seconds: float = REMEMBERED_SECONDS) -> None:
        self._seconds = seconds
        self._clock = clock
        self._digester = digester
        # by digest: generation, monotonic time of the addition, Unix time of forgetting the id; oldest first
        self._last: dict[bytes, tuple[int, float, float]] = {}
        self.generation = 0
        """The number of calls of `add`."""

    def add(self, digests: Collection[bytes], moments: Mapping[bytes, float] | None = None) -> None:
        """Record that these ids were forgotten, at `moments` (Unix seconds by digest) or now."""
        self.generation += 1
        now, added_at = self._clock.now(), self._clock.monotonic()
        for digest in digests:
            at = min((moments or {}).get(digest, now), now)  # the clock of Redis may be ahead
            _, _, before = self._last.pop(digest, (0, 0.0, at))
            self._last[digest] = self.generation, added_at, max(at, min(before, now))
        while self._last and (len(self._last) > _MAX_TOMBSTONES or self._oldest < added_at - self._seconds):
            del self._last[next(iter(self._last))]

    @property
    def _oldest(self) -> float:
        return next(iter(self._last.values()))[1]

    def forgotten_at(self, identity: Identity) -> float | None:
        """Return when an id of `identity` was last forgotten (Unix seconds); None if it was not forgotten recently."""
        if not self._last:
            return None
        now, latest = self._clock.now(), None
        for digest in self._digester.ids(identity):
            if digest in self._last:
                generation, added_at, at = self._last[digest]
                if at > now:  # The clock was set back. All later updates would seem older.
                    at = now
                    self._last[digest] = generation, added_at, at
                latest = at if latest is None else max(latest, at)
        return latest

    def forgotten_after(self, moment: float) -> list[bytes]:
        """Return the digests of the ids that were forgotten after `moment` (Unix seconds)."""
        return [digest for digest, (_, _, at) in self._last.items() if at > moment]

    def forgotten_since(self, generation: int, *identities: Identity) -> bool:
        """Return whether an id in `identities` was forgotten after `generation`."""
        if generation == self.generation:
            return False
        return any(self._last.get(digest, (0,))[0] > generation for digest in self._digester.ids(*identities))
