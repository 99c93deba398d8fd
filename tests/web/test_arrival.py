"""The time since a request arrived, and how it shortens the wait for Amplitude."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from proxy.fetch.service import ProfileResult
from proxy.web.arrival import seconds_since_arrival, wait_until
from proxy.web.services import installed
from tests.conftest import SECRET
from tests.support.fakes import FakeClock

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
    client, accepted = socket.socketpair()
    with client, accepted:
        assert seconds_since_arrival({"gunicorn.socket": accepted}) == 0


class QueuedConnection:
    """A connection whose request arrived `seconds` ago. Counts the calls."""

    def __init__(self, seconds: float) -> None:
        self.calls = 0
        self._seconds = seconds

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        self.calls += 1
        return struct.pack("=52xI", round(self._seconds * 1000))[:size]


@LINUX
@pytest.mark.parametrize(
    ("queued", "waits"), [(0, 8), (1, 6), (2, 4), (100, 4)], ids=["not queued", "queued", "at the limit", "long queued"]
)
def test_wait_until__queued__shorter_by_twice_the_time_and_at_most_by_half(
    clock: FakeClock, queued: float, waits: float
) -> None:
    started = clock.monotonic()
    clock.advance(0.5)  # for example, reading from Redis
    environ = {"gunicorn.socket": QueuedConnection(queued + 0.5)}
    assert wait_until(environ, clock, started, 8) == started + waits


@LINUX
def test_wait_until__body_arrived_after_the_start__not_shortened(clock: FakeClock) -> None:
    started = clock.monotonic()
    clock.advance(3)
    assert wait_until({"gunicorn.socket": QueuedConnection(1)}, clock, started, 8) == started + 8


@LINUX
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])  # Flask answers HEAD, and the middleware the others
def test_request__queued__shorter_wait_for_a_call_and_no_system_call_for_a_fresh_hit(
    app: Flask, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    app_services, times = installed(app), []
    get = app_services.profiles.get

    def recording_get(*arguments: Any, until: Callable[[], float], **options: Any) -> ProfileResult:
        def recorded() -> float:
            times.append(until() - clock.monotonic())
            return until()

        return get(*arguments, until=recorded, **options)

    monkeypatch.setattr(app_services.profiles, "get", recording_get)
    connection = QueuedConnection(0.25)

    def ask() -> None:
        answer = app.test_client().open(
            "/v1/cohorts?user_id=ava",
            method=method,
            headers={"X-API-Key": SECRET},
            environ_overrides={"gunicorn.socket": connection},
        )
        assert answer.status_code == 200

    ask()
    assert times == [pytest.approx(app_services.wait_seconds - 0.5)]
    calls = connection.calls
    assert calls
    ask()
    assert len(times) == 1
    assert connection.calls == calls
