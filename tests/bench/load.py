"""Load from one event loop over kept-alive connections, and whether that loop was fast enough to be believed."""

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

PATIENCE = 2.0
"""Seconds after which Braze gives a call up."""
_TOO_LATE_SECONDS = 0.05
"""If the loop was later than this (p99), its figures say nothing about the service."""
_TICK = 0.01


class Answer(NamedTuple):
    """An answer with its undecoded headers."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        _, separator, rest = self.head.lower().partition(f"\r\n{name.lower()}: ".encode())
        return rest.partition(b"\r\n")[0].decode() if separator else None


class Connection(asyncio.Protocol):
    """A kept-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self.closed = False
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def request(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; return its answer to come, or ConnectionError."""
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
    """Return the bytes of a GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


class Connections:
    """Connections to one port, used in turn: at least `least`, and as many as are needed at once."""

    def __init__(self, port: int, *headers: str, least: int = 0) -> None:
        self._port = port
        self._headers = headers
        self._least = least
        self._open = 0
        self._idle: deque[Connection] = deque()

    async def open(self, count: int) -> None:
        """Open connections for later."""
        for _ in range(count):
            self._idle.append(await connect(self._port))
            self._open += 1

    async def get(self, path: str, *headers: str) -> Answer:
        """Return the answer to a GET, or OSError; a cancelled wait closes the connection."""
        connection = await self._connection()
        answer = None
        try:
            answer = await connection.request(get_request(path, *self._headers, *headers))
        finally:
            if answer is None or answer.header("connection") == "close":
                self._drop(connection)
            else:
                self._idle.append(connection)
        return answer

    async def _connection(self) -> Connection:
        while self._idle and self._open >= self._least:
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
    """Milliseconds from request to answer, of hits and misses; `late`: how late the requests were sent."""

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
    """Send `rate` hits a second, and misses beside them, whether or not answers come; use each connection in turn.

    TimeoutError if no connection is free for 10 seconds.
    """
    offered = Offered()
    next_miss = iter(misses)
    everyone = [await connect(port) for _ in range(connections)]
    free = deque(everyone)

    def send(request: bytes, times: list[float]) -> None:
        connection = free.popleft()
        began = time.perf_counter()

        def note(answer: asyncio.Future[Answer]) -> None:
            # A connection without a 200 is not used again, and counts as unanswered.
            if answer.exception() is None and answer.result().status == 200:
                times.append((time.perf_counter() - began) * 1000)
                free.append(connection)

        connection.request(request).add_done_callback(note)

    await asyncio.sleep(1)  # until the server has accepted all
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
    for connection in everyone:
        connection.close()
    return offered


async def paced(count: int, seconds: float) -> AsyncIterator[tuple[int, float]]:
    """Yield 0 to `count` - 1, each at its moment, and that moment; a late one does not delay those after it."""
    began = time.monotonic()
    for number in range(count):
        due = began + seconds * number / count
        await asyncio.sleep(max(0.0, due - time.monotonic()))  # zero too, so that answers are read
        yield number, due


class Observer:
    """Watches the generator's own loop and the machine during an `async with`."""

    def __init__(self) -> None:
        self._late: list[float] = []

    async def __aenter__(self) -> Observer:
        psutil.cpu_times_percent()  # begins the interval
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
        """Return how late the loop was, in seconds, at the 99th percentile."""
        return percentile(self._late, 0.99)

    @property
    def too_busy(self) -> bool:
        """Return whether the machine was too busy for the figures to mean anything."""
        return self.lag > _TOO_LATE_SECONDS

    def __str__(self) -> str:
        stolen = getattr(self.percent, "steal", 0)
        return (
            f"{os.cpu_count()} cores, {self.percent.idle:.0f} % idle, {stolen:.0f} % stolen; "
            f"generator late by {milliseconds(self.lag)} at p99{' (**too busy**)' * self.too_busy}"
        )


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a benchmark's options. From here on SIGTERM leaves every block, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of them lie; 0 without any."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def milliseconds(seconds: float) -> str:
    """Return seconds for a table: below ten milliseconds with one decimal."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
