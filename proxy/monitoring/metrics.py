"""Prometheus metrics of all worker processes, without ids or secrets. The status page reads them too.

With several workers, `PROMETHEUS_MULTIPROC_DIR` is set before this module is imported. The library then stores the
values of each process in a file in that folder. The worker that answers /metrics adds up all files.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.monitoring.sync_runs import SyncRuns

PREFIX = "ccproxy"
ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
"""Upper bounds in seconds. Braze gives up after 2 seconds."""
CALL_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)


_BUILD = {"version": __version__, "python_version": platform.python_version()}
_SUM, _MAX, _LAST = "livesum", "livemax", "livemostrecent"
_GAUGES = {
    # Each worker reports the calls of all machines, so a sum would count the calls several times.
    "quota_calls_used": ("Calls that count against the quota: sent in the last minute, or reserved", _LAST),
    "quota_calls_left": ("Calls that can still be sent in this minute; 0 while no call is sent", _LAST),
    "quota_calls_limit": ("Calls that this service may send in any minute", _MAX),
    "quota_closed": ("1 while no call is sent because Amplitude answered 429", _MAX),
    "backlog_users": ("Users in the backlog: their data is fetched when quota is unused", _SUM),
    "cache_bytes": ("Memory used by cached records", _SUM),
    "cache_max_bytes": ("Memory available for cached records", _SUM),
    "cache_records": ("Users in the memory cache", _SUM),
    "upstream_outage": ("1 while Amplitude fails and only trial calls are sent", _MAX),
    "upstream_rejected": ("1 while Amplitude rejects the credentials", _MAX),
    "braze_refused": ("1 while Braze refuses the API key, the permission or the instance", _MAX),
    "braze_pause_seconds": ("Seconds for which no request is sent because Braze returned 429", _MAX),
    "forward_waiting": ("Objects of the event stream that wait for Braze", _SUM),
    "forward_accepted_timestamp_seconds": ("Time at which Braze last accepted forwarded objects; 0 if never", _MAX),
    "forward_failed_timestamp_seconds": ("Time of the last failure of the forwarding to Braze; 0 if never", _MAX),
    "currents_rejected": ("1 while Amplitude's Batch API rejects the API key", _MAX),
    "currents_accepted_timestamp_seconds": ("Time of the last batch of Currents that was relayed; 0 if never", _MAX),
    "currents_failed_timestamp_seconds": ("Time of the last batch of Currents that was not relayed; 0 if never", _MAX),
    "redis_gone": ("1 while Redis is unavailable and each process uses only its own cache", _MAX),
    "redis_full": ("1 while Redis is full and stores no new data of users", _MAX),
}
_SNAPSHOT_GAUGES = {
    "members": "Members in the snapshot of a cohort",
    "age_seconds": "Age of the snapshot of a cohort",
}
_SAMPLED_COUNTERS = {
    "backlog_dropped": "Users removed from the backlog without an answer",
    "cache_evictions": "Records removed from the memory cache to make room for others",
}


class Metrics(Collector):
    """Counts events, and samples the gauges of this process. Thread-safe."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, without a reader
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Answered requests", ("route", "status", "cache"))
        self._seconds = self._histogram("request_duration_seconds", "Time to answer a request", "route", ANSWER_BUCKETS)
        self._missing = self._counter("answers_missing", "Answers of the data routes with missing data", ("error",))
        self._background = self._counter(
            "background_requests", "Answered background requests of warm, not in the other counts", ("cache", "error")
        )
        self._calls = self._histogram("upstream_call_duration_seconds", "Calls to Amplitude", "outcome", CALL_BUCKETS)
        self._exposures = self._counter("exposures", "Fetched recommendations; Amplitude logs an exposure for each")
        self._messages = self._counter("webhook_messages", "Messages from Amplitude's webhooks", ("hook", "outcome"))
        self._users = self._counter("webhook_users", "Users in messages from Amplitude's webhooks", ("hook", "outcome"))
        self._forwarded = self._counter(
            "forwarded_objects", "Objects of the event stream that were forwarded to Braze", ("kind", "outcome")
        )
        self._relayed = self._counter("currents_events", "Events of Braze Currents by their outcome", ("outcome",))
        self._refused = self._counter(
            "callers_refused", "Requests refused because of their credentials, scope, address or origin", ("why",)
        )
        self._gauges = {
            name: Gauge(f"{PREFIX}_{name}", help, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]
            for name, (help, mode) in _GAUGES.items()
        }
        self._sampled_counters = {name: self._counter(name, help) for name, help in _SAMPLED_COUNTERS.items()}
        self._last_counts = dict.fromkeys(_SAMPLED_COUNTERS, 0.0)
        self._bound: dict[tuple[str, int, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._read_snapshots: Callable[[], Iterable[tuple[str, int, float]]] = tuple
        self._read_sync_runs: Callable[[], SyncRuns | None] = lambda: None
        self._read: Callable[[], Mapping[str, float]] = dict
        self._sampling = Lock()

    def set_snapshots_reader(self, read: Callable[[], Iterable[tuple[str, int, float]]]) -> None:
        """Set the function that returns cohort id, members and age (seconds) of each snapshot in this process."""
        self._read_snapshots = read

    def set_sync_runs_reader(self, read: Callable[[], SyncRuns | None]) -> None:
        """Set the function that returns the totals of the runs of `sync`; None if no run is known."""
        self._read_sync_runs = read

    def set_reader(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Set the function that returns, by name, the gauges of this process and its counts since the start."""
        self._read = read

    def answered(self, route: str, status: int, cache: str, seconds: float) -> None:
        """Count an answer. `route` is the URL rule, not the path, because a path can contain an id."""
        key = (route, status, cache)
        bound = self._bound.get(key)
        if bound is None:
            counter = self._requests.labels(route, str(status), cache)
            bound = self._bound[key] = counter.inc, self._seconds.labels(route).observe
        bound[0]()
        bound[1](seconds)

    def missing(self, error: str) -> None:
        """Count a data answer with this error word."""
        self._missing.labels(error).inc()

    def answered_in_background(self, cache: str, error: str | None) -> None:
        """Count an answer to a background request. It is in no other count, because no message waits for it."""
        self._background.labels(cache, error or "none").inc()

    def called(self, outcome: str, seconds: float, exposures: int) -> None:
        """Count a finished call to Amplitude. `outcome` is `ok` or the error word."""
        self._calls.labels(outcome).observe(seconds)
        if exposures:
            self._exposures.inc(exposures)

    def pushed(self, hook: str, outcome: str, *, applied: int = 0, skipped: int = 0) -> None:
        """Count a webhook message. `outcome` is `applied`, `duplicate`, `refused` or `failed`."""
        self._messages.labels(hook, outcome).inc()
        if applied:
            self._users.labels(hook, "applied").inc(applied)
        if skipped:
            self._users.labels(hook, "skipped").inc(skipped)

    def forwarded(self, kind: str, outcome: str, objects: int) -> None:
        """Count objects of the event stream. `kind` is `events`, `attributes` or `skipped`."""
        self._forwarded.labels(kind, outcome).inc(objects)

    def relayed(self, events: Mapping[str, int]) -> None:
        """Count the events of a batch of Braze Currents. `events`: their number by outcome (`sync.relay.Outcome`)."""
        for outcome, count in events.items():
            self._relayed.labels(outcome).inc(count)

    def refused(self, why: str) -> None:
        """Count a refused caller."""
        self._refused.labels(why).inc()

    def sample(self) -> None:
        """Write the gauges of this process, so that any worker can report them."""
        with self._sampling:
            for name, value in self._read().items():
                if name in self._gauges:
                    self._gauges[name].set(value)
                else:
                    self._sampled_counters[name].inc(value - self._last_counts[name])
                    self._last_counts[name] = value

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, summed over all worker processes."""
        self.sample()
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        yield from registry.collect()
        build = GaugeMetricFamily("proxy_build_info", "Always 1; the labels have the versions", labels=list(_BUILD))
        build.add_metric(list(_BUILD.values()), 1.0)
        yield build
        # Not summed over the workers, because every worker has the same snapshots.
        members, age = (
            GaugeMetricFamily(f"{PREFIX}_snapshot_{name}", about, labels=["cohort_id"])
            for name, about in _SNAPSHOT_GAUGES.items()
        )
        for cohort_id, count, seconds in self._read_snapshots():
            members.add_metric([cohort_id], count)
            age.add_metric([cohort_id], seconds)
        yield members
        yield age
        yield from _sync_metrics(self._read_sync_runs())

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self)

    def _counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", help, (label,), buckets=buckets, registry=self._registry)


def _sync_metrics(runs: SyncRuns | None) -> Iterator[Metric]:
    """Yield the metrics of the runs of `sync`, without samples before the first run.

    All processes read the same totals from Redis, so a sum over the workers would be wrong.
    """
    by_result = CounterMetricFamily(f"{PREFIX}_sync_runs", "Runs of sync by their result", labels=["result"])
    objects = CounterMetricFamily(f"{PREFIX}_sync_objects", "Users of the runs of sync by outcome", labels=["outcome"])
    values = CounterMetricFamily(f"{PREFIX}_sync_values", "Values that sync sent to Braze")
    requests = CounterMetricFamily(f"{PREFIX}_sync_requests", "Requests of sync to Braze")
    ended = GaugeMetricFamily(f"{PREFIX}_sync_last_run_timestamp_seconds", "Time at which the last run of sync ended")
    failed = GaugeMetricFamily(f"{PREFIX}_sync_last_run_failed", "1 if the last run of sync was not complete")
    if runs is not None:
        for result, number in runs.runs.items():
            by_result.add_metric([result], number)
        for outcome, number in runs.users.items():
            objects.add_metric([outcome], number)
        values.add_metric([], runs.values)
        requests.add_metric([], runs.requests)
        ended.add_metric([], runs.last.ended_at)
        failed.add_metric([], runs.last.result != "complete")
    yield from (by_result, objects, values, requests, ended, failed)
