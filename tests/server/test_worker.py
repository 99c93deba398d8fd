"""The worker: fair turns, slow clients, graceful stop and process limits."""

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import gevent.socket
import pytest
import requests
import trustme
from gunicorn.config import Config
from gunicorn.glogging import Logger

from proxy.sandbox.faults import Fault, FaultKind
from proxy.sandbox.server import Sandbox
from proxy.server import connection as limits
from proxy.server.connection import Connection
from proxy.server.worker import Worker
from tests.conftest import KEYS, ROOT, SECRET, Service, StartService, free_port
from tests.support.wait import milliseconds, until

HEAD = f"Host: x\r\nX-API-Key: {SECRET}\r\n"


class Watched(Sandbox):
    """A sandbox that signals each call and records when it last answered."""

    answered_at = 0.0

    def __init__(self, latency: float) -> None:
        self.arrivals = threading.Semaphore(0)
        super().__init__(latency=latency)

    def __enter__(self) -> Watched:
        super().__enter__()
        return self

    def admit(self, query: dict[str, str]) -> tuple[bool, Fault | None]:
        self.arrivals.release()
        return super().admit(query)

    def answered(self, status: int) -> None:
        self.answered_at = time.monotonic()
        super().answered(status)


@contextlib.contextmanager
def half_sent(service: Service, number: int) -> Iterator[list[socket.socket]]:
    """Open connections whose request headers never end."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(service.address)) for _ in range(number)]
        for connection in connections:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        yield connections


def test_half_sent_requests__hundreds__other_requests_are_answered(service: Service) -> None:
    assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
    with half_sent(service, 300) as half_sent_connections:
        for number in range(60):
            half_sent_connections[number].sendall(b"x")
            assert (
                service.get("/v1/cohorts?user_id=ava")
                .headers["Cache-Status"]
                .startswith("connected-content-proxy; hit")
            )
        # A half-sent request that is completed in time is answered.
        half_sent_connections[-1].sendall(b"x\r\n\r\n")
        assert half_sent_connections[-1].recv(65536).startswith(b"HTTP/1.1 200")


def test_connections__several_ready__take_turns(start_service: StartService) -> None:
    with Watched(latency=1.0) as sandbox:
        service = start_service(sandbox)
        with contextlib.ExitStack() as stack:
            # Both connections wait for the same call, and all of their later requests are already sent.
            for name in "ab":
                connection = stack.enter_context(socket.create_connection(service.address))
                connection.sendall(f"GET /v1/cohorts?user_id=ava HTTP/1.1\r\n{HEAD}\r\n".encode())
                for number in range(50):
                    head = f"{HEAD}X-Request-ID: turn-{name}-{number}\r\n"
                    connection.sendall(f"GET /v1/cohorts?user_id=ava HTTP/1.1\r\n{head}\r\n".encode())
            until(lambda: service.log.read_text().count('"turn-') >= 100, "some requests have no answer")
        turns = re.findall(r'"turn-(\w)-\d+"', service.log.read_text())
    assert max(len(list(same)) for _, same in itertools.groupby(turns)) <= 3


def test_request__bytes_arrive_slowly__ends_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.3)
    accepted, client = gevent.socket.socketpair()
    connection = Connection(accepted, idle_seconds=5)
    # Each pause is shorter than the time limit.
    sender = gevent.spawn(lambda: [(client.send(b"x"), gevent.sleep(0.02)) for _ in range(500)])
    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        sum(len(connection.recv(1)) for _ in range(500))
    assert 0.3 <= time.monotonic() - started < 3
    connection.request_ended()
    assert connection.recv(1) == b"x", "the next request has its own time"
    sender.kill()
    client.close()
    connection.close()


def test_connection__listener_is_already_closed__answered() -> None:
    # A worker that stops closes its listeners. It may have accepted a connection just before.
    listener, client = gevent.socket.socket(), gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    client.connect(listener.getsockname())
    accepted, address = listener.accept()
    listener.close()
    config = Config()
    worker = Worker(1, os.getpid(), [], None, 30, config, Logger(config))
    client.sendall(b"not HTTP\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    worker.handle(listener, accepted, address)
    assert client.recv(65536).startswith(b"HTTP/1.1 400")
    client.close()
    worker.tmp.close()


def test_body__half_sent__400(service: Service) -> None:
    head = f"POST /v1/cohorts HTTP/1.1\r\n{HEAD}Content-Type: application/x-www-form-urlencoded\r\n"
    with socket.create_connection(service.address, timeout=5) as connection:
        connection.sendall(f"{head}Content-Length: 20\r\n\r\nuser_id=av".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert not service.sandbox.calls


def test_connection__idle__ends_after_its_own_time() -> None:
    accepted, client = gevent.socket.socketpair()
    connection = Connection(accepted, idle_seconds=0.05)
    assert connection.recv(1) == b""
    connection.close()
    assert client.recv(1) == b""
    client.close()


def test_answer__client_does_not_read__connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.1)
    accepted, client = gevent.socket.socketpair()
    connection = Connection(accepted, idle_seconds=5)
    with pytest.raises(ConnectionResetError):
        connection.sendall(b"x" * 50_000_000)
    connection.close()
    client.close()


def test_connections__more_than_allowed__longest_idle_are_closed(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox, options=("--worker-connections", "10"))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(HTTPConnection(*service.address, timeout=10))) for _ in range(30)
        ]
        for connection in clients:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
            answer.read()
        # The connection that was idle longest is closed. The last used connection is open.
        assert clients[0].sock.recv(1) == b""
        clients[-1].request("GET", "/healthz")
        assert clients[-1].getresponse().status == 200


def test_refusal__unread_bytes__arrives_without_a_reset(service: Service) -> None:
    with socket.create_connection(service.address, timeout=5) as connection:
        connection.sendall(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + b"y" * 30_000)
        received = b""
        while data := connection.recv(65536):  # a reset could discard bytes that were not yet read
            received += data
    assert received.startswith(b"HTTP/1.1 414")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == 414


def readiness(connection: HTTPConnection) -> tuple[int, str, str | None]:
    """Return the HTTP status, the status word and the Connection header of /readyz."""
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())["status"], answer.getheader("Connection")


@pytest.mark.contract("3 probes")
def test_stop__requests_in_progress__answered_and_connections_closed(start_service: StartService) -> None:
    with Watched(latency=0.8) as sandbox:
        service = start_service(sandbox)
        first, second = (HTTPConnection(*service.address, timeout=10) for _ in range(2))
        for connection in (first, second):
            assert readiness(connection) == (200, "ok", "keep-alive")
        users = range(1, 21)
        with half_sent(service, 3), ThreadPoolExecutor(len(users)) as pool:
            pending = [pool.submit(service.get, f"/v1/cohorts?user_id=user-{user}") for user in users]
            for _ in users:
                assert sandbox.arrivals.acquire(timeout=10)
            service.process.send_signal(signal.SIGTERM)

            # An answer sent while the signal arrives may have "ok" and "close". The next answer has "draining".
            until(lambda: readiness(first)[2] == "close", "the kept-alive connection got no Connection: close")
            assert readiness(second) == (503, "draining", "close")
            answers = [answer.result() for answer in pending]
            assert {answer.status_code for answer in answers} == {200}
            assert all(answer.json()["ok"] for answer in answers)
            with pytest.raises(requests.ConnectionError):
                service.get("/healthz")
            assert service.process.wait(15) == 0
    assert "Traceback" not in service.log.read_text()


def test_stop__call_without_a_caller__finishes_first(start_service: StartService) -> None:
    with Watched(latency=1.2) as sandbox:
        service = start_service(sandbox, RESPONSE_DEADLINE_SECONDS="0.5")
        assert service.get("/v1/cohorts?user_id=ava").json()["error"] == "upstream_timeout"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert sandbox.answered_at, "the process ended before its call"
        assert time.monotonic() - sandbox.answered_at < 5, "the process did not end soon after its call"


def test_stop__request_waits_for_a_call__answer_closes_the_connection(start_service: StartService) -> None:
    with Sandbox(latency=1.0) as sandbox, ThreadPoolExecutor(1) as pool:
        service = start_service(sandbox)
        pending = pool.submit(service.get, "/v1/cohorts?user_id=ava")
        until(lambda: sandbox.calls, "no call came")
        service.process.send_signal(signal.SIGTERM)
        answer = pending.result(10)
    assert answer.json()["ok"]
    assert answer.headers["Connection"] == "close"


def test_stop__idle_connections__ends_soon(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox)
    with half_sent(service, 20), requests.Session() as session:
        assert session.get(f"{service.url}/healthz", timeout=5).status_code == 200
        stopped_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert time.monotonic() - stopped_at < 10, "half-sent requests have 2 s, not the graceful timeout of 25 s"


_STARTING_WORKER = """
import os, signal
from gunicorn.config import Config
from gunicorn.glogging import Logger
from proxy.server.worker import Worker

