"""A Flask application that skips work which Flask repeats for every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule


class _NoSessions(SessionInterface):
    """Flask creates a session for each request, and none is used here."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return a session that cannot be changed."""
        return self._none


class Application(Flask):
    """A Flask application without sessions and coroutines, whose routes depend on path and method only."""

    session_interface = _NoSessions()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._rules: dict[tuple[str, str], Rule] = {}

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return `func`: no view is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter that finds the route. The host is ignored."""
        if request is None:
            return super().create_url_adapter(None)
        return _Routes(self._rules, self.url_map, request)


class _Routes(MapAdapter):
    """Remembers the rule of a path: each search leaves a closure that only the garbage collector frees."""

    def __init__(self, rules: dict[tuple[str, str], Rule], map: Map, request: Request) -> None:
        query = request.environ.get("QUERY_STRING", "")
        super().__init__(map, "host", request.root_path, "", request.scheme, request.path, request.method, query)
        self._rules = rules

    def match(self, *args: Any, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return the rule and its arguments, as `MapAdapter.match` does."""
        if args or options != {"return_rule": True}:  # Flask calls it like this
            return super().match(*args, **options)
        rule = self._rules.get((self.default_method, self.path_info))
        if rule is not None:
            return rule, dict(rule.defaults or {})
        rule, arguments = super().match(return_rule=True)
        if rule.rule == self.path_info and arguments == (rule.defaults or {}):  # other paths are unlimited in number
            self._rules[self.default_method, self.path_info] = rule
        return rule, arguments
