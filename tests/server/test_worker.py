"""The worker: whose turn it is, who dawdles, how it stops, and what a process is allowed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import gevent.socket
import pytest
import requests
import trustme

from proxy.sandbox.faults import Fault, FaultKind
from proxy.sandbox.server import Sandbox
from proxy.server import connection as limits
from proxy.server.connection import Connection
from tests.conftest import KEYS, ROOT, SECRET, Service, free_port

Start = Callable[..., Service]
HEAD = f"Host: x\r\nX-API-Key: {SECRET}\r\n"


class Watched(Sandbox):
    """A sandbox that tells when a call has come, and when it was last answered."""

    answered_at = 0.0

    def __init__(self, latency: float) -> None:
        self.came = threading.Semaphore(0)
        super().__init__(latency=latency)

    def __enter__(self) -> Watched:
        super().__enter__()
        return self

    def admit(self, query: dict[str, str]) -> tuple[bool, Fault | None]:
        self.came.release()
        return super().admit(query)

    def answered(self, status: int) -> None:
        self.answered_at = time.monotonic()
        super().answered(status)


def until(said: Callable[[], bool], why: str, seconds: float = 10) -> None:
    """Return as soon as `said` is true."""
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline, why
        threading.Event().wait(0.02)


def workers(service: Service) -> list[int]:
    """Return the process ids of the workers that were started so far."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", service.log.read_text())]


@contextlib.contextmanager
def half_sent(service: Service, number: int) -> Iterator[list[socket.socket]]:
    """Keep connections whose request never ends its headers."""
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(socket.create_connection(service.address)) for _ in range(number)]
        for connection in connections:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        yield connections


def test_hundreds_of_half_sent_requests_keep_nobody_from_an_answer(service: Service) -> None:
    assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
    with half_sent(service, 300) as dawdling:
        for number in range(60):
            dawdling[number].sendall(b"x")
            assert (
                service.get("/v1/cohorts?user_id=ava")
                .headers["Cache-Status"]
                .startswith("connected-content-proxy; hit")
            )
        # Nor is any of them lost: whoever ends the request in time has an answer.
        dawdling[-1].sendall(b"x\r\n\r\n")
        assert dawdling[-1].recv(65536).startswith(b"HTTP/1.1 200")


def test_connections_that_are_ready_take_turns(start_service: Start) -> None:
    with Watched(latency=1.0) as sandbox:
        service = start_service(sandbox)
        with contextlib.ExitStack() as opened:
            # Both wait for the same call; behind it each has sent all that it will ever ask.
            for name in "ab":
                connection = opened.enter_context(socket.create_connection(service.address))
                connection.sendall(f"GET /v1/cohorts?user_id=ava HTTP/1.1\r\n{HEAD}\r\n".encode())
                for number in range(50):
                    head = f"{HEAD}X-Request-ID: turn-{name}-{number}\r\n"
                    connection.sendall(f"GET /v1/cohorts?user_id=ava HTTP/1.1\r\n{head}\r\n".encode())
            until(lambda: service.log.read_text().count('"turn-') >= 100, "not everything was answered")
        turns = re.findall(r'"turn-(\w)-\d+"', service.log.read_text())
    assert max(len(list(same)) for _, same in itertools.groupby(turns)) <= 3


def test_a_request_has_its_time_as_a_whole_however_it_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.3)
    here, there = gevent.socket.socketpair()
    connection = Connection(here, idle_seconds=5)
    # Never a pause as long as the time as a whole.
    dripping = gevent.spawn(lambda: [(there.send(b"x"), gevent.sleep(0.02)) for _ in range(500)])
    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        sum(len(connection.recv(1)) for _ in range(500))
    assert 0.3 <= time.monotonic() - started < 3
    connection.request_ended()
    assert connection.recv(1) == b"x", "the next request has its own time"
    dripping.kill()
    there.close()
    connection.close()


def test_half_a_body_is_not_taken_for_a_whole_one(service: Service) -> None:
    head = f"POST /v1/cohorts HTTP/1.1\r\n{HEAD}Content-Type: application/x-www-form-urlencoded\r\n"
    with socket.create_connection(service.address, timeout=5) as connection:
        connection.sendall(f"{head}Content-Length: 20\r\n\r\nuser_id=av".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert not service.sandbox.calls


def test_an_idle_connection_ends_after_its_own_time() -> None:
    here, there = gevent.socket.socketpair()
    connection = Connection(here, idle_seconds=0.05)
    assert connection.recv(1) == b""
    connection.close()
    assert there.recv(1) == b""
    there.close()


def test_who_does_not_take_the_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.1)
    here, there = gevent.socket.socketpair()
    connection = Connection(here, idle_seconds=5)
    with pytest.raises(ConnectionResetError):
        connection.sendall(b"x" * 50_000_000)
    connection.close()
    there.close()


