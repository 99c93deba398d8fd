"""Limits of one connection for any client: bytes, time and turns."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import gevent
import gevent.select
import gevent.socket
import pytest
from gunicorn.config import Config

from proxy.sandbox.server import Sandbox
from proxy.server import connection as limits
from proxy.server.connection import Connection, Requests
from tests.conftest import SECRET, Service, StartService, free_port
from tests.support.wait import until

KEY = f"X-API-Key: {SECRET}\r\n"
CHUNKED = "Host: x\r\nTransfer-Encoding: chunked\r\n"
JSON = "Content-Type: application/json\r\n"
TINY_CHUNKS = b"1\r\nx\r\n" * 10_000
LONG_EXTENSIONS = (b"1;" + b"a" * 8000 + b"\r\nx\r\n") * 10
TRAILERS = b"a: b\r\n" * 10_000


def flood(address: tuple[str, int], head: str, body: bytes, *, seconds: float = 5, until_reset: bool = False) -> bytes:
    """Send `body` repeatedly until the service closes or resets the connection. Return the answers.

    With `until_reset`, only a reset ends the sending. Fails if the connection is still open after `seconds`.
    """
    received, unsent = b"", head.encode()
    deadline = time.monotonic() + seconds
    with socket.create_connection(address, timeout=5) as client:
        client.setblocking(False)
        while time.monotonic() < deadline:
            readable, writable, _ = select.select([client], [client], [], 0.1)
            try:
                if readable:
                    data = client.recv(65536)
                    if not data and not until_reset:
                        return received
                    received += data
                if writable:
                    unsent = unsent[client.send(unsent) :] or body
            except ConnectionError:
                return received
    pytest.fail(f"the connection was still open after {seconds} s; received: {received[:200]!r}")


def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send bytes and return all that comes back until the service closes the connection."""
    received = b""
    with socket.create_connection(address, timeout=5) as client:
        client.sendall(sent)
        while data := client.recv(65536):
            received += data
    return received


def status(answer: bytes) -> int:
    """Return the status of the only answer."""
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    return int(answer[9:12])


@contextlib.contextmanager
def pair(idle_seconds: float = 5) -> Iterator[tuple[Connection, gevent.socket.socket]]:
    """Yield a connection and its client's end."""
    accepted, peer = gevent.socket.socketpair()
    connection = Connection(accepted, idle_seconds)
    try:
        yield connection, peer
    finally:
        peer.close()
        connection.close()


@pytest.mark.parametrize("body", [TINY_CHUNKS, LONG_EXTENSIONS, b"0\r\n" + TRAILERS], ids=["chunks", "ext", "trailers"])
@pytest.mark.parametrize(
    ("line", "headers", "expected"),
    [
        ("GET /healthz", "", 200),
        ("GET /nowhere", "", 404),
        ("POST /healthz", "", 405),
        ("GET /v1/cohorts?user_id=ava", "", 401),
        ("POST /v1/cohorts", JSON, 401),
        ("GET /v1/cohorts?user_id=ava", KEY, 200),
        ("POST /v1/webhooks/amplitude/cohorts", JSON, 401),
        ("PUT /v1/snapshots/c31", "Content-Type: application/x-ndjson\r\n", 401),
        ("POST /v1/webhooks/amplitude/users", f"{KEY}Content-Type: text/csv\r\n", 415),
        ("GET /metrics", "Expect: 100-continue\r\n", 401),
    ],
)
def test_unread_body__endless__answered_and_closed(
    service: Service, line: str, headers: str, expected: int, body: bytes
) -> None:
    answer = flood(service.address, f"{line} HTTP/1.1\r\n{CHUNKED}{headers}\r\n", body)
    assert status(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) == expected


def test_unread_body__content_length_of_gigabytes__answered_and_closed(service: Service) -> None:
    answer = flood(
        service.address, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 65536
    )
    assert status(answer) == 200


