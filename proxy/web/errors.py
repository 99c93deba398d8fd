"""Error responses: problem+json (RFC 9457)."""

from __future__ import annotations

import json
import logging

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException, InternalServerError

from proxy.api.errors import ApiError
from proxy.profile.parts import SECTIONS

_log = logging.getLogger(__name__)

REALM = 'Basic realm="connected-content-proxy", charset="UTF-8"'


def problem(status: int, title: str, detail: str, **more: object) -> Response:
    """Return an RFC 9457 response. `detail` names the problem and the fix, never an id or a secret."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    response = Response(json.dumps(body) + "\n", status, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    return response


_TITLES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden"}


def _api_error(error: ApiError) -> Response:
    code = {"code": error.code} if error.code else {}
    response = problem(error.status, _TITLES[error.status], error.detail, **code)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = REALM
    return response


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    response = problem(status, error.name, _DETAILS.get(status, error.name))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


_DETAILS = {
    404: "the path is unknown; use "
    f"{', '.join(f'/v1/{name}' for name in (*SECTIONS, 'profile', 'userprofile'))}, or see /docs for all routes",
    405: "the method is not allowed on this route; use a method from the Allow header",
    413: "the body is too large; send at most 16 KiB",
    415: "the content type is not supported; send application/x-www-form-urlencoded or application/json",
}


def _unexpected(error: Exception) -> Response:
    _log.error("unexpected_error", exc_info=error)
    return problem(500, InternalServerError().name, f"internal error; search the log for request id {g.request_id}")


def install(app: Flask) -> None:
    """Register the error handlers."""
    app.register_error_handler(ApiError, _api_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
