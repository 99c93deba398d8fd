"""Sends load from one event loop over keep-alive connections, and checks that the loop was fast enough."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

TIMEOUT_SECONDS = 2.0
"""Braze's time limit for a call."""
_TOO_LATE_SECONDS = 0.05
"""If the delay of the loop (p99) is larger, the figures are invalid."""
_TICK = 0.01


class Answer(NamedTuple):
    """An answer with undecoded headers."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        _, separator, rest = self.head.lower().partition(f"\r\n{name.lower()}: ".encode())
        return rest.partition(b"\r\n")[0].decode() if separator else None


class Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request in flight."""

    def __init__(self) -> None:
        self.closed = False
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def request(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request. Return a future with the answer or a ConnectionError."""
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or self._answer is None or self._answer.done():
            return
        answer = Answer(int(head[9:12]), head, body)
        if len(body) >= int(answer.header("content-length") or 0):
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError())

    def close(self) -> None:
        self._transport.close()


async def connect(port: int) -> Connection:
    """Return a new connection to a port of this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


def get_request(path: str, *headers: str) -> bytes:
    """Return the bytes of a GET request."""
    return request_head("GET", path, *headers)


def request_head(method: str, path: str, *headers: str) -> bytes:
    """Return the bytes of a request up to its body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


class Connections:
    """Connections to one port, used in turn: at least `minimum`, and as many as there are concurrent requests."""

    def __init__(self, port: int, *headers: str, minimum: int = 0) -> None:
        self._port = port
        self._headers = headers
        self._minimum = minimum
        self._open = 0
        self._idle: deque[Connection] = deque()

    async def open(self, count: int) -> None:
        """Open `count` idle connections."""
        for _ in range(count):
            self._idle.append(await connect(self._port))
            self._open += 1

    async def get(self, path: str, *headers: str) -> Answer:
        """Return the answer to a GET request. Raises OSError. A cancelled wait closes the connection."""
        return await self._answer(get_request(path, *self._headers, *headers))

    async def post(self, path: str, body: bytes) -> Answer:
        """Return the answer to a POST request with a JSON body. Errors are those of `get`."""
        head = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        return await self._answer(request_head("POST", path, *self._headers, *head) + body)

    async def _answer(self, request: bytes) -> Answer:
        connection = await self._connection()
        answer = None
        try:
            answer = await connection.request(request)
        finally:
            if answer is None or answer.header("connection") == "close":
                self._drop(connection)
            else:
                self._idle.append(connection)
        return answer

    async def _connection(self) -> Connection:
        while self._idle and self._open >= self._minimum:
            connection = self._idle.popleft()
            if not connection.closed:
                return connection
            self._open -= 1
        connection = await connect(self._port)
        self._open += 1
        return connection

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._open -= 1

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._drop(self._idle.pop())


@dataclass
class Offered:
    """Times in milliseconds from request to answer: `hits` are cached, `misses` are not. `late`: delays of requests."""

    hits: list[float] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    unanswered: int = 0


async def offer(
    port: int,
    hits: Iterator[bytes],
    misses: Iterable[bytes] = (),
    *,
    rate: int,
    misses_a_second: int = 0,
    connections: int,
    seconds: float,
) -> Offered:
    """Send `rate` requests of `hits` a second, and `misses_a_second` of `misses`, without waiting for answers.

    Uses the connections in turn. Raises TimeoutError if no connection is free for 10 seconds.
    """
    offered = Offered()
    next_miss = iter(misses)
    all_connections = [await connect(port) for _ in range(connections)]
    free = deque(all_connections)

    def send(request: bytes, times: list[float]) -> None:
        connection = free.popleft()
        began = time.perf_counter()

        def record(answer: asyncio.Future[Answer]) -> None:
            # A connection without a 200 is not used again; its request counts as unanswered.
            if answer.exception() is None and answer.result().status == 200:
                times.append((time.perf_counter() - began) * 1000)
                free.append(connection)

        connection.request(request).add_done_callback(record)

    await asyncio.sleep(1)  # until the server has accepted all connections
    async for number, due in paced(int(rate * seconds), seconds):
        async with asyncio.timeout(10):
            while len(free) < 2:
                await asyncio.sleep(0.001)
        offered.late.append(max(0.0, time.monotonic() - due) * 1000)
        send(next(hits), offered.hits)
        if misses_a_second and number % (rate // misses_a_second) == 0:
            send(next(next_miss), offered.misses)
    for _ in range(50):
        if len(free) == connections:
            break
        await asyncio.sleep(0.1)
    offered.unanswered = connections - len(free)
    for connection in all_connections:
        connection.close()
    return offered


async def paced(count: int, seconds: float) -> AsyncIterator[tuple[int, float]]:
    """Yield the numbers below `count` at even intervals over `seconds`, each with its planned time.

    A late number does not delay the next numbers.
    """
    began = time.monotonic()
    for number in range(count):
        due = began + seconds * number / count
        await asyncio.sleep(max(0.0, due - time.monotonic()))  # also for zero seconds, so that answers are read
        yield number, due


class Observer:
    """Measures the delay of the event loop and the load of the machine during an `async with`."""

    def __init__(self) -> None:
        self._late: list[float] = []

    async def __aenter__(self) -> Observer:
        psutil.cpu_times_percent()  # starts the interval
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self.percent = psutil.cpu_times_percent()

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._late.append(time.monotonic() - due)

    @property
    def lag(self) -> float:
        """Return the 99th percentile of the delay of the loop, in seconds."""
        return percentile(self._late, 0.99)

    @property
    def too_busy(self) -> bool:
        """Return whether the machine was too busy, so that the figures are invalid."""
        return self.lag > _TOO_LATE_SECONDS

    def __str__(self) -> str:
        stolen = getattr(self.percent, "steal", 0)
        return (
            f"{os.cpu_count()} cores, {self.percent.idle:.0f} % idle, {stolen:.0f} % stolen; "
            f"generator delay {milliseconds(self.lag)} at p99{' (**too busy**)' * self.too_busy}"
        )


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the options of a benchmark. SIGTERM then exits through all `with` blocks, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile `share` (0 to 1) of `values`; 0 if there are no values."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def milliseconds(seconds: float) -> str:
    """Format seconds as milliseconds, with a decimal if below 10 ms."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
