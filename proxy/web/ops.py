"""/healthz: the process serves. /readyz: it can answer. Neither spends a call."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from proxy.errors import QuotaExhausted, UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.web.context import services

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
    """Say how upstream and quota are, judged by the last real call.

    503 only while the process stops, or when nothing could be answered.
    """
    here = services()
    last = here.sender.last_call
    recent = last is not None and here.monotonic() - last.at < _JUDGED_FOR_SECONDS
    upstream = _WORDS[last.error] if last is not None and recent else "unknown"
    wait = here.quota.wait()
    quota = "ok" if wait is not None and wait <= max(1.0, here.quota.interval) else "spent"
    useless = upstream in ("rejected", "failing") and here.store.empty
    status = "unavailable" if useless else "degraded" if upstream not in ("ok", "unknown") or quota != "ok" else "ok"
    draining = here.draining.is_set()
    if draining:
        status = "draining"
    return jsonify(status=status, upstream=upstream, quota=quota), 503 if useless or draining else 200
