"""Defines a snapshot: the members of a cohort at one time, as sorted digests of user ids.

A digest has 64 bits, so 2,000,000 members take 16 MB. The digests are split into 256 pieces by their first byte. Work
on one piece takes about a millisecond, and other requests run between two pieces.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_MEMBERS = 2_000_000
"""The maximum number of members, which is Amplitude's limit for a cohort download."""
PIECES = 256
_PIECE_SHIFT = 56


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
        found = False
        for digest in digests:
            checkpoint()
            piece = pieces[digest >> _PIECE_SHIFT]
            place = bisect_left(piece, digest)
            if place < len(piece) and piece[place] == digest:
                pieces[digest >> _PIECE_SHIFT] = piece[:place] + piece[place + 1 :]
                found = True
        return Snapshot(self.as_of, tuple(pieces)) if found else self


class SnapshotBuilder:
    """Collects digests in any order, and builds a snapshot."""

    def __init__(self) -> None:
        self._pieces = [array("Q") for _ in range(PIECES)]

    def add(self, digest: int) -> None:
        """Add a member. A digest may be added repeatedly."""
        self._pieces[digest >> _PIECE_SHIFT].append(digest)

    def build(self, as_of: float, checkpoint: Callable[[], object] = lambda: None) -> Snapshot:
        """Return the snapshot, and remove its members from the builder. Call `checkpoint` after each piece."""
        pieces = []
        for number, piece in enumerate(self._pieces):
            pieces.append(array("Q", sorted(set(piece))))
            self._pieces[number] = array("Q")
            checkpoint()
        return Snapshot(as_of, tuple(pieces))


Membership = tuple[float, bool, bool]
"""The time of a snapshot, whether the snapshot lists the user, and whether the snapshot overrides a later fetch.

Only a recent snapshot overrides, because the User Profile API omits cohorts that are not synced to it.
"""


def pack_piece(piece: array[int]) -> bytes:
    """Return the digests of a piece as big-endian integers, in the same order on every machine."""
    return _swapped(piece).tobytes()


def unpack_piece(packed: bytes) -> array[int]:
    """Return the digests of a packed piece. Raises ValueError if the size is not a multiple of 8 bytes."""
    return _swapped(array("Q", packed))


def _swapped(piece: array[int]) -> array[int]:
    """Return a copy of `piece` with each digest converted between the machine's byte order and big-endian."""
    copy = array("Q", piece)
    if sys.byteorder == "little":
        copy.byteswap()
    return copy
