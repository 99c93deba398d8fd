"""gunicorn's worker models under the connections of a Braze send, with the real service.

    .venv/bin/python -m tests.bench.workers [--rounds 3] [--seconds 5] [--model shipped --model gthread …]

What is shipped and the other models take turns, round by round, each in front of a sandbox of its own. Cached answers
are asked for at an offered rate of 1,000 a second, and timed from the moment each was due: over 1,000 and 2,000
connections kept alive; beside ten upstream calls a second that take 1.5 s, each awaited by nine callers; and beside
1,000 clients that send a byte of their headers now and then. Last, 64 connections ask as fast as they are answered.

Load generator, service and sandbox are processes of their own. What others took of the processors, and how late the
generator itself was, is printed with the table, and says whether to trust it; the service's own processor time an
answer is the one column that others hardly change.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.options import command_line
from tests.conftest import KEYS, ROOT, SECRET, free_port

SHIPPED = "shipped"
_ALIKE = ["--worker-connections", "4000", "--backlog", "4096", "--keep-alive", "100", "--no-control-socket"]
MODELS: dict[str, list[str]] = {
    SHIPPED: [],
    "gevent": ["-c", os.devnull, "--worker-class", "gevent", *_ALIKE],
    "gthread": ["-c", os.devnull, "--worker-class", "gthread", "--threads", "208", *_ALIKE],
    "gevent_pywsgi": ["-c", os.devnull, "--worker-class", "gevent_pywsgi", *_ALIKE],
    "tornado": ["-c", os.devnull, "--worker-class", "tornado", *_ALIKE],
    "sync": ["-c", os.devnull, "--worker-class", "sync", *_ALIKE],
}
USUAL = [SHIPPED, "gevent", "gthread"]
USERS = 20
LATENCY = 1.5
BUSY = "64 busy"
CASES = ["1,000 kept alive", "2,000 kept alive", "2,000, slow misses", "1,000 dawdle", BUSY]
NOISE = 0.1  # of one processor, taken by others
LATE_MS = 20  # the generator, at its p99


@dataclass
class Stream:
    """Requests of one kind: `rate` a second over connections of their own, or, without a rate, one after another."""

    connections: int
    path: Callable[[int], str]
    rate: float | None = None
    times: list[float] = field(default_factory=list)  # seconds from when it was due to the whole answer
    late: list[float] = field(default_factory=list)  # of the generator, with a connection ready
    wrong: int = 0
    asked: int = 0
    idle: deque[Client] = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)


@dataclass(eq=False)
class Client:
    """One connection and the request on it."""

    sock: socket.socket
    stream: Stream
    due: float = 0.0
    received: bytes = b""


class Load:
    """An epoll loop that asks one service by streams, and may keep clients that dawdle beside them."""

    def __init__(self, port: int, streams: list[Stream], dawdlers: int = 0) -> None:
        self._port = port
        self._streams = streams
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        for stream in streams:
            for _ in range(stream.connections):
                self._connect(stream)
        self._dawdlers = [self._opened() for _ in range(dawdlers)]
        for sock in self._dawdlers:
            sock.send(b"GET /v1/cohorts?user_id=ava HTTP/1.1\r\nX-Slow: ")
        time.sleep(0.5)  # until all are accepted

    def _opened(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def _connect(self, stream: Stream) -> None:
        client = Client(self._opened(), stream)
        self._clients[client.sock.fileno()] = client
        self._poll.register(client.sock, select.EPOLLIN)
        stream.idle.append(client)

    def run(self, seconds: float, patience: float = 3.0) -> None:
        """Ask for `seconds`, then wait for what is open; what is not answered by then counts as wrong."""
        began = time.monotonic()
        until = began + seconds
        slow = itertools.cycle(self._dawdlers) if self._dawdlers else None
        next_byte = began
        while (now := time.monotonic()) < until + patience:
            if now < until:
                self._ask(began, now)
                while slow and next_byte < now:
                    next_byte += 2.0 / len(self._dawdlers)  # each of them, every two seconds
                    self._dawdle(next(slow))
            elif all(len(stream.idle) == stream.connections and not stream.due for stream in self._streams):
                break
            for descriptor, _ in self._poll.poll(0.001):
                self._read(self._clients[descriptor], until)
        for stream in self._streams:
            stream.wrong += stream.connections - len(stream.idle) + len(stream.due)
        for client in self._clients.values():
            client.sock.close()
        for sock in self._dawdlers:
            sock.close()
        self._poll.close()

    def _ask(self, began: float, now: float) -> None:
        for stream in self._streams:
            if stream.rate is None:
                while stream.idle:
                    self._send(stream, now, now)
                continue
            while (due := began + stream.asked / stream.rate) <= now:
                stream.asked += 1
                if stream.idle:
                    stream.late.append(now - due)
                    self._send(stream, due, now)
                else:
                    stream.due.append(due)
            while stream.due and stream.idle:
                self._send(stream, stream.due.popleft(), now)

    def _send(self, stream: Stream, due: float, now: float) -> None:
        client = stream.idle.popleft()
        client.due = due
        path = stream.path(len(stream.times) if stream.rate is None else stream.asked)
        try:
            client.sock.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRET}\r\n\r\n".encode())
        except OSError:
            self._failed(client)

    def _dawdle(self, sock: socket.socket) -> None:
        try:
            sock.send(b"x")
        except OSError:  # cut off: it comes again, as such clients do
            sock.close()
            again = self._opened()
            again.send(b"GET / HTTP/1.1\r\nX-Slow: ")
            self._dawdlers[self._dawdlers.index(sock)] = again

    def _read(self, client: Client, until: float) -> None:
        try:
            data = client.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            return self._failed(client)
        client.received += data
        head, found, body = client.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        now = time.monotonic()
        client.stream.times.append(now - client.due)
        client.stream.wrong += head[9:12] != b"200"
        client.received = b""
        client.stream.idle.append(client)
        if client.stream.rate is None and now < until:
            self._send(client.stream, now, now)
        return None

    def _failed(self, client: Client) -> None:
        """Replace a connection that the server closed. It is an error only when a request was on it."""
        stream = client.stream
        if client in stream.idle:
            stream.idle.remove(client)
        else:
            stream.wrong += 1
        self._poll.unregister(client.sock)
        del self._clients[client.sock.fileno()]
        client.sock.close()
        self._connect(stream)


def cached(number: int) -> str:
    """Return the path of an answer that is in the cache."""
    return f"/v1/profile?user_id=user-{number % USERS + 1}&include=recommendations,properties,cohorts&rec_id=homepage"


_strangers = itertools.count(1)


def slow_misses() -> Stream:
    """Return a stream of ten users a second that nobody asked for, each by nine callers, as one message does."""
    first = next(_strangers) * 10_000
    return Stream(300, lambda number: f"/v1/cohorts?user_id=user-{first + number // 9}", rate=90)


@contextlib.contextmanager
def service(model: str) -> Iterator[tuple[int, list[int]]]:
    """Run the service under `model` in front of a slow sandbox, its answers cached; yield port and process ids.

    The first of these is the service's.
    """
    sandbox_port, port = free_port(), free_port()
    settings = {
        "AMPLITUDE_BASE_URL": f"http://127.0.0.1:{sandbox_port}",
        "AMPLITUDE_SECRET_KEY": "sandbox-secret-key",
        "PROXY_API_KEYS": KEYS,
        "LOG_LEVEL": "ERROR",
    }
    commands = [
        ["proxy", "sandbox", "--port", str(sandbox_port), "--latency", str(LATENCY)],
        ["gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{port}", "--log-level", "critical", *MODELS[model]],
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        for user in range(USERS):
            while not answers(port, cached(user)):
                if started[1].poll() is not None:
                    sys.exit(f"the service does not start as {model}")
                time.sleep(0.2)
        yield port, [process.pid for process in reversed(started)]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


def answers(port: int, path: str) -> bool:
    """Say whether the service has the answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"X-API-Key": SECRET})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return b'"ok":true' in answer.read()
    except OSError:
        return False


