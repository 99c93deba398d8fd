"""Whom one has been told to forget, so that what was asked before that is not kept when it lands. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from hashlib import blake2b

from proxy.parts import Identity

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_REMEMBERED_SECONDS = 60.0
"""Longer than anything that was asked can be on its way."""

Names = frozenset[bytes]


def names(*pairs: Identity) -> Names:
    """Return a digest of each id in `pairs`: what others are told to forget must not say who it is."""
    return frozenset(
        blake2b(f"{kind}{id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()
        for pair in pairs
        for kind, id in zip("ud", pair, strict=True)
        if id is not None
    )


def pair_digest(identity: Identity) -> bytes:
    """Return what stands for the pair where no id may stand."""
    text = _ENCODER.encode(identity)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()


class Forgotten:
    """The names lately forgotten, and their order. Not safe for threads: `Store` is."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: dict[bytes, tuple[int, float]] = {}  # the oldest first
        self.mark = 0
        """How often anybody was forgotten so far: later than this is later than now."""

    def add(self, names: Collection[bytes]) -> None:
        """Note that `names` are forgotten now."""
        self.mark += 1
        now = self._now()
        for name in names:
            self._last.pop(name, None)
            self._last[name] = self.mark, now
        while self._last and next(iter(self._last.values()))[1] < now - _REMEMBERED_SECONDS:
            del self._last[next(iter(self._last))]

    def since(self, mark: int, *pairs: Identity) -> bool:
        """Say whether one of the ids in `pairs` was forgotten after `mark`."""
        if mark == self.mark:
            return False
        return any(self._last.get(name, (0, 0.0))[0] > mark for name in names(*pairs))
