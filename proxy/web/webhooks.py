"""Receives Amplitude's webhooks: stores a batch of users, forwards it to Braze, and reports the outcome."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING

from flask import Blueprint, Response, jsonify, request

from proxy.api.errors import ApiError, BadRequest, BodyTooLarge, UnsupportedMediaType
from proxy.api.query_string import values_of
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import Busy
from proxy.sync.event_stream import EventStream, ForwardResult
from proxy.sync.stream_objects import StreamObject, stream_objects
from proxy.web.errors import Problem, problem
from proxy.web.request_body import largest_size, read_large_body
from proxy.web.services import services
from proxy.webhooks.parse import Batch, TooLarge, read_cohorts, read_users

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_log = logging.getLogger(__name__)

USERS_PATH = "/v1/webhooks/amplitude/users"
MAX_BODY_BYTES = 8 * 1024 * 1024
"""The size of ten thousand users with twenty properties each."""
MAX_FORWARDED = 5_000
"""Limit on the elements of a message that are forwarded to Braze. More could never be sent before the deadline."""

blueprint = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks/amplitude")


@blueprint.post("/cohorts", provide_automatic_options=False)
def cohorts() -> Response:
    """Store which users entered or left a cohort."""
    return _ingest("cohorts", read_cohorts)


@blueprint.post("/users", provide_automatic_options=False)
def users() -> Response:
    """Store properties of users. If forwarding is switched on, also forward events and properties to Braze."""
    stream = services().event_stream if forward_requested(request.environ) else None
    return _ingest("users", partial(read_users, keep_elements=stream is not None), stream)


def forward_requested(environ: WSGIEnvironment) -> bool:
    """Return whether a message is to be forwarded to Braze. Raises BadRequest."""
    words = values_of(environ.get("QUERY_STRING", "").encode("latin-1"), "forward")
    if len(words) > 1 or not {"true", "false"}.issuperset(words):
        raise BadRequest("forward must be true or false", code="invalid_parameter", parameter="forward")
    return words != ["false"]


def _ingest(
    hook: str,
    read: Callable[[bytes | bytearray, float, Callable[[], object], AbstractSet[str]], Batch],
    stream: EventStream | None = None,
) -> Response:
    app_services = services()
    started = app_services.clock.monotonic()
    ingester = app_services.ingester
    generation = ingester.generation
    checkpoint = Checkpoint()
    try:
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("the content type is not supported; send application/json")
        with ingester.reserve_memory(largest_size(request, MAX_BODY_BYTES, _TOO_LARGE)):
            body = read_large_body(request, MAX_BODY_BYTES, _TOO_LARGE, checkpoint)
            with ingester.reserve_batch(len(body)):
                batch = read(body, app_services.clock.now(), checkpoint, app_services.text_properties)
                if len(batch.elements) > MAX_FORWARDED:
                    raise BodyTooLarge(_TOO_MANY_FORWARDED)
                duplicate = not ingester.push(batch, generation)
    except TooLarge:
        app_services.metrics.pushed(hook, "refused")
        raise BodyTooLarge(_TOO_LARGE) from None
    except ApiError:
        app_services.metrics.pushed(hook, "refused")
        raise
    except (RedisUnavailable, Busy) as error:
        app_services.metrics.pushed(hook, "failed")
        if isinstance(error, RedisUnavailable):
            response: Response = problem(500, "Redis not updated", _NOT_SHARED, code="internal")
        else:
            response = problem(500, "Too many batches", _BUSY, code="busy")
        response.headers["Retry-After"] = "1"
        return response
    forwarded: ForwardResult | None = None
    if stream is not None:
        forwarded = _forward(stream, batch, len(body), started + app_services.wait_seconds, checkpoint)
        if forwarded.retry_after is not None:
            app_services.metrics.pushed(hook, "failed")
            return not_delivered(forwarded.retry_after, _NOT_DELIVERED)
    if duplicate:
        batch = Batch()
        duplicate = forwarded is None or forwarded.duplicate
    applied, skipped = batch.applied, batch.skipped.total()
    app_services.metrics.pushed(hook, "duplicate" if duplicate else "applied", applied=applied, skipped=skipped)
    if skipped or batch.unapplied:
        fields = {"hook": hook, "applied": applied, "skipped": dict(batch.skipped), "unapplied": batch.unapplied}
        _log.warning("webhook_partially_applied", extra=fields)
    response = jsonify(
        applied=applied,
        skipped=skipped,
        skipped_by_reason=dict(batch.skipped),
        unapplied_properties=batch.unapplied,
        duplicate=duplicate,
        **({} if forwarded is None else {"forwarded": forwarded.outcomes}),
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def not_delivered(retry_after: float, detail: str) -> Problem:
    """Return the answer to a message that Amplitude must send again after `retry_after` seconds."""
    response = problem(503, "Not delivered to Braze", detail, code="not_delivered")
    response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return response


def _forward(
    stream: EventStream, batch: Batch, size: int, deadline: float, checkpoint: Callable[[], object]
) -> ForwardResult:
    """Forward a batch whose body has `size` bytes, and wait until `deadline` (monotonic seconds)."""
    skipped = Counter({"no_user_id": batch.skipped["no_user_id"]})
    objects: list[StreamObject] = []
    try:
        with stream.reserve_memory(size):
            for element in batch.elements:
                checkpoint()
                objects += stream_objects(*element, stream.selection, skipped)
            return stream.forward(objects, deadline - services().clock.monotonic(), skipped)
    except Busy:
        return ForwardResult({"busy": len(batch.elements)}, 1.0)


_NOT_SHARED = "Redis is unavailable, so only one process stored the batch; send the batch again"
_NOT_DELIVERED = "Braze has not accepted all objects; send the message again (the status page shows the reason)"
_TOO_MANY_FORWARDED = (
    f"the message has more than {MAX_FORWARDED:,} users or events to forward to Braze; send smaller arrays, or add "
    "?forward=false to store them without forwarding"
)
_BUSY = "too many batches are being processed; send the batch again"
_TOO_LARGE = (
    "the body is larger than 8 MiB, 50,000 users or 500,000 values; select fewer user properties for this sync in "
    "Amplitude, or remove properties from the template"
)
