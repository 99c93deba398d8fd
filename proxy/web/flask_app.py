"""A Flask application without work that no route of this service needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import BaseConverter, MapAdapter


class _NoSessions(SessionInterface):
    _session = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._session


class AnyText(BaseConverter):
    """The rest of a path, such as an id. Unlike Werkzeug's converter `path`, it also accepts a slash at the start."""

    regex = "(?s:.+)"
    part_isolating = False


class ServiceFlask(Flask):
    """A Flask application without sessions and coroutines, whose routes depend only on path and method.

    Werkzeug answers 400 to a Host header that is not a valid name, although no route needs the host.
    """

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return `func` unchanged, because no view is a coroutine. Flask would check each function each time."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return an adapter with a constant host."""
        if request is None:
            return super().create_url_adapter(None)
        return self.url_map.bind(
            "host",
            request.root_path,
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
            query_args=request.environ.get("QUERY_STRING", ""),
        )
