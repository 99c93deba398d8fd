"""Connects the metrics to the services whose state they show."""

from __future__ import annotations

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.fetch.backlog import Backlog
from proxy.profile.errors import UpstreamRejected
from proxy.sync.event_stream import EventStream
from proxy.sync.relay import CurrentsRelay, RelayStats
from proxy.sync.stream_delivery import StreamStats
from proxy.web.services import Services


def connect_metrics(services: Services, circuit_breaker: CircuitBreaker, backlog: Backlog) -> None:
    """Set the functions by which the metrics read the current state."""
    metrics, limiter, memory, redis = services.metrics, services.rate_limiter, services.store.memory, services.redis
    metrics.set_reader(
        lambda: {
            "quota_calls_used": limiter.used,
            "quota_calls_left": limiter.left,
            "quota_calls_limit": limiter.rate.per_minute,
            "quota_closed": limiter.paused,
            "backlog_users": len(backlog),
            "backlog_dropped": backlog.dropped,
            "cache_bytes": memory.size,
            "cache_max_bytes": memory.max_size,
            "cache_records": memory.records,
            "cache_evictions": memory.evicted,
            "upstream_outage": circuit_breaker.fault is not None,
            "upstream_rejected": isinstance(circuit_breaker.fault, UpstreamRejected),
            **_forward_gauges(services.event_stream, services.braze_rate_limiter),
            **_relay_gauges(services.currents_relay),
            "redis_gone": redis is not None and redis.unavailable_since is not None,
            "redis_full": redis is not None and redis.full,
        }
    )
    if services.sync_runs is not None:
        metrics.set_sync_runs_reader(services.sync_runs.read)
    metrics.set_snapshots_reader(
        lambda: [
            (snapshot.cohort_id, snapshot.members, max(0.0, services.clock.now() - snapshot.as_of))
            for snapshot in memory.snapshots.installed()
        ]
    )


def _forward_gauges(stream: EventStream | None, limiter: RateLimiter | None) -> dict[str, float]:
    stats = StreamStats() if stream is None else stream.stats()
    return {
        "braze_refused": stats.is_refused,
        "braze_pause_seconds": limiter.paused_for if limiter is not None and limiter.paused else 0,
        "forward_waiting": stats.waiting,
        "forward_accepted_timestamp_seconds": stats.accepted_at or 0,
        "forward_failed_timestamp_seconds": stats.failed_at or 0,
    }


def _relay_gauges(relay: CurrentsRelay | None) -> dict[str, float]:
    stats = RelayStats() if relay is None else relay.stats()
    return {
        "currents_rejected": stats.is_rejected,
        "currents_accepted_timestamp_seconds": stats.accepted_at or 0,
        "currents_failed_timestamp_seconds": stats.failed_at or 0,
    }
