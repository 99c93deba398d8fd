"""The metrics of the last hour in steps of ten seconds. Each worker keeps the sum over all workers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Any

from proxy.monitoring.clock import Clock
from proxy.monitoring.metrics import PREFIX, Metrics

STEP_SECONDS = 10.0
KEPT_SECONDS = 3600.0
_DATA = "/v1/"
_FETCHED = ("miss", "collapsed", "partial", "request", "expired")
_REFUSED = ("401", "403")  # on data routes only: a browser gets a 401 before it asks for credentials
_BLANK = "blank_id"  # nothing is missing for an anonymous user


@dataclass(frozen=True, slots=True)
class Point:
    """Counts of the `seconds` before `at` (Unix seconds), and the gauges at `at`.

    `answers`, `errors` and `calls` are counts by word. Times are (median, 95th percentile) in seconds, or None.
    """

    at: float
    seconds: float
    answers: Mapping[str, int]
    errors: Mapping[str, int]
    calls: Mapping[str, int]
    refused: int
    dropped: int
    answer_time: tuple[float, float] | None
    call_time: tuple[float, float] | None
    gauges: Mapping[str, float]


class History:
    """Adds a point every ten seconds, provided that `tick` is called often. Safe for threads."""

    def __init__(self, metrics: Metrics, *, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = Lock()
        self._points: deque[Point] = deque(maxlen=int(KEPT_SECONDS / STEP_SECONDS))
        self._last: _Totals | None = None
        self._taken_at = float("-inf")

    def tick(self) -> None:
        """Add a point when one is due."""
        with self._lock:
            now = self._clock.monotonic()
            seconds = now - self._taken_at
            if seconds < STEP_SECONDS:
                return
            totals = _Totals(self._metrics)
            if self._last is not None:
                self._points.append(totals.since(self._last, at=self._clock.now(), seconds=seconds))
            self._last, self._taken_at = totals, now

    def gauges(self) -> Mapping[str, float]:
        """Return the current gauges by name, without the prefix."""
        return _Totals(self._metrics).gauges

    def points(self, seconds: float = KEPT_SECONDS) -> list[Point]:
        """Return the points of the last `seconds`, oldest first."""
        horizon = self._clock.now() - seconds
        with self._lock:
            return [point for point in self._points if point.at > horizon]


class _Totals:
    """The counts since the start, and the current gauges."""

    def __init__(self, metrics: Metrics) -> None:
        self.answers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.refused = self.dropped = 0
        self.answer_buckets: Counter[float] = Counter()
        self.call_buckets: Counter[float] = Counter()
        self.gauges: dict[str, float] = {}
        for family in metrics.collect():
            for sample in family.samples:
                self._add(sample.name.removeprefix(f"{PREFIX}_"), sample.labels, sample.value, family.type)

    def _add(self, name: str, labels: Mapping[str, str], value: float, kind: str) -> None:
        match name:
            case "requests_total" if labels["route"].startswith(_DATA) and labels["status"] in _REFUSED:
                self.refused += int(value)
            case "requests_total" if labels["cache"] != "none":
                self.answers[labels["cache"]] += int(value)
            case "answers_missing_total" if labels["error"] != _BLANK:
                self.errors[labels["error"]] += int(value)
            case "upstream_call_duration_seconds_count":
                self.calls[labels["outcome"]] += int(value)
            case "backlog_dropped_total":
                self.dropped += int(value)
            case "request_duration_seconds_bucket" if labels["route"].startswith(_DATA):
                self.answer_buckets[float(labels["le"])] += int(value)
            case "upstream_call_duration_seconds_bucket":
                self.call_buckets[float(labels["le"])] += int(value)
            case _ if kind == "gauge":
                self.gauges[name] = value

    def since(self, before: _Totals, *, at: float, seconds: float) -> Point:
        answers, errors = self.answers - before.answers, self.errors - before.errors
        fetched = sum(answers[word] for word in _FETCHED)
        missing = min(errors.total(), fetched)
        return Point(
            at,
            seconds,
            {"hit": answers["hit"], "stale": answers["stale"], "fetched": fetched - missing, "missing": missing},
            dict(errors),
            dict(self.calls - before.calls),
            max(self.refused - before.refused, 0),
            max(self.dropped - before.dropped, 0),
            _quantiles(_between(before.answer_buckets, self.answer_buckets)),
            _quantiles(_between(before.call_buckets, self.call_buckets)),
            self.gauges,
        )


def _between(before: Mapping[float, int], after: Mapping[float, int]) -> dict[float, int]:
    return {bound: count - before.get(bound, 0) for bound, count in after.items()}


def _quantiles(buckets: Mapping[float, int]) -> tuple[float, float] | None:
    """Return median and 95th percentile of cumulative counts by bound, as Prometheus' `histogram_quantile` does."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    return _quantile(0.5, bounds, buckets), _quantile(0.95, bounds, buckets)


def _quantile(share: float, bounds: list[float], buckets: Mapping[float, int]) -> float:
    rank = share * buckets[bounds[-1]]
    for low, high in pairwise((0.0, *bounds)):
        below, within = buckets.get(low, 0), buckets[high]
        if within >= rank:
            return low if high == float("inf") else low + (high - low) * (rank - below) / (within - below)
    return bounds[-1]


def as_columns(points: Iterable[Point]) -> dict[str, Any]:
    """Return the points as lists with an entry per point, for plotting."""
    points = list(points)
    words = sorted({word for point in points for word in point.errors})
    return {
        "at": [round(point.at) for point in points],
        "answers": {word: [point.answers[word] for point in points] for word in ("hit", "stale", "fetched", "missing")},
        "answer_ms": _times(point.answer_time for point in points),
        "call_ms": _times(point.call_time for point in points),
        "calls": [sum(point.calls.values()) for point in points],
        "quota_used": [round(point.gauges.get("quota_calls_used", 0)) for point in points],
        "backlog": [round(point.gauges.get("backlog_users", 0)) for point in points],
        "errors": {word: [point.errors.get(word, 0) for point in points] for word in words},
    }


def _times(times: Iterable[tuple[float, float] | None]) -> dict[str, list[float | None]]:
    pairs = list(times)
    return {
        name: [round(pair[index] * 1000, 1) if pair else None for pair in pairs]
        for index, name in enumerate(("median", "p95"))
    }
