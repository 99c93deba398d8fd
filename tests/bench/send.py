"""A Braze send, simulated against the real service under its shipped configuration.

    .venv/bin/python -m tests.bench.send [--recipients 1000] [--seconds 40] [--per-minute 600]

Amplitude is the sandbox, with quota and latency. Recipients ask as Braze does: three tags a message one after the
other, rendered for HTML, plain text and AMP (of the repeats Braze itself serves most from its own cache); an answer
after 2 s or with another status than 200 fails the try; a failed message goes to the back of the queue and is tried
again with exponential backoff, five times in all. Beside the service the same load goes straight to the sandbox, and
to the sandbox through a plain cache by URL.

The load comes from one asyncio process with connections of its own, the service and the sandbox are processes of
theirs; the share of time in which the generator's own loop was late is printed, and says whether to trust the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import KEYS, ROOT, SECRET, free_port

PATIENCE = 2.0  # seconds until Braze gives a call up
TRIES = 5
REPEATS_FROM_BRAZES_CACHE = 0.8  # not guaranteed, says its documentation
COUNTED_AGAINST_A_HOST = {408, 429, 502, 503, 504, 529}
TAGS = ("recommendations", "properties", "cohorts")
STRAIGHT = {
    "recommendations": "get_recs=true&rec_id=homepage",
    "properties": "get_amp_props=true",
    "cohorts": "get_cohort_ids=true",
}

Ask = Callable[[str, str], Awaitable[int]]


@dataclass
class Tally:
    """What a policy achieved."""

    first: int = 0
    retried: int = 0
    lost: int = 0
    asked: set[str] = field(default_factory=set)  # users for whom a template asked for recommendations
    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: deque[float] = field(default_factory=deque)  # of the kind that Braze counts against a host
    unhealthy: int = 0
    late: list[float] = field(default_factory=list)


class Connections:
    """Keep-alive connections to one host; each carries one request at a time."""

    def __init__(self, port: int, header: str) -> None:
        self._port = port
        self._header = header
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> int:
        """Return the status of a GET, the body read and dropped."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{self._header}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return int(head[9:12])

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()


async def message(user: str, ask: Ask, tally: Tally, dice: random.Random, backoff: float) -> None:
    """Send one message: render it, and again after a failure, until it went out or was given up."""
    for attempt in range(TRIES):
        if await rendered(user, ask, tally, dice):
            if attempt == 0:
                tally.first += 1
            else:
                tally.retried += 1
            return
        if attempt + 1 < TRIES:
            await asyncio.sleep(backoff * 2**attempt * dice.uniform(0.8, 1.2))
    tally.lost += 1


async def rendered(user: str, ask: Ask, tally: Tally, dice: random.Random) -> bool:
    """Render the three parts of a message; say whether every call was answered in time."""
    for part in range(3):
        for tag in TAGS:
            if part and dice.random() < REPEATS_FROM_BRAZES_CACHE:
                continue
            if tag == "recommendations":
                tally.asked.add(user)
            started = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    status = await ask(user, tag)
            except (TimeoutError, OSError, EOFError) as error:
                status = 0
                tally.statuses[type(error).__name__] += 1
            else:
                tally.statuses[str(status)] += 1
            tally.times.append(time.monotonic() - started)
            if status in COUNTED_AGAINST_A_HOST:
                count_against(tally)
            if status != 200:
                return False
    return True


def count_against(tally: Tally) -> None:
    """Count a failure of the kind that halts a host: over 3,000, and over 90 % of calls, in a minute."""
    now = time.monotonic()
    tally.failures.append(now)
    while tally.failures[0] < now - 60:
        tally.failures.popleft()
    if len(tally.failures) > 3000 and len(tally.failures) > 0.9 * len(tally.times):
        tally.unhealthy += 1
        tally.failures.clear()