class StartingWorker(Worker):
    def patch(self):
        os.kill(os.getpid(), signal.SIGTERM)
        super().patch()

    def load_wsgi(self):
        pass

    def run(self):
        print("serves" if self.alive else "stops")

signal.signal(signal.SIGTERM, lambda *_: None)  # the handler that a worker has from the master
config = Config()
StartingWorker(1, os.getppid(), [], None, 30, config, Logger(config)).init_process()
"""


def test_stop__signal_arrives_before_the_worker_is_patched__worker_stops() -> None:
    command = [sys.executable, "-c", _STARTING_WORKER]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "stops\n"


@pytest.mark.slow
def test_worker__killed__is_replaced_and_the_first_request_has_time_for_its_call(
    start_service: StartService, sandbox: Sandbox
) -> None:
    service = start_service(sandbox)
    assert service.get("/v1/cohorts?user_id=ava").json()["ok"]
    os.kill(service.workers()[0], signal.SIGKILL)
    until(lambda: len(service.workers()) == 2, "no other worker was started")
    answer = service.get("/v1/cohorts?user_id=ava")  # waits in the listener until the worker serves
    assert answer.json()["ok"]
    assert answer.headers["X-Amplitude-Calls"] == "1", "without Redis, the cache of a killed worker is lost"


@pytest.mark.contract("4 workers")
def test_start__several_workers_without_redis__one_runs_and_it_is_logged(
    start_service: StartService, sandbox: Sandbox
) -> None:
    service = start_service(sandbox, WEB_CONCURRENCY="3", REDIS_URL=" ")
    assert len(service.workers()) == 1
    assert "WEB_CONCURRENCY is ignored without REDIS_URL" in service.log.read_text()


@pytest.mark.contract("4 workers")
def test_start__several_workers_with_redis__all_run(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    until(lambda: len(service.workers()) == 2, "only one worker was started")
    assert "WEB_CONCURRENCY is ignored" not in service.log.read_text()


def failed_start(*options: str, **variables: str) -> str:
    """Return the error output of a start that fails."""
    completed = subprocess.run(
        [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{free_port()}", *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "AMPLITUDE_SECRET_KEY": "x", "PROXY_API_KEYS": KEYS} | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert completed.returncode == 1
    assert "Traceback" not in completed.stderr
    return completed.stderr


@pytest.mark.parametrize("count", ["0", "1000"])
def test_start__worker_count_out_of_range__refused(count: str) -> None:
    error = failed_start(REDIS_URL="redis://127.0.0.1:1", WEB_CONCURRENCY=count)
    assert error.strip() == "WEB_CONCURRENCY must be a whole number from 1 to 64, e.g. WEB_CONCURRENCY=2"


def test_start__certificate__refused() -> None:
    assert "terminate TLS in a reverse proxy" in failed_start("--certfile", "wsgi.py", "--keyfile", "wsgi.py")


@pytest.mark.parametrize(
    "option",
    [("--protocol", "uwsgi"), ("--http2-cleartext", "both"), ("--proxy-protocol",), ("--http-parser", "auto")],
    ids=lambda option: option[0],
)
def test_start__protocol_without_limits__refused(option: tuple[str, ...]) -> None:
    assert "; remove the option from gunicorn's settings" in failed_start(*option)


def limited(limits: str) -> tuple[str, ...]:
    """Return a command that runs another command with `limits` on open files."""
    return "sh", "-c", f'{limits} && exec "$@"', "sh"


def open_files(pid: int) -> int:
    """Return how many files a process may open."""
    limit = re.search(r"Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert limit
    return int(limit[1])


def test_start__low_soft_limit_on_open_files__raised(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox, before=limited("ulimit -Sn 256"))
    assert open_files(service.workers()[0]) == 4400
    assert "files" not in service.log.read_text()


def test_start__low_hard_limit_on_open_files__logged_with_the_fix(
    start_service: StartService, sandbox: Sandbox
) -> None:
    service = start_service(sandbox, before=limited("ulimit -n 700"))
    warnings = [line for line in service.log.read_text().splitlines() if "files" in line]
    assert len(warnings) == 1
    assert "limit of 700 open files allows a worker 350 connections instead of 4000" in warnings[0]
    assert "raise the limit to 4400 (ulimit -Hn" in warnings[0]


def test_master__before_the_fork__imports_nothing_that_takes_a_lock() -> None:
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
        "proxy.api.caller_keys",
        "proxy.api.setting_readers",
        "proxy.api.urls",
        "proxy.monitoring",
        "proxy.monitoring.log_format",
        "proxy.profile",
        "proxy.profile.aliases",
        "proxy.profile.liquid_names",
        "proxy.profile.parts",
        "proxy.profile.values",
        "proxy.server",
        "proxy.server.connection",
        "proxy.server.gc_tuning",
        "proxy.server.worker",
        "proxy.settings",
    }
    # These modules keep a lock that blocks every greenlet, or gevent cannot patch them later.
    assert not {"concurrent.futures.thread", "flask", "requests", "urllib3", "redis"} & set(loaded)


def test_other_server__threads__serves_the_same_application(start_service: StartService, sandbox: Sandbox) -> None:
    service = start_service(sandbox, options=("-c", os.devnull, "-k", "gthread", "--threads", "4"))
    assert "gthread" in service.log.read_text()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.get("/v1/cohorts?user_id=ava").json(), range(8)))
    assert all(answer["ok"] for answer in answers)
    assert sandbox.report()["calls"] == 1


@pytest.fixture(scope="module")
def tls_service(start_module_service: StartService) -> Iterator[Service]:
    """Return a service whose calls take at most 0.5 s, in front of a sandbox with TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Sandbox(tls=context) as sandbox, authority.cert_pem.tempfile() as bundle:
        yield start_module_service(sandbox, REQUESTS_CA_BUNDLE=bundle, AMPLITUDE_TIMEOUT_SECONDS="0.5")


