"""Receives Amplitude's webhooks: stores a batch of users, and reports the numbers of applied and skipped users."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from flask import Blueprint, Response, jsonify, request

from proxy.api.errors import ApiError, BodyTooLarge, UnsupportedMediaType
from proxy.storage.checkpoint import Checkpoint
from proxy.storage.redis import RedisUnavailable
from proxy.storage.weighted_semaphore import Busy
from proxy.web.errors import problem
from proxy.web.request_body import reading_the_body
from proxy.web.services import services
from proxy.webhooks.parse import Batch, TooLarge, read_cohorts, read_users

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The size of ten thousand users with twenty properties each."""

_PIECE_BYTES = 64 * 1024
_LENGTH = re.compile(r"[0-9]{1,18}\Z")

blueprint = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks/amplitude")


@blueprint.post("/cohorts", provide_automatic_options=False)
def cohorts() -> Response:
    """Store which users entered or left a cohort."""
    return _ingest("cohorts", read_cohorts)


@blueprint.post("/users", provide_automatic_options=False)
def users() -> Response:
    """Store properties of users, alone or with their events."""
    return _ingest("users", read_users)


def _ingest(
    hook: str, read: Callable[[bytes | bytearray, float, Callable[[], object], AbstractSet[str]], Batch]
) -> Response:
    app_services = services()
    ingester = app_services.ingester
    generation = ingester.generation
    checkpoint = Checkpoint()
    try:
        size = _max_size()
        with ingester.reserve_memory(size):
            body = _body(checkpoint)
            with ingester.reserve_batch(len(body)):
                batch = read(body, app_services.clock.now(), checkpoint, app_services.text_properties)
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
    if duplicate:
        batch = Batch()
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
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _max_size() -> int:
    """Return the largest possible size of the body. Raises UnsupportedMediaType or BodyTooLarge."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("the content type is not supported; send application/json")
    length = request.environ.get("CONTENT_LENGTH", "")
    # A body without a length may have the maximum size.
    size = int(length) if _LENGTH.match(length) else MAX_BODY_BYTES
    if size > MAX_BODY_BYTES:
        raise BodyTooLarge(_TOO_LARGE)
    return size


def _body(checkpoint: Callable[[], object]) -> bytearray:
    # One byte over the limit: Werkzeug silently truncates a body without a length; the extra byte shows the excess.
    request.max_content_length = MAX_BODY_BYTES + 1
    body = bytearray()  # grows in place, because joining a list of pieces needs twice the memory
    with reading_the_body(_TOO_LARGE):
        while piece := request.stream.read(_PIECE_BYTES):
            body += piece
            checkpoint()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(_TOO_LARGE)
    return body


_NOT_SHARED = "Redis is unavailable, so only one process stored the batch; send the batch again"
_BUSY = "too many batches are being processed; send the batch again"
_TOO_LARGE = (
    "the body is larger than 8 MiB, 50,000 users or 500,000 values; select fewer user properties for this sync in "
    "Amplitude, or remove properties from the template"
)
