"""The time since a request arrived, and how it shortens the wait of a request."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from proxy.app import create_app
from proxy.settings import Settings
from proxy.web.arrival import seconds_since_arrival
from tests.conftest import KEYS, SECRET
from tests.support.fakes import FakeClock, FakeSource

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports when data arrived")


@contextlib.contextmanager
def accepted_connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the client's and the server's end of a connection on loopback."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        yield client, accepted


@LINUX
def test_seconds_since_arrival__request_waits_in_the_socket__counted_from_its_last_byte() -> None:
    with accepted_connection() as (client, accepted):
        before = time.monotonic()
        client.sendall(b"GET /")
        time.sleep(0.1)
        waited = seconds_since_arrival({"gunicorn.socket": accepted})
        assert 0.05 < waited <= time.monotonic() - before + 0.01
        # Reading does not change the time of arrival.
        accepted.recv(5)
        assert seconds_since_arrival({"gunicorn.socket": accepted}) >= waited


def test_seconds_since_arrival__no_tcp_connection__zero() -> None:
    assert seconds_since_arrival({}) == 0
    ours, peers = socket.socketpair()
    with ours, peers:
        assert seconds_since_arrival({"gunicorn.socket": ours}) == 0


class QueuedConnection:
    """A connection whose request arrived `seconds` ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return struct.pack("=52xI", round(self._seconds * 1000))[:size]


@LINUX
def test_request__queued_for_more_than_half_of_the_deadline__answered_without_waiting(
    source: FakeSource, clock: FakeClock
) -> None:
    settings = Settings.from_env(
        {"AMPLITUDE_SECRET_KEY": "k", "PROXY_API_KEYS": KEYS, "RESPONSE_DEADLINE_SECONDS": "30"}
    )
    source.open.clear()
    client = create_app(settings, fetch=source.fetch, clock=clock).test_client()
    answer = client.get(
        "/v1/cohorts?user_id=ava",
        headers={"X-API-Key": SECRET},
        environ_overrides={"gunicorn.socket": QueuedConnection(16)},
    )
    source.open.set()
    assert answer.status_code == 200
    assert answer.get_json()["error"] in ("quota_exhausted", "upstream_timeout"), (
        "the request waited until the call failed"
    )
