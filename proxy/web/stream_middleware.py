"""Refuses messages of Amplitude's event stream before Flask, while too many messages are in progress.

Amplitude sends a refused message again. After an outage of Braze, more repeated messages can arrive than this process
can handle. If each of them cost as much as a delivery, no delivery would end before its deadline.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from proxy.api.caller_keys import Caller
from proxy.storage.weighted_semaphore import Busy
from proxy.sync.event_stream import EventStream
from proxy.web.auth import WEBHOOK_ACCESS, authenticate, require_scope
from proxy.web.request_log import record, request_id_of
from proxy.web.security_headers import SECURITY_HEADERS
from proxy.web.services import Services
from proxy.web.webhooks import USERS_PATH, forward_requested, not_delivered

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PATHS = (USERS_PATH, USERS_PATH + "/")


def install(app: Flask, app_services: Services) -> None:
    """Put the middleware in front of `app` if the service forwards the event stream."""
    if app_services.event_stream is not None:
        middleware = StreamMiddleware(app.wsgi_app, app_services, app_services.event_stream)
        app.wsgi_app = middleware  # type: ignore[method-assign]  # as Flask documents


class StreamMiddleware:
    """A WSGI application around `next_app`."""

    def __init__(self, next_app: WSGIApplication, app_services: Services, stream: EventStream) -> None:
        self._next_app = next_app
        self._services = app_services
        self._stream = stream

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Refuse a message, or return the answer of the next application."""
        if environ.get("PATH_INFO") not in _PATHS or environ["REQUEST_METHOD"] != "POST":
            return self._next_app(environ, start_response)
        started = self._services.clock.monotonic()
        try:
            caller = authenticate(environ, WEBHOOK_ACCESS, self._services)
            require_scope(caller, WEBHOOK_ACCESS)
            forwards = forward_requested(environ)
        except Exception:  # noqa: BLE001  # Flask raises the same error, and answers it
            forwards = False
        if not forwards:
            return self._next_app(environ, start_response)
        try:
            with self._stream.admit():
                return self._next_app(environ, start_response)
        except Busy:
            return self._refuse(environ, start_response, caller, started)

    def _refuse(
        self, environ: WSGIEnvironment, start_response: StartResponse, caller: Caller, started: float
    ) -> Iterable[bytes]:
        id = request_id_of(environ)
        response = not_delivered(1.0, "too many messages are in progress; send the message again")
        response.headers["X-Request-ID"] = id
        response.headers.extend(SECURITY_HEADERS)
        self._services.metrics.pushed("users", "failed")
        record(
            self._services,
            "POST",
            USERS_PATH,
            response.status_code,
            self._services.clock.monotonic() - started,
            caller.name,
            cache="none",
            cache_status=None,
            calls=None,
            error=None,
            code=response.code,
        )
        return response(environ, start_response)
