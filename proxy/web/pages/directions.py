"""The state of the directions between Amplitude and Braze: the event stream, Currents and `sync`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from proxy.api.bodies.monitoring import StatusCurrents, StatusDirections, StatusEventStream, StatusSync
from proxy.web.services import services

_TOLERANCE_SECONDS = 1.0
"""Tolerance for times from the metrics, which are rounded."""


def directions(gauges: Mapping[str, float]) -> StatusDirections:
    """Return the state of each direction; null for a direction that is switched off. `gauges`: of all workers."""
    return {"event_stream": _event_stream(gauges), "currents": _currents(gauges), "sync": _sync()}


def _event_stream(gauges: Mapping[str, float]) -> StatusEventStream | None:
    stream = services().event_stream
    if stream is None:
        return None
    stats = stream.stats()
    failed_at = gauges["forward_failed_timestamp_seconds"]
    return {
        "accepted_at": _time(gauges["forward_accepted_timestamp_seconds"]),
        "failed_at": _time(failed_at),
        "failure": _failure(stats.failed_at, stats.failure, failed_at),
        "refused": bool(gauges["braze_refused"]),
        "paused_until": _time(services().clock.now() + pause if (pause := gauges["braze_pause_seconds"]) else 0),
        "waiting": round(gauges["forward_waiting"]),
        "outcomes": _totals(point.forwarded for point in services().history.points()),
    }


def _currents(gauges: Mapping[str, float]) -> StatusCurrents | None:
    relay = services().currents_relay
    if relay is None:
        return None
    stats = relay.stats()
    failed_at = gauges["currents_failed_timestamp_seconds"]
    return {
        "accepted_at": _time(gauges["currents_accepted_timestamp_seconds"]),
        "failed_at": _time(failed_at),
        "failure": _failure(stats.failed_at, stats.failure, failed_at),
        "rejected": bool(gauges["currents_rejected"]),
        "outcomes": _totals(point.relayed for point in services().history.points()),
    }


def _sync() -> StatusSync | None:
    app_services = services()
    if app_services.sync_runs is None or app_services.braze_rate_limiter is None:
        return None
    runs = app_services.sync_runs.read()
    if runs is None:
        return {"last": None, "runs": {}}
    last = runs.last
    return {
        "last": {
            "ended_at": round(last.ended_at),
            "result": last.result,
            "error": last.error,
            "users_sent": last.users_sent,
            "users_unchanged": last.users_unchanged,
            "users_failed": last.users_failed,
            "values": last.values,
            "requests": last.requests,
        },
        "runs": dict(runs.runs),
    }


def _time(seconds: float) -> int | None:
    return round(seconds) or None


def _failure(local_at: float | None, local_reason: str, latest_at: float) -> str | None:
    """Return the reason of the last failure; None if the failure was in another worker, or if there was none.

    The metrics contain no texts, so a worker knows only its own reasons.
    """
    is_latest = local_at is not None and local_at >= latest_at - _TOLERANCE_SECONDS
    return local_reason if is_latest else None


def _totals(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for by_word in counts:
        totals.update(by_word)
    return dict(+totals)