def test_unread_body__client_never_stops_sending__reset_after_the_answer(service: Service) -> None:
    head = f"GET /healthz HTTP/1.1\r\n{CHUNKED}\r\n"
    assert status(flood(service.address, head, TINY_CHUNKS, until_reset=True)) == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 50000", b"x" * 50_000),
        ("Transfer-Encoding: chunked", b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\nTrailer-Field: 1\r\n\r\n"),
    ],
)
def test_unread_body__within_64_kib__connection_serves_the_next_request(
    service: Service, head: str, body: bytes
) -> None:
    first = f"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body
    answer = exchange(service.address, first + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"401", b"200"]


def test_unread_body__more_than_64_chunks__answered_and_closed(service: Service) -> None:
    first = f"GET /healthz HTTP/1.1\r\n{CHUNKED}\r\n".encode() + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
    assert status(exchange(service.address, first + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")) == 200


def test_unread_body__too_long_to_discard__answer_has_connection_close(service: Service) -> None:
    head = b"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    answer = exchange(service.address, head + b"x" * 100_000)
    assert (status(answer), b"connection: close" in answer.lower()) == (401, True)


def test_unread_body__broken_chunk__no_second_answer(service: Service) -> None:
    answer = exchange(service.address, f"GET /healthz HTTP/1.1\r\n{CHUNKED}\r\n1\r\nxyz\r\n".encode())
    assert status(answer) == 200


def test_read_body__endless__413_and_closed(service: Service) -> None:
    head = f"POST /v1/cohorts HTTP/1.1\r\n{CHUNKED}{KEY}{JSON}\r\n"
    assert status(flood(service.address, head, TINY_CHUNKS)) == 413


def test_read_body__endless_trailers__400(service: Service) -> None:
    head = f"POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\n{CHUNKED}{KEY}{JSON}\r\n"
    assert status(flood(service.address, head + "2\r\n{}\r\n0\r\n", TRAILERS)) == 400


def test_read_body__endless_chunk_size__400(service: Service) -> None:
    head = f"POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\n{CHUNKED}{KEY}{JSON}\r\n"
    assert status(flood(service.address, head, b"0" * 65536)) == 400


def test_read_body__8_mib_in_small_chunks__read_whole(service: Service) -> None:
    body = b"400\r\n" + b" " * 1024 + b"\r\n"
    head = f"POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\n{CHUNKED}{KEY}{JSON}Connection: close\r\n\r\n"
    answer = exchange(service.address, head.encode() + body * 8191 + b"2\r\n{}\r\n0\r\n\r\n")
    assert b"cohort_id" in answer, "the JSON was read, and the error names the missing field"


def test_read_body__pipelined_and_cut_off__400(service: Service) -> None:
    form = f"Host: x\r\n{KEY}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 20\r\n\r\nuser_id=av"
    with socket.create_connection(service.address, timeout=5) as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/cohorts HTTP/1.1\r\n{form}".encode())
        client.shutdown(socket.SHUT_WR)
        answers = b""
        while data := client.recv(65536):
            answers += data
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400"]
    assert not service.sandbox.calls


@pytest.mark.parametrize(
    ("start", "more", "expected"),
    [
        ("", b"\r\n" * 10_000, 400),
        ("", b"\r" * 10_000, 414),
        ("GET /", b"x" * 10_000, 414),
        ("GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000, 431),
        ("GET / HTTP/1.1\r\na: ", b"x" * 10_000, 431),
        ("GET / HTTP/1.1\r\n", b"\r" * 10_000, 431),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 10_000, 400),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", b"x" * 10_000, 400),
    ],
)
def test_head__endless__refused(service: Service, start: str, more: bytes, expected: int) -> None:
    assert status(flood(service.address, start, more)) == expected


@pytest.mark.parametrize("name", ["More", "more_dropped"])
def test_headers__over_32_kib_together__431(service: Service, name: str) -> None:
    def ask(header_bytes: int, line: str = "GET /healthz HTTP/1.1") -> bytes:
        fixed = b"Connection: close"
        fields = [f"{name}{number}: ".encode() for number in range(5)]
        remaining = header_bytes - len(fixed) - sum(len(field) + 2 for field in fields)
        values = [b"x" * (remaining // 5)] * 4 + [b"x" * (remaining - remaining // 5 * 4)]
        lines = [fixed, *(field + value for field, value in zip(fields, values, strict=True))]
        head = b"\r\n".join(lines)
        assert len(head) == header_bytes
        return exchange(service.address, line.encode() + b"\r\n" + head + b"\r\n\r\n")

    assert status(ask(32 * 1024)) == 200
    assert status(ask(32 * 1024, f"GET /healthz?{'x' * 8000} HTTP/1.1")) == 200, "the URL has its own limit"
    refused = ask(32 * 1024 + 1)
    assert status(refused) == 431
    assert b"8 KiB each and 32 KiB in total" in refused


def test_endless_bodies__several_clients__other_requests_are_answered_at_once(service: Service) -> None:
    stop = threading.Event()
    webhook = f"POST /v1/webhooks/amplitude/cohorts HTTP/1.1\r\n{CHUNKED}{KEY}{JSON}\r\n"

    def attack(head: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(service.address, timeout=5) as client:
                client.sendall(head.encode())
                while not stop.is_set():
                    client.sendall(TINY_CHUNKS)

    threads = [
        threading.Thread(target=attack, args=(head,))
        for head in [f"GET /healthz HTTP/1.1\r\n{CHUNKED}\r\n", webhook] * 2
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert service.get("/healthz").elapsed.total_seconds() < 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_request__data_always_ready__ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
    with pair() as (connection, client):
        client.sendall(b"x" * 100_000)
        with pytest.raises(ConnectionResetError):
            sum(len(connection.recv(1)) for _ in range(100_000))


class SteppedTime:
    """Replaces `time` in the connection. Only the test moves the clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.contract("6 snapshot upload")
@pytest.mark.parametrize(
    ("allowed", "pause", "received"),
    [
        pytest.param(600, 9, 66, id="bytes keep coming for ten minutes"),
        pytest.param(None, 4, 2, id="other requests"),
    ],
)
def test_slow_body__bytes_after_pauses__received_until_a_limit(
    monkeypatch: pytest.MonkeyPatch, allowed: float | None, pause: float, received: int
) -> None:
    clock = SteppedTime()
    monkeypatch.setattr(limits, "time", clock)
    with pair() as (connection, peer):
        peer.sendall(b"x")
        assert connection.recv(1) == b"x"
        connection.head_ended()
        if allowed is not None:
            connection.allow_slow_body(allowed)
        peer.sendall(b"x" * 1000)
        for _ in range(received):
            clock.seconds += pause
            connection.recv(1)
        clock.seconds += pause
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_slow_body__client_pauses__reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
    with pair() as (connection, peer):
        peer.sendall(b"xy")
        connection.recv(1)
        connection.head_ended()
        connection.allow_slow_body(600)
        assert connection.recv(1) == b"y"
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_slow_body__next_request__has_the_usual_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteppedTime()
    monkeypatch.setattr(limits, "time", clock)
    with pair() as (connection, peer):
        peer.sendall(b"xyz")
        connection.recv(1)
        connection.head_ended()
        connection.allow_slow_body(600)
        clock.seconds += 9
        connection.recv(1)
        connection.answered()
        clock.seconds += 11
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_reading__data_always_ready__other_greenlets_run() -> None:
    with pair() as (connection, client):
        client.sendall(b"x" * 100_000)
        greenlet = gevent.spawn(lambda: None)
        connection.head_ended()
        for _ in range(100_000):
            assert connection.recv(1) == b"x"
            if greenlet.ready():
                break
        assert greenlet.ready()


def test_small_chunks__sent_with_the_head__other_greenlets_run() -> None:
    """Parse 1,300 chunks that are already in memory, which takes milliseconds without a read of the socket."""
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    with pair() as (connection, client):
        client.sendall(f"POST / HTTP/1.1\r\n{CHUNKED}\r\n".encode() + TINY_CHUNKS[:7800] + b"0\r\n\r\n")
        request = next(iter(Requests(Config(), connection, ("127.0.0.1", 1))))
        other = gevent.spawn(count_turns)
        assert request.body.read() == b"x" * 1300
        other.kill()
    assert turns > 2


def test_head__byte_by_byte__returned_in_few_pieces() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100 + b"\r\n"
    with pair() as (connection, client):
        gevent.spawn(lambda: [(client.send(head[at : at + 1]), gevent.sleep(0.0002)) for at in range(len(head))])
        pieces: list[bytes] = []
        while b"".join(pieces) != head:
            pieces.append(connection.recv(8192))
        assert len(pieces) < 20


def test_answer__head_and_body__sent_together() -> None:
    with pair() as (connection, client):
        connection.head_ended()
        connection.sendall(b"head")
        assert gevent.select.select([client], [], [], 0)[0] == []
        connection.sendall(b"body")
        assert client.recv(100) == b"headbody"
        connection.sendall(b"more")
        assert client.recv(100) == b"more"


def test_answer__larger_than_the_buffers__all_bytes_arrive() -> None:
    body = os.urandom(5_000_000)
    with pair() as (connection, client):
        connection.head_ended()
        connection.sendall(b"head")
        sending = gevent.spawn(connection.sendall, body)
        received = b""
        while len(received) < 4 + len(body) and (piece := client.recv(1_000_000)):
            received += piece
        sending.get()
        connection.sendall(b"more")
        assert received == b"head" + body
        assert client.recv(100) == b"more"


def test_answer__client_does_not_read__reset_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
    with pair() as (connection, _):
        connection.head_ended()
        connection.sendall(b"head")
        for _ in range(2):  # the second call finds full buffers
            with pytest.raises(ConnectionResetError):
                connection.sendall(bytes(5_000_000))


@pytest.mark.parametrize("method", ["flush", "close"])
def test_answer__head_without_body__sent_at_the_end(method: str) -> None:
    with pair() as (connection, client), gevent.Timeout(1):
        connection.head_ended()
        connection.sendall(b"head")
        ended = gevent.spawn(getattr(connection, method))
        assert client.recv(100) == b"head"
        client.close()
        ended.join()


def test_answers__without_bodies__arrive_on_an_open_connection(service: Service) -> None:
    with contextlib.closing(HTTPConnection(*service.address, timeout=5)) as connection:
        for _ in range(2):
            connection.request("HEAD", "/healthz")
            assert connection.getresponse().read() == b""


@pytest.mark.parametrize("start", range(10))
def test_head__start_came_with_the_previous_request__rest_is_returned(start: int) -> None:
    rest = b"Host: x\r\n\r\n"[start + 1 :]  # the parser already has the start; the rest comes byte by byte
    with pair() as (connection, client), gevent.Timeout(1):
        gevent.spawn(lambda: [(client.send(rest[at : at + 1]), gevent.sleep(0.001)) for at in range(len(rest))])
        received = b""
        while received != rest:
            received += connection.recv(8192)


def test_two_workers__many_new_connections__answered_before_a_busy_connection_is_half_done(
    start_service: StartService, sandbox: Sandbox
) -> None:
    service = start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    until(lambda: len(service.workers()) == 2, "only one worker was started")
    pids = service.workers()
    busy, newcomers = 60, 200

    def ask(id: str) -> bytes:
        return f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: {id}\r\n\r\n".encode()

    with contextlib.ExitStack() as stack:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        clients = [
            stack.enter_context(socket.create_connection(service.address, timeout=10)) for _ in range(newcomers + 1)
        ]
        clients[0].sendall(b"".join(ask(f"busy-{number}") for number in range(busy)))
        for number, client in enumerate(clients[1:]):
            client.sendall(ask(f"new-{number}"))
        os.kill(pids[0], signal.SIGCONT)
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        until(lambda: f"busy-{busy - 1}" in service.log.read_text())
    order = re.findall(r'"(busy|new)-\d+"', service.log.read_text())
    # About half of the newcomers are in the queue of the stopped worker, and are accepted later.
    sixtieth = [place for place, kind in enumerate(order) if kind == "new"][59]
    assert order[:sixtieth].count("busy") < busy / 2
