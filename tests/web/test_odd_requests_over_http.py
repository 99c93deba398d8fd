"""Odd headers, paths and query strings, sent to the real service: refused or ignored, never a 500."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterable, Iterator

import pytest

from proxy.sandbox.server import Sandbox
from tests.conftest import SECRET, Service
from tests.support.odd import HEADERS, QUERIES, ROUTES, TARGETS, Route
from tests.support.service import batch_api

KEY = b"X-API-Key: " + SECRET.encode()
(RENDER,) = (route for route in ROUTES if route.path == "/playground/render")


@pytest.fixture(scope="module")
def strict_service(start_module_service: Callable[..., Service]) -> Iterator[Service]:
    """Return a service that reads every header, including X-Forwarded-For."""
    with Sandbox() as sandbox:
        yield start_module_service(
            sandbox,
            **batch_api(sandbox),
            ALLOWED_NETWORKS="0.0.0.0/0,::/0",
            TRUSTED_PROXY_HOPS="1",
        )


def status_of(service: Service, method: str, target: bytes, headers: Iterable[bytes], body: bytes = b"") -> int:
    """Return the status of the final answer, or 0 without an answer."""
    lines = [method.encode() + b" " + target + b" HTTP/1.1", *headers]
    names = {line.partition(b":")[0].lower() for line in lines[1:]}
    usual = [b"Host: x", b"Connection: close", b"X-Forwarded-For: 192.0.2.1"]
    if body:
        usual.append(b"Content-Type: application/json")
        if b"transfer-encoding" not in names:
            usual.append(b"Content-Length: %d" % len(body))
    lines += [line for line in usual if line.partition(b":")[0].lower() not in names]
    with socket.create_connection(service.address, timeout=5) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    while received.startswith(b"HTTP/1.1 100"):
        received = received.partition(b"\r\n\r\n")[2]
    return int(received[9:12] or 0)


def errors_in_log(service: Service, since: int) -> list[str]:
    """Return the error lines of the log after its first `since` characters."""
    words = ('"level":"ERROR"', "Traceback", "[ERROR]", "[CRITICAL]")
    return [line for line in service.log.read_text()[since:].splitlines() if any(word in line for word in words)]


def target_of(route: Route) -> bytes:
    """Return the request target: path and query."""
    return f"{route.path}?{route.query}".encode() if route.query else route.path.encode()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_request__usual__answered(strict_service: Service, route: Route) -> None:
    headers = [KEY, *([b"Content-Type: " + route.content_type.encode()] if route.body else [])]
    assert status_of(strict_service, route.method, target_of(route), headers, route.body) == 200


def check_refused_or_ignored(service: Service, name: str, requests: Iterable[tuple[Route, bytes]]) -> None:
    """Send the header with each value. Fails on a 5xx, on a logged error, or if the value works as credentials."""
    before = len(service.log.read_text())
    statuses: dict[tuple[str, str, bytes], int] = {}
    for route, value in requests:
        line = name.encode() + b": " + value
        is_credentials = name in ("Authorization", "X-API-Key")
        credentials = [] if is_credentials else [KEY]
        for lines in ([line], [line, line]) if value == b'a="' else ([line],):
            status = status_of(service, route.method, target_of(route), [*lines, *credentials], route.body)
            statuses[route.method, route.path, value[:40]] = status
            if is_credentials and status == 200:
                assert not route.path.startswith(("/v1", "/playground", "/status", "/metrics")), value
    assert not {request: status for request, status in statuses.items() if not 200 <= status < 500}
    assert not errors_in_log(service, before)


@pytest.mark.parametrize("name", HEADERS)
def test_header__odd_value__never_a_500(strict_service: Service, name: str) -> None:
    """Send each value to one route, with all routes in turn. The next test sends every value to every route."""
    first = list(HEADERS).index(name)
    turns = itertools.islice(itertools.cycle(ROUTES), first, None)
    check_refused_or_ignored(strict_service, name, zip(turns, HEADERS[name], strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADERS)
def test_header__odd_value_on_every_route__never_a_500(strict_service: Service, name: str) -> None:
    check_refused_or_ignored(strict_service, name, itertools.product(ROUTES, HEADERS[name]))


@pytest.mark.contract("1 status 401")
@pytest.mark.parametrize("value", [b"Basic \xa0", b"Basic caf\xe9", "Basic ☃".encode(), b"Bearer \xff", b"\xa0Basic x"])
def test_authorization__bytes_above_127__401_counted_by_the_minute(strict_service: Service, value: bytes) -> None:
    before = len(strict_service.log.read_text())
    for route in ROUTES:
        if route.path.startswith(("/v1", "/playground", "/status", "/metrics")):
            status = status_of(strict_service, route.method, target_of(route), [b"Authorization: " + value], route.body)
            assert status == 401, route
    log = strict_service.log.read_text()[before:]
    assert log.count('"event":"caller_refused"') <= 1
    assert '"status":401' not in log, "a refused request has a line of its own"


def check_queries(service: Service, route: Route, queries: Iterable[bytes]) -> None:
    """Send each query in the URL and, by POST, as a body. Fails on a 5xx or on a logged error."""
    before = len(service.log.read_text())
    statuses = {}
    for query in queries:
        target = route.path.encode() + b"?" + query
        statuses[query[:40]] = status_of(service, route.method, target, [KEY], route.body)
        if route.method == "POST":
            for kind in (b"application/json", b"application/x-www-form-urlencoded"):
                lines = [KEY, b"Content-Type: " + kind]
                statuses[kind + query[:40]] = status_of(service, "POST", route.path.encode(), lines, query)
    assert not {query: status for query, status in statuses.items() if not 200 <= status < 500}
    assert not errors_in_log(service, before)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_query__odd_bytes__never_a_500(strict_service: Service, route: Route) -> None:
    """Send every query, but only some to the playground: each rendering is a process. The next test sends all."""
    check_queries(strict_service, route, QUERIES[::6] if route == RENDER else QUERIES)


@pytest.mark.slow
def test_query__odd_bytes_in_every_rendering__never_a_500(strict_service: Service) -> None:
    check_queries(strict_service, RENDER, QUERIES)


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "\xff"]
)
def test_target__odd_bytes__never_a_500(strict_service: Service, method: str) -> None:
    before = len(strict_service.log.read_text())
    statuses = {target[:40]: status_of(strict_service, method, target, [KEY]) for target in TARGETS}
    assert not {target: status for target, status in statuses.items() if not 200 <= status < 500}
    assert not errors_in_log(strict_service, before)