async def send(ask: Ask, options: argparse.Namespace) -> Tally:
    """Send to all recipients at an even rate and return the tally once the last message is out or lost."""
    tally = Tally()
    dice = random.Random(options.seed)  # noqa: S311  # chance, not secrets
    began = time.monotonic()
    messages = []
    for number in range(options.recipients):
        due = began + options.seconds * number / options.recipients
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tally.late.append(time.monotonic() - due)
        user = f"user-{number + 1}"
        messages.append(asyncio.create_task(message(user, ask, tally, dice, options.backoff)))
        if number % max(1, options.recipients // 10) == 0:
            print(f"  {number} of {options.recipients} messages begun", file=sys.stderr, flush=True)
    for done in asyncio.as_completed(messages):
        await done
    return tally


def by_service(port: int) -> tuple[Ask, Connections]:
    """Return how to ask the service, as a template with `:retry` does."""
    connections = Connections(port, f"X-API-Key: {SECRET}")

    async def ask(user: str, tag: str) -> int:
        rest = "&rec_id=homepage" if tag == "recommendations" else ""
        return await connections.get(f"/v1/{tag}?user_id={user}{rest}&on_error=retry")

    return ask, connections


def straight(port: int, *, cached: bool) -> tuple[Ask, Connections]:
    """Return how to ask the sandbox itself, through a plain cache by URL or without one."""
    connections = Connections(port, "Authorization: Api-Key sandbox-secret-key")
    seen: set[tuple[str, str]] = set()

    async def ask(user: str, tag: str) -> int:
        if cached and (user, tag) in seen:
            return 200
        status = await connections.get(f"/v1/userprofile?user_id={user}&{STRAIGHT[tag]}")
        status = 200 if status == 400 else status  # "not seen before" is an answer
        if status == 200:
            seen.add((user, tag))
        return status

    return ask, connections


def report_of(port: int) -> dict[str, Any]:
    """Return what the sandbox counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/sandbox/report", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
        except urllib.request.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"nothing listens on {port}")


def run(policy: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one policy against a sandbox of its own and return its row."""
    sandbox_port, port = free_port(), free_port()
    latency = ["--latency", str(options.latency), "--requests-per-minute", str(options.per_minute)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "proxy", "sandbox", "--port", str(sandbox_port), *latency],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
    ]
    wait_for(sandbox_port)
    try:
        if policy == "service":
            settings = {
                "AMPLITUDE_BASE_URL": f"http://127.0.0.1:{sandbox_port}",
                "AMPLITUDE_SECRET_KEY": "sandbox-secret-key",
                "AMPLITUDE_REQUESTS_PER_MINUTE": str(options.per_minute),
                "PROXY_API_KEYS": KEYS,
                "LOG_LEVEL": "ERROR",
            }
            command = [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{port}"]
            started.append(subprocess.Popen([*command, "--log-level", "error"], cwd=ROOT, env=os.environ | settings))
            wait_for(port)
            ask, connections = by_service(port)
        else:
            ask, connections = straight(sandbox_port, cached=policy == "cache by URL")
        began = time.monotonic()
        tally = asyncio.run(_closing(send(ask, options), connections))
        return row(policy, tally, report_of(sandbox_port), time.monotonic() - began, options)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


async def _closing(sending: Awaitable[Tally], connections: Connections) -> Tally:
    try:
        return await sending
    finally:
        connections.close()


def row(
    policy: str, tally: Tally, counted: dict[str, Any], lasted: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Return a policy's figures."""
    times = sorted(tally.times)
    known = min(options.recipients, options.per_minute * lasted / 60 + options.per_minute / 10)
    return {
        "policy": policy,
        "first try": f"{tally.first / options.recipients:.1%}",
        "by retry": f"{tally.retried / options.recipients:.1%}",
        "lost": f"{tally.lost / options.recipients:.1%}",
        "bound": f"{known / options.recipients:.0%}",
        "calls": counted["calls"],
        "worst min": counted["worst_minute"],
        "429s": counted["statuses"].get("429", 0),
        "exposures": f"{counted['exposures']}/{len(tally.asked)}",
        "p50 ms": f"{1000 * times[len(times) // 2]:.0f}",
        "p99 ms": f"{1000 * times[int(len(times) * 0.99)]:.0f}",
        "max ms": f"{1000 * times[-1]:.0f}",
        "over 2 s": sum(one > PATIENCE for one in times),
        "unhealthy": tally.unhealthy,
        "generator late p99 ms": f"{1000 * sorted(tally.late)[int(len(tally.late) * 0.99)]:.0f}",
    }


def main() -> None:
    """Run the policies one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=40, help="in which all messages are begun")
    parser.add_argument("--per-minute", type=int, default=600, help="Amplitude's quota")
    parser.add_argument("--latency", type=float, default=0.3, help="Amplitude's, in seconds")
    parser.add_argument("--backoff", type=float, default=4, help="seconds until the first retry, then doubled")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", choices=["service", "straight", "cache by URL"], action="append")
    options = parser.parse_args()
    rows = []
    for policy in options.policy or ["straight", "cache by URL", "service"]:
        print(f"{policy}:", file=sys.stderr, flush=True)
        rows.append(run(policy, options))
    print(" | ".join(rows[0]))
    for one in rows:
        print(" | ".join(str(value) for value in one.values()))


if __name__ == "__main__":
    main()
