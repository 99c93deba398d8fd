"""The audience: ordered user ids without duplicates."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy.cli.warmup.audience import Audience, DiskFull


def test_add__duplicate_users__stored_once_in_order() -> None:
    with closing(Audience()) as audience:
        audience.add(["b", "a", "b", "c'; --", "ü"])
        audience.add(["a", "d"])
        assert list(audience) == ["b", "a", "c'; --", "ü", "d"]
        assert len(audience) == 5


def test_clear__after_a_failed_add__removes_all_users() -> None:
    def broken() -> Iterator[str]:
        yield "e"
        raise ConnectionError

    with closing(Audience()) as audience:
        with pytest.raises(ConnectionError):
            audience.add(broken())
        audience.clear()
        audience.add(["f"])
        assert list(audience) == ["f"]


def test_add__disk_full__raises() -> None:
    database = sqlite3.connect("", isolation_level=None)
    with closing(Audience(database)) as audience:
        database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(DiskFull, match="full"):
            audience.add(str(number) for number in range(10_000))


def test_replace__user_twice__the_last_values_win() -> None:
    with closing(Audience()) as audience:
        audience.replace([("ava", ["gold", None]), ("ben", ["silver", "1"]), ("ava", [None, "ü\n"])])
        assert dict(audience.members()) == {"ben": ["silver", "1"], "ava": [None, "ü\n"]}
        assert len(audience) == 2
        audience.clear()
        audience.replace((f"user-{number}", ["1"]) for number in range(100))
        assert len(list(audience.members(step=10))) == 10