def test_idle_connections_make_room_for_new_ones(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, options=("--worker-connections", "10"))
    with contextlib.ExitStack() as opened:
        kept = [
            opened.enter_context(contextlib.closing(HTTPConnection(*service.address, timeout=10))) for _ in range(30)
        ]
        for connection in kept:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
            answer.read()
        # The longest unused has gone, the one used last has not.
        assert kept[0].sock.recv(1) == b""
        kept[-1].request("GET", "/healthz")
        assert kept[-1].getresponse().status == 200


def test_a_refusal_arrives_though_more_was_sent_than_read(service: Service) -> None:
    with socket.create_connection(service.address, timeout=5) as connection:
        connection.sendall(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + b"y" * 30_000)
        received = b""
        while data := connection.recv(65536):  # and no reset, which may destroy what is not yet read
            received += data
    assert received.startswith(b"HTTP/1.1 414")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == 414


def readiness(kept: HTTPConnection) -> tuple[int, str, str | None]:
    """Return status and word of /readyz, and whether the connection is kept."""
    kept.request("GET", "/readyz")
    answer = kept.getresponse()
    return answer.status, json.loads(answer.read())["status"], answer.getheader("Connection")


@pytest.mark.contract("3 probes")
def test_a_polite_stop_answers_what_was_read_and_says_so_to_who_asks_on(start_service: Start) -> None:
    with Watched(latency=0.8) as sandbox:
        service = start_service(sandbox)
        kept, another = (HTTPConnection(*service.address, timeout=10) for _ in range(2))
        for one in (kept, another):
            assert readiness(one) == (200, "ok", "keep-alive")
        users = range(1, 21)
        with half_sent(service, 3), ThreadPoolExecutor(len(users)) as pool:
            asked = [pool.submit(service.get, f"/v1/cohorts?user_id=user-{user}") for user in users]
            for _ in users:
                assert sandbox.came.acquire(timeout=10)
            service.process.send_signal(signal.SIGTERM)

            # The signal may come in the midst of an answer, which then says "ok" and "close"; the next one is sure.
            until(lambda: readiness(kept)[2] == "close", "the kept-alive connection was never told")
            assert readiness(another) == (503, "draining", "close")
            answers = [one.result() for one in asked]
            assert {answer.status_code for answer in answers} == {200}
            assert all(answer.json()["ok"] for answer in answers)
            with pytest.raises(requests.ConnectionError):
                service.get("/healthz")
            assert service.process.wait(15) == 0
    assert "Traceback" not in service.log.read_text()


def test_a_call_that_was_sent_is_awaited_before_the_end_also_when_its_caller_has_left(start_service: Start) -> None:
    with Watched(latency=2.0) as sandbox:
        service = start_service(sandbox, RESPONSE_DEADLINE_SECONDS="0.5")
        assert service.get("/v1/cohorts?user_id=ava").json()["error"] == "upstream_timeout"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert sandbox.answered_at, "the process ended before its call did"
        assert time.monotonic() - sandbox.answered_at < 5, "and not much later"


def test_who_waits_for_a_call_while_we_begin_to_stop_is_told_to_connect_anew(start_service: Start) -> None:
    with Sandbox(latency=1.0) as sandbox, ThreadPoolExecutor(1) as pool:
        service = start_service(sandbox)
        waiting = pool.submit(service.get, "/v1/cohorts?user_id=ava")
        deadline = time.monotonic() + 10
        while not sandbox.calls:
            assert time.monotonic() < deadline, "no call came"
            threading.Event().wait(0.01)
        service.process.send_signal(signal.SIGTERM)
        answer = waiting.result(10)
    assert answer.json()["ok"]
    assert answer.headers["Connection"] == "close"


def test_an_idle_service_stops_soon_though_connections_are_open(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox)
    with half_sent(service, 20), requests.Session() as session:
        assert session.get(f"{service.url}/healthz", timeout=5).status_code == 200
        asked_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert time.monotonic() - asked_at < 10, "2 s for what may be on its way; not the 25 s of the graceful timeout"


def test_a_killed_worker_is_replaced(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox)
    assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
    os.kill(workers(service)[0], signal.SIGKILL)
    until(lambda: len(workers(service)) == 2, "no other worker was started")
    answer = service.get("/v1/cohorts?user_id=ava")
    assert answer.json()["ok"]
    assert answer.headers["X-Amplitude-Calls"] == "1", "without Redis its cache is gone with it"


