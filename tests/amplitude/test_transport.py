"""Responses never answer another request, for any bytes that an upstream sends at any time.

The upstream of these tests sends late bytes of a response on the same connection, while the connection is idle or
directly before the next answer. The check of the user id is off (`accept_mapped_users`), so that it cannot hide a
fault of the transport. Only the tests of that check turn it on.
"""

from __future__ import annotations

import gzip
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests

from proxy.amplitude.calls import plan_calls
from proxy.amplitude.client import AmplitudeClient
from proxy.amplitude.transport import Session, reuse_connection
from proxy.profile import encoding
from proxy.profile.errors import AnotherUser, UpstreamError, UpstreamInvalid
from proxy.profile.parts import PROPERTIES, Identity
from tests.support.upstream import Reply, Upstream

USERS = ("alice", "bob", "carol", "dave")
CALL = plan_calls([PROPERTIES])[0]


def amplitude(upstream: Upstream, *, timeout: float = 5.0, accept_mapped_users: bool = True) -> AmplitudeClient:
    return AmplitudeClient(upstream.url, "secret", timeout=timeout, accept_mapped_users=accept_mapped_users)


def fetch_name(client: AmplitudeClient, user: str) -> str:
    """Return the name of the user in the answer, or the error word."""
    try:
        fetched = client.fetch(Identity(user, None), CALL)
    except UpstreamError as fault:
        return fault.word
    if fetched.faults:
        return fetched.faults[PROPERTIES].word
    record = fetched.record
    if record.unknown_at is not None:
        return "unknown"
    name: str = encoding.read(record.parts[PROPERTIES].value)["gp:name"]
    return name


def fetch_each(client: AmplitudeClient, upstream: Upstream, *, idle: bool = False) -> list[str]:
    """Return the answer for each user. `idle`: late bytes arrive before the next request, and otherwise with it."""
    answers = []
    for user in USERS:
        answers.append(fetch_name(client, user))
        if idle:
            assert upstream.replied.acquire(timeout=5)
    return answers


def body(user: str) -> bytes:
    return json.dumps({"userData": {"user_id": user, "amp_props": {"gp:name": user}}}).encode()


