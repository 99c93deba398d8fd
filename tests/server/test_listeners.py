"""Several workers: their listeners share the connections, and lose none when a worker or the service stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection

import psutil
import pytest

from proxy.sandbox.server import Sandbox
from tests.support.redis_server import RedisServer
from tests.support.service import KEYS, ROOT, Service, StartService, environment, gunicorn
from tests.support.wait import until


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def two_workers(start_service: StartService, sandbox: Sandbox, redis: RedisServer) -> tuple[Service, list[int]]:
    """Start a service with two workers that serve. Return it with their process ids."""
    service = start_service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=redis.url)
    until(lambda: service.log.read_text().count('"event":"started"') == 2, "a worker did not start")
    until(lambda: json.loads(service.get("/readyz").content)["status"] == "ok", "Redis is not used")
    return service, service.workers()


def connections_of(worker: int, port: int) -> int:
    """Return the number of open connections that the worker has accepted."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        for connection in psutil.Process(worker).net_connections("tcp")
    )


def opened(service: Service, count: int, stack: ExitStack) -> list[HTTPConnection]:
    """Open connections without sending a request."""
    connections = [HTTPConnection(*service.address, timeout=10) for _ in range(count)]
    for connection in connections:
        connection.connect()
        stack.callback(connection.close)
    return connections


def statuses(connections: list[HTTPConnection]) -> set[int]:
    """Send a request over each connection, and then return the statuses of the answers."""
    for connection in connections:
        connection.request("GET", "/healthz")
    return {connection.getresponse().status for connection in connections}


def test_workers__two_hundred_idle_connections__spread_over_both(
    start_service: StartService, sandbox: Sandbox, redis: RedisServer
) -> None:
    service, workers = two_workers(start_service, sandbox, redis)
    with ExitStack() as stack:
        opened(service, 200, stack)
        port = service.address[1]
        until(lambda: sum(connections_of(worker, port) for worker in workers) == 200, "a connection was not accepted")
        counts = [connections_of(worker, port) for worker in workers]
    assert min(counts) >= 60, counts


@pytest.mark.slow
def test_workers__one_is_stopped_or_killed__the_other_serves_its_queue(
    start_service: StartService, sandbox: Sandbox, redis: RedisServer
) -> None:
    service, workers = two_workers(start_service, sandbox, redis)
    os.kill(workers[0], signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            assert statuses(opened(service, 40, stack)) == {200}
    finally:
        os.kill(workers[0], signal.SIGKILL)
    with ExitStack() as stack:
        assert statuses(opened(service, 40, stack)) == {200}
        until(lambda: service.log.read_text().count('"event":"started"') == 3, "the worker was not replaced")
        assert statuses(opened(service, 40, stack)) == {200}


@pytest.mark.slow
def test_workers__reload__no_connection_is_lost_and_both_new_workers_serve(
    start_service: StartService, sandbox: Sandbox, redis: RedisServer
) -> None:
    service, old = two_workers(start_service, sandbox, redis)
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        ended = threading.Event()

        def keep_asking() -> int:
            asked = 0
            while not ended.is_set():
                with ExitStack() as each:
                    assert statuses(opened(service, 8, each)) == {200}
                asked += 8
            return asked

        asked = pool.submit(keep_asking)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: not any(psutil.pid_exists(worker) for worker in old), "an old worker did not stop", 30)
        ended.set()
        assert asked.result(20) > 0
        assert statuses(opened(service, 100, stack)) == {200}
        new = service.workers()[2:]
        counts = [connections_of(worker, service.address[1]) for worker in new]
    assert min(counts) >= 20, counts


def test_workers__sigterm_with_connections_in_the_queues__all_answered(
    start_service: StartService, sandbox: Sandbox, redis: RedisServer
) -> None:
    service, workers = two_workers(start_service, sandbox, redis)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    with ExitStack() as stack:
        connections = opened(service, 40, stack)
        service.process.send_signal(signal.SIGTERM)
        for connection in connections:
            connection.request("GET", "/healthz")
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        assert {connection.getresponse().status for connection in connections} == {200}
    assert service.process.wait(20) == 0


@pytest.mark.slow  # gunicorn tries for five seconds
def test_start__port_of_a_running_service__refused(
    start_service: StartService, sandbox: Sandbox, redis: RedisServer
) -> None:
    service, _ = two_workers(start_service, sandbox, redis)
    variables = {"AMPLITUDE_SECRET_KEY": "x", "PROXY_API_KEYS": KEYS, "WEB_CONCURRENCY": "2", "REDIS_URL": redis.url}
    ended = subprocess.run(
        gunicorn("wsgi:app", service.address[1]),
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert f"Can't connect to ('127.0.0.1', {service.address[1]})" in ended.stderr
