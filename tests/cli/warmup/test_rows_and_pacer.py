"""Warming: input rows, pace, progress, priority, and freshness of warmed data."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from proxy.api.user_rows import NoColumn, Row, UnreadableRow, read
from proxy.cli.warmup.pacer import Pacer
from proxy.cli.warmup.progress import WarmupProgress, print_progress
from proxy.cli.warmup.runner import RetryQueue, Warmer
from proxy.liquid.types import Answer, Request
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, computations
from proxy.profile.record import EMPTY, CachedPart, Record
from tests.fetch.test_scheduler import LIFETIMES, USER, World
from tests.support.fakes import FakeClock

DAY = 86_400.0


@pytest.fixture
def world(clock: FakeClock) -> Iterator[World]:
    world = World(clock, policy=dataclasses.replace(LIFETIMES, warm=DAY))
    yield world
    world.end()


def warm(world: World, *parts: object) -> object:
    return world.profiles.get(USER, parts, until=lambda: world.clock() + 1.5, wanted_later=True, background=True)  # type: ignore[arg-type]


@pytest.mark.contract("5 warm resumed")
def test_read__one_id_per_line__unreadable_lines_are_reported() -> None:
    lines = ["ava\n", "\n", "  ben \r\n", "c\x01\n", "x" * 513 + "\n", "\udcff\n", "dário & söhne"]
    rows = list(read(lines))
    assert [(row.line, row.user_id) for row in rows if not row.fault] == [(1, "ava"), (3, "ben"), (7, "dário & söhne")]
    assert [row.line for row in rows if row.fault] == [2, 4, 5, 6]
    assert [row.line for row in rows if row.no_user] == [2]


def test_read__table__quotes_and_line_breaks_in_cells_are_understood() -> None:
    lines = ["name, id \n", '"A,\n', 'va",ava\n', "short\n", ",\n", '"q""",b"en\n']
    rows = list(read(lines, "id"))
    assert rows[0] == Row(3, "ava")
    assert [(row.line, bool(row.fault)) for row in rows[1:]] == [(4, True), (5, True), (6, False)]
    assert [row.no_user for row in rows[1:]] == [False, True, False]
    with pytest.raises(NoColumn, match="'name', 'id'"):
        list(read(lines, "user"))
    with pytest.raises(NoColumn):
        list(read([], "id"))
    with pytest.raises(NoColumn, match="the first line is not CSV"):
        list(read(['"n","i\n', "1,ava\n"], "id"))


@pytest.mark.contract("5 warm")
def test_pacer__after_a_pause__small_burst_then_even_pace(clock: FakeClock) -> None:
    pacer = Pacer(60, monotonic=clock)
    clock.advance(1000)
    reserved = 0
    for _ in range(100):
        while not pacer.reserve():
            reserved += 1
        clock.advance(pacer.reserve())
    assert reserved == 8 + 99


def test_pacer__cost_of_requests__decides_the_wait(clock: FakeClock) -> None:
    pacer = Pacer(60, monotonic=clock)
    for _ in range(1000):
        assert pacer.reserve() == 0
        pacer.complete(0)
    while not pacer.reserve():
        pacer.complete(1)
    wait = pacer.reserve()
    pacer.complete(2)
    assert pacer.reserve() == pytest.approx(wait + 1)


def test_progress__line__has_rate_and_time_left() -> None:
    progress = WarmupProgress(1000, done=80, fresh=10, unknown=7, failed=3)
    assert progress.remaining == 900
    line = progress.line(60)
    assert "100 of 1,000: 80 fetched, 10 already cached, 7 unknown, 3 failed" in line
    assert "100 users a minute, 9 min left" in line
    assert "no estimate yet" in WarmupProgress(10).line(0)


@pytest.mark.contract("4 warm freshness")
def test_policy__warmed_record__is_fresh_for_the_warm_lifetime() -> None:
    policy = FreshnessPolicy(fresh=900, negative=60, stale_if_error=100, warm=DAY)
    record = Record({COHORTS: CachedPart(b"[]", 0.0), PROPERTIES: CachedPart(b"{}", 0.0)}).only([COHORTS]).warm()
    assert policy.ttl(record, COHORTS, 1000) == DAY - 1000
    assert policy.is_warm(record, COHORTS, 1000)
    assert not policy.is_warm(record, COHORTS, DAY)
    assert policy.prune(record, DAY + 99) is record
    assert not policy.prune(record, DAY + 100).parts
    short = dataclasses.replace(policy, warm=1.0)
    assert short.ttl(record, COHORTS, 10) == 890, "warmed data must not be fresh for less time than other data"


@pytest.mark.contract("4 warm freshness")
def test_warm__next_day__warmed_data_is_still_fresh(world: World) -> None:
    world.get(COHORTS)
    world.clock.advance(1)
    warm(world, COHORTS)
    assert len(world.source.calls) == 2, "data with the usual lifetime is not warm"
    warm(world, COHORTS)
    assert len(world.source.calls) == 2, "warm data must not be fetched again"
    world.clock.advance(DAY - 10)
    assert world.get(COHORTS).forwarded is None
    assert len(world.source.calls) == 2


