"""Flask, told what it would find out anew at every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule


class _NoSessions(SessionInterface):
    """Flask would make one for each request, only to find that it must not be used."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return what refuses to be changed."""
        return self._none


class Application(Flask):
    """A Flask application of plain functions, without sessions, whose routes depend on nothing but path and method."""

    session_interface = _NoSessions()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._known: dict[tuple[str, str], Rule] = {}

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return `func`: no function of ours is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the route. Which host was asked for decides nothing here, and is not looked at."""
        if request is None:
            return super().create_url_adapter(None)
        return _Routes(self._known, self.url_map, request)


class _Routes(MapAdapter):
    """Remembers where a path led: each search leaves a closure behind that only the garbage collector can free."""

    def __init__(self, known: dict[tuple[str, str], Rule], map: Map, request: Request) -> None:
        query = request.environ.get("QUERY_STRING", "")
        super().__init__(map, "host", request.root_path, "", request.scheme, request.path, request.method, query)
        self._known = known

    def match(self, *args: Any, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return what `MapAdapter.match` does."""
        if args or options != {"return_rule": True}:  # as Flask asks for the route of a request
            return super().match(*args, **options)
        rule = self._known.get((self.default_method, self.path_info))
        if rule is not None:
            return rule, dict(rule.defaults or {})
        rule, found = super().match(return_rule=True)
        if rule.rule == self.path_info and found == (rule.defaults or {}):  # of other paths there is no end
            self._known[self.default_method, self.path_info] = rule
        return rule, found
