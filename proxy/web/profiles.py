"""The data routes: parse the request, get the profile, write the response."""

from __future__ import annotations

import math
from typing import Any

from flask import Blueprint, Request, Response, g
from flask.ctx import _AppCtxGlobals

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.errors import BLANK_ID
from proxy.api.parse import parse
from proxy.api.response import shape
from proxy.fetch.service import ANONYMOUS, ProfileResult
from proxy.profile.errors import UpstreamError, UpstreamInvalid
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, SECTIONS, Part, Section
from proxy.profile.query import ProfileRequest
from proxy.profile.record import EMPTY
from proxy.web import cache_headers
from proxy.web.auth import admit
from proxy.web.errors import problem
from proxy.web.fast_flask import FastResponse
from proxy.web.request_body import sent_parameters
from proxy.web.services import Services, current_request, services

MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content response."""

NOT_SEEN_BEFORE = "User id and device id not seen before"
"""Amplitude's message for an unknown user, repeated by the drop-in route."""

blueprint = Blueprint("v1", __name__, url_prefix="/v1")
blueprint.before_request(admit)


def answer(section: Section | None) -> Response:
    """Respond with the sections requested from one route; `section` is None for /profile."""
    app_services, request = services(), current_request()
    profile_request = parse(section, sent_parameters(request), app_services.aliases)
    identity, query = profile_request
    result = _get(app_services, profile_request, query.parts, request)
    if result.ready:
        return _respond(result.ready.body, result, request, etag=result.ready.etag)
    error = BLANK_ID if profile_request.anonymous else result.error.word if result.error else None
    body = shape(profile_request, result.record, error=error, stale=result.stale) + b"\n"
    if len(body) >= MAX_ANSWER_BYTES:
        error = UpstreamInvalid.word
        result = _too_large(result)
        body = shape(profile_request, EMPTY, error=error) + b"\n"
    if result.error is not None and query.on_error == "retry":
        return _ask_for_retry(result, result.error)
    etag = cache_headers.etag_of(body)
    app_services.profiles.keep_body(identity, query, result, body, etag)
    return _respond(body, result, request, etag=etag)


def userprofile() -> Response:
    """Respond as Amplitude's own endpoint does, including its errors, from the same cache and quota."""
    app_services, request = services(), current_request()
    profile_request = parse_drop_in(sent_parameters(request), app_services.aliases)
    # Without any part, only whether the user is known is asked; cohorts are the smallest part that tells it.
    result = _get(app_services, profile_request, profile_request.query.parts or (COHORTS,), request)
    if profile_request.anonymous or result.record.unknown_at is not None:
        status = result.record.unknown_status
        # Never a redirect, nor a status that Braze counts towards halting every call to this host.
        usual = status == 200 or (400 <= status < 500 and status not in (401, 403, 408, 429))
        return _respond(_json({"error": NOT_SEEN_BEFORE}), result, request, status if usual else 400)
    body = _json(shape_drop_in(profile_request, result.record))
    if len(body) >= MAX_ANSWER_BYTES:
        result = _too_large(result)
    if result.error is not None:
        return _respond(_json({"error": result.error.word}), result, request, 500)
    return _respond(body, result, request, etag=cache_headers.etag_of(body))


for _section in (*SECTIONS, None):
    blueprint.add_url_rule(
        f"/{_section or 'profile'}",
        endpoint=_section or "profile",
        view_func=answer,
        methods=["GET", "POST"],
        defaults={"section": _section},
        provide_automatic_options=False,
    )
blueprint.add_url_rule("/userprofile", view_func=userprofile, methods=["GET", "POST"], provide_automatic_options=False)


def _get(
    app_services: Services, profile_request: ProfileRequest, parts: tuple[Part, ...], request: Request
) -> ProfileResult:
    identity, query = profile_request
    context = g._get_current_object()  # every attribute of the proxy itself costs 1.5 microseconds
    result = app_services.profiles.get(
        identity,
        parts,
        until=context.started + app_services.wait_seconds,
        wanted_later=query.on_error == "retry",
        max_age=cache_headers.requested_max_age(request),
        background=cache_headers.is_background(request),
        query=query,
    )
    _note_for_log(context, result)
    return result


def _too_large(result: ProfileResult) -> ProfileResult:
    result = ProfileResult(EMPTY, UpstreamInvalid(), forwarded="miss", opened=result.opened, calls=result.calls)
    _note_for_log(g._get_current_object(), result)
    return result


def _respond(
    body: bytes, result: ProfileResult, request: Request, status: int = 200, etag: str | None = None
) -> Response:
    headers = [("Content-Type", "application/json"), *cache_headers.headers_of(result)]
    if etag is not None:
        headers.append(("ETag", f'"{etag}"'))
        if cache_headers.is_not_modified(request, result, etag):
            return FastResponse(b"", headers, 304)
    return FastResponse(body, headers, status)


def _note_for_log(context: _AppCtxGlobals, result: ProfileResult) -> None:
    """Leave the cache status and the error where the log line and the metrics find them."""
    context.cache = cache_headers.cache_label(result)
    if result is ANONYMOUS:
        context.error = BLANK_ID
    elif result.error is not None:
        context.error = result.error.word


def _json(body: dict[str, Any]) -> bytes:
    return write_json(body) + b"\n"


def _ask_for_retry(result: ProfileResult, error: UpstreamError) -> Response:
    # 500 and not 502, 503, 504 or 429: those count towards Braze's unhealthy-host detection, which would halt every
    # call to this host. Braze's :retry retries after a 500.
    response = problem(500, "No answer yet", _WHY[error.word], ok=False, error=error.word)
    del response.headers["Cache-Control"]  # replaced by that of the result
    response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    response.headers.extend(cache_headers.headers_of(result))
    return response


_WHY = {
    "quota_exhausted": "the call to Amplitude could not be sent in time within the quota; try again",
    "upstream_timeout": "Amplitude has not answered in time; its answer is still awaited, try again",
    "upstream_unavailable": "Amplitude cannot be reached or fails; try again",
    "upstream_rejected": "Amplitude rejects this service's credentials; its operator must mend AMPLITUDE_SECRET_KEY",
    "upstream_invalid": "Amplitude's answer is not what it documents; try again",
}
