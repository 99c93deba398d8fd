"""The history of the last hour: a point every ten seconds."""

from __future__ import annotations

import pytest

from proxy.monitoring.clock import Clock
from proxy.monitoring.history import History, as_columns
from proxy.monitoring.metrics import Metrics
from tests.support.fakes import FakeClock

ROUTE = "/v1/cohorts"


def history(clock: Clock) -> tuple[Metrics, History]:
    metrics = Metrics()
    metrics.set_reader(lambda: {"quota_calls_limit": 600})
    hour = History(metrics, clock=clock)
    hour.tick()
    return metrics, hour


def step(hour: History, clock: FakeClock) -> None:
    clock.advance(10)
    hour.tick()


def test_point__after_a_step__has_the_counts_since_the_previous(clock: FakeClock) -> None:
    metrics, hour = history(clock)
    for cache in ("hit", "hit", "stale", "miss", "collapsed", "expired"):
        metrics.answered(ROUTE, 200, cache, 0.02)
    metrics.missing("quota_exhausted")
    metrics.missing("blank_id")
    metrics.answered_in_background("miss", "quota_exhausted")
    metrics.answered_in_background("hit", None)
    metrics.answered("/healthz", 200, "none", 9)
    metrics.called("ok", 0.15, 0)
    metrics.called("upstream_timeout", 0.15, 0)
    metrics.answered(ROUTE, 401, "none", 0.001)
    metrics.answered("/status", 401, "none", 0.001)
    metrics.set_reader(lambda: {"quota_calls_limit": 600, "quota_calls_left": 597, "backlog_dropped": 5})
    step(hour, clock)
    step(hour, clock)
    first, second = hour.points()
    assert first.answers == {"hit": 2, "stale": 1, "fetched": 2, "missing": 1}
    assert first.errors == {"quota_exhausted": 1}
    assert first.calls == {"ok": 1, "upstream_timeout": 1}
    assert (first.refused, first.dropped, first.seconds) == (1, 5, 10)
    assert (first.background, second.background) == (2, 0)
    assert "proxy_build_info" not in first.gauges
    assert first.gauges["quota_calls_left"] == 597
    assert sum(second.answers.values()) == 0
    assert (second.errors, second.refused, second.dropped, second.answer_time) == ({}, 0, 0, None)


def test_point__times__interpolated_within_the_buckets(clock: FakeClock) -> None:
    metrics, hour = history(clock)
    for _ in range(90):
        metrics.answered(ROUTE, 200, "hit", 0.0005)
    for _ in range(10):
        metrics.answered(ROUTE, 200, "miss", 0.2)
    metrics.called("ok", 1000, 0)
    step(hour, clock)
    (point,) = hour.points()
    assert point.answer_time
    median, high = point.answer_time
    assert abs(median - 0.001 * 50 / 90) < 1e-9
    assert abs(high - (0.1 + 0.15 * 5 / 10)) < 1e-9
    assert point.call_time == (10, 10), "only the bound is known for longer times"


@pytest.mark.contract("3 status")
def test_history__ticks_for_over_an_hour__360_points_ten_seconds_apart(clock: FakeClock) -> None:
    metrics, hour = history(clock)
    for _ in range(50):
        clock.advance(1)
        hour.tick()
    assert len(hour.points()) == 5
    for number in range(400):
        metrics.answered(ROUTE, 200, "hit", 0.001 * number)
        step(hour, clock)
    points = hour.points()
    assert len(points) == 360
    assert points[-1].at == clock()
    assert len(hour.points(60)) == 6


def test_as_columns__two_points__two_entries_in_each_column(clock: FakeClock) -> None:
    metrics, hour = history(clock)
    metrics.missing("quota_exhausted")
    step(hour, clock)
    metrics.missing("upstream_timeout")
    metrics.answered(ROUTE, 200, "miss", 0.02)
    step(hour, clock)
    columns = as_columns(hour.points())
    assert columns["errors"] == {"quota_exhausted": [1, 0], "upstream_timeout": [0, 1]}
    assert columns["answer_ms"]["median"][0] is None
    for column in (columns["at"], *columns["answers"].values(), *columns["call_ms"].values(), columns["backlog"]):
        assert len(column) == 2


def test_points__wall_clock_is_set_back__only_recent_points_with_corrected_times(clock: FakeClock) -> None:
    wall = FakeClock(2_000_000)
    metrics, hour = history(Clock(now=wall, monotonic=clock))
    metrics.missing("quota_exhausted")
    step(hour, clock)
    wall.advance(-3600)
    clock.advance(120)
    hour.tick()
    assert [point.at for point in hour.points()] == [wall() - 120, wall()]
    assert [point.errors for point in hour.points(60)] == [{}]
