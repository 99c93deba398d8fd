"""Records recently forgotten users, so that data requested or sent earlier is not cached when it arrives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from json.encoder import encode_basestring

from proxy.monitoring.clock import Clock
from proxy.profile.parts import Identity

REMEMBERED_SECONDS = 4 * 3600 + 600.0
"""Longer than any call, and longer than Amplitude retries a webhook."""
_MAX_TOMBSTONES = 100_000

IdDigests = frozenset[bytes]


def id_digests(*identities: Identity) -> IdDigests:
    """Return a digest of each id in `identities`. Digests let processes forget users without sharing their ids."""
    return frozenset(
        _digest(f"{kind}{id}")
        for identity in identities
        for kind, id in zip("ud", identity, strict=True)
        if id is not None
    )


def user_id_digest(user_id: str) -> bytes:
    """Return the digest of a user id, as in `id_digests`."""
    return _digest(f"u{user_id}")


def member_digest(digest: bytes) -> int:
    """Return the digest of a user id for snapshots: the first 64 bits. `digest`: see `user_id_digest`."""
    return int(digest[:16], 16)


def pair_digest(identity: Identity) -> bytes:
    """Return a digest of the pair of ids."""
    user_id, device_id = ["null" if id is None else encode_basestring(id) for id in identity]
    return _digest(f"[{user_id},{device_id}]")


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()


class Tombstones:
    """The digests of recently forgotten ids, oldest first. Not thread-safe; MemoryStore locks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # by digest: generation, time of the addition, time at which the id was forgotten; oldest first
        self._last: dict[bytes, tuple[int, float, float]] = {}
        self.generation = 0
        """The number of calls of `add`."""

    def add(self, digests: Collection[bytes], moments: Mapping[bytes, float] | None = None) -> None:
        """Record that these ids were forgotten, at `moments` (Unix seconds by digest) or now."""
        self.generation += 1
        now = self._clock.now()
        for digest in digests:
            at = (moments or {}).get(digest, now)
            _, _, before = self._last.pop(digest, (0, 0.0, at))
            self._last[digest] = self.generation, now, max(at, before)
        while self._last and (len(self._last) > _MAX_TOMBSTONES or self._oldest < now - REMEMBERED_SECONDS):
            del self._last[next(iter(self._last))]

    @property
    def _oldest(self) -> float:
        return next(iter(self._last.values()))[1]

    def forgotten_at(self, identity: Identity) -> float | None:
        """Return when an id of `identity` was last forgotten (Unix seconds); None if it was not forgotten recently."""
        if not self._last:
            return None
        return max((self._last[digest][2] for digest in id_digests(identity) if digest in self._last), default=None)

    def forgotten_after(self, moment: float) -> list[bytes]:
        """Return the digests of the ids that were forgotten after `moment` (Unix seconds)."""
        return [digest for digest, (_, _, at) in self._last.items() if at > moment]

    def forgotten_since(self, generation: int, *identities: Identity) -> bool:
        """Return whether an id in `identities` was forgotten after `generation`."""
        if generation == self.generation:
            return False
        return any(self._last.get(digest, (0,))[0] > generation for digest in id_digests(*identities))
