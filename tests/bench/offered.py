"""Load at a rate that does not depend on the answers: so many requests a second, whatever becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Offered:
    """Milliseconds from sending to the whole answer, of hits and of misses; `late`: how late the generator was."""

    hits: list[float] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    unanswered: int = 0


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of `values` lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request on its way."""

    def __init__(self, free: deque[_Connection]) -> None:
        self._free = free
        self._came = b""
        self._into: list[float] | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, into: list[float]) -> None:
        """Send; the time until the answer is whole goes into the list."""
        self._into, self._sent, self._came = into, time.perf_counter(), b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, blank, body = self._came.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if blank and self._into is not None and len(body) >= int(length):
            if not head.startswith(b"HTTP/1.1 200"):
                return  # never free again, and so counted as unanswered
            self._into.append((time.perf_counter() - self._sent) * 1000)
            self._into = None
            self._free.append(self)

    def close(self) -> None:
        """Close, whatever is on its way."""
        self._transport.close()


async def offer(
    port: int,
    hits: Iterator[bytes],
    misses: Iterator[bytes],
    *,
    rate: int,
    misses_a_second: int,
    connections: int,
    seconds: float,
) -> Offered:
    """Offer `rate` hits, and so many misses beside them, each second; every connection is used in its turn."""
    loop = asyncio.get_running_loop()
    told = Offered()
    free: deque[_Connection] = deque()
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(free), "127.0.0.1", port)
        free.append(connection)
    everyone = list(free)
    await asyncio.sleep(1)  # until the server has taken all of them in
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))  # be it zero, so that answers are read
        while len(free) < 2:  # everyone is waited for: what is sent later counts as late
            await asyncio.sleep(0.001)
        told.late.append(max(0.0, time.perf_counter() - due) * 1000)
        free.popleft().send(next(hits), told.hits)
        if misses_a_second and number % (rate // misses_a_second) == 0:
            free.popleft().send(next(misses), told.misses)
    for _ in range(50):
        if len(free) == connections:
            break
        await asyncio.sleep(0.1)
    told.unanswered = connections - len(free)
    for connection in everyone:
        connection.close()
    return told
