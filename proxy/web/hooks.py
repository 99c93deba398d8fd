"""Around every request: its id, its log line, its metrics and the security headers."""

from __future__ import annotations

import logging
import os
import random
import re

from flask import Flask, Response, g, request
from flask.ctx import _AppCtxGlobals

from proxy.monitoring.logs import request_id
from proxy.web.services import services
from proxy.web.written import Written

_log = logging.getLogger(__name__)
_new_ids = random.Random()  # noqa: S311  # a request id is not secret
os.register_at_fork(after_in_child=_new_ids.seed)
_SANE_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}\Z")


def install(app: Flask) -> None:
    """Register the hooks."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    state = g._get_current_object()
    state.started = services().clock.monotonic()
    received = request.environ.get("HTTP_X_REQUEST_ID")
    state.request_id = id = received if received and _SANE_ID.match(received) else f"{_new_ids.getrandbits(128):032x}"
    request_id.set(id)


def _end(response: Response) -> Response:
    # Each access to these proxies is a lookup.
    app_services, state, rule = services(), g._get_current_object(), request.url_rule
    route, seconds = rule.rule if rule else None, app_services.clock.monotonic() - state.started
    if isinstance(response, Written):
        response.add([("X-Request-ID", state.request_id), *SECURITY])
    else:
        response.headers["X-Request-ID"] = state.request_id
        for name, value in SECURITY:
            response.headers.setdefault(name, value)  # a page sets its own policy
    app_services.metrics.answered(route or "none", response.status_code, state.get("cache", "none"), seconds)
    if error := state.get("error"):
        app_services.metrics.missing(error)
    if response.status_code not in (401, 403):  # those are logged once a minute, with a count
        level = logging.INFO if "caller" in state else logging.DEBUG
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra=_line(response, route, seconds, state))
    return response


def _line(response: Response, route: str | None, seconds: float, state: _AppCtxGlobals) -> dict[str, object]:
    line: dict[str, object] = {
        "method": request.method if request.method in _METHODS else "other",
        "route": route,
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "caller": state.get("caller"),
    }
    if "Cache-Status" in response.headers:
        line["cache"] = response.headers["Cache-Status"].partition("; ")[2]
    if "X-Amplitude-Calls" in response.headers:
        line["calls"] = int(response.headers["X-Amplitude-Calls"])
    if "error" in state:
        line["error"] = state.error
    return line


SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