def response(content: bytes, *headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{version} {status}", *headers, "", ""]).encode() + content


def sized(content: bytes, *headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    return response(content, f"Content-Length: {len(content)}", *headers, status=status, version=version)


def chunked(content: bytes, *headers: str, end: bytes = b"0\r\n\r\n") -> bytes:
    return response(b"%x\r\n%b\r\n%b" % (len(content), content, end), "Transfer-Encoding: chunked", *headers)


def whole(user: str) -> bytes:
    return sized(body(user))


def informational(status: str) -> bytes:
    return response(b"", "Link: </style.css>; rel=preload", status=status)


OVERSIZE = json.dumps({"userData": {"amp_props": {"gp:name": "x" * 2_200_000}}}).encode()
HALF_GZIP = gzip.compress(body("alice"))[:-12]

OWN = "the user's own"
"""The outcome if every user gets their own answer. Any other outcome is the error word for all users."""

REUSED: dict[str, Callable[[str], Reply]] = {
    "content length": lambda user: Reply(whole(user)),
    "chunked": lambda user: Reply(chunked(body(user))),
    "chunked with trailers": lambda user: Reply(chunked(body(user), end=b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n")),
    "trailers whose end comes late": lambda user: Reply(chunked(body(user), end=b"0\r\nX-Sum: 1\r\n"), late=b"\r\n"),
    "body that comes late": lambda user: Reply(whole(user)[:-9], late=whole(user)[-9:]),
    "gzip": lambda user: Reply(sized(gzip.compress(body(user)), "Content-Encoding: gzip")),
    "gzip with trailing data": lambda user: Reply(
        sized(gzip.compress(body(user)) + b"trailing", "Content-Encoding: gzip")
    ),
    "100 before the response": lambda user: Reply(informational("100 Continue") + whole(user)),
    "100, response comes late": lambda user: Reply(informational("100 Continue"), late=whole(user)),
    "102, response comes late": lambda user: Reply(informational("102 Processing"), late=whole(user)),
    "103, response comes late": lambda user: Reply(informational("103 Early Hints"), late=whole(user)),
    "103 twice, response comes late": lambda user: Reply(2 * informational("103 Early Hints"), late=whole(user)),
}
"""Every user gets their own answer, on one connection."""

CLOSED: dict[str, tuple[str, Callable[[str], Reply]]] = {
    "101": ("upstream_invalid", lambda user: Reply(informational("101 Switching Protocols"), late=whole(user))),
    "103 without end": ("upstream_invalid", lambda user: Reply(3000 * informational("103 Early Hints"), whole(user))),
    "100 without end": ("upstream_invalid", lambda user: Reply(9000 * informational("100 Continue"), whole(user))),
    "204": ("upstream_invalid", lambda user: Reply(response(b"", status="204 No Content"), late=whole(user))),
    "304": ("upstream_invalid", lambda user: Reply(response(b"", status="304 Not Modified"), late=whole(user))),
    "204 with a length": ("upstream_invalid", lambda user: Reply(sized(body(user), status="204 No Content"))),
    "content length of zero": ("upstream_invalid", lambda user: Reply(sized(b""), late=whole(user))),
    "chunked without content": ("upstream_invalid", lambda user: Reply(chunked(b""), late=whole(user))),
    "JSON that is not documented": ("upstream_invalid", lambda user: Reply(sized(b"{}"), late=whole(user))),
    "parts of another type": (
        "upstream_invalid",
        lambda user: Reply(sized(b'{"userData": {"amp_props": 3}}'), late=whole(user)),
    ),
    "not JSON": ("upstream_invalid", lambda user: Reply(sized(b"<html>"), late=whole(user))),
    "larger than 2 MiB": ("upstream_invalid", lambda user: Reply(sized(OVERSIZE), late=whole(user))),
    "redirect with a body": (
        "upstream_invalid",
        lambda user: Reply(sized(body(user), "Location: /v1/other", status="302 Found"), late=whole(user)),
    ),
    "404": ("upstream_invalid", lambda user: Reply(sized(b"{}", status="404 Not Found"), late=whole(user))),
    "401": ("upstream_rejected", lambda user: Reply(sized(b"", status="401 Unauthorized"), late=whole(user))),
    "429": (
        "quota_exhausted",
        lambda user: Reply(sized(b'{"error": "slow"}', status="429 Too Many Requests"), late=whole(user)),
    ),
    "503 with Retry-After, which is not retried": (
        "upstream_unavailable",
        lambda user: Reply(sized(b"", "Retry-After: 0", status="503 Service Unavailable"), late=whole(user)),
    ),
    "gzip that cannot be decoded": (
        "upstream_invalid",
        lambda user: Reply(sized(b"not gzip" * 9, "Content-Encoding: gzip"), late=whole(user)),
    ),
    "gzip whose end is missing": (
        "upstream_invalid",
        lambda user: Reply(sized(HALF_GZIP, "Content-Encoding: gzip"), late=whole(user)),
    ),
    "two responses at once": (OWN, lambda user: Reply(whole(user) + whole(user))),
    "two long responses at once": (OWN, lambda user: Reply(whole(user) + 200 * whole(user))),
    "one byte after the content length": (OWN, lambda user: Reply(whole(user) + b"\n")),
    "half a response after the response": (OWN, lambda user: Reply(whole(user) + whole(user)[:40], whole(user)[40:])),
    "bytes after the last chunk": (OWN, lambda user: Reply(chunked(body(user)) + b"\r\n")),
    "last chunk too early": (
        "upstream_invalid",
        lambda user: Reply(response(b"0\r\n\r\n", "Transfer-Encoding: chunked"), late=whole(user)),
    ),
    "chunk size that is not a number": (
        "upstream_unavailable",
        lambda user: Reply(response(b"zz\r\n" + body(user), "Transfer-Encoding: chunked"), late=whole(user)),
    ),
    "transfer encoding and content length": (
        OWN,
        lambda user: Reply(chunked(body(user), "Content-Length: 5"), late=whole(user)),
    ),
    "the same content length twice": (
        OWN,
        lambda user: Reply(sized(body(user), f"Content-Length: {len(body(user))}"), late=whole(user)),
    ),
    "different content lengths": (
        "upstream_unavailable",
        lambda user: Reply(sized(body(user), "Content-Length: 5"), late=whole(user)),
    ),
    "content length with a sign": (
        OWN,
        lambda user: Reply(response(body(user), f"Content-Length: +{len(body(user))}"), late=whole(user)),
    ),
    "header line that hides the next lines": (
        OWN,
        lambda user: Reply(sized(body(user), "Odd name: x", "Transfer-Encoding: chunked"), late=whole(user)),
    ),
    "Connection: close, but the connection stays open": (
        OWN,
        lambda user: Reply(sized(body(user), "Connection: close"), late=whole(user)),
    ),
    "Connection: close with leftovers": (
        OWN,
        lambda user: Reply(sized(body(user), "Connection: close") + whole(user)),
    ),
    "Connection twice, close in the second": (
        OWN,
        lambda user: Reply(sized(body(user), "Connection: keep-alive", "Connection: close"), late=whole(user)),
    ),
    "HTTP/1.0": (OWN, lambda user: Reply(sized(body(user), version="HTTP/1.0"), late=whole(user))),
    "HTTP/1.0 with keep-alive": (
        OWN,
        lambda user: Reply(sized(body(user), "Connection: keep-alive", version="HTTP/1.0"), late=whole(user)),
    ),
    "until the end of the connection": (OWN, lambda user: Reply(response(body(user)), close=True)),
    "closed within the body": ("upstream_unavailable", lambda user: Reply(whole(user)[:-9], close=True)),
    "closed within the chunks": ("upstream_unavailable", lambda user: Reply(chunked(body(user))[:-9], close=True)),
    "closed within the trailers": (
        OWN,
        lambda user: Reply(chunked(body(user), end=b"0\r\nX-Sum: 1\r\n"), close=True),
    ),
}
"""The outcome for all users. Each call opens a new connection."""

TIMED_OUT: dict[str, Callable[[str], Reply]] = {
    "no byte in time": lambda user: Reply(b"", late=whole(user), patience=2),
    "half a head in time": lambda user: Reply(whole(user)[:20], late=whole(user)[20:], patience=2),
    "half a body in time": lambda user: Reply(whole(user)[:-9], late=whole(user)[-9:], patience=2),
    "half a chunk in time": lambda user: Reply(chunked(body(user))[:-9], chunked(body(user))[-9:], patience=2),
    "informational alone in time": lambda user: Reply(informational("103 Early Hints"), whole(user), patience=2),
    "negative chunk size": lambda user: Reply(
        response(b"-5\r\n" + body(user), "Transfer-Encoding: chunked"), whole(user), patience=2
    ),
    "no length, and the connection stays open": lambda user: Reply(response(body(user)), whole(user), patience=2),
}
"""The response is incomplete at the timeout."""


@pytest.fixture(params=["late bytes with the next request", "late bytes while idle"])
def idle(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "late bytes while idle")


@pytest.mark.contract("1 mixed-up answers")
@pytest.mark.parametrize("reply", REUSED.values(), ids=REUSED)
def test_connection__whole_response__is_reused(reply: Callable[[str], Reply], idle: bool) -> None:
    with Upstream(reply) as upstream:
        assert fetch_each(amplitude(upstream), upstream, idle=idle) == list(USERS)
        assert upstream.users == list(USERS)
        assert upstream.connections == 1


@pytest.mark.contract("1 mixed-up answers")
@pytest.mark.parametrize(("outcome", "reply"), CLOSED.values(), ids=CLOSED)
def test_connection__response_not_whole_or_not_documented__is_closed(
    outcome: str, reply: Callable[[str], Reply], idle: bool
) -> None:
    with Upstream(reply) as upstream:
        expected = list(USERS) if outcome == OWN else [outcome] * 4
        assert fetch_each(amplitude(upstream), upstream, idle=idle) == expected
        assert upstream.users == list(USERS), "each user was requested once, without a retry"
        assert upstream.connections == 4


@pytest.mark.contract("1 mixed-up answers")
@pytest.mark.parametrize("reply", TIMED_OUT.values(), ids=TIMED_OUT)
def test_connection__timed_out__is_closed(reply: Callable[[str], Reply]) -> None:
    with Upstream(reply) as upstream:
        assert fetch_each(amplitude(upstream, timeout=0.1), upstream) == ["upstream_timeout"] * 4
        assert upstream.users == list(USERS)
        assert upstream.connections == 4


@pytest.mark.contract("1 mixed-up answers")
@pytest.mark.parametrize(
    "extra", [whole("alice"), b"\n", informational("100 Continue")], ids=["response", "byte", "100"]
)
def test_connection__bytes_arrive_while_it_is_idle__is_closed(extra: bytes) -> None:
    with Upstream(lambda user: Reply(whole(user), late=extra)) as upstream:
        assert fetch_each(amplitude(upstream), upstream, idle=True) == list(USERS)
        assert upstream.connections == 4


def test_connection__closed_by_upstream_while_idle__is_opened_again() -> None:
    with Upstream(lambda user: Reply(whole(user), close=True)) as upstream:
        assert fetch_each(amplitude(upstream), upstream, idle=True) == list(USERS)
        assert upstream.connections == 4


def test_connection__unknown_user__is_closed() -> None:
    unknown = sized(b'{"error": "User id and device id not seen before"}', status="400 Bad Request")
    with Upstream(lambda user: Reply(unknown)) as upstream:
        assert fetch_each(amplitude(upstream), upstream) == ["unknown"] * 4
        assert upstream.connections == 4


def read_and_release(upstream: Upstream, *, size: int | None = None) -> bool:
    """Read `size` bytes of a response (None: all), and return whether its connection went back to the pool."""
    session = Session(upstream.url)
    with session.get(f"{upstream.url}?user_id=alice", stream=True, timeout=5) as response:
        response.raw.read(size)
        reuse_connection(response)
        return response.raw.connection is None


def test_reuse_connection__response_read_to_its_end__returns_to_the_pool() -> None:
    with Upstream(lambda user: Reply(whole(user))) as upstream:
        assert read_and_release(upstream)


def test_reuse_connection__response_not_read_to_its_end__stays_out_of_the_pool() -> None:
    with Upstream(lambda user: Reply(whole(user))) as upstream:
        assert not read_and_release(upstream, size=5)


def test_reuse_connection__more_has_arrived__stays_out_of_the_pool(tls: ssl.SSLContext) -> None:
    with Upstream(lambda user: Reply(filling(user, 8192) + whole(user)), tls) as upstream:
        assert not read_and_release(upstream)


def test_connection__many_threads__connections_are_reused_and_answers_are_their_own() -> None:
    users = [f"user-{number}" for number in range(60)]
    answers: dict[str, str] = {}
    with Upstream(
        lambda user: Reply(whole(user) if user.endswith(("1", "2")) else whole(user) + whole("x"))
    ) as upstream:
        client = amplitude(upstream)

        def work(own_users: list[str]) -> None:
            for user in own_users:
                answers[user] = fetch_name(client, user)

        threads = [threading.Thread(target=work, args=(users[first::6],)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == {user: user for user in users}
        assert upstream.connections < len(users)


class Killed(BaseException):
    """Like the exceptions that end a greenlet or a thread: `except Exception` does not catch it."""


@pytest.mark.parametrize("reads", [1, 2], ids=["head", "body"])
def test_connection__killed_while_reading__is_closed(reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = socket.socket.recv_into
    remaining_reads = reads

    def kill(sock: socket.socket, *args: Any) -> int:
        nonlocal remaining_reads
        remaining_reads -= 1
        if remaining_reads == 0:
            raise Killed
        return read(sock, *args)

    with Upstream(lambda user: Reply(whole(user)[:-9], late=whole(user)[-9:])) as upstream:
        client = amplitude(upstream)
        monkeypatch.setattr(socket.socket, "recv_into", kill)
        with pytest.raises(Killed):
            fetch_name(client, "alice")
        monkeypatch.undo()
        assert [fetch_name(client, user) for user in USERS[1:]] == list(USERS[1:])
        assert upstream.connections == 2


def test_connection__killed_between_head_and_body__is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    with Upstream(lambda user: Reply(whole(user))) as upstream:
        client = amplitude(upstream)
        monkeypatch.setattr(requests.adapters, "extract_cookies_to_jar", kill)
        with pytest.raises(Killed):
            fetch_name(client, "alice")
        monkeypatch.undo()
        assert [fetch_name(client, user) for user in USERS[1:]] == list(USERS[1:])
        assert upstream.connections == 2


def test_head__longer_than_64_kib__is_invalid() -> None:
    lines = [f"X-Line-{number}: {'x' * 900}" for number in range(80)]
    with Upstream(lambda user: Reply(sized(body(user), *lines))) as upstream:
        assert fetch_name(amplitude(upstream), "alice") == "upstream_invalid"


# The check of the user id finds mixed-up answers that the transport cannot detect.


def about(**ids: Any) -> Callable[[str], Reply]:
    """Return a function that answers every request with these ids."""
    return lambda user: Reply(sized(json.dumps({"userData": {"amp_props": {"gp:name": user}, **ids}}).encode()))


def test_answer__another_users_answer_came_after_the_check__is_invalid() -> None:
    # Alice's answer is sent again directly before Bob's, too late for a check of the connection.
    with Upstream(
        lambda user: Reply(whole(user), late=whole(user) if user == "alice" else b"", patience=5)
    ) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        assert fetch_each(client, upstream) == ["alice", "upstream_invalid", "carol", "dave"]
        assert upstream.connections == 2


@pytest.mark.contract("1 another user")
@pytest.mark.parametrize(
    ("requested", "ids"),
    [
        (Identity("alice", None), {"user_id": "alice"}),
        (Identity("alice", None), {"user_id": " alice\n"}),
        (Identity("alice", None), {"user_id": "alice", "device_id": "any device"}),
        (Identity("alice", "device"), {"user_id": "alice", "device_id": "another device"}),
        (Identity("12345", None), {"user_id": 12345}),
        (Identity("9" * 400, None), {"user_id": int("9" * 400)}),
        (Identity(None, "device"), {"device_id": "device"}),
        (Identity(None, "device"), {"device_id": "device", "user_id": "whoever owns it"}),
        (Identity(None, "device"), {"device_id": None, "user_id": "whoever owns it"}),
        (Identity(None, "12345"), {"device_id": 12345}),
    ],
)
def test_answer__about_the_requested_user__is_taken_and_the_connection_reused(
    requested: Identity, ids: dict[str, Any]
) -> None:
    with Upstream(about(**ids)) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        assert client.fetch(requested, CALL).record.parts
        assert client.fetch(requested, CALL).record.parts
        assert upstream.connections == 1


@pytest.mark.contract("1 another user")
def test_answer__id_is_a_fraction__compared_by_its_text() -> None:
    with Upstream(about(user_id=12.5)) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        assert client.fetch(Identity("12.5", None), CALL).record.parts


@pytest.mark.contract("1 another user")
@pytest.mark.parametrize("ids", [{}, {"user_id": None}, {"user_id": "", "device_id": None}, {"user_id": " \t"}])
def test_answer__without_an_id__is_taken_and_the_connection_closed(ids: dict[str, Any]) -> None:
    """A late copy of such an answer could pass as the answer for the next user."""
    with Upstream(about(**ids)) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        assert client.fetch(Identity("alice", None), CALL).record.parts
        assert client.fetch(Identity("alice", None), CALL).record.parts
        assert upstream.connections == 2


@pytest.mark.contract("1 mixed-up answers")
def test_answer__about_a_device_was_repeated__is_invalid_for_the_next_user() -> None:
    about_device = about(user_id=None, device_id="device")("device").now
    with Upstream(lambda user: Reply(about_device, late=about_device, patience=5)) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        assert client.fetch(Identity(None, "device"), CALL).record.parts
        assert fetch_name(client, "bob") == "upstream_invalid"
        with pytest.raises(AnotherUser):
            client.fetch(Identity("bob", "device of bob"), CALL)


@pytest.mark.contract("1 another user")
@pytest.mark.parametrize(
    ("requested", "ids"),
    [
        (Identity("alice", None), {"user_id": "bob"}),
        (Identity("alice", None), {"user_id": "Alice"}),
        (Identity("alice", None), {"user_id": "ali ce"}),
        (Identity("alice", "device"), {"user_id": "bob", "device_id": "device"}),
        (Identity("12345", None), {"user_id": 12346}),
        (Identity("012345", None), {"user_id": 12345}),
        (Identity("1", None), {"user_id": True}),
        (Identity("True", None), {"user_id": True}),
        (Identity("alice", None), {"user_id": ["alice"]}),
        (Identity("alice", None), {"user_id": {}}),
        (Identity(None, "device"), {"device_id": "another"}),
        (Identity(None, "device"), {"device_id": "another", "user_id": "device"}),
    ],
)
def test_answer__about_another_user__is_invalid_and_its_connection_closed(
    requested: Identity, ids: dict[str, Any]
) -> None:
    with Upstream(about(**ids)) as upstream:
        client = amplitude(upstream, accept_mapped_users=False)
        for _ in range(2):
            with pytest.raises(AnotherUser) as fault:
                client.fetch(requested, CALL)
            assert isinstance(fault.value, UpstreamInvalid)
            assert "ACCEPT_MAPPED_USERS" in str(fault.value)
        assert upstream.connections == 2
        mapped = amplitude(upstream, accept_mapped_users=True)
        assert mapped.fetch(requested, CALL).record.parts


# TLS, and an operator's proxy.


def filling(user: str, size: int) -> bytes:
    """Return a response of exactly `size` bytes."""
    properties = {"gp:name": user, "gp:pad": ""}
    short = len(sized(json.dumps({"userData": {"amp_props": properties}}).encode()))
    for pad in range(size - short - 9, size):
        properties["gp:pad"] = "x" * pad
        if len(content := sized(json.dumps({"userData": {"amp_props": properties}}).encode())) == size:
            return content
    raise AssertionError("no padding fits")


def test_tls__good_responses__connection_is_reused(tls: ssl.SSLContext) -> None:
    with Upstream(lambda user: Reply(whole(user)), tls) as upstream:
        assert fetch_each(amplitude(upstream), upstream) == list(USERS)
        assert upstream.connections == 1


@pytest.mark.contract("1 mixed-up answers")
def test_tls__second_response_is_left_in_the_tls_layer__connection_is_closed(tls: ssl.SSLContext) -> None:
    # A record holds 16 KiB and Python's buffer 8 KiB: the socket is not readable, and the buffer is empty.
    def reply(user: str) -> Reply:
        return Reply(filling(user, 8192) + whole(user))

    with Upstream(reply, tls) as upstream:
        assert fetch_each(amplitude(upstream), upstream) == list(USERS)
        assert upstream.connections == 4


def test_tls__bytes_arrive_while_idle__connection_is_closed(tls: ssl.SSLContext) -> None:
    with Upstream(lambda user: Reply(whole(user), late=whole(user)), tls) as upstream:
        assert fetch_each(amplitude(upstream), upstream, idle=True) == list(USERS)
        assert upstream.connections == 4


def test_tls__204_whose_answer_comes_late__connection_is_closed(tls: ssl.SSLContext, idle: bool) -> None:
    with Upstream(lambda user: Reply(response(b"", status="204 No Content"), late=whole(user)), tls) as upstream:
        assert fetch_each(amplitude(upstream), upstream, idle=idle) == ["upstream_invalid"] * 4
        assert upstream.connections == 4


class Tunnel:
    """A proxy that opens tunnels (CONNECT) and counts them. It sends `extra` after the head of its answer."""

    def __init__(self, extra: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._extra = extra
        self.tunnels = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Tunnel:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(65536)
            host, port = head.split(b" ")[1].decode().split(":")
            self.tunnels += 1
            upstream = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + self._extra)
            threading.Thread(target=_join, args=(client, upstream), daemon=True).start()


def _join(client: socket.socket, upstream: socket.socket) -> None:
    """Copy bytes in both directions until one side closes."""
    with client, upstream, suppress(OSError):
        while True:
            for source in select.select([client, upstream], [], [])[0]:
                received = source.recv(65536)
                if not received:
                    return
                (upstream if source is client else client).sendall(received)


@pytest.mark.parametrize(
    ("reply", "tunnels"),
    [(lambda user: Reply(whole(user)), 1), (lambda user: Reply(whole(user) + whole(user)), 4)],
    ids=["good responses", "two responses at once"],
)
def test_tunnel__through_an_operators_proxy__reused_like_a_connection(
    reply: Callable[[str], Reply], tunnels: int, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tunnel() as proxy, Upstream(reply, tls) as upstream:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetch_each(amplitude(upstream), upstream) == list(USERS)
        assert (proxy.tunnels, upstream.connections) == (tunnels, tunnels)


def test_tunnel__bytes_follow_the_proxys_answer__is_unavailable(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tunnel(extra=whole("mallory")) as proxy, Upstream(lambda user: Reply(whole(user)), tls) as upstream:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetch_name(amplitude(upstream), "alice") == "upstream_unavailable"
        assert not upstream.users
