"""Order, limits and contents of the backlog."""

from __future__ import annotations

import pytest

from proxy.fetch.backlog import Backlog, PartRequest
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, Part, recommendation
from tests.support.fakes import FakeClock

REC = recommendation("a")


def user(number: int) -> Identity:
    return Identity(f"u{number}", None)


def new_backlog(clock: FakeClock, max_users: int = 100) -> Backlog:
    return Backlog(max_users=max_users, max_age=600, clock=clock)


def add(backlog: Backlog, clock: FakeClock, identity: Identity, parts: list[Part], *, refresh: bool = False) -> None:
    backlog.add(identity, dict.fromkeys(parts, PartRequest(clock(), refresh)))


def pop_all(backlog: Backlog) -> list[tuple[str | None, set[Part]]]:
    """Return the user ids and parts in the order in which the backlog returns them."""
    users = []
    while popped_user := backlog.pop():
        identity, wanted = popped_user
        users.append((identity.user_id, set(wanted)))
    return users


def test_pop__misses_and_refreshes__misses_come_first_and_newest_first_in_each_group(clock: FakeClock) -> None:
    backlog = new_backlog(clock)
    add(backlog, clock, user(1), [COHORTS])
    add(backlog, clock, user(2), [COHORTS], refresh=True)
    add(backlog, clock, user(3), [COHORTS])
    add(backlog, clock, user(4), [COHORTS], refresh=True)
    add(backlog, clock, user(1), [COHORTS])
    assert [name for name, _ in pop_all(backlog)] == ["u1", "u3", "u4", "u2"]


def test_add__same_user_again__one_entry_with_all_parts(clock: FakeClock) -> None:
    backlog = new_backlog(clock)
    add(backlog, clock, user(1), [COHORTS])
    add(backlog, clock, user(1), [PROPERTIES], refresh=True)
    add(backlog, clock, user(1), [COHORTS, REC])
    assert pop_all(backlog) == [("u1", {COHORTS, PROPERTIES, REC})]
    assert backlog.pop() is None


def test_add__backlog_is_full__oldest_refresh_is_dropped_and_then_oldest_miss(clock: FakeClock) -> None:
    backlog = new_backlog(clock, max_users=2)
    add(backlog, clock, user(1), [COHORTS])
    add(backlog, clock, user(2), [COHORTS], refresh=True)
    add(backlog, clock, user(3), [COHORTS])
    add(backlog, clock, user(4), [COHORTS])
    assert [name for name, _ in pop_all(backlog)] == ["u4", "u3"]
    assert backlog.dropped == 2


@pytest.mark.contract("1 backlog")
def test_pop__user_not_requested_again_within_max_age__is_dropped(clock: FakeClock) -> None:
    backlog = new_backlog(clock)
    add(backlog, clock, user(1), [COHORTS])
    add(backlog, clock, user(2), [COHORTS])
    clock.advance(400)
    add(backlog, clock, user(1), [PROPERTIES])
    clock.advance(300)
    assert pop_all(backlog) == [("u1", {COHORTS, PROPERTIES})]
    assert backlog.dropped == 1


def test_pop__recommendation_refresh_requested_6_seconds_ago__is_dropped(clock: FakeClock) -> None:
    backlog = new_backlog(clock)
    add(backlog, clock, user(1), [REC, COHORTS], refresh=True)
    add(backlog, clock, user(2), [REC], refresh=True)
    clock.advance(6)
    add(backlog, clock, user(3), [REC], refresh=True)
    assert pop_all(backlog) == [("u3", {REC}), ("u1", {COHORTS})]


def test_add__max_users_is_zero__stays_empty(clock: FakeClock) -> None:
    backlog = new_backlog(clock, max_users=0)
    add(backlog, clock, user(1), [COHORTS])
    assert backlog.pop() is None
    assert not len(backlog)


def test_add__user_returns_after_a_failure__keeps_its_age_and_comes_after_newer_users(clock: FakeClock) -> None:
    backlog = new_backlog(clock)
    add(backlog, clock, user(1), [COHORTS])
    add(backlog, clock, user(1), [PROPERTIES], refresh=True)
    before = clock()
    clock.advance(400)
    add(backlog, clock, user(2), [COHORTS])
    backlog.pop()
    assert backlog.pop() == (user(1), {COHORTS: PartRequest(before, False), PROPERTIES: PartRequest(before, True)})
    add(backlog, clock, user(3), [COHORTS])
    backlog.add(user(1), {COHORTS: PartRequest(before, False)})
    assert [name for name, _ in pop_all(backlog)] == ["u3", "u1"]
    backlog.add(user(1), {COHORTS: PartRequest(before, False)})
    clock.advance(300)
    assert backlog.pop() is None