@pytest.mark.contract("5 warm")
def test_warm__live_requests__take_priority(world: World) -> None:
    world.get(COHORTS, identity=Identity("first", None))  # takes the even slot of this moment
    warming = world.callers.submit(warm, world, COHORTS)
    world.wait_until_waiting(COHORTS)
    for number in range(30):
        assert world.get(COHORTS, identity=Identity(f"live-{number}", None)).error is None
    assert world.store.memory.read(USER) == EMPTY
    for _ in range(40):
        world.clock.advance(0.05)
    warming.result(10)
    assert not len(world.backlog), "warming requests must not enter the backlog"


def test_warm__two_calls_of_a_user__first_is_sent_at_once(world: World) -> None:
    warmed = world.callers.submit(warm, world, PROPERTIES, computations())
    world.source.wait_for_call()
    assert [call.parts for _, call in world.source.calls] == [{PROPERTIES}], "the clock has not moved"
    for _ in range(40):
        world.clock.advance(0.05)
    warmed.result(10)
    assert len(world.source.calls) == 2
    assert world.store.memory.read(USER).parts.keys() == {PROPERTIES, computations()}


def test_pacer__stopped__waiting_thread_ends() -> None:
    pacer = Pacer(1, monotonic=time.monotonic)
    stop = threading.Event()
    while not pacer.reserve():
        pass
    waiting = threading.Thread(target=pacer.wait, args=[stop.is_set], daemon=True)
    waiting.start()
    stop.set()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.contract("5 warm")
def test_warm__live_request_joins__call_is_sent_without_delay(world: World) -> None:
    world.get(COHORTS, identity=Identity("first", None))
    slow = world.callers.submit(warm, world, COHORTS)
    world.wait_until_waiting(COHORTS)
    live = world.ask(COHORTS)
    world.wait_until(lambda: not world.scheduler.pending(USER)[COHORTS].background)
    world.clock.advance(0.03)  # less than the wait for the next even slot
    assert live.result(10).record.has(COHORTS)
    slow.result(10)
    assert len(world.source.calls) == 2
    assert world.store.memory.read(USER).parts[COHORTS].warm


def test_warmer__many_retries__every_thread_ends() -> None:
    requests = itertools.count(1)

    def ask(_: Request) -> Answer:
        if next(requests) % 10:
            return Answer(500, {}, '{"error": "quota_exhausted"}', 0.0)
        return Answer(200, {"x-amplitude-calls": "1"}, '{"found": true}', 0.0)

    warmer = Warmer([ask] * 16, {}, 10**9, report=print_progress, poll_interval=0.0005)
    outcomes: list[WarmupProgress] = []
    run = threading.Thread(target=lambda: outcomes.append(warmer.run(map(str, range(400)), 400)), daemon=True)
    run.start()
    run.join(20)
    assert [(outcome.done, outcome.remaining) for outcome in outcomes] == [(400, 0)]


def test_warmer__quota_exhausted_then_redis_lost__reports_both_and_stops(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = itertools.count()
    warmer = Warmer(
        [lambda _: Answer(500, {}, '{"error": "quota_exhausted"}', 0.0)] * 4,
        {},
        10**9,
        report=print_progress,
        loss_reason=lambda: "the disk is full" if next(checks) > 20 else None,
        report_interval=0.01,
    )
    progress = warmer.run(["a", "b"], 2)
    assert (progress.remaining, warmer.stopped_by) == (2, "the disk is full")
    lines = capsys.readouterr().err.splitlines()
    assert (
        "no user was fetched since the last report: other requests use up the quota, or Amplitude answered 429" in lines
    )


def test_retry_queue__retries__come_after_new_users_unless_too_many_wait() -> None:
    queue = RetryQueue(map(str, range(5000)))
    assert queue.next() == ("0", 1)
    queue.retry("0", 2)
    assert queue.next() == ("1", 1)
    for _ in range(999):
        queue.retry("x", 2)
    assert queue.next() == ("0", 2)
    assert queue.next() == ("2", 1)


@pytest.mark.parametrize("first", ["user_id", '"User ID"', "ids", "a,b", "a;b", "a\tb"])
def test_read__list_that_begins_like_a_table__is_rejected(first: str) -> None:
    with pytest.raises(NoColumn, match="first line"):
        list(read(["\n", f"{first}\n", "ava\n"]))


@pytest.mark.parametrize("first", ["user-1", "42", "id-7", "ava@example.com", "dário & söhne"])
def test_read__first_line_is_an_id__is_read_as_an_id(first: str) -> None:
    assert [row.user_id for row in read([f"{first}\n", "a,b\n"])] == [first, "a,b"]


def test_read__table_ends_within_quotes__fails_after_the_complete_rows() -> None:
    rows = read(['"n","id"\n', '"1",""\n', '"2"\n', '"3","us'], "id")
    assert [(row.is_incomplete, row.no_user) for row in (next(rows), next(rows))] == [(False, True), (True, False)]
    with pytest.raises(UnreadableRow, match="line 4: a quote is not closed"):
        next(rows)


@pytest.mark.parametrize("column", [None, "id"])
def test_read__white_space_at_an_end_of_an_id__reported_unless_a_list_can_lose_it(column: str | None) -> None:
    lines = ["ava\u00a0\n", "\u2003ben\n", " cleo\t\r\n"]
    rows = list(read(["id\n", *lines] if column else lines, column))
    assert [row.user_id for row in rows] == ["", "", "" if column else "cleo"]
    assert all("white space" in row.fault for row in rows if not row.user_id)
