"""Error responses: problem+json (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.http import HTTP_STATUS_CODES

from proxy.api.errors import ApiError, Code
from proxy.profile.parts import SECTIONS
from proxy.web.auth import count_refusal
from proxy.web.pages.assets import fill

_log = logging.getLogger(__name__)

REALM = 'Basic realm="connected-content-proxy", charset="UTF-8"'


class Problem(Response):
    """An error response (RFC 9457). The log line has its code and parameter."""

    code: Code
    parameter: str | None


def problem(
    status: int, title: str, detail: str, *, code: Code, parameter: str | None = None, **more: object
) -> Problem:
    """Return an error response.

    detail: the problem and the fix, never an id or a secret. code: the stable word for programs. parameter: the name of
    the parameter, or of the field of the body, with the problem.
    """
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    if parameter is not None:
        body["parameter"] = parameter
    response = Problem(json.dumps(body | more) + "\n", status, content_type="application/problem+json")
    response.code, response.parameter = code, parameter
    response.headers["Cache-Control"] = "no-store"
    return response


def _api_error(error: ApiError) -> Response:
    response = problem(
        error.status, HTTP_STATUS_CODES[error.status], error.detail, code=error.code, parameter=error.parameter
    )
    if error.status in (401, 403):
        count_refusal(error.code)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = REALM
    return _readable(response)


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code, detail = _HTTP_ERRORS.get(status, ("invalid_request" if status < 500 else "internal", error.name))
    response = problem(status, error.name, detail, code=code)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return _readable(response)


def _readable(response: Problem) -> Response:
    """Replace the JSON of a 401 or 404 by a page if a browser shows the response. Data routes always answer JSON."""
    status = response.status_code
    accepted = request.accept_mimetypes.best_match(["application/json", "application/problem+json", "text/html"])
    if status not in (401, 404) or accepted != "text/html" or request.path.startswith("/v1/"):
        return response
    return fill(response, "error.html", status=status, title="Key required" if status == 401 else "Page not found")


_HTTP_ERRORS: Mapping[int, tuple[Code, str]] = {
    404: (
        "not_found",
        "the path is unknown; use "
        f"{', '.join(f'/v1/{name}' for name in (*SECTIONS, 'profile', 'userprofile'))}, or see /docs for all routes",
    ),
    405: ("method_not_allowed", "the method is not allowed on this route; use a method from the Allow header"),
}


def _unexpected(error: Exception) -> Response:
    _log.error("unexpected_error", exc_info=error)
    detail = f"internal error; search the log for request id {g.request_id}"
    return problem(500, InternalServerError().name, detail, code="internal")


def install(app: Flask) -> None:
    """Register the error handlers."""
    app.register_error_handler(ApiError, _api_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
