"""Defines a snapshot: the members of a cohort at one time, as sorted digests of user ids.

A digest has 64 bits, so 2,000,000 members take 16 MB. The digests are split into 256 pieces by their first byte. Work
on one piece takes about a millisecond, and other requests run between two pieces.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_MEMBERS = 2_000_000
"""Limit on the members of a snapshot, the same as Amplitude's limit for a cohort download."""
PIECES = 256
_PIECE_SHIFT = 56
_RUN = 16_384
"""Digests to sort without a pause, in a few milliseconds. A piece of the largest snapshot has about 7,800."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The members of a cohort at `as_of` (Unix seconds). `pieces`: sorted digests by first byte, without duplicates."""

    as_of: float
    pieces: tuple[array[int], ...]

    def __contains__(self, digest: int) -> bool:
        piece = self.pieces[digest >> _PIECE_SHIFT]
        place = bisect_left(piece, digest)
        return place < len(piece) and piece[place] == digest

    @property
    def members(self) -> int:
        """Return the number of members."""
        return sum(map(len, self.pieces))

    def without(self, digests: Iterable[int], checkpoint: Callable[[], object] = lambda: None) -> Snapshot:
        """Return the snapshot without these members. Return the same object if it contains none of them."""
        pieces = list(self.pieces)
        is_changed = False
        for digest in digests:
            checkpoint()
            piece = pieces[digest >> _PIECE_SHIFT]
            place = bisect_left(piece, digest)
            if place < len(piece) and piece[place] == digest:
                pieces[digest >> _PIECE_SHIFT] = piece[:place] + piece[place + 1 :]
                is_changed = True
        return Snapshot(self.as_of, tuple(pieces)) if is_changed else self


class SnapshotBuilder:
    """Collects digests in any order, and builds a snapshot."""

    def __init__(self) -> None:
        self._pieces = [array("Q") for _ in range(PIECES)]

    def add(self, digest: int) -> None:
        """Add a member. A digest may be added repeatedly."""
        self._pieces[digest >> _PIECE_SHIFT].append(digest)

    def build(self, as_of: float, checkpoint: Callable[[], object] = lambda: None) -> Snapshot:
        """Return the snapshot and empty the builder. Call `checkpoint` at least once per piece."""
        pieces = []
        for number, piece in enumerate(self._pieces):
            pieces.append(_sorted(piece, checkpoint))
            self._pieces[number] = array("Q")
            checkpoint()
        return Snapshot(as_of, tuple(pieces))


def _sorted(piece: array[int], checkpoint: Callable[[], object]) -> array[int]:
    """Return the sorted digests of a piece without duplicates.

    A piece exceeds a run only if an id is repeated often, or if the sender chose ids by their digests.
    """
    runs = []
    for start in range(0, len(piece), _RUN):
        if start:
            checkpoint()
        runs.append(array("Q", sorted(set(piece[start : start + _RUN]))))
    if len(runs) < 2:
        return runs[0] if runs else array("Q")
    merged = array("Q")
    for digest in heapq.merge(*runs):
        if not merged or digest != merged[-1]:
            merged.append(digest)
        checkpoint()
    return merged


class Membership(NamedTuple):
    """Whether a snapshot lists a user.

    `overrides`: the snapshot is recent enough to override a list that was fetched later, because the User Profile API
    omits cohorts that are not synced to it.
    """

    as_of: float
    is_member: bool
    overrides: bool


def pack_piece(piece: array[int]) -> bytes:
    """Return the digests of a piece as big-endian integers, in the same order on every machine."""
    return _swapped(piece).tobytes()


def unpack_piece(packed: bytes) -> array[int]:
    """Return the digests of a packed piece. Raises ValueError if the size is not a multiple of 8 bytes."""
    return _swapped(array("Q", packed))


def _swapped(piece: array[int]) -> array[int]:
    """Return a copy of `piece`, converted between the byte order of the machine and big-endian."""
    copy = array("Q", piece)
    if sys.byteorder == "little":
        copy.byteswap()
    return copy
