"""The id, the log line and the metrics of each request."""

from __future__ import annotations

import logging
import os
import random
import re
from functools import partial

from flask import Flask, Response, g, request
from flask.ctx import _AppCtxGlobals

from proxy.monitoring.logs import request_id
from proxy.web.errors import Problem
from proxy.web.fast_flask import FastResponse
from proxy.web.security_headers import SECURITY_HEADERS
from proxy.web.services import Services

_log = logging.getLogger(__name__)
_new_ids = random.Random()  # noqa: S311  # a request id is not secret
os.register_at_fork(after_in_child=_new_ids.seed)
_VALID_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}\Z")
_POLLED = frozenset({"/metrics", "/status", "/status.json"})
"""Routes that monitors and the status page request every few seconds."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask, app_services: Services) -> None:
    """Register the functions that run before and after each request."""
    app.before_request(partial(_begin, app_services))
    app.after_request(partial(_end, app_services))


def _begin(app_services: Services) -> None:
    context = g._get_current_object()
    context.started = app_services.clock.monotonic()
    received = request.environ.get("HTTP_X_REQUEST_ID")
    context.request_id = id = (
        received if received and _VALID_ID.match(received) else f"{_new_ids.getrandbits(128):032x}"
    )
    request_id.set(id)


def _end(app_services: Services, response: Response) -> Response:
    # Each access through these proxies costs a lookup, so each is read once.
    context, rule = g._get_current_object(), request.url_rule
    route, seconds = rule.rule if rule else None, app_services.clock.monotonic() - context.started
    headers = (("X-Request-ID", context.request_id), *SECURITY_HEADERS)
    if isinstance(response, FastResponse):
        response.add_headers(headers)
    else:
        for name, value in headers:
            response.headers.setdefault(name, value)
    status = response.status_code
    cache, error = context.get("cache", "none"), context.get("error")
    if "background" in context:
        app_services.metrics.answered_in_background(cache, error)
    else:
        app_services.metrics.answered(route or "none", status, cache, seconds)
        if error:
            app_services.metrics.missing(error)
    if status not in (401, 403):  # refused callers are logged once a minute, with a count
        level = logging.DEBUG if "caller" not in context or (route in _POLLED and status < 400) else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra=_line(response, route, seconds, context))
    return response


def _line(response: Response, route: str | None, seconds: float, context: _AppCtxGlobals) -> dict[str, object]:
    line: dict[str, object] = {
        "method": request.method if request.method in _METHODS else "other",
        "route": route,
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "caller": context.caller.name if "caller" in context else None,
    }
    if "Cache-Status" in response.headers:
        line["cache"] = response.headers["Cache-Status"].partition("; ")[2]
    if "X-Amplitude-Calls" in response.headers:
        line["calls"] = int(response.headers["X-Amplitude-Calls"])
    if "error" in context:
        line["error"] = context.error
    if isinstance(response, Problem):
        line["code"] = response.code
        if response.parameter is not None:
            line["parameter"] = response.parameter
    return line
