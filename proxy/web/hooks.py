"""Around every request: its id, its log line, and errors as problem+json."""

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
_new_ids = random.Random()  # noqa: S311  # a request's id is no secret
os.register_at_fork(after_in_child=_new_ids.seed)
_SANE_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}\Z")


def install(app: Flask) -> None:
    """Register the hooks."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    ours = g._get_current_object()
    ours.started = services().monotonic()
    sent = request.environ.get("HTTP_X_REQUEST_ID")
    ours.request_id = id = sent if sent and _SANE_ID.match(sent) else f"{_new_ids.getrandbits(128):032x}"
    request_id.set(id)


def _end(response: Response) -> Response:
    here, ours, rule = services(), g._get_current_object(), request.url_rule  # each look at one of them is a search
    route, seconds = rule.rule if rule else None, here.monotonic() - ours.started
    if isinstance(response, Written):
        response.add([("X-Request-ID", ours.request_id), *SECURITY])
    else:
        response.headers["X-Request-ID"] = ours.request_id
        for name, value in SECURITY:
            response.headers.setdefault(name, value)  # a page brings a policy of its own
    here.metrics.answered(route or "none", response.status_code, ours.get("cache", "none"), seconds)
    if error := ours.get("error"):
        here.metrics.missing(error)
    if response.status_code not in (401, 403):  # those are logged by the minute, with a count
        level = logging.INFO if "caller" in ours else logging.DEBUG
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra=_line(response, route, seconds, ours))
    return response


def _line(response: Response, route: str | None, seconds: float, ours: _AppCtxGlobals) -> dict[str, object]:
    line: dict[str, object] = {
        "method": request.method if request.method in _METHODS else "other",
        "route": route,
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "caller": ours.get("caller"),
    }
    if "Cache-Status" in response.headers:
        line["cache"] = response.headers["Cache-Status"].partition("; ")[2]
    if "X-Amplitude-Calls" in response.headers:
        line["calls"] = int(response.headers["X-Amplitude-Calls"])
    if "error" in ours:
        line["error"] = ours.error
    return line


SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
