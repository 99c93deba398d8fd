"""The data routes under Flask: parse the request, get the profile, write the response."""

from __future__ import annotations

import math

from flask import Blueprint, Response, g

from proxy.fetch.service import ProfileResult
from proxy.profile.errors import UpstreamError
from proxy.web import cache_headers
from proxy.web.data_routes import CACHE_ONLY, DATA_ROUTES, OUTCOME, DataRoute, answer_to, error_to_retry
from proxy.web.errors import problem
from proxy.web.request_body import sent_parameters
from proxy.web.services import current_request, services

blueprint = Blueprint("v1", __name__)


def answer(route: DataRoute) -> Response:
    """Return the answer of a data route: the middleware's, if it has one. Raises the middleware's error."""
    app_services, environ = services(), current_request().environ
    outcome = environ.get(OUTCOME)
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            del outcome  # the error refers to this variable through its traceback
    if outcome is None:
        request = route.parse(sent_parameters(environ), app_services.aliases)
        if CACHE_ONLY in environ and app_services.profiles.fresh(*request) is None:
            return Response(status=204)
        outcome = request, answer_to(route, request, environ, app_services, g.started)
    request, written = outcome
    result = written.result
    g.background = cache_headers.is_background(environ)
    g.cache = cache_headers.cache_label(result)
    g.error = written.error
    if (error := error_to_retry(request, result)) is not None:
        return _ask_for_retry(result, error)
    if written.etag is not None and cache_headers.is_not_modified(environ, result, written.etag):
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
