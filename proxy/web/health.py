"""/healthz: the process serves. /readyz: it can answer. Neither spends a call."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from proxy.profile.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.web.services import services

blueprint = Blueprint("ops", __name__)

_JUDGED_FOR_SECONDS = 60.0
"""How long the last call's end tells anything. Without an end to it, an instance out of rotation, which sends
no calls, would stay out for ever."""

_WORDS = {
    None: "ok",
    QuotaExhausted.word: "ok",
    UpstreamRejected.word: "rejected",
    UpstreamTimeout.word: "failing",
    UpstreamUnavailable.word: "failing",
    UpstreamInvalid.word: "invalid",
}


@blueprint.get("/healthz", provide_automatic_options=False)
def healthz() -> Response:
    """Say that the process serves; touch nothing else."""
    return jsonify(status="ok")


@blueprint.get("/readyz", provide_automatic_options=False)
def readyz() -> tuple[Response, int]:
    """Say how upstream, quota and Redis, where it is used, are. Upstream is judged by the last real call.

    503 only while the process stops, or when nothing could be answered.
    """
    here = services()
    last = here.executor.last_call
    recent = last is not None and here.monotonic() - last.at < _JUDGED_FOR_SECONDS
    upstream = _WORDS[last.error] if last is not None and recent else "unknown"
    words = {
        "upstream": upstream,
        "quota": "spent" if here.rate_limiter.spent else "ok",
    }
    if here.redis is not None:
        words["redis"] = "ok" if here.redis.unavailable_since is None else "gone"
    useless = upstream in ("rejected", "failing") and not here.store.memory.records
    well = all(word in ("ok", "unknown") for word in words.values())
    status = "draining" if here.draining.is_set() else "unavailable" if useless else "ok" if well else "degraded"
    return jsonify(status=status, **words), 503 if status in ("draining", "unavailable") else 200
