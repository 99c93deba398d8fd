"""The data routes: how each parses its parameters and writes its answer. Flask and the data middleware share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy.api.drop_in import parse_drop_in, shape_drop_in
from proxy.api.errors import BLANK_ID
from proxy.api.parse import parse
from proxy.api.response import shape
from proxy.fetch.service import ANONYMOUS, ProfileResult, ProfileService
from proxy.profile.aliases import Aliases
from proxy.profile.errors import NotAvailable, UpstreamError, UpstreamInvalid
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, SECTIONS, Part
from proxy.profile.query import ProfileRequest
from proxy.profile.record import EMPTY
from proxy.web.arrival import wait_until
from proxy.web.cache_headers import etag_of, headers_of, is_background, requested_max_age
from proxy.web.services import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_ANSWER_BYTES = 1_000_000
"""Braze's limit for a Connected Content response."""

CACHE_ONLY = "connected_content_proxy.cache_only"
"""The key in the WSGI environ of a request that must not cost a call. Requests over HTTP cannot have it."""

OUTCOME = "connected_content_proxy.outcome"
"""The key in the WSGI environ of the outcome of the data middleware: the request and its answer, or an exception."""

NOT_SEEN_BEFORE = "User id and device id not seen before"
"""Amplitude's message for an unknown user. The drop-in route returns the same message."""


class Answer(NamedTuple):
    """An answer before its headers. `result`: the result that the body shows. `etag`: None without an ETag."""

    result: ProfileResult
    body: bytes
    etag: str | None
    status: int = 200

    @property
    def error(self) -> str | None:
        """Return the error word in the body, or None."""
        return BLANK_ID if self.result is ANONYMOUS else self.result.error.word if self.result.error else None

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of the data, without those of every response."""
        headers = [("Content-Type", "application/json"), *headers_of(self.result)]
        if self.etag is not None:
            headers.append(("ETag", f'"{self.etag}"'))
        return headers


class DataRoute(NamedTuple):
    """A data route.

    default_parts: the parts to get if the request names no part. write: returns the answer of a result.
    """

    path: str
    parse: Callable[[Iterable[tuple[str, Any]], Aliases], ProfileRequest]
    write: Callable[[ProfileService, ProfileRequest, ProfileResult], Answer]
    default_parts: tuple[Part, ...] = ()


def answer_to(
    route: DataRoute, request: ProfileRequest, environ: WSGIEnvironment, app_services: Services, started: float
) -> Answer:
    """Return the answer of `route` to a parsed request. `started`: when the request began (monotonic seconds)."""
    identity, query = request
    result = app_services.profiles.get(
        identity,
        query.parts or route.default_parts,
        until=partial(wait_until, environ, app_services.clock, started, app_services.wait_seconds),
        wanted_later=query.on_error == "retry",
        max_age=requested_max_age(environ),
        background=is_background(environ),
        query=query,
    )
    return route.write(app_services.profiles, request, result)


def error_to_retry(request: ProfileRequest, result: ProfileResult) -> UpstreamError | None:
    """Return the error after which Braze must retry, or None if the answer is final."""
    must_retry = request.query.on_error == "retry" and not isinstance(result.error, NotAvailable)
    return result.error if must_retry else None


def _write_profile(profiles: ProfileService, request: ProfileRequest, result: ProfileResult) -> Answer:
    """Return the requested sections."""
    if result.ready:
        return Answer(result, result.ready.body, result.ready.etag)
    error = BLANK_ID if request.anonymous else result.error.word if result.error else None
    body = shape(request, result.record, error=error, stale=result.stale) + b"\n"
    if len(body) >= MAX_ANSWER_BYTES:
        result = _too_large(result)
        body = shape(request, EMPTY, error=UpstreamInvalid.word) + b"\n"
    etag = etag_of(body)
    profiles.keep_body(request.identity, request.query, result, body, etag)
    return Answer(result, body, etag)


def _write_drop_in(_: ProfileService, request: ProfileRequest, result: ProfileResult) -> Answer:
    """Answer as Amplitude's own endpoint does, errors included."""
    if request.anonymous or result.record.unknown_at is not None:
        status = result.record.unknown_status
        # Excludes redirects, and statuses that count towards Braze's unhealthy-host detection.
        usual = status == 200 or (400 <= status < 500 and status not in (401, 403, 408, 429))
        return Answer(result, _json({"error": NOT_SEEN_BEFORE}), None, status if usual else 400)
    body = _json(shape_drop_in(request, result.record))
    if len(body) >= MAX_ANSWER_BYTES:
        result = _too_large(result)
    if result.error is not None:
        return Answer(result, _json({"error": result.error.word}), None, 500)
    return Answer(result, body, etag_of(body))


def _too_large(result: ProfileResult) -> ProfileResult:
    return ProfileResult(
        EMPTY, UpstreamInvalid(), forwarded="miss", started_fetch=result.started_fetch, calls=result.calls
    )


def _json(body: dict[str, Any]) -> bytes:
    return write_json(body) + b"\n"


DATA_ROUTES: Mapping[str, DataRoute] = {
    route.path: route
    for route in (
        *(
            DataRoute(f"/v1/{section or 'profile'}", partial(parse, section), _write_profile)
            for section in (*SECTIONS, None)
        ),
        # A request without parts asks only whether the user is known. Cohorts are the smallest part that shows this.
        DataRoute("/v1/userprofile", parse_drop_in, _write_drop_in, (COHORTS,)),
    )
}
"""The data routes by path."""
