"""How things go: /metrics for Prometheus, /status for people. Neither has an id or a secret, or spends a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from proxy.monitoring.diagnosis import State, findings
from proxy.monitoring.history import KEPT_SECONDS, STEP_SECONDS, as_columns
from proxy.profile.errors import QuotaExhausted, UpstreamRejected
from proxy.profile.json import write_json
from proxy.web.auth import admit
from proxy.web.pages.assets import page
from proxy.web.services import services

_LATE_SECONDS = 60.0
_REFUSED_SECONDS = 600.0

blueprint = Blueprint("status", __name__)
blueprint.before_request(admit)


@blueprint.get("/metrics", provide_automatic_options=False)
def metrics() -> Response:
    """Answer the metrics of all worker processes."""
    return _unkept(Response(services().metrics.text(), content_type=CONTENT_TYPE_LATEST))


@blueprint.get("/status", provide_automatic_options=False)
def status() -> Response:
    """Show the page, which asks for the rest."""
    return page("status.html")


@blueprint.get("/status.json", provide_automatic_options=False)
def told() -> Response:
    """Answer what the page shows: what is wrong now, how things stand, and the last hour."""
    here = services()
    here.history.tick()
    standing = here.history.standing()
    body = {
        "findings": [asdict(finding) for finding in findings(_state(standing))],
        "now": {name: round(value) for name, value in sorted(standing.items())},
        "step_seconds": int(STEP_SECONDS),
        "kept_seconds": int(KEPT_SECONDS),
        "hour": as_columns(here.history.points()),
    }
    return _unkept(Response(write_json(body) + b"\n", content_type="application/json"))


def _state(standing: Mapping[str, float]) -> State:
    here = services()
    late = here.history.points(_LATE_SECONDS)
    errors = {word for point in late for word in point.calls}
    last = here.executor.last_call
    if last is not None and last.error and here.monotonic() - last.at < _LATE_SECONDS:
        errors.add(last.error)
    if standing["upstream_rejected"]:
        errors.add(UpstreamRejected.word)
    some = here.history.points(_REFUSED_SECONDS)
    return State(
        upstream_errors=frozenset(errors - {"ok", QuotaExhausted.word}),
        outage=bool(standing["upstream_outage"]),
        kept=here.store.memory.records > 0,
        quota_closed=bool(standing["quota_closed"]),
        quota_spent=here.rate_limiter.spent,
        redis_gone=bool(standing["redis_gone"]),
        backlog_users=round(standing["backlog_users"]),
        backlog_max=here.backlog_max_users,
        dropped=sum(point.dropped for point in some),
        refused=sum(point.refused for point in some),
        draining=here.draining.is_set(),
    )


def _unkept(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
