"""The temporary file of a run: users with their attributes, and the planned changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy.cli.sync.staging import Staging
from proxy.sync.changes import UserAttributes
from proxy.sync.delivery import Change


@pytest.fixture
def staging() -> Iterator[Staging]:
    with closing(Staging()) as staging:
        yield staging


def users(staging: Staging, *answered: str) -> list[UserAttributes]:
    return [user for page in staging.users(answered) for user in page]


def test_users__answers_and_downloads__only_answered_users_lack_a_computed_value(staging: Staging) -> None:
    staging.add([UserAttributes("ava", {"plan": "gold"}, 100.0), UserAttributes("ben", {"plan": None}, 100.0)])
    staging.add_users(["ava", "kit", "lou"])
    staging.merge("ava", {"orders": 3}, 90.0)
    staging.merge("kit", {"zip": "02134"}, 90.5)
    assert len(staging) == 4
    assert ("ava" in staging, "nobody" in staging) == (True, False)
    assert list(staging.user_ids()) == ["ava", "ben", "kit", "lou"]
    assert users(staging, "orders", "zip") == [
        UserAttributes("ava", {"orders": 3, "zip": None, "plan": "gold"}, 100.0),
        UserAttributes("ben", {"plan": None}, 100.0),
        UserAttributes("kit", {"orders": None, "zip": "02134"}, 90.5),
    ]


def test_users__merged_while_iterating__every_user_comes_once(staging: Staging) -> None:
    names = [f"user-{number}" for number in range(2500)]
    staging.add_users(names)
    seen = []
    for name in staging.user_ids():
        seen.append(name)
        staging.merge(name, {"value": name}, 1.0)
    assert seen == names
    assert [user.attributes for user in users(staging)] == [{"value": name} for name in names]


def test_changes__values_of_every_type__are_exact(staging: Staging) -> None:
    value = {"a": [1, 1.5, 1e-7, 10**30, None, True, {"b": "ü😀"}], "c": None}
    staging.add_changes([Change("ava", value, 100.25), None])
    assert list(staging.changes()) == [Change("ava", value, 100.25)]