def run(case: str, port: int, seconds: float) -> Stream:
    """Run one case and return the stream of cached answers."""
    if case == BUSY:
        stream = Stream(64, cached)
        Load(port, [stream]).run(seconds)
        return stream
    stream = Stream(1000 if case.startswith("1,000") else 2000, cached, rate=1000)
    beside = [slow_misses()] if "misses" in case else []
    Load(port, [stream, *beside], dawdlers=1000 if "dawdle" in case else 0).run(seconds)
    return stream


def everybody() -> float:
    """Return the processor seconds that everything on this machine has taken so far."""
    user, nice, system, _, _, _, _, stolen = (int(word) for word in Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")


def taken(pid: int) -> float:
    """Return the processor seconds that a process and its children have taken so far."""
    spent = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = entry.read_text().rpartition(")")[2].split()
            if pid in (int(entry.parent.name), int(words[1])):
                spent += int(words[11]) + int(words[12])
    return spent / os.sysconf("SC_CLK_TCK")


def percentile(times: list[float], share: float) -> float:
    """Return a percentile in milliseconds; infinite when nothing was answered."""
    return sorted(times)[int(share * (len(times) - 1))] * 1000 if times else float("inf")


@dataclass
class Row:
    """What the rounds of one model in one case came to."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    wrong: int = 0

    def note(self, stream: Stream, seconds: float, spent: float) -> None:
        """Add a round, for which the service took `spent` seconds of a processor."""
        self.p50.append(percentile(stream.times, 0.5))
        self.p99.append(percentile(stream.times, 0.99))
        self.worst.append(percentile(stream.times, 1))
        self.per_second.append(len(stream.times) / seconds)
        self.spent.append(1e6 * spent / max(1, len(stream.times)))
        self.wrong += stream.wrong


def main() -> None:
    """Run every case for every model in turn and print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="in which the models take turns")
    parser.add_argument("--seconds", type=float, default=5, help="of each case")
    parser.add_argument(
        "--model",
        choices=list(MODELS),
        action="append",
        help=f"only this one; may be repeated (default: {', '.join(USUAL)})",
    )
    options = parser.parse_args()
    models = options.model or USUAL
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        sys.exit(f"3,300 connections at once need more open files than the {hard} that are allowed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000) if soft != resource.RLIM_INFINITY else soft, hard))
    rows = {(case, model): Row() for case in CASES for model in models}
    noise, late = [], []
    for number in range(1, options.rounds + 1):
        for model in models if number % 2 else reversed(models):
            with service(model) as (port, pids):
                for case in CASES:
                    before = [everybody(), time.process_time(), *map(taken, pids)]
                    began = time.monotonic()
                    stream = run(case, port, options.seconds)
                    took = time.monotonic() - began
                    after = [everybody(), time.process_time(), *map(taken, pids)]
                    whole, *ours = (late - early for early, late in zip(before, after, strict=True))
                    noise.append((whole - sum(ours)) / took)
                    late += stream.late
                    rows[case, model].note(stream, options.seconds, ours[1])
                    last = rows[case, model]
                    shown = (
                        f"p99 {last.p99[-1]:.0f} ms, {stream.wrong} wrong, others took {noise[-1]:.0%} of a processor"
                    )
                    print(f"  round {number}, {model}, {case}: {shown}", file=sys.stderr, flush=True)
    print("| case | model | p50 ms | p99 ms | max ms | answers/s | µs an answer | wrong | p99 against shipped |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for (case, model), row in rows.items():
        middle = [statistics.median(values) for values in (row.p50, row.p99, row.worst, row.per_second, row.spent)]
        against = "1.0"
        if model != SHIPPED and SHIPPED in models:
            ratios = [a / b for a, b in zip(row.p99, rows[case, SHIPPED].p99, strict=True)]
            against = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(
            f"| {case} | {model} | " + " | ".join(f"{value:.0f}" for value in middle) + f" | {row.wrong} | {against} |"
        )
    print(f"others took {statistics.median(noise):.0%} of a processor (at most {max(noise):.0%})", end="; ")
    print(f"the generator was late by {percentile(late, 0.99):.0f} ms at its p99")
    if statistics.median(noise) > NOISE or percentile(late, 0.99) > LATE_MS:
        sys.exit("The machine was too busy with other things to tell: trust the ratios at most, and run it again.")


if __name__ == "__main__":
    main()