@pytest.mark.parametrize(("kind", "user"), [("hang", "ava"), ("drip-headers", "ben"), ("drip-body", "cleo")])
def test_call_over_tls__faulty_upstream__ends_in_time(tls_service: Service, kind: FaultKind, user: str) -> None:
    tls_service.sandbox.break_with(None)
    until(lambda: tls_service.get(f"/v1/cohorts?user_id=before-{kind}").json()["ok"])
    tls_service.sandbox.break_with(Fault(kind, seconds=20))
    answer = tls_service.get(f"/v1/cohorts?user_id={user}")
    assert answer.json()["error"] == "upstream_timeout"
    (elapsed_ms,) = milliseconds(tls_service.log, answer)
    assert elapsed_ms < 1200, "the call's own time limit applies, not the request's"


def test_request__headers_that_name_a_script_or_path__do_not_change_the_path(service: Service) -> None:
    for name in ("SCRIPT_NAME", "PATH_INFO", "Script-Name", "Path-Info"):
        answer = requests.get(f"{service.url}/healthz", headers={name: "/v1"}, timeout=10)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok"), name


def test_request__headers_that_contradict_each_other_about_the_scheme__ignored(service: Service) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Protocol": "http"}
    assert requests.get(f"{service.url}/healthz", headers=headers, timeout=10).status_code == 200


RELEASE_A_SEMAPHORE = """
from proxy.server.worker import Worker
worker = Worker.__new__(Worker)
worker.sockets = []
worker.patch()
import queue, threading, gevent
semaphore, waiting = threading.BoundedSemaphore(1), queue.LifoQueue()
turns = []
gevent.spawn(turns.append, "another")
with semaphore:
    waiting.put("item")
waiting.get()
print(len(turns))
gevent.sleep(0)
print(len(turns))
try:
    threading.Condition(threading.Lock()).notify()
except RuntimeError:
    print("refused")
"""


def test_patch__semaphore_or_queue_is_used__no_turn_of_the_event_loop() -> None:
    program = [sys.executable, "-c", RELEASE_A_SEMAPHORE]
    printed = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["0", "1", "refused"]
