"""The id, the log line and the metrics of each request."""

from __future__ import annotations

import logging
import os
import random
import re
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from proxy.api.errors import Code
from proxy.monitoring.logs import log_request, request_id
from proxy.web.errors import Problem
from proxy.web.security_headers import SECURITY_HEADERS
from proxy.web.services import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_log = logging.getLogger(__name__)
_new_ids = random.Random()  # noqa: S311  # a request id is not secret
os.register_at_fork(after_in_child=_new_ids.seed)
_VALID_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}\Z")
_POLLED = frozenset({"/metrics", "/status", "/status.json"})
"""Routes that monitors and the status page request every few seconds."""
STARTED = "connected_content_proxy.started"
"""The key in the WSGI environ of the time at which a request began (monotonic seconds)."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: Flask, app_services: Services) -> None:
    """Register the functions that run before and after each request."""
    app.before_request(partial(_begin, app_services))
    app.after_request(partial(_end, app_services))


def request_id_of(environ: WSGIEnvironment) -> str:
    """Return the id of a request: the caller's if it is valid, else a new id. The next log lines have this id."""
    received = environ.get("HTTP_X_REQUEST_ID")
    id = received if received and _VALID_ID.match(received) else f"{_new_ids.getrandbits(128):032x}"
    request_id.set(id)
    return id


def _begin(app_services: Services) -> None:
    g.started = request.environ.get(STARTED, app_services.clock.monotonic())
    g.request_id = request_id_of(request.environ)


def _end(app_services: Services, response: Response) -> Response:
    context = g._get_current_object()  # each access through the proxy costs a lookup
    response.headers.add("X-Request-ID", context.request_id)
    for name, value in SECURITY_HEADERS:
        response.headers.setdefault(name, value)
    rule, problem = request.url_rule, response if isinstance(response, Problem) else None
    calls = response.headers.get("X-Amplitude-Calls")
    record(
        app_services,
        request.method,
        rule.rule if rule else None,
        response.status_code,
        app_services.clock.monotonic() - context.started,
        context.caller.name if "caller" in context else None,
        cache=context.get("cache", "none"),
        cache_status=response.headers.get("Cache-Status"),
        calls=int(calls) if calls else None,
        error=context.get("error"),
        code=problem.code if problem else None,
        parameter=problem.parameter if problem else None,
        background=context.get("background", False),
    )
    return response


def record(
    app_services: Services,
    method: str,
    route: str | None,
    status: int,
    seconds: float,
    caller: str | None,
    *,
    cache: str,
    cache_status: str | None,
    calls: int | None,
    error: str | None,
    code: Code | None = None,
    parameter: str | None = None,
    background: bool = False,
) -> None:
    """Count an answer and write its log line.

    cache: the label of the metric. cache_status: the Cache-Status header. error: the error word in the answer.
    """
    metrics = app_services.metrics
    if background:
        metrics.answered_in_background(cache, error)
    else:
        metrics.answered(route or "none", status, cache, seconds)
        if error:
            metrics.missing(error)
    if status in (401, 403):  # refused callers are logged once a minute, with a count
        return
    level = logging.DEBUG if caller is None or (route in _POLLED and status < 400) else logging.INFO
    line: dict[str, object] = {
        "method": method if method in _METHODS else "other",
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 1),
        "caller": caller,
    }
    optional = {
        "cache": cache_status and cache_status.partition("; ")[2],
        "calls": calls,
        "error": error,
        "code": code,
        "parameter": parameter,
    }
    line |= {name: value for name, value in optional.items() if value is not None}
    log_request(_log, level, line)
