"""/healthz (liveness) and /readyz (readiness). Neither spends a call."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.web.services import services

blueprint = Blueprint("health", __name__)

_JUDGED_FOR_SECONDS = 60.0
"""How long the last call counts. Without a limit, an instance out of rotation, which sends no calls, would stay out
forever."""

_UPSTREAM_WORDS = {
    None: "ok",
    QuotaExhausted.word: "ok",
    UpstreamRejected.word: "rejected",
    UpstreamTimeout.word: "failing",
    UpstreamUnavailable.word: "failing",
    UpstreamInvalid.word: "invalid",
}


@blueprint.get("/healthz", provide_automatic_options=False)
def healthz() -> Response:
    """Return 200 while the process serves."""
    return jsonify(status="ok")


@blueprint.get("/readyz", provide_automatic_options=False)
def readyz() -> tuple[Response, int]:
    """Return the state of upstream, quota and, where it is used, Redis. Upstream is judged by the last real call.

    503 only while the process stops, or when no request could be answered.
    """
    app_services = services()
    call = app_services.executor.last_call
    recent = call is not None and app_services.clock.monotonic() - call.at < _JUDGED_FOR_SECONDS
    upstream = _UPSTREAM_WORDS[call.error] if call is not None and recent else "unknown"
    words = {
        "upstream": upstream,
        "quota": "spent" if app_services.rate_limiter.spent else "ok",
    }
    if app_services.redis is not None:
        words["redis"] = "ok" if app_services.redis.unavailable_since is None else "gone"
    unavailable = upstream in ("rejected", "failing") and not app_services.store.memory.records
    healthy = all(word in ("ok", "unknown") for word in words.values())
    if app_services.draining.is_set():
        status = "draining"
    elif unavailable:
        status = "unavailable"
    else:
        status = "ok" if healthy else "degraded"
    return jsonify(status=status, **words), 503 if status in ("draining", "unavailable") else 200
