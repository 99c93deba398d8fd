"""A hundred thousand users warmed by the real command, which is stopped twice on the way: is anybody lost?

    .venv/bin/python -m tests.bench.resume

`python -m proxy warm` before the service as shipped, before the sandbox with a raised quota: after a third Ctrl-C,
after two thirds `kill -9`, each time begun again with the same file until it ends by itself. Then every user is asked
for over HTTP. Prints what each run came to. Exit code 1 when somebody is lost: is known to Amplitude and was not
answered from the cache as warm; or when more calls were repeated than were on their way at the two blows.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from proxy.cli.warmup.command import CONNECTIONS
from proxy.sandbox.people import find
from tests.bench.load import Connections
from tests.bench.options import command_line
from tests.bench.processes import SandboxProcess, Seen, Service
from tests.conftest import ROOT, SECRET

BLOWS = ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGKILL))
_ENOUGH = 1_000_000
_ASKING_AT_ONCE = 16
_FRESH = 900
"""Seconds for which what was not warmed is fresh at most."""


def warm(service: Service, users: Path) -> subprocess.Popen[str]:
    """Begin to warm; progress goes where ours does."""
    options = ["--url", f"http://127.0.0.1:{service.port}", "--credentials", f"braze:{SECRET}", "--quota", str(_ENOUGH)]
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", "warm", str(users), *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def calls(sandbox: SandboxProcess) -> int:
    """Return how many calls the sandbox has counted."""
    with urllib.request.urlopen(f"{sandbox.url}/sandbox/report", timeout=30) as answer:
        return int(json.load(answer)["calls"])


def begun(sandbox: SandboxProcess, service: Service, users: Path, at: float, blow: signal.Signals | None) -> str:
    """Warm until so many calls were made, or to the end. Return what came of it."""
    started, before = time.monotonic(), calls(sandbox)
    process = warm(service, users)
    try:
        while blow is not None and process.poll() is None and calls(sandbox) < at:
            time.sleep(0.5)
        if blow is not None:
            process.send_signal(blow)
        printed, _ = process.communicate()
    finally:
        process.kill()  # it has ended, unless we are told to
    ended = blow.name if blow is not None else f"to its end, exit code {process.returncode}"
    seconds = time.monotonic() - started
    return f"{ended}: {seconds:.0f} s, {calls(sandbox) - before:,} calls. {printed.strip() or '(nothing printed)'}"


async def lost(service: Service, numbers: range) -> list[str]:
    """Return those who are known to Amplitude and are not answered from the cache as warm."""
    connections = Connections(service.port, f"X-API-Key: {SECRET}")
    found = []

    async def part(first: int) -> None:
        for number in numbers[first::_ASKING_AT_ONCE]:
            if find(f"user-{number}", None) is None:
                continue
            answer = await connections.get(f"/v1/profile?include=properties,cohorts&user_id=user-{number}")
            body = json.loads(answer.body)
            age = int((answer.header("cache-control") or "").rpartition("=")[2] or 0)
            if not (body["ok"] and body["found"] and answer.header("x-amplitude-calls") == "0" and age > _FRESH):
                found.append(f"user-{number}")
            if number % 20_000 == 0:
                print(f"asked for up to user-{number:,}", file=sys.stderr, flush=True)

    await asyncio.gather(*(part(first) for first in range(_ASKING_AT_ONCE)))
    connections.close()
    return found


def repeated(seen: Seen) -> tuple[int, int]:
    """Return how many calls were repeated, about users whom Amplitude knows and about others."""
    times = Counter(user for _, user in seen.calls)
    known = sum(count - 1 for user, count in times.items() if count > 1 and find(user, None) is not None)
    return known, sum(count - 1 for count in times.values()) - known


def main() -> int:
    """Warm, stop, resume, and judge."""
    parser = command_line(__doc__)
    parser.add_argument("--users", type=int, default=100_000, help="to be warmed")
    options = parser.parse_args()
    numbers = range(1, options.users + 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        SandboxProcess(per_minute=_ENOUGH) as sandbox,
        Service(sandbox, AMPLITUDE_REQUESTS_PER_MINUTE=str(_ENOUGH), CACHE_MAX_MB="1024", LOG_LEVEL="ERROR") as service,
    ):
        users = Path(folder) / "users.txt"
        users.write_text("".join(f"user-{number}\n" for number in numbers))
        began = time.monotonic()
        for share, blow in BLOWS:
            print(begun(sandbox, service, users, share * options.users, blow), flush=True)
        print(begun(sandbox, service, users, 0, None), flush=True)
        print(
            f"{options.users:,} users warmed in {time.monotonic() - began:.0f} s, three runs of the command", flush=True
        )
        known, unknown = repeated(sandbox.seen())
        missing = asyncio.run(lost(service, numbers))
    print(f"lost: {len(missing):,} {missing[:5] or ''}")
    print(f"repeated calls: {known:,} about users whom Amplitude knows, {unknown:,} about users whom it does not know")
    return 1 if missing or known > len(BLOWS) * CONNECTIONS else 0


if __name__ == "__main__":
    sys.exit(main())
