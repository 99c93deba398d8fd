"""Answers data requests before Flask, because Flask would take half of the time of a cached answer.

The middleware answers every request whose status is 200, even after a failed call. Flask answers everything else:
errors, `HEAD` and conditional requests. Both use the same functions, and give the same answers, log lines and metrics.
A body can be read only once, and a second call would use more quota. So the middleware passes its outcome on to Flask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from proxy.profile.query import ProfileRequest
from proxy.web.auth import DATA_ACCESS, authenticate, require_scope
from proxy.web.cache_headers import cache_label, is_background
from proxy.web.data_routes import CACHE_ONLY, DATA_ROUTES, OUTCOME, Answer, answer_to, error_to_retry
from proxy.web.request_body import sent_parameters
from proxy.web.request_log import STARTED, record, request_id_of
from proxy.web.security_headers import SECURITY_HEADERS
from proxy.web.services import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PATHS = {path + slash: route for path, route in DATA_ROUTES.items() for slash in ("", "/")}
_ONLY_FLASK = ("HTTP_IF_NONE_MATCH", CACHE_ONLY)


def install(app: Flask, app_services: Services) -> None:
    """Put the middleware in front of `app`."""
    app.wsgi_app = DataMiddleware(app.wsgi_app, app_services)  # type: ignore[method-assign]  # as Flask documents


class DataMiddleware:
    """A WSGI application around `next_app`."""

    def __init__(self, next_app: WSGIApplication, app_services: Services) -> None:
        self._next_app = next_app
        self._services = app_services

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a data request, or return the answer of the next application."""
        route = _PATHS.get(environ.get("PATH_INFO", ""))
        method = environ["REQUEST_METHOD"]
        if route is None or method not in ("GET", "POST") or not environ.keys().isdisjoint(_ONLY_FLASK):
            return self._next_app(environ, start_response)
        app_services = self._services
        started = app_services.clock.monotonic()
        id = request_id_of(environ)
        outcome: tuple[ProfileRequest, Answer] | Exception
        try:
            caller = authenticate(environ, DATA_ACCESS, app_services)
            require_scope(caller, DATA_ACCESS)
            request = route.parse(sent_parameters(environ), app_services.aliases)
            answer = answer_to(route, request, environ, app_services, started)
            outcome = request, answer
        except Exception as error:  # noqa: BLE001  # Flask answers it
            outcome = error
        if isinstance(outcome, Exception) or answer.status != 200 or error_to_retry(request, answer.result) is not None:
            environ |= {STARTED: started, "HTTP_X_REQUEST_ID": id, OUTCOME: outcome}
            try:
                return self._next_app(environ, start_response)
            finally:
                # The error and this frame refer to each other. Without this line, the body would stay in memory until
                # the next garbage collection.
                del environ[OUTCOME], outcome
        headers = answer.headers()
        record(
            app_services,
            method,
            route.path,
            200,
            app_services.clock.monotonic() - started,
            caller.name,
            cache=cache_label(answer.result),
            cache_status=dict(headers).get("Cache-Status"),
            calls=answer.result.calls,
            error=answer.error,
            background=is_background(environ),
        )
        headers += (("Content-Length", str(len(answer.body))), ("X-Request-ID", id), *SECURITY_HEADERS)
        start_response("200 OK", headers)
        return [answer.body]
