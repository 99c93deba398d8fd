"""Measures `warm --cohort` with a cohort download: `python -m tests.bench.export`.

Stores a cohort with five properties in the shipped service: first one worker with the CACHE_MAX_MB that `warm` prints,
then two workers and Redis. Then checks that requests for known users cost no calls. With `--membership`, stores only
the members in one worker, while clients request 100 cached answers a second.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from proxy.sandbox.people import find
from tests.bench.load import command_line
from tests.bench.processes import LONG_LIVED, SandboxProcess, Service, get_all
from tests.bench.snapshots import peak_memory
from tests.bench.webhooks import cached_answers
from tests.support.redis_server import RedisServer
from tests.support.service import KEYS, ROOT, environment

KEYS_OF_PROPERTIES = "first_name,loyalty_points,attribute 00,attribute 01,attribute 02"
_NEEDED = re.compile(r"CACHE_MAX_MB=([0-9,]+)")
_CHECKED_USERS = 2000


@dataclass(frozen=True)
class Warming:
    """A run of `warm`. `memory`: the maximum memory of the command in bytes. `output`: standard output and error."""

    seconds: float
    memory: int
    output: str

    @property
    def needed_mb(self) -> int:
        """Return the CACHE_MAX_MB that the command prints."""
        return int(_NEEDED.findall(self.output)[-1].replace(",", ""))


def export(sandbox: SandboxProcess, cohorts: list[str], *options: str, **settings: str) -> Warming:
    """Run `warm` with downloads of the cohorts."""
    variables = {
        "AMPLITUDE_BASE_URL": sandbox.url,
        "AMPLITUDE_COHORTS_URL": sandbox.url,
        "AMPLITUDE_API_KEY": "sandbox-api-key",
        "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
    }
    named = [argument for cohort in cohorts for argument in ("--cohort", cohort)]
    command = [sys.executable, "-m", "proxy", "warm", *named, *options]
    began, memory = time.monotonic(), 0
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**variables | settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            memory = max(memory, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(output)
    return Warming(seconds, memory, output)


def measure(sandbox: SandboxProcess, members: int, name: str, settings: Mapping[str, str]) -> bool:
    """Measure one kind of service, and print the figures. Return whether all known users cost no call."""
    sandbox.reset(600)
    cohort = f"crowd-{members}"
    with Service(sandbox, options=("--log-level", "error"), LOG_LEVEL="WARNING", **settings) as service:
        before = service.memory()
        if "REDIS_URL" in settings:
            warming = export(sandbox, [cohort], "--keys", KEYS_OF_PROPERTIES, REDIS_URL=settings["REDIS_URL"])
        else:
            options = ("--url", service.url, "--credentials", KEYS)
            warming = export(sandbox, [cohort], "--keys", KEYS_OF_PROPERTIES, *options)
        after = service.memory()
        query = f"&include=properties,cohorts&keys=first_name,loyalty_points&cohort_id={cohort}"
        step = max(1, members // _CHECKED_USERS)
        known = [number for number in range(1, members + 1, step) if find(f"user-{number}", None)]
        deadline = time.monotonic() + 5  # the other processes install a snapshot within 5 seconds
        time.sleep(max(0.0, deadline - time.monotonic()))
        answers = list(get_all(service.port, [f"/v1/profile?user_id=user-{number}{query}" for number in known]))
    missed = sum(response.headers["X-Amplitude-Calls"] != "0" or b'"ok":true' not in body for response, body in answers)
    print(warming.output)
    print(
        f"{name}: {members:,} members in {warming.seconds:.0f} s; {sandbox.calls()} calls of the Profile API; "
        f"requests to Amplitude: {sandbox.downloads()}; the command took {warming.memory / 2**20:.0f} MiB, "
        f"the service {before / 2**20:.0f} MiB before and {after / 2**20:.0f} MiB after; "
        f"{missed} of {len(answers):,} users without an answer from the cache",
        flush=True,
    )
    return missed == 0 and sandbox.calls() == 0


def measure_membership(sandbox: SandboxProcess, members: int) -> bool:
    """Measure a download of members only, and print the figures. Return whether users cost no call afterwards."""
    cohort = f"crowd-{members}"
    with Service(sandbox, options=("--log-level", "error"), **LONG_LIVED) as service:
        list(get_all(service.port, [f"/v1/cohorts?user_id=user-{number + 1}" for number in range(20)]))
        calls, (before,) = sandbox.calls(), [process.memory_info().rss for process in service.workers()]
        with cached_answers(service.port) as times, peak_memory(service.workers()) as peaks:
            time.sleep(2)
            quiet = len(times)
            warming = export(sandbox, [cohort], "--include", "cohorts", "--url", service.url, "--credentials", KEYS)
        after = service.workers()[0].memory_info().rss
        paths = [f"/v1/cohorts?user_id=user-{number}&cohort_id={cohort}" for number in (1, members, members + 1)]
        answers = [json.loads(body)["is_member"] for _, body in get_all(service.port, paths)]
    print(warming.output)
    print(
        f"{members:,} members in {warming.seconds:.0f} s; the command took {warming.memory / 2**20:.0f} MiB, the "
        f"worker {before / 2**20:.0f} MiB before, at most {peaks[0] / 2**20:.0f} MiB during the download and "
        f"{after / 2**20:.0f} MiB after it; longest cached answer {max(times[:quiet]) * 1000:.0f} ms before and "
        f"{max(times[quiet:]) * 1000:.0f} ms during the download",
        flush=True,
    )
    return answers == [True, True, False] and sandbox.calls() == calls


def main() -> int:
    """Measure the services, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--members", type=int, default=100_000, help="number of members of the cohort")
    parser.add_argument("--membership", action="store_true", help="download no properties")
    parsed = parser.parse_args()
    members = parsed.members
    if parsed.membership:
        with SandboxProcess() as sandbox:
            return 0 if measure_membership(sandbox, members) else 1
    with ExitStack() as running:
        sandbox = running.enter_context(SandboxProcess())
        redis = running.enter_context(RedisServer())
        two = {"WEB_CONCURRENCY": "2", "REDIS_URL": redis.url}
        with Service(sandbox, options=("--log-level", "error"), CACHE_MAX_MB="1024") as service:
            credentials = ("--url", service.url, "--credentials", KEYS)
            needed = export(sandbox, [f"crowd-{members}"], "--keys", KEYS_OF_PROPERTIES, *credentials).needed_mb
        one = measure(sandbox, members, f"one worker, CACHE_MAX_MB={needed}", {"CACHE_MAX_MB": str(needed)})
        return 0 if measure(sandbox, members, "two workers and Redis", two) and one else 1


if __name__ == "__main__":
    sys.exit(main())
