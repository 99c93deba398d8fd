"""Updates about users, pushed by Amplitude, as the memory store keeps them: packed, and compressed if long."""

from __future__ import annotations

from typing import Literal

from proxy.profile.overlay import apply_updates
from proxy.profile.query import ProfileQuery
from proxy.profile.record import Record
from proxy.profile.updates import Updates, known, merged, pack, shrink, since, too_large, unpack

Refusal = Literal["forgotten", "too_large"]


def with_packed(record: Record, updates: bytes | None, query: ProfileQuery) -> Record:
    """Return `record` with the packed updates applied."""
    return record if updates is None else apply_updates(record, known(unpack(updates)), query)


class UpdateMerger:
    """Merges a batch of new updates into those that are kept. `horizon`: Unix seconds; older updates are dropped."""

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._last: tuple[Updates, bytes] | None = None

    def merge(self, packed: bytes | None, new: Updates, *, forgotten_at: float | None) -> bytes | Refusal:
        """Return one user's packed updates with `new` merged in, or why nothing can be kept.

        Updates from before `forgotten_at` (Unix seconds) do not count.
        """
        if forgotten_at is not None:
            new = since(new, self._horizon, forgotten=forgotten_at)
        if not new:
            return "forgotten"
        if packed is None:
            return self._packed(new)
        both = merged(since(unpack(packed), self._horizon), new)
        return "too_large" if too_large(both) else shrink(pack(both))

    def _packed(self, new: Updates) -> bytes:
        # All users of a cohort webhook have the same updates, and share one packed copy.
        if self._last is None or self._last[0] is not new:
            self._last = new, shrink(pack(new))
        return self._last[1]
