"""Requests over kept-alive connections from one event loop, and whether that loop was fast enough to be believed."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import NamedTuple

import psutil

PATIENCE = 2.0
"""Seconds until Braze gives a call up."""
TOO_LATE_SECONDS = 0.05
"""When the loop itself was later than this (p99), its figures say nothing of the service."""
_TICK = 0.01


class Answer(NamedTuple):
    """One answer, its headers as they came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        found = self.head.lower().partition(f"\r\n{name.lower()}: ".encode())
        return found[2].partition(b"\r\n")[0].decode() if found[1] else None


class Connections:
    """Keep-alive connections to one port of this machine, used in turn: `least`, and as many as are needed at once."""

    def __init__(self, port: int, *headers: str, least: int = 0) -> None:
        self._port = port
        self._headers = "".join(f"{header}\r\n" for header in headers)
        self._least = least
        self._open = 0
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def open(self, count: int) -> None:
        """Open so many, for later."""
        for _ in range(count):
            self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))
            self._open += 1

    async def get(self, path: str, *headers: str) -> Answer:
        """Return the answer to a GET. OSError or EOFError without one; a cancelled wait closes the connection."""
        reader, writer = await self._connection()
        extra = "".join(f"{header}\r\n" for header in headers)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{self._headers}{extra}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            answer = Answer(int(head[9:12]), head, b"")
            answer = answer._replace(body=await reader.readexactly(int(answer.header("content-length") or 0)))
        except BaseException:
            self._drop(writer)
            raise
        if answer.header("connection") == "close":
            self._drop(writer)
        else:
            self._idle.append((reader, writer))
        return answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle and self._open >= self._least:
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and reader.exception() is None:
                return reader, writer
            self._drop(writer)  # the other side has closed it meanwhile
        self._open += 1
        try:
            return await asyncio.open_connection("127.0.0.1", self._port)
        except BaseException:
            self._open -= 1
            raise

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        self._open -= 1

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._drop(self._idle.pop()[1])


class Observer:
    """Watches the generator's own loop and the machine for the time of an `async with`."""

    def __init__(self) -> None:
        self._late: list[float] = []

    async def __aenter__(self) -> Observer:
        self._before = psutil.cpu_times()
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        after = psutil.cpu_times()
        spent = {name: getattr(after, name) - getattr(self._before, name) for name in after._fields}
        # guest time is counted in user time already
        total = sum(seconds for name, seconds in spent.items() if not name.startswith("guest")) or 1.0
        self.idle = (spent["idle"] + spent.get("iowait", 0.0)) / total
        self.stolen = spent.get("steal", 0.0) / total

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
        """Say whether the machine was too busy for the figures to tell anything of the service."""
        return self.lag > TOO_LATE_SECONDS

    def __str__(self) -> str:
        return (
            f"{os.cpu_count()} cores, {self.idle:.0%} idle, {self.stolen:.0%} stolen by other machines; "
            f"the generator's own loop was late by {milliseconds(self.lag)} at p99"
        )


async def evenly(count: int, seconds: float) -> AsyncIterator[int]:
    """Yield 0 to `count` - 1 at even moments; what was late is made up for, so that the rate holds."""
    began = time.monotonic()
    for number in range(count):
        if (wait := began + seconds * number / count - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        yield number


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
