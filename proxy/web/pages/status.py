"""/metrics for Prometheus, and the status page. Neither contains an id or a secret, or costs a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from proxy.monitoring.diagnosis import State, findings
from proxy.monitoring.history import HISTORY_SECONDS, STEP_SECONDS, as_columns
from proxy.profile.errors import NotAvailable, QuotaExhausted, UpstreamRejected
from proxy.profile.json import write_json
from proxy.web.pages.assets import page, uncached_response
from proxy.web.pages.directions import directions
from proxy.web.services import services
from proxy.web.snapshots import installed_snapshots

_RECENT_SECONDS = 60.0
_REFUSED_SECONDS = 600.0

blueprint = Blueprint("status", __name__)


@blueprint.get("/metrics", provide_automatic_options=False)
def metrics() -> Response:
    """Return the metrics of all worker processes."""
    return uncached_response(services().metrics.text(), CONTENT_TYPE_LATEST)


@blueprint.get("/status", provide_automatic_options=False)
def status() -> Response:
    """Return the status page, which fetches /status.json."""
    return page("status.html")


@blueprint.get("/status.json", provide_automatic_options=False)
def status_json() -> Response:
    """Return the data of the status page: the findings, the current gauges and the last hour."""
    history = services().history
    history.tick()
    gauges = history.gauges()
    body = {
        "findings": [asdict(finding) for finding in findings(_state(gauges))],
        "now": {name: round(value) for name, value in sorted(gauges.items())},
        "step_seconds": int(STEP_SECONDS),
        "kept_seconds": int(HISTORY_SECONDS),
        "snapshots": installed_snapshots(),
        "hour": as_columns(history.points()),
        "directions": directions(gauges),
        "profile_api": services().profile_api,
        "callers": [caller._asdict() for caller in services().keyring.callers],
        "aliases": services().aliases.by_kind(),
    }
    return uncached_response(write_json(body) + b"\n")


def _state(gauges: Mapping[str, float]) -> State:
    app_services = services()
    errors = {word for point in app_services.history.points(_RECENT_SECONDS) for word in point.calls}
    call = app_services.executor.last_call
    if call is not None and call.error and app_services.clock.monotonic() - call.at < _RECENT_SECONDS:
        errors.add(call.error)
    if gauges["upstream_rejected"]:
        errors.add(UpstreamRejected.word)
    points = app_services.history.points(_REFUSED_SECONDS)
    sync_runs = None if app_services.sync_runs is None else app_services.sync_runs.read()
    last_sync = None if sync_runs is None else sync_runs.last
    return State(
        profile_api=app_services.profile_api,
        answers=sum(sum(point.answers.values()) for point in points),
        not_available=sum(point.errors.get(NotAvailable.word, 0) for point in points),
        upstream_errors=frozenset(errors - {"ok", QuotaExhausted.word}),
        outage=bool(gauges["upstream_outage"]),
        cached=app_services.may_have_copies,
        quota_closed=app_services.profile_api and bool(gauges["quota_closed"]),
        quota_spent=app_services.profile_api and app_services.rate_limiter.spent,
        redis_unavailable=bool(gauges["redis_gone"]),
        redis_full=bool(gauges["redis_full"]),
        backlog_users=round(gauges["backlog_users"]),
        backlog_max=app_services.backlog_max_users,
        dropped=sum(point.dropped for point in points),
        refused=sum(point.refused for point in points),
        expired_snapshots=tuple(
            snapshot["cohort_id"]
            for snapshot in installed_snapshots()
            if snapshot["expires_at"] <= app_services.clock.now()
        ),
        currents_rejected=bool(gauges["currents_rejected"]),
        braze_refused=bool(gauges["braze_refused"]),
        braze_paused=bool(gauges["braze_pause_seconds"]),
        uncertain=sum(point.forwarded.get("uncertain", 0) for point in points),
        sync_result=None if last_sync is None else last_sync.result,
        sync_error="" if last_sync is None else last_sync.error,
        sync_age=0.0 if last_sync is None else app_services.clock.now() - last_sync.ended_at,
        draining=app_services.draining.is_set(),
    )