@pytest.mark.contract("4 workers")
def test_without_redis_one_worker_runs_and_says_so(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, WEB_CONCURRENCY="3", REDIS_URL=" ")
    assert len(workers(service)) == 1
    assert "WEB_CONCURRENCY is ignored without REDIS_URL" in service.log.read_text()


@pytest.mark.contract("4 workers")
def test_with_redis_as_many_run_as_were_asked_for(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    until(lambda: len(workers(service)) == 2, "only one worker was started")
    assert "WEB_CONCURRENCY" not in service.log.read_text()


def refused(*options: str, **variables: str) -> str:
    """Return what a start says that is refused."""
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{free_port()}", *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "AMPLITUDE_SECRET_KEY": "x", "PROXY_API_KEYS": KEYS} | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("count", ["0", "1000"])
def test_no_worker_or_too_many_stop_the_start(count: str) -> None:
    said = refused(REDIS_URL="redis://127.0.0.1:1", WEB_CONCURRENCY=count)
    assert said.strip() == "WEB_CONCURRENCY must be a whole number from 1 to 64, e.g. WEB_CONCURRENCY=2"


def test_a_certificate_is_refused_and_not_left_unused() -> None:
    assert "let a proxy in front end TLS" in refused("--certfile", "wsgi.py", "--keyfile", "wsgi.py")


@pytest.mark.parametrize(
    "option",
    [("--protocol", "uwsgi"), ("--http2-cleartext", "both"), ("--proxy-protocol",)],
    ids=lambda option: option[0],
)
def test_start__protocol_without_limits__refused(option: tuple[str, ...]) -> None:
    assert "; remove the option from gunicorn's settings" in refused(*option)


def limited(limits: str) -> tuple[str, ...]:
    """Return a command that runs another within these limits on open files."""
    return "sh", "-c", f'{limits} && exec "$@"', "sh"


def open_files(pid: int) -> int:
    """Return how many files a process may open."""
    found = re.search(r"Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found
    return int(found[1])


def test_the_limit_on_open_files_is_raised_as_far_as_it_must(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, before=limited("ulimit -Sn 256"))
    assert open_files(workers(service)[0]) == 4400
    assert "files" not in service.log.read_text()


def test_a_limit_that_cannot_be_raised_is_told_with_the_mend(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, before=limited("ulimit -n 700"))
    told = [line for line in service.log.read_text().splitlines() if "files" in line]
    assert len(told) == 1
    assert "may open 700 files: a worker takes 350 connections, not 4000; allow 4400 (ulimit -Hn" in told[0]


def test_nothing_that_takes_a_lock_is_imported_before_the_fork() -> None:
    program = (
        "import gunicorn.app.wsgiapp, proxy.server.worker, sys; exec(open('gunicorn.conf.py').read());"
        "print(*sys.modules)"
    )
    env = {"AMPLITUDE_SECRET_KEY": "x", "PROXY_API_KEYS": KEYS}
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in loaded if name.startswith("proxy.")} == {
        "proxy.api",
        "proxy.api.keys",
        "proxy.api.urls",
        "proxy.profile",
        "proxy.profile.aliases",
        "proxy.profile.parts",
        "proxy.server",
        "proxy.server.connection",
        "proxy.server.gc_tuning",
        "proxy.server.worker",
        "proxy.settings",
    }
    # Of the standard library, what would keep a lock that blocks every greenlet, and what gevent cannot patch late.
    assert not {"concurrent.futures.thread", "flask", "requests", "urllib3", "redis"} & set(loaded)


def test_an_unpatched_threaded_server_serves_the_same_application(start_service: Start, sandbox: Sandbox) -> None:
    service = start_service(sandbox, options=("-c", os.devnull, "-k", "gthread", "--threads", "4"))
    assert "gthread" in service.log.read_text()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.get("/v1/cohorts?user_id=ava").json(), range(8)))
    assert all(answer["ok"] for answer in answers)
    assert sandbox.report()["calls"] == 1


@pytest.mark.parametrize("kind", ["hang", "drip-headers", "drip-body"])
def test_over_tls_a_call_comes_or_ends_in_time_in_the_worker_too(start_service: Start, kind: FaultKind) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Sandbox(tls=context) as sandbox, authority.cert_pem.tempfile() as bundle:
        service = start_service(sandbox, REQUESTS_CA_BUNDLE=bundle, AMPLITUDE_TIMEOUT_SECONDS="0.5")
        assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
        sandbox.break_with(Fault(kind, seconds=20))
        answer = service.get("/v1/cohorts?user_id=ben")
        assert answer.json()["error"] == "upstream_timeout"
        assert answer.elapsed.total_seconds() < 1.2, "by the call's own time, not by the caller's"
