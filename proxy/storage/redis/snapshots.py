"""Stores snapshots in Redis: a hash with the pieces of each snapshot, and an index with the snapshot of each cohort.

A process writes all pieces under a new key. A script then changes the index, so other processes read the old snapshot
or the new one, but no mixture.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from proxy.profile.snapshot import PIECES, Snapshot, pack_piece, unpack_pieces
from proxy.storage.redis.client import RedisClient

_LUA = Path(__file__).parent / "lua"

_PIECES_AT_ONCE = 16
"""Pieces per round trip: 1 MiB for the largest snapshot."""
_UPLOAD_SECONDS = 600.0
"""Seconds after which pieces expire if the upload is interrupted."""


class PublishedSnapshot(NamedTuple):
    """An entry of the index. `key`: the suffix of the key with the pieces."""

    as_of: float
    key: str


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

    def publish(self, cohort_id: str, snapshot: Snapshot, now: float) -> PublishedSnapshot | None:
        """Replace the cohort's snapshot for all processes. Return None if the current snapshot is newer.

        Users who were forgotten after `snapshot.as_of` are left out, and a time in the future counts as now.
        `now`: Unix seconds.
        """
        suffix = secrets.token_hex(8)
        key = self._pieces_prefix + suffix.encode()
        for start in range(0, PIECES, _PIECES_AT_ONCE):
            pieces = snapshot.pieces[start : start + _PIECES_AT_ONCE]
            fields = {str(start + place): pack_piece(piece) for place, piece in enumerate(pieces)}
            self._server.put_fields(key, fields, _UPLOAD_SECONDS)
        kept = max(1, int((snapshot.as_of + self._usable_for - now) * 1000))
        keys = [self._index, key, self._forgotten_key]
        arguments = [cohort_id, repr(snapshot.as_of), suffix, self._pieces_prefix, kept, f"{snapshot.as_of * 1e6:.0f}"]
        as_of = self._publish(keys, arguments)
        return None if as_of is None else PublishedSnapshot(float(as_of), suffix)

    def withdraw(self, cohort_id: str) -> bool:
        """Delete the cohort's snapshot for all processes. Return whether a snapshot existed."""
        return bool(self._withdraw([self._index], [cohort_id, self._pieces_prefix]))

    def forget(self, digests: Collection[bytes]) -> None:
        """Remove users from all snapshots. `digests`: see `id_digests`."""
        if digests:
            self._forget([self._index], [self._pieces_prefix, *digests])

    def published(self) -> dict[str, PublishedSnapshot]:
        """Return the index by cohort id."""
        index = {}
        for cohort_id, entry in self._server.hash(self._index).items():
            as_of, _, suffix = entry.decode().partition(" ")
            index[cohort_id.decode()] = PublishedSnapshot(float(as_of), suffix)
        return index

    def read(self, published: PublishedSnapshot) -> Snapshot | None:
        """Return a snapshot; None if it was replaced or expired in the meantime."""
        key = self._pieces_prefix + published.key.encode()
        packed: list[bytes] = []
        for start in range(0, PIECES, _PIECES_AT_ONCE):
            names = [str(number) for number in range(start, start + _PIECES_AT_ONCE)]
            for value in self._server.fields(key, names):
                if value is None:
                    return None
                packed.append(value)
        return Snapshot(published.as_of, unpack_pieces(packed))
