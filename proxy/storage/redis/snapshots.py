"""Stores snapshots in Redis: a hash with the pieces of each snapshot, and an index with the snapshot of each cohort.

A process writes all pieces under a new key. A script then changes the index, so other processes read either the old
snapshot or the new one, never a mixture. Pieces that are not in the index expire.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from proxy.profile.snapshot import PIECES, Snapshot, pack_piece, unpack_piece
from proxy.storage.id_digests import member_of
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"

_PIECES_AT_ONCE = 4
"""Pieces per round trip: 250 KB for the largest snapshot, which a slow network transfers within the timeout."""
_UPLOAD_SECONDS = 600.0
"""Seconds after which pieces expire if the upload is interrupted."""
_FORGET_AT_ONCE = 100
"""Users per script. Each user takes up to 50 microseconds of Redis per snapshot."""
_REMOVED = "-"


class PublishedSnapshot(NamedTuple):
    """An entry of the index. `key`: the suffix of the key with the pieces; None if the snapshot was removed."""

    as_of: float
    key: str | None


class RedisSnapshots:
    """Stores snapshots. Each method may raise RedisUnavailable.

    `forgotten_key`: the key of the announcements of forgotten users. `usable_for`: seconds after `as_of` for which a
    snapshot may answer a request.
    """

    def __init__(self, server: RedisClient, prefix: bytes, *, forgotten_key: bytes, usable_for: float) -> None:
        self._server = server
        self._index = prefix + b"snapshots"
        self._pieces_prefix = prefix + b"snapshot:"
        self._forgotten_key = forgotten_key
        self._usable_for = usable_for
        self._publish = server.script(_LUA / "publish_snapshot.lua")
        self._withdraw = server.script(_LUA / "withdraw_snapshot.lua")
        self._forget = server.script(_LUA / "forget_in_snapshots.lua")
        self._discard = server.script(_LUA / "discard_snapshot.lua")

    def publish(
        self, cohort_id: str, snapshot: Snapshot, checkpoint: Callable[[], object], *, only_missing: bool = False
    ) -> PublishedSnapshot | None:
        """Replace the cohort's snapshot for all processes. Return None if the current snapshot is newer.

        Users who were forgotten after `snapshot.as_of` are left out, and a time in the future counts as now.
        `only_missing`: also return None if the index has any entry for the cohort.
        """
        since = snapshot.as_of * 1e6
        if forgotten := self._server.members_above(self._forgotten_key, since):
            since = max(moment for _, moment in forgotten)
            snapshot = snapshot.without((member_of(digest) for digest, _ in forgotten), checkpoint)
        suffix = secrets.token_hex(8)
        key = self._pieces_prefix + suffix.encode()
        try:
            for start in range(0, PIECES, _PIECES_AT_ONCE):
                pieces = snapshot.pieces[start : start + _PIECES_AT_ONCE]
                fields = {str(start + place): pack_piece(piece) for place, piece in enumerate(pieces)}
                self._server.put_fields(key, fields, _UPLOAD_SECONDS)
                checkpoint()
        except RedisUnavailable:
            with contextlib.suppress(RedisUnavailable):
                self._server.delete(key)  # otherwise the incomplete snapshot would keep a full Redis full
            raise
        arguments = [cohort_id, repr(snapshot.as_of), suffix, self._pieces_prefix, self._usable_for, int(only_missing)]
        as_of = self._publish([self._index, key], arguments)
        if as_of is None:
            return None
        if not as_of:
            raise RedisUnavailable("Redis lost its data during the upload; send the snapshot again")
        # Remove users who were forgotten during the upload.
        self.forget([digest for digest, _ in self._server.members_above(self._forgotten_key, since)])
        return PublishedSnapshot(float(as_of), suffix)

    def withdraw(self, cohort_id: str) -> bool:
        """Delete the cohort's snapshot for all processes. Return whether a snapshot existed."""
        return bool(self._withdraw([self._index], [cohort_id, self._pieces_prefix, self._usable_for]))

    def forget(self, digests: Collection[bytes]) -> None:
        """Remove users from all snapshots. `digests`: see `IdDigester.ids`."""
        remaining = list(digests)
        while remaining:
            self._forget([self._index], [self._pieces_prefix, *remaining[:_FORGET_AT_ONCE]])
            del remaining[:_FORGET_AT_ONCE]

    def published(self, now: float) -> dict[str, PublishedSnapshot]:
        """Return the index by cohort id, without the entries that are too old to answer a request.

        `now`: Unix seconds.
        """
        index = {}
        for cohort_id, entry in self._server.hash(self._index).items():
            as_of, _, suffix = entry.decode().partition(" ")
            if float(as_of) + self._usable_for > now:
                index[cohort_id.decode()] = PublishedSnapshot(float(as_of), None if suffix == _REMOVED else suffix)
        return index

    def discard(self, cohort_id: str, published: PublishedSnapshot) -> None:
        """Remove the snapshot from the index if it is current and Redis has evicted its pieces."""
        self._discard([self._index, self._pieces_key(published)], [cohort_id, published.key])

    def _pieces_key(self, published: PublishedSnapshot) -> bytes:
        return self._pieces_prefix + (published.key or _REMOVED).encode()

    def read(self, published: PublishedSnapshot, checkpoint: Callable[[], object]) -> Snapshot | None:
        """Return a snapshot; None if the snapshot was replaced, was evicted, or expired during the read."""
        key = self._pieces_key(published)
        pieces = []
        for start in range(0, PIECES, _PIECES_AT_ONCE):
            names = [str(number) for number in range(start, start + _PIECES_AT_ONCE)]
            for packed in self._server.fields(key, names):
                if packed is None:
                    return None
                pieces.append(unpack_piece(packed))
            checkpoint()
        return Snapshot(published.as_of, tuple(pieces))
