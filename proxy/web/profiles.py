"""The data routes under Flask: parse the request, get the profile, write the response."""

from __future__ import annotations

import math

from flask import Blueprint, Response, g

from proxy.api.errors import BLANK_ID
from proxy.fetch.service import ANONYMOUS, ProfileResult
from proxy.profile.errors import NotAvailable, UpstreamError
from proxy.web import cache_headers
from proxy.web.data_routes import DATA_ROUTES, DataRoute
from proxy.web.errors import problem
from proxy.web.request_body import sent_parameters
from proxy.web.services import current_request, services

CACHE_ONLY = "connected_content_proxy.cache_only"
"""The key in the WSGI environ of a request that must not cost a call. Requests over HTTP cannot have it."""

blueprint = Blueprint("v1", __name__)


def answer(route: DataRoute) -> Response:
    """Return the answer of a data route."""
    app_services, request = services(), current_request()
    profile_request = route.parse(sent_parameters(request), app_services.aliases)
    identity, query = profile_request
    if CACHE_ONLY in request.environ and app_services.profiles.fresh(*profile_request) is None:
        return Response(status=204)
    g.background = cache_headers.is_background(request.environ)
    result = app_services.profiles.get(
        identity,
        query.parts or route.default_parts,
        until=g.started + app_services.wait_seconds,
        wanted_later=query.on_error == "retry",
        max_age=cache_headers.requested_max_age(request.environ),
        background=g.background,
        query=query,
    )
    written = route.write(app_services.profiles, profile_request, result)
    result = written.result
    g.cache = cache_headers.cache_label(result)
    g.error = BLANK_ID if result is ANONYMOUS else result.error.word if result.error else None
    if result.error is not None and query.on_error == "retry" and not isinstance(result.error, NotAvailable):
        return _ask_for_retry(result, result.error)
    if written.etag is not None and cache_headers.is_not_modified(request.environ, result, written.etag):
        return Response(status=304, headers=written.headers())
    return Response(written.body, written.status, written.headers())


for _route in DATA_ROUTES.values():
    blueprint.add_url_rule(
        _route.path,
        endpoint=_route.path.rpartition("/")[2],
        view_func=answer,
        methods=["GET", "POST"],
        defaults={"route": _route},
        provide_automatic_options=False,
    )


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
