"""/healthz (liveness) and /readyz (readiness). Neither costs a call."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from proxy import __version__
from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.web.auth import is_known_caller
from proxy.web.services import services

blueprint = Blueprint("health", __name__)

_JUDGED_FOR_SECONDS = 60.0
"""Time after which the last call is ignored. An instance that is not ready gets no requests, and so makes no calls."""

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
    """Return 200 while the process serves. A caller with a key also gets the version."""
    return jsonify(status="ok", version=__version__) if is_known_caller() else jsonify(status="ok")


@blueprint.get("/readyz", provide_automatic_options=False)
def readyz() -> tuple[Response, int]:
    """Return the state of Amplitude, of the quota and, if configured, of Redis. The last call determines Amplitude's.

    The status is 503 only while the process stops, or if no request can be answered.
    """
    app_services = services()
    call = app_services.executor.last_call
    recent = call is not None and app_services.clock.monotonic() - call.at < _JUDGED_FOR_SECONDS
    upstream = _UPSTREAM_WORDS[call.error] if call is not None and recent else "unknown"
    words = {"upstream": upstream, "quota": "spent" if app_services.rate_limiter.spent else "ok"}
    if not app_services.profile_api:
        # The rate limiter may be paused, for example in the minute after its first connection to Redis.
        words = {"upstream": "off", "quota": "ok"}
    if app_services.redis is not None:
        redis = app_services.redis
        words["redis"] = "gone" if redis.unavailable_since is not None else "full" if redis.full else "ok"
    unavailable = upstream in ("rejected", "failing") and not app_services.may_have_copies
    healthy = all(word in ("ok", "unknown", "off") for word in words.values())
    if app_services.draining.is_set():
        status = "draining"
    elif unavailable:
        status = "unavailable"
    else:
        status = "ok" if healthy else "degraded"
    return jsonify(status=status, **words), 503 if status in ("draining", "unavailable") else 200
