"""The client of /users/track, over real HTTP."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest
import trustme

from proxy.braze.track import (
    Accepted,
    Failed,
    RateLimited,
    Refused,
    TooLarge,
    TrackClient,
    TrackResult,
    Unavailable,
)
from tests.conftest import free_port
from tests.support.fakes import FakeClock
from tests.support.scripted import Answer, Request, ScriptedServer

KEY = "0123-secret-key"
OBJECTS = [{"external_id": "ava", "plan": "gold"}, {"external_id": "ben", "plan": "free"}]


def client(
    url: str, *, create_users: bool = False, timeout: float = 5.0, clock: FakeClock | None = None
) -> TrackClient:
    return TrackClient(url, KEY, create_users=create_users, timeout=timeout, clock=clock or FakeClock())


def result_of(
    answer: Answer, *, clock: FakeClock | None = None, events: list[dict[str, Any]] | None = None
) -> TrackResult:
    with ScriptedServer(lambda _: answer) as server:
        return client(server.url, clock=clock).send(OBJECTS, events or [])


def test_send__attributes_and_events__one_request_with_key_and_update_only() -> None:
    event = {"external_id": "ava", "name": "Viewed", "time": "2026-11-28T00:00:00Z"}
    with ScriptedServer(lambda _: Answer()) as server:
        assert client(server.url).send(OBJECTS, [event]) == Accepted()
    (request,) = server.requests
    assert request.path == "/users/track"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {
        "attributes": [{**entry, "_update_existing_only": True} for entry in OBJECTS],
        "events": [{**event, "_update_existing_only": True}],
    }


def test_send__create_users__objects_are_unchanged() -> None:
    with ScriptedServer(lambda _: Answer()) as server:
        client(server.url, create_users=True).send(OBJECTS)
    assert server.requests[0].body == {"attributes": OBJECTS}


def test_send__values__arrive_unchanged() -> None:
    values = {
        "a": 2**70,
        "b": 1e-7,
        "c": "日本 😀",
        "d": [None, {"x": [1.5]}],
        "e": None,
        "external_id": "ava",
    }
    with ScriptedServer(lambda _: Answer()) as server:
        client(server.url, create_users=True).send([values])
    assert server.requests[0].body == {"attributes": [values]}


@pytest.mark.parametrize("message", ["success", "queued", "Success"])
def test_send__known_message__accepted(message: str) -> None:
    assert result_of(Answer(202, {"message": message})) == Accepted()


@pytest.mark.parametrize("status", [200, 201, 202])
def test_send__other_message__failed(status: int) -> None:
    assert result_of(Answer(status, {"message": "ignored"})) == Failed(
        f"Braze returned status {status}: ignored", status
    )


@pytest.mark.parametrize("body", [b"<html>login</html>", b"", b"[]", b'{"message": "success"' + b" " * 300_000 + b"}"])
def test_send__2xx_without_usable_document__uncertain(body: bytes) -> None:
    result = result_of(Answer(200, body))
    assert isinstance(result, Unavailable)
    assert result.uncertain


def test_send__errors_with_index__only_these_objects_fail() -> None:
    errors = [
        {"type": "bad plan", "input_array": "attributes", "index": 1},
        {"type": "bad event", "input_array": "events", "index": 0},
    ]
    result = result_of(Answer(201, {"message": "success", "errors": errors}), events=[{"external_id": "ava"}])
    assert result == Accepted({("attributes", 1): "bad plan", ("events", 0): "bad event"})


@pytest.mark.parametrize("index", [None, -1, 2, "1", True, 1.0, [], {}])
def test_send__error_without_usable_index__fails_its_array(index: object) -> None:
    errors = [{"type": "bad", "input_array": "attributes", "index": index}]
    result = result_of(Answer(201, {"message": "success", "errors": errors}), events=[{"external_id": "ava"}])
    assert result == Accepted({("attributes", 0): "bad", ("attributes", 1): "bad"})


@pytest.mark.parametrize(
    "error",
    [
        "something",
        None,
        7,
        {},
        {"input_array": "purchases", "index": 0},
        {"input_array": "users", "index": 0},
        {"input_array": ["attributes"], "index": 0, "type": {}},
    ],
)
def test_send__error_without_known_array__fails_all_objects(error: object) -> None:
    result = result_of(Answer(201, {"message": "success", "errors": [error]}), events=[{"external_id": "ava"}])
    assert isinstance(result, Accepted)
    assert result.errors.keys() == {("attributes", 0), ("attributes", 1), ("events", 0)}


def test_send__errors_is_no_list__fails_all_objects() -> None:
    result = result_of(Answer(201, {"message": "success", "errors": "maintenance"}))
    assert result == Accepted({("attributes", 0): "maintenance", ("attributes", 1): "maintenance"})


@pytest.mark.parametrize("errors", [[], None])
def test_send__no_errors__accepted(errors: object) -> None:
    assert result_of(Answer(201, {"message": "success", "errors": errors})) == Accepted()


def test_send__400_with_an_error_for_every_object__errors_by_object() -> None:
    errors = [{"type": f"bad {index}", "input_array": "attributes", "index": index} for index in range(2)]
    body = {"message": "Valid data must be provided", "errors": errors}
    assert result_of(Answer(400, body)) == Accepted({("attributes", 0): "bad 0", ("attributes", 1): "bad 1"})


@pytest.mark.parametrize("errors", [[{"type": "bad", "input_array": "attributes", "index": 0}], ["bad"]])
def test_send__400_with_errors_for_some_objects__failed(errors: list[object]) -> None:
    result = result_of(Answer(400, {"message": "no", "errors": errors}))
    assert result == Failed("Braze returned status 400: no", 400)


NOW = 1_764_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X-Ratelimit-Retry-After": "7"}, 7),
        ({"X-RateLimit-Reset": str(NOW + 42)}, 42),
        ({"X-RateLimit-Reset": "42"}, 42),
        ({"X-RateLimit-Reset": str(NOW - 5)}, 0),
        ({"X-Ratelimit-Retry-After": "7", "X-RateLimit-Reset": "42", "Retry-After": "99"}, 7),
        ({"X-Ratelimit-Retry-After": "soon", "X-RateLimit-Reset": "-1", "Retry-After": "9"}, 9),
        ({"X-Ratelimit-Retry-After": "nan", "X-RateLimit-Reset": "inf"}, None),
        ({"Retry-After": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"Retry-After": "later"}, None),
        ({"X-Ratelimit-Retry-After": "1e300"}, 366 * 86400),
        ({"Retry-After": "9" * 40}, 366 * 86400),
        ({}, None),
    ],
)
def test_send__429__seconds_of_the_headers(headers: Mapping[str, str], seconds: float | None) -> None:
    assert result_of(Answer(429, headers=headers), clock=FakeClock(NOW)) == RateLimited(seconds)


@pytest.mark.parametrize(
    "answer",
    [Answer(413), Answer(413, b"<html>"), Answer(400, {"message": "Max Input Length Exceeded"})],
    ids=["413", "413 HTML", "400"],
)
def test_send__request_over_a_limit__too_large(answer: Answer) -> None:
    assert result_of(answer) == TooLarge()


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (Answer(401, {"message": f"Invalid API key: {KEY}"}), ["status 401", "BRAZE_API_KEY", "BRAZE_REST_ENDPOINT"]),
        (Answer(400, {"message": f"Invalid API key: {KEY}"}), ["status 400", "BRAZE_API_KEY", "BRAZE_REST_ENDPOINT"]),
        (Answer(403, b""), ["status 403", "BRAZE_API_KEY", "users.track", "BRAZE_REST_ENDPOINT"]),
        (Answer(404, b"not found"), ["status 404", "BRAZE_REST_ENDPOINT"]),
        (Answer(301, b"", {"Location": "http://127.0.0.1:1/"}), ["redirect 301", "BRAZE_REST_ENDPOINT"]),
    ],
    ids=["401", "400", "403", "404", "301"],
)
def test_send__wrong_key_or_endpoint__refused_with_the_fix(answer: Answer, names: list[str]) -> None:
    result = result_of(answer)
    assert isinstance(result, Refused)
    assert [name for name in names if name not in result.reason] == []
    assert KEY not in result.reason


def test_send__other_400__failed_without_ids_values_or_key() -> None:
    result = result_of(Answer(400, {"message": f"'ava' with 'gold' is invalid for {KEY}; 'plan'\x1b is unavailable"}))
    assert result == Failed("Braze returned status 400: '…' with '…' is invalid for …; 'plan'  is unavailable", 400)


def test_send__reason_of_an_object__without_its_values() -> None:
    error = {"type": "ben: plan 'free' is not free of charge", "input_array": "attributes", "index": 1}
    result = result_of(Answer(201, {"message": "success", "errors": [error]}))
    assert result == Accepted({("attributes", 1): "…: plan '…' is not … of charge"})


@pytest.mark.parametrize(
    "errors",
    ["ava and ben are blocked", {"type": "ava and ben are blocked"}]
    + [[{"type": "ava and ben are blocked", "input_array": "attributes", "index": index}] for index in (0, 1, 9)],
)
def test_send__reason_names_other_users__without_their_ids(errors: object) -> None:
    result = result_of(Answer(201, {"message": "success", "errors": errors}))
    assert isinstance(result, Accepted)
    assert set(result.errors.values()) == {"… and … are blocked"}


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_send__passing_failure__unavailable_and_not_uncertain(status: int) -> None:
    assert result_of(Answer(status, b"<html>")) == Unavailable(f"Braze returned status {status}", uncertain=False)


def test_send__connection_refused__not_uncertain() -> None:
    result = client(f"http://127.0.0.1:{free_port()}").send(OBJECTS)
    assert isinstance(result, Unavailable)
    assert not result.uncertain


def test_send__unknown_host__not_uncertain() -> None:
    result = client("http://braze.invalid").send(OBJECTS)
    assert isinstance(result, Unavailable)
    assert not result.uncertain


@pytest.mark.parametrize("ends", ["reset", "truncate"])
def test_send__connection_ends_after_the_request__uncertain(ends: str) -> None:
    result = result_of(Answer(ends=ends))
    assert isinstance(result, Unavailable)
    assert result.uncertain


def test_send__reused_connection_is_reset__uncertain() -> None:
    answers = [Answer(), Answer(ends="reset")]
    with ScriptedServer(lambda request: answers[request.number]) as server:
        braze = client(server.url)
        assert braze.send(OBJECTS) == Accepted()
        result = braze.send(OBJECTS)
    assert isinstance(result, Unavailable)
    assert result.uncertain
    assert len(server.requests) == 2


@contextmanager
def raw_server(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run `serve` with the first connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_send__no_answer__uncertain_after_the_timeout() -> None:
    released = threading.Event()
    with raw_server(lambda _: released.wait(5)) as address:
        result = client(f"http://{address}", timeout=0.2).send(OBJECTS)
        released.set()
    assert isinstance(result, Unavailable)
    assert result.uncertain


def test_send__one_byte_at_a_time__ends_at_the_timeout() -> None:
    released = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in b"HTTP/1.1 201 Created\r\nContent-Length: 22\r\n\r\n" + b" " * 100:
            if released.wait(0.05):
                return
            connection.sendall(bytes([byte]))

    with raw_server(trickle) as address:
        result = client(f"http://{address}", timeout=0.3).send(OBJECTS)
        released.set()
    assert isinstance(result, Unavailable)
    assert result.uncertain


def test_send__tls_handshake_hangs__not_uncertain() -> None:
    released = threading.Event()
    with raw_server(lambda _: released.wait(5)) as address:
        result = client(f"https://{address}", timeout=0.2).send(OBJECTS)
        released.set()
    assert isinstance(result, Unavailable)
    assert not result.uncertain


def test_send__untrusted_certificate__not_uncertain() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def handshake(connection: socket.socket) -> None:
        with pytest.raises(OSError, match=r".+"):
            context.wrap_socket(connection, server_side=True)

    with raw_server(handshake) as address:
        result = client(f"https://{address}").send(OBJECTS)
    assert isinstance(result, Unavailable)
    assert not result.uncertain


@pytest.mark.slow
def test_send__slow_handshake_and_no_reading__ends_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    released = threading.Event()

    def serve(connection: socket.socket) -> None:
        released.wait(1.8)
        with context.wrap_socket(connection, server_side=True):
            released.wait(10)

    with authority.cert_pem.tempfile() as bundle, raw_server(serve) as address:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        started = time.monotonic()
        result = client(f"https://{address}", timeout=2).send([{"external_id": "ava", "text": "x" * 20_000_000}])
        took = time.monotonic() - started
        released.set()
    assert isinstance(result, Unavailable)
    assert result.uncertain
    assert took < 3.4  # 3.8 s if sending had the whole timeout again


def test_send__any_failure__logs_neither_key_nor_ids(caplog: pytest.LogCaptureFixture) -> None:
    answers = [Answer(), Answer(401), Answer(429), Answer(503), Answer(ends="reset"), Answer(400), Answer(301)]
    with caplog.at_level(logging.DEBUG), ScriptedServer(lambda request: answers[request.number]) as server:
        for _ in answers:
            assert KEY not in repr(client(server.url).send(OBJECTS))
    assert KEY not in caplog.text
    assert "ava" not in caplog.text


def test_send__without_objects__empty_request() -> None:
    with ScriptedServer(lambda _: Answer(400, {"message": "Valid data must be provided"})) as server:
        result = client(server.url).send([])
    assert server.requests[0].body == {}
    assert result == Failed("Braze returned status 400: Valid data must be provided", 400)


def test_send__many_threads__all_accepted() -> None:
    def answer(request: Request) -> Answer:
        return Answer(201, {"message": "success", "attributes_processed": len(request.body["attributes"])})

    with ScriptedServer(answer) as server:
        braze = client(server.url)
        results: list[TrackResult] = []
        threads = [threading.Thread(target=lambda: results.append(braze.send(OBJECTS))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [Accepted()] * 20
