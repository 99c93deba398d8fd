"""Checks that `warm` loses no users if it is interrupted: `python -m tests.bench.resume`.

Warms 100,000 users. Stops the command by Ctrl-C after a third and by `kill -9` after two thirds, and starts it again
with the same file. Then requests every user. Prints each run. Exit code 1: a known user was not warm in the cache, or
the number of repeated calls exceeded the number of calls in flight at the stops.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from proxy.cli.warmup.destination import CONNECTIONS
from proxy.sandbox.people import find
from tests.bench.load import Connections, command_line
from tests.bench.processes import AUTHORIZATION, UNLIMITED, SandboxProcess, Service
from tests.support.service import KEYS, ROOT

STOPS = ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGKILL))
_FRESH_SECONDS = 900
"""Maximum freshness in seconds of data that was not warmed."""
_CHECKS_AT_ONCE = 16


def warm(sandbox: SandboxProcess, service: Service, users: Path, until: float, stop: signal.Signals | None) -> str:
    """Warm until `until` calls, then send the signal `stop`; without `stop`, warm all. Return a line about the run."""
    began, calls_before = time.monotonic(), sandbox.calls()
    options = ["--url", service.url, "--credentials", KEYS, "--quota", str(UNLIMITED)]
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "warm", str(users), *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while stop is not None and process.poll() is None and sandbox.calls() < until:
            time.sleep(0.1)
        if stop is not None:
            process.send_signal(stop)
        output, _ = process.communicate()
    end = stop.name if stop is not None else f"complete, exit code {process.returncode}"
    calls = sandbox.calls() - calls_before
    return f"{end}: {time.monotonic() - began:.0f} s, {calls:,} calls. {output.strip() or '(no output)'}"


async def lost_users(service: Service, count: int) -> list[str]:
    """Return the users known to Amplitude who are not warm in the cache."""
    connections = Connections(service.port, f"Authorization: {AUTHORIZATION}")
    users = (f"user-{number}" for number in range(1, count + 1) if find(f"user-{number}", None))
    lost: list[str] = []

    async def check() -> None:
        for user in users:
            answer = await connections.get(f"/v1/profile?include=properties,cohorts&user_id={user}")
            body = json.loads(answer.body)
            max_age = int((answer.header("cache-control") or "").rpartition("=")[2] or 0)
            cached = answer.header("x-amplitude-calls") == "0" and max_age > _FRESH_SECONDS
            if not (body["ok"] and body["found"] and cached):
                lost.append(user)

    await asyncio.gather(*(check() for _ in range(_CHECKS_AT_ONCE)))
    connections.close()
    return lost


def main() -> int:
    """Warm, stop, resume, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--users", type=int, default=100_000, help="number of users to warm")
    count = parser.parse_args().users
    settings = {
        "AMPLITUDE_REQUESTS_PER_MINUTE": str(UNLIMITED),
        "CACHE_MAX_MB": "1024",
        "LOG_LEVEL": "ERROR",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        SandboxProcess() as sandbox,
        Service(sandbox, **settings) as service,
    ):
        users = Path(folder) / "users.txt"
        users.write_text("".join(f"user-{number}\n" for number in range(1, count + 1)))
        for share, stop in STOPS:
            print(warm(sandbox, service, users, share * count, stop), flush=True)
        print(warm(sandbox, service, users, 0, None), flush=True)
        times = Counter(user for _, user in sandbox.report().calls)
        lost = asyncio.run(lost_users(service, count))
    repeated = {user: number - 1 for user, number in times.items() if number > 1}
    known = sum(number for user, number in repeated.items() if find(user, None))
    print(f"lost: {len(lost):,} {lost[:5] or ''}")
    print(f"repeated calls: {known:,} for known users, {sum(repeated.values()) - known:,} for unknown users")
    return 1 if lost or known > len(STOPS) * CONNECTIONS else 0


if __name__ == "__main__":
    sys.exit(main())
