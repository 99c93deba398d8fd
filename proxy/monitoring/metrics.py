"""What is counted for Prometheus, and read off for the status page: right across worker processes. No ids, no secrets.

With several workers, `PROMETHEUS_MULTIPROC_DIR` is set before this is imported, and the library keeps every value in a
file a process there; whichever worker is asked adds them up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

PREFIX = "ccproxy"
ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
"""Seconds. Between the last two lies what Braze may no longer wait for."""
CALL_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """How things stand in this process at one moment; `dropped` and `evictions` since its start."""

    quota_used: int
    quota_limit: int
    quota_closed: bool
    backlog_users: int
    backlog_dropped: int
    cache_bytes: int
    cache_max_bytes: int
    cache_records: int
    cache_evictions: int
    outage: bool
    rejected: bool
    redis_gone: bool


_SUM, _MAX = "livesum", "livemax"
_GAUGES = {
    "quota_used": ("quota_calls_used", "Calls that hold a place in the quota: of the last minute, or booked", _SUM),
    "quota_limit": ("quota_calls_limit", "Calls that this service may send in any minute", _MAX),
    "quota_closed": ("quota_closed", "1 while no call is sent because Amplitude said 429", _MAX),
    "backlog_users": ("backlog_users", "Users who wait for a call that nobody waits for any more", _SUM),
    "cache_bytes": ("cache_bytes", "Memory that the kept records take", _SUM),
    "cache_max_bytes": ("cache_max_bytes", "Memory that kept records may take", _SUM),
    "cache_records": ("cache_records", "Users of whom something is kept in memory", _SUM),
    "outage": ("upstream_outage", "1 while Amplitude fails and nothing but probes is sent", _MAX),
    "rejected": ("upstream_rejected", "1 while that is because it rejects the credentials", _MAX),
    "redis_gone": ("redis_gone", "1 while there is a REDIS_URL and each process goes on alone", _MAX),
}
_COUNTERS = {
    "backlog_dropped": ("backlog_dropped", "Users who left the backlog unserved"),
    "cache_evictions": ("cache_evictions", "Records that left the memory for others"),
}


class Metrics(Collector):
    """Safe for threads. What happens is told by `answered`, `missing`, `called` and `refused`; the rest is read."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, for nobody
        self._registry = CollectorRegistry()
        self._shown = CollectorRegistry()
        self._shown.register(self)
        self._requests = self._counter("requests", "Requests answered", ("route", "status", "cache"))
        self._seconds = self._histogram("request_duration_seconds", "From request to answer", "route", ANSWER_BUCKETS)
        self._missing = self._counter("answers_missing", "Data answers with something missing", ("error",))
        self._calls = self._histogram("upstream_call_duration_seconds", "Calls to Amplitude", "outcome", CALL_BUCKETS)
        self._exposures = self._counter("exposures", "Recommendations asked of Amplitude, each of which it logs")
        self._messages = self._counter("webhook_messages", "Messages of Amplitude's webhooks", ("hook", "outcome"))
        self._users = self._counter("webhook_users", "Users in messages of Amplitude's webhooks", ("hook", "outcome"))
        self._refused = self._counter("callers_refused", "Callers refused", ("why",))
        self._gauges = {
            field: Gauge(f"{PREFIX}_{name}", told, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]
            for field, (name, told, mode) in _GAUGES.items()
        }
        self._counters = {field: self._counter(name, told) for field, (name, told) in _COUNTERS.items()}
        self._counted = dict.fromkeys(_COUNTERS, 0)
        self._bound: dict[tuple[str, int, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._read: Callable[[], Reading] | None = None
        self._sampling = Lock()

    def read_by(self, read: Callable[[], Reading]) -> None:
        """Set how one learns how things stand."""
        self._read = read

    def answered(self, route: str, status: int, cache: str, seconds: float) -> None:
        """Count one answer: `route` is the rule, never the path."""
        key = (route, status, cache)
        bound = self._bound.get(key)
        if bound is None:
            counter = self._requests.labels(route, str(status), cache)
            bound = self._bound[key] = counter.inc, self._seconds.labels(route).observe
        bound[0]()
        bound[1](seconds)

    def missing(self, error: str) -> None:
        """Count one data answer with an error word."""
        self._missing.labels(error).inc()

    def called(self, outcome: str, seconds: float, exposures: int) -> None:
        """Count one call to Amplitude that has ended: `outcome` is `ok` or the error word."""
        self._calls.labels(outcome).observe(seconds)
        if exposures:
            self._exposures.inc(exposures)

    def pushed(self, hook: str, outcome: str, *, applied: int = 0, skipped: int = 0) -> None:
        """Count one message of a webhook: `outcome` is `applied`, `duplicate`, `refused` or `failed`."""
        self._messages.labels(hook, outcome).inc()
        if applied:
            self._users.labels(hook, "applied").inc(applied)
        if skipped:
            self._users.labels(hook, "skipped").inc(skipped)

    def refused(self, why: str) -> None:
        """Count one caller refused."""
        self._refused.labels(why).inc()

    def sample(self) -> None:
        """Note how things stand in this process, for whichever is asked."""
        if self._read is None:
            return
        with self._sampling:
            reading = self._read()
            for field in fields(reading):
                value = getattr(reading, field.name)
                if field.name in self._gauges:
                    self._gauges[field.name].set(value)
                else:
                    new, self._counted[field.name] = value - self._counted[field.name], value
                    self._counters[field.name].inc(new)

    def collect(self) -> Iterator[Metric]:
        """Return every metric, of all worker processes together."""
        self.sample()
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        found = {}
        for family in registry.collect():
            yield family
            if len(family.samples) == 1:
                found[family.name] = family.samples[0].value
        used, limit = (found.get(f"{PREFIX}_quota_calls_{word}", 0.0) for word in ("used", "limit"))
        closed = found.get(f"{PREFIX}_quota_closed", 0.0)
        left = 0.0 if closed else max(limit - used, 0.0)
        yield GaugeMetricFamily(f"{PREFIX}_quota_calls_left", "Calls that may still be sent in this minute", left)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._shown)

    def _counter(self, name: str, told: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", told, labels, registry=self._registry)

    def _histogram(self, name: str, told: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", told, (label,), buckets=buckets, registry=self._registry)
