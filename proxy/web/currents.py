"""Receives events of Braze Currents, and relays the events to Amplitude."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from proxy.api.bodies.changes import CurrentsResult
from proxy.api.errors import BadRequest, BodyTooLarge, Code
from proxy.profile.errors import UpstreamRejected
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.weighted_semaphore import Busy
from proxy.sync.relay import RelayResult, skipped_events
from proxy.web.errors import problem
from proxy.web.request_body import largest_size, read_large_body
from proxy.web.services import services
from proxy.webhooks import envelope

MAX_BODY_BYTES = 8 * 1024 * 1024
_MAX_EVENT_CHARACTERS = 1024 * 1024
"""Braze drops events over 900 KB."""
_RETRY_SECONDS = 30
"""The pause that Amplitude's documentation recommends after a 429."""

blueprint = Blueprint("currents", __name__, url_prefix="/v1/webhooks/braze")


@blueprint.post("/currents", provide_automatic_options=False)
def currents() -> Response:
    """Relay a batch of events.

    Braze sends a batch again after a 503. After a 400, 401, 403 or 404, Braze drops the events.
    """
    app_services = services()
    relay = app_services.currents_relay
    if relay is None:
        return _send_again("AMPLITUDE_API_KEY is not set; set it to the project's API key, and restart the service")
    checkpoint = Checkpoint()
    try:
        with relay.reserve_memory(largest_size(request, MAX_BODY_BYTES, _TOO_LARGE)):
            events, size = _events(checkpoint)
        # Now also for a body without a length, whose size is known only after reading.
        with relay.reserve_memory(size):
            result = relay.relay(events)
    except envelope.TooMany:
        raise BodyTooLarge(_TOO_LARGE) from None
    except Busy:
        return _send_again("too many batches are being sent; send the batch again", seconds=1, code="busy")
    app_services.metrics.relayed(result.events)
    if result.error is not None:
        detail = _REJECTED if isinstance(result.error, UpstreamRejected) else _NOT_ACCEPTED
        return _send_again(detail, seconds=math.ceil(result.error.retry_after or _RETRY_SECONDS))
    response = jsonify(_body(result))
    response.headers["Cache-Control"] = "no-store"
    return response


def _events(checkpoint: Callable[[], object]) -> tuple[list[Any], int]:
    """Return the events in the body, and the size of the body. An event that is not JSON is a `SkippedValue`."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise BadRequest("Content-Encoding is not supported; send the body as it is, or as gzip", code="invalid_body")
    body = read_large_body(request, MAX_BODY_BYTES, _TOO_LARGE, checkpoint, zipped=coding != "identity")
    if not body.strip():
        return [], 0
    try:
        document = envelope.read(body, checkpoint, max_characters=_MAX_EVENT_CHARACTERS)
        if document == {}:
            return [], 0
        if isinstance(document, dict) and isinstance(document.get("events"), Iterator):
            return list(document["events"]), len(body)
    except ValueError:
        pass
    raise BadRequest('the body is not a batch of Currents; send {"events": [...]}', code="invalid_body")


def _body(result: RelayResult) -> CurrentsResult:
    skipped = skipped_events(result.events)
    return {
        "accepted": result.events.get("accepted", 0),
        "skipped": sum(skipped.values()),
        "skipped_by_reason": skipped,
        "repeated": result.events.get("repeated", 0),
    }


def _send_again(detail: str, *, seconds: int = _RETRY_SECONDS, code: Code = "not_delivered") -> Response:
    response: Response = problem(503, "Service Unavailable", detail, code=code)
    response.headers["Retry-After"] = str(seconds)
    return response


_TOO_LARGE = "the body is larger than 8 MiB, 50,000 events or 500,000 values; send fewer events in one batch"
_REJECTED = (
    "Amplitude rejects the API key, so the events are not delivered; set AMPLITUDE_API_KEY to the project's API key"
)
_NOT_ACCEPTED = "Amplitude has not accepted all events; send the batch again"
