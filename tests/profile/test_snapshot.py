"""Snapshots of cohorts: members, pieces, and the form in Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.profile.snapshot import PIECES, Snapshot, SnapshotBuilder, pack_piece, unpack_piece

DIGESTS = st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 300) | st.integers(2**64 - 300, 2**64 - 1))


def new_snapshot(digests: object, as_of: float = 1.0) -> Snapshot:
    builder = SnapshotBuilder()
    for digest in digests:  # type: ignore[attr-defined]
        builder.add(digest)
    return builder.build(as_of)


@given(DIGESTS, DIGESTS)
def test_snapshot__any_digests__contains_exactly_the_added_ones(members: set[int], others: set[int]) -> None:
    snapshot = new_snapshot([*members, *members])
    assert all(digest in snapshot for digest in members)
    assert [digest for digest in others if digest in snapshot] == [digest for digest in others if digest in members]
    assert snapshot.members == len(members)


@given(DIGESTS, DIGESTS)
def test_without__any_digests__only_these_are_removed(members: set[int], removed: set[int]) -> None:
    snapshot = new_snapshot(members)
    yielded: list[int] = []
    smaller = snapshot.without(removed, lambda: yielded.append(1))
    assert len(yielded) == len(removed)
    assert smaller == new_snapshot(members - removed)
    assert snapshot == new_snapshot(members)
    assert (smaller is snapshot) == members.isdisjoint(removed)


@given(DIGESTS)
def test_pack_piece__any_snapshot__same_after_unpacking_and_in_the_order_of_bytes(members: set[int]) -> None:
    snapshot = new_snapshot(members)
    packed = [pack_piece(piece) for piece in snapshot.pieces]
    assert tuple(map(unpack_piece, packed)) == snapshot.pieces
    for first_byte, piece in enumerate(packed):
        digests = [piece[start : start + 8] for start in range(0, len(piece), 8)]
        assert digests == sorted(digests)
        assert {digest[0] for digest in digests} <= {first_byte}


def test_build__any_snapshot__yields_after_each_piece() -> None:
    builder, yielded = SnapshotBuilder(), []
    builder.add(7)
    builder.build(1.0, lambda: yielded.append(1))
    assert len(yielded) == PIECES


@pytest.mark.parametrize("different", [1, 3, 50_000])
def test_build__most_digests_are_in_one_piece__sorted_with_yields(different: int) -> None:
    builder, yielded = SnapshotBuilder(), []
    digests = [number * 7919 % different for number in range(100_000)]
    for digest in digests:
        builder.add(digest)
    snapshot = builder.build(1.0, lambda: yielded.append(1))
    assert list(snapshot.pieces[0]) == list(range(different))
    assert len(yielded) > PIECES + 5
