"""Converts updates to and from the form in the memory store: packed, and compressed if long."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.profile.encoding import compress, decompress
from proxy.profile.overlay import apply_updates
from proxy.profile.query import ProfileQuery
from proxy.profile.record import Record
from proxy.profile.snapshot import Membership
from proxy.profile.updates import NO_UPDATES, Updates, merged, pack, parse_updates, too_large, unpack, updates_since


def read_packed(packed: bytes | None) -> Updates:
    """Return the unpacked updates."""
    return unpack(decompress(packed)) if packed is not None else {}


def with_packed(
    record: Record, packed: bytes | None, query: ProfileQuery, snapshots: Mapping[str, Membership]
) -> Record:
    """Return `record` with the packed updates and the snapshots applied (see `apply_updates`)."""
    if packed is None and not snapshots:
        return record
    updates = parse_updates(read_packed(packed)) if packed is not None else NO_UPDATES
    return apply_updates(record, updates, query, snapshots)


def merged_packed(packed: bytes | None, new: Updates, horizon: float) -> bytes | None:
    """Return packed updates with `new` merged in; None if they exceed the maximum for one user.

    Packed updates older than `horizon` (Unix seconds) are removed.
    """
    if packed is not None:
        new = merged(updates_since(read_packed(packed), horizon), new)
    # Updates that the previous version stored may be too large alone: their names take more bytes now.
    return None if too_large(new) else compress(pack(new))
