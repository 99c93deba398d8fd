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
from proxy.profile.errors import NotAvailable, UpstreamError, UpstreamInvalid
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, SECTIONS, Part, Section
from proxy.profile.query import ProfileRequest
from proxy.profile.record import EMPTY
from proxy.web import cache_headers
from proxy.web.errors import problem
from proxy.web.fast_flask import FastResponse
from proxy.web.request_body import sent_parameters
from proxy.web.services import Services, current_request, services

MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content response."""

NOT_SEEN_BEFORE = "User id and device id not seen before"
"""Amplitude's message for an unknown user. The drop-in route returns the same message."""

blueprint = Blueprint("v1", __name__, url_prefix="/v1")


def answer(section: Section | None) -> Response:
    """Return the requested sections. `section` is that of the route, or None for /v1/profile."""
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
    if result.error is not None and query.on_error == "retry" and not isinstance(result.error, NotAvailable):
        return _ask_for_retry(result, result.error)
    etag = cache_headers.etag_of(body)
    app_services.profiles.keep_body(identity, query, result, body, etag)
    return _respond(body, result, request, etag=etag)


def userprofile() -> Response:
    """Answer as Amplitude's own endpoint does, errors included, but from this service's cache and quota."""
    app_services, request = services(), current_request()
    profile_request = parse_drop_in(sent_parameters(request), app_services.aliases)
    # A request without parts asks only whether the user is known. Cohorts are the smallest part that shows this.
    result = _get(app_services, profile_request, profile_request.query.parts or (COHORTS,), request)
    if profile_request.anonymous or result.record.unknown_at is not None:
        status = result.record.unknown_status
        # Excludes redirects, and statuses that count towards Braze's unhealthy-host detection.
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
    context = g._get_current_object()  # each attribute access through the proxy costs 1.5 microseconds
    background = cache_headers.is_background(request)
    if background:
        context.background = True
    result = app_services.profiles.get(
        identity,
        parts,
        until=context.started + app_services.wait_seconds,
        wanted_later=query.on_error == "retry",
        max_age=cache_headers.requested_max_age(request),
        background=background,
        query=query,
    )
    _note_for_log(context, result)
    return result


def _too_large(result: ProfileResult) -> ProfileResult:
    result = ProfileResult(
        EMPTY, UpstreamInvalid(), forwarded="miss", started_fetch=result.started_fetch, calls=result.calls
    )
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
    """Store the cache status and the error for the log line and the metrics."""
    context.cache = cache_headers.cache_label(result)
    if result is ANONYMOUS:
        context.error = BLANK_ID
    elif result.error is not None:
        context.error = result.error.word


def _json(body: dict[str, Any]) -> bytes:
    return write_json(body) + b"\n"


def _ask_for_retry(result: ProfileResult, error: UpstreamError) -> Response:
    # Braze's :retry retries after a 500. A 502, 503, 504 or 429 would count towards Braze's unhealthy-host detection,
    # which stops every call to this host.
    response = problem(500, "No answer yet", _RETRY_DETAILS[error.word], code="no_answer", ok=False, error=error.word)
    del response.headers["Cache-Control"]  # headers_of adds the result's own
    response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    response.headers.extend(cache_headers.headers_of(result))
    return response


_RETRY_DETAILS = {
    "quota_exhausted": "the quota is used up, so the call to Amplitude could not be sent in time; try again",
    "upstream_timeout": "Amplitude did not answer in time; try again, because a late answer is cached",
    "upstream_unavailable": "Amplitude is down or cannot be reached; try again",
    "upstream_rejected": "Amplitude rejects the credentials; ask the operator to correct AMPLITUDE_SECRET_KEY",
    "upstream_invalid": "Amplitude's answer differs from its documentation; try again",
}
