"""Odd headers, paths and query strings that a WSGI server accepts: refused or ignored, never a 500."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from werkzeug.test import run_wsgi_app

from proxy.app import create_app
from proxy.settings import Settings
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeSource
from tests.support.odd import HEADERS, QUERIES, ROUTES, TARGETS, Route

BYTES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)
"""Any bytes, as a WSGI server passes them to the application: decoded as Latin-1."""
KNOWN = st.sampled_from([value.decode("latin-1") for values in HEADERS.values() for value in values])
WORDS = st.sampled_from(
    [
        "Basic ",
        "Bearer ",
        "max-age=",
        "no-cache",
        "http://",
        "[",
        "]",
        "application/json",
        ";",
        ",",
        "=",
        '"',
        "W/",
        "*''",
    ]
)
PIECES = st.lists(WORDS | BYTES, max_size=6).map("".join)
VALUES = KNOWN | BYTES | PIECES
PATHS = st.sampled_from([route.path for route in ROUTES]) | BYTES.map("/".__add__) | PIECES.map("/static/".__add__)
QUICK_ROUTES = [route._replace(body=b"{}") if route.path == "/playground/render" else route for route in ROUTES]
"""Without a template, the playground does not start a process. The headers and the query are read all the same."""
TEXTS = st.sampled_from([text.decode("latin-1") for text in (*QUERIES, *TARGETS)]) | PIECES


@pytest.fixture
def app(source: FakeSource) -> Flask:
    """Return an application that reads every header, including X-Forwarded-For."""
    env = {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "AMPLITUDE_REQUESTS_PER_MINUTE": "1000000"} | {
        "AMPLITUDE_API_KEY": "k",
        "ALLOWED_NETWORKS": "0.0.0.0/0,::/0",
        "TRUSTED_PROXY_HOPS": "1",
    }
    return create_app(Settings.from_env(env), fetch=source.fetch)


def environment(route: Route, headers: dict[str, str]) -> dict[str, Any]:
    """Return the WSGI environment of a valid request to which `headers` are added."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": route.method,
        "PATH_INFO": route.path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": route.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "x",
        "HTTP_X_API_KEY": SECRET,
        "HTTP_X_FORWARDED_FOR": "192.0.2.1",
        "CONTENT_TYPE": route.content_type,
        "CONTENT_LENGTH": str(len(route.body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(route.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": io.StringIO(),
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


def ask(app: Flask, environ: dict[str, Any]) -> int:
    """Send a request and return its status. Fails if an error was logged."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setLevel(logging.ERROR)
    logger = logging.getLogger("proxy")
    logger.addHandler(handler)
    try:
        body, status, _ = run_wsgi_app(app, environ)
        b"".join(body)
    finally:
        logger.removeHandler(handler)
    assert not log.getvalue()
    return int(status[:3])


@examples(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(QUICK_ROUTES), st.dictionaries(st.sampled_from(list(HEADERS)), VALUES, min_size=1, max_size=3))
@example(ROUTES[13], {"Authorization": "Basic \xa0"})
@example(ROUTES[10], {"Origin": "http://["})
@example(ROUTES[5], {"If-Modified-Since": "Thu, 01 Jan 2020 00:00:00 +9999999999999999999"})
def test_headers__any_bytes__never_a_500(app: Flask, route: Route, headers: dict[str, str]) -> None:
    assert ask(app, environment(route, headers)) < 500


@examples(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(QUICK_ROUTES), PATHS, TEXTS)
@example(ROUTES[5], "/static/site.css", "v=\xff")
@example(ROUTES[0], "/static/\xed\xa0\x80", "")
def test_path_and_query__any_bytes__never_a_500(app: Flask, route: Route, path: str, query: str) -> None:
    assert ask(app, environment(route._replace(path=path, query=query), {})) < 500


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_routes__usual_request__answered(app: Flask, route: Route) -> None:
    assert ask(app, environment(route, {})) == 200


def test_routes__of_the_application__all_are_requested(app: Flask) -> None:
    rules = {
        (rule.rule.replace("<name>", "site.css").replace("<cohort_id>", "c31"), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    assert {(route.path, route.method) for route in ROUTES} <= rules
    paths = {route.path for route in ROUTES}
    assert {path for path, _ in rules} == paths
