"""Whom one has been told to forget, so that what was asked or said before that is not kept when it lands. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from json.encoder import encode_basestring

from proxy.profile.parts import Identity

REMEMBERED_SECONDS = 4 * 3600 + 600.0
"""Longer than anything that was asked can be on its way, or Amplitude tries to send again what it said."""
_MOST = 100_000

Names = frozenset[bytes]


def names(*pairs: Identity) -> Names:
    """Return a digest of each id in `pairs`: what others are told to forget must not say who it is."""
    return frozenset(
        _digest(f"{kind}{id}") for pair in pairs for kind, id in zip("ud", pair, strict=True) if id is not None
    )


def name_of(user_id: str) -> bytes:
    """Return the digest of that id alone."""
    return _digest(f"u{user_id}")


def pair_digest(identity: Identity) -> bytes:
    """Return what stands for the pair where no id may stand."""
    user_id, device_id = ["null" if id is None else encode_basestring(id) for id in identity]
    return _digest(f"[{user_id},{device_id}]")


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()


class Tombstones:
    """The names lately forgotten, and their order. Not safe for threads: `Store` is."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: dict[bytes, tuple[int, float, float]] = {}  # the oldest first
        self.generation = 0
        """How often anybody was forgotten so far: later than this is later than now."""

    def add(self, names: Collection[bytes], moments: Mapping[bytes, float] | None = None) -> None:
        """Note that `names` are forgotten now, or were at these moments."""
        self.generation += 1
        now = self._now()
        for name in names:
            at = (moments or {}).get(name, now)
            _, _, before = self._last.pop(name, (0, 0.0, at))
            self._last[name] = self.generation, now, max(at, before)
        while self._last and (len(self._last) > _MOST or self._oldest < now - REMEMBERED_SECONDS):
            del self._last[next(iter(self._last))]

    @property
    def _oldest(self) -> float:
        return next(iter(self._last.values()))[1]

    def at(self, identity: Identity) -> float | None:
        """Return when one of the ids was forgotten last; None where that was not, or is of no use any more."""
        if not self._last:
            return None
        return max((self._last[name][2] for name in names(identity) if name in self._last), default=None)

    def since(self, generation: int, *pairs: Identity) -> bool:
        """Say whether one of the ids in `pairs` was forgotten after `mark`."""
        if generation == self.generation:
            return False
        return any(self._last.get(name, (0,))[0] > generation for name in names(*pairs))
