"""The metrics of the last hour in steps of ten seconds. Each worker keeps the sum over all workers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock
from typing import Any

from proxy.monitoring.clock import Clock
from proxy.monitoring.metrics import ANSWER_BUCKETS, CALL_BUCKETS, PREFIX, Metrics

STEP_SECONDS = 10.0
HISTORY_SECONDS = 3600.0
_DATA = "/v1/"
_WEBHOOKS = "/v1/webhooks/"
"""These routes may wait for Amplitude or Braze. Their times are left out, because no message waits for them."""
_FETCHED = ("miss", "collapsed", "partial", "request", "expired")
_REFUSED = ("401", "403")  # counted on data routes only: a browser gets a 401 before it asks for credentials
_BLANK = "blank_id"  # nothing is missing for an anonymous user

_Counts = Counter[tuple[str, str | float]]


@dataclass(frozen=True, slots=True)
class Point:
    """Counts of the `seconds` before `at` (Unix seconds), and the gauges at `at`.

    `answers`, `errors`, `calls`, `forwarded` and `relayed` are counts by word. `background` counts the requests of
    `warm`, which `answers`, `errors` and the times omit. Times are (median, 95th percentile) in seconds, or None.
    """

    at: float
    seconds: float
    answers: Mapping[str, int]
    errors: Mapping[str, int]
    calls: Mapping[str, int]
    refused: int
    dropped: int
    background: int
    forwarded: Mapping[str, int]
    relayed: Mapping[str, int]
    answer_time: tuple[float, float] | None
    call_time: tuple[float, float] | None
    gauges: Mapping[str, float]


class History:
    """Adds a point every ten seconds if `tick` is called often enough. Thread-safe."""

    def __init__(self, metrics: Metrics, *, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = Lock()
        self._points: deque[tuple[float, Point]] = deque(maxlen=int(HISTORY_SECONDS / STEP_SECONDS))
        self._last: _Counts | None = None
        self._taken_at = float("-inf")

    def tick(self) -> None:
        """Add a point if ten seconds have passed since the last point."""
        with self._lock:
            now = self._clock.monotonic()
            seconds = now - self._taken_at
            if seconds < STEP_SECONDS:
                return
            counts, gauges = _totals(self._metrics)
            if self._last is not None:
                self._points.append((now, _point(self._clock.now(), seconds, counts - self._last, gauges)))
            self._last, self._taken_at = counts, now

    def gauges(self) -> Mapping[str, float]:
        """Return the current gauges by name, without the prefix."""
        return _totals(self._metrics)[1]

    def points(self, seconds: float = HISTORY_SECONDS) -> list[Point]:
        """Return the points of the last `seconds`, oldest first."""
        horizon = self._clock.monotonic() - seconds
        # The wall clock may have been set since a point was taken.
        offset = self._clock.now() - self._clock.monotonic()
        with self._lock:
            return [replace(point, at=taken_at + offset) for taken_at, point in self._points if taken_at > horizon]


def _totals(metrics: Metrics) -> tuple[_Counts, dict[str, float]]:
    """Return the counts since the start by kind and word, and the current gauges."""
    counts: _Counts = Counter()
    gauges = {}
    for family in metrics.collect():
        for sample in family.samples:
            name, labels = sample.name.removeprefix(f"{PREFIX}_"), sample.labels
            is_data = labels.get("route", "").startswith(_DATA)
            key: tuple[str, str | float] | None = None
            match name:
                case "requests_total" if is_data and labels["status"] in _REFUSED:
                    key = "refused", ""
                case "requests_total" if labels["cache"] != "none":
                    key = "answers", labels["cache"]
                case "answers_missing_total" if labels["error"] != _BLANK:
                    key = "errors", labels["error"]
                case "upstream_call_duration_seconds_count":
                    key = "calls", labels["outcome"]
                case "background_requests_total":
                    key = "background", ""
                case "backlog_dropped_total":
                    key = "dropped", ""
                case "forwarded_objects_total":
                    key = "forwarded", labels["outcome"]
                case "currents_events_total":
                    key = "relayed", labels["outcome"]
                case "request_duration_seconds_bucket" if is_data and not labels["route"].startswith(_WEBHOOKS):
                    key = "answer_times", float(labels["le"])
                case "upstream_call_duration_seconds_bucket":
                    key = "call_times", float(labels["le"])
                case _ if family.type == "gauge" and name != sample.name and not labels:
                    gauges[name] = sample.value
            if key:
                counts[key] += int(sample.value)
    return counts, gauges


def _point(at: float, seconds: float, counts: _Counts, gauges: Mapping[str, float]) -> Point:
    by_kind: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for (kind, word), count in counts.items():
        by_kind[kind][word] = count
    answers = by_kind["answers"]
    fetched = sum(answers[word] for word in _FETCHED)
    missing = min(by_kind["errors"].total(), fetched)
    return Point(
        at,
        seconds,
        {"hit": answers["hit"], "stale": answers["stale"], "fetched": fetched - missing, "missing": missing},
        by_kind["errors"],
        by_kind["calls"],
        by_kind["refused"].total(),
        by_kind["dropped"].total(),
        by_kind["background"].total(),
        by_kind["forwarded"],
        by_kind["relayed"],
        _quantiles(by_kind["answer_times"], ANSWER_BUCKETS),
        _quantiles(by_kind["call_times"], CALL_BUCKETS),
        gauges,
    )


def _quantiles(counts: Counter[float], bounds: Sequence[float]) -> tuple[float, float] | None:
    """Return the median and the 95th percentile of cumulative counts, as Prometheus' `histogram_quantile` does."""
    return (_quantile(0.5, counts, bounds), _quantile(0.95, counts, bounds)) if counts[math.inf] else None


def _quantile(share: float, counts: Counter[float], bounds: Sequence[float]) -> float:
    rank = share * counts[math.inf]
    for low, high in pairwise((0.0, *bounds)):
        below, within = counts[low], counts[high]
        if within >= rank:
            return low + (high - low) * (rank - below) / (within - below)
    return bounds[-1]


def as_columns(points: Iterable[Point]) -> dict[str, Any]:
    """Return the points as columns for plotting: each list has one entry per point."""
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
        "background": [point.background for point in points],
    }


def _times(times: Iterable[tuple[float, float] | None]) -> dict[str, list[float | None]]:
    pairs = list(times)
    return {
        name: [round(pair[index] * 1000, 1) if pair else None for pair in pairs]
        for index, name in enumerate(("median", "p95"))
    }
