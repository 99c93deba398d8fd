"""Who is to be warmed, each once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy.cli.warmup.audience import Audience, NoRoom


def test_each_user_is_there_once_and_in_order() -> None:
    with closing(Audience()) as audience:
        audience.add(["b", "a", "b", "c'; --", "ü"])
        audience.add(["a", "d"])
        assert list(audience) == ["b", "a", "c'; --", "ü", "d"]
        assert len(audience) == 5


def test_after_a_list_that_broke_off_it_is_begun_anew() -> None:
    def broken() -> Iterator[str]:
        yield "e"
        raise ConnectionError

    with closing(Audience()) as audience:
        with pytest.raises(ConnectionError):
            audience.add(broken())
        audience.clear()
        audience.add(["f"])
        assert list(audience) == ["f"]


def test_a_disk_without_room_is_said_so() -> None:
    with closing(Audience()) as audience:
        audience._file.execute("PRAGMA max_page_count = 3")
        with pytest.raises(NoRoom, match="full"):
            audience.add(str(number) for number in range(10_000))
