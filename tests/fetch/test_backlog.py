"""The order, the limits and the contents of the backlog."""

from __future__ import annotations

import pytest

from proxy.fetch.backlog import Backlog, PartRequest
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, recommendation
from tests.support.fakes import FakeClock

REC = recommendation("a")


def user(number: int) -> Identity:
    return Identity(f"u{number}", None)


def backlog(clock: FakeClock, max_users: int = 100) -> Backlog:
    return Backlog(max_users=max_users, max_age=600, clock=clock)


def add(waiting: Backlog, clock: FakeClock, identity: Identity, parts: list[Part], *, refresh: bool = False) -> None:
    waiting.add(identity, dict.fromkeys(parts, PartRequest(clock(), refresh)))


def popped(waiting: Backlog) -> list[tuple[str | None, set[Part]]]:
    users = []
    while popped_user := waiting.pop():
        identity, wanted = popped_user
        users.append((identity.user_id, set(wanted)))
    return users


def test_users_of_whom_something_is_missing_come_first_then_refreshes_each_newest_first(clock: FakeClock) -> None:
    waiting = backlog(clock)
    add(waiting, clock, user(1), [COHORTS])
    add(waiting, clock, user(2), [COHORTS], refresh=True)
    add(waiting, clock, user(3), [COHORTS])
    add(waiting, clock, user(4), [COHORTS], refresh=True)
    add(waiting, clock, user(1), [COHORTS])
    assert [name for name, _ in popped(waiting)] == ["u1", "u3", "u4", "u2"]


def test_a_user_waits_once_with_all_that_is_wanted(clock: FakeClock) -> None:
    waiting = backlog(clock)
    add(waiting, clock, user(1), [COHORTS])
    add(waiting, clock, user(1), [PROPERTIES], refresh=True)
    add(waiting, clock, user(1), [COHORTS, REC])
    assert popped(waiting) == [("u1", {COHORTS, PROPERTIES, REC})]
    assert waiting.pop() is None


def test_the_oldest_refresh_leaves_a_full_backlog_and_then_the_oldest_miss(clock: FakeClock) -> None:
    waiting = backlog(clock, max_users=2)
    add(waiting, clock, user(1), [COHORTS])
    add(waiting, clock, user(2), [COHORTS], refresh=True)
    add(waiting, clock, user(3), [COHORTS])
    add(waiting, clock, user(4), [COHORTS])
    assert [name for name, _ in popped(waiting)] == ["u4", "u3"]
    assert waiting.dropped == 2


@pytest.mark.contract("1 backlog")
def test_who_was_not_asked_for_again_in_time_leaves(clock: FakeClock) -> None:
    waiting = backlog(clock)
    add(waiting, clock, user(1), [COHORTS])
    add(waiting, clock, user(2), [COHORTS])
    clock.advance(400)
    add(waiting, clock, user(1), [PROPERTIES])
    clock.advance(300)
    assert popped(waiting) == [("u1", {COHORTS, PROPERTIES})]
    assert waiting.dropped == 1


def test_a_recommendation_is_refreshed_only_just_after_it_was_asked_for(clock: FakeClock) -> None:
    waiting = backlog(clock)
    add(waiting, clock, user(1), [REC, COHORTS], refresh=True)
    add(waiting, clock, user(2), [REC], refresh=True)
    clock.advance(6)
    add(waiting, clock, user(3), [REC], refresh=True)
    assert popped(waiting) == [("u3", {REC}), ("u1", {COHORTS})]


def test_nothing_waits_where_no_room_is_given(clock: FakeClock) -> None:
    waiting = backlog(clock, max_users=0)
    add(waiting, clock, user(1), [COHORTS])
    assert waiting.pop() is None
    assert not len(waiting)


def test_who_failed_is_put_back_as_old_as_before_and_behind_newer_ones(clock: FakeClock) -> None:
    waiting = backlog(clock)
    add(waiting, clock, user(1), [COHORTS])
    add(waiting, clock, user(1), [PROPERTIES], refresh=True)
    before = clock()
    clock.advance(400)
    add(waiting, clock, user(2), [COHORTS])
    waiting.pop()
    assert waiting.pop() == (user(1), {COHORTS: PartRequest(before, False), PROPERTIES: PartRequest(before, True)})
    add(waiting, clock, user(3), [COHORTS])
    waiting.add(user(1), {COHORTS: PartRequest(before, False)})
    assert [name for name, _ in popped(waiting)] == ["u3", "u1"]
    waiting.add(user(1), {COHORTS: PartRequest(before, False)})
    clock.advance(300)
    assert waiting.pop() is None
