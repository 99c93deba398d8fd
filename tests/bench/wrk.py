"""Sends load with wrk over keep-alive connections, at full speed."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.sandbox.people import find
from tests.bench.processes import AUTHORIZATION

Kind = Literal["same URL", "another user each time", "another user and query each time"]
"""Another query has parameters that no earlier request had, so only the record is cached, and not the body."""

PATH = "/v1/profile?include=recommendations,properties,cohorts&rec_id=homepage&user_id=user-"

_DONE = """
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"max":%f,"refused":%d,"lost":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    latency.max / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""
_OTHER_USERS = """
local users = {{{users}}}
local at, pass = {start}, 0
function request()
  at = at + 1
  if at > #users then at = 1; pass = pass + 1 end
  return "GET {path}" .. users[at] .. {more} .. " HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: {authorization}\\r\\n\\r\\n"
end
"""


def require_wrk() -> None:
    """Exit if wrk is not installed."""
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; run apt-get install wrk")


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the system permits. Each connection is a file."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def known_users(start: int = 1) -> Iterator[int]:
    """Yield the numbers of users with similar answers: known users with recommendations."""
    for number in itertools.count(start):
        person = find(f"user-{number}", None)
        if person and person.recommendations:
            yield number


@dataclass(frozen=True)
class Run:
    """The result of a run.

    rate: answers per second. p50, p99, slowest: in milliseconds. lost: connections that were closed or timed out.
    """

    rate: float
    p50: float
    p99: float
    slowest: float
    lost: int


class Wrk:
    """Runs wrk.

    folder: the folder for the script. users: the numbers of the users to request in turn.
    """

    def __init__(self, folder: Path, users: Sequence[int]) -> None:
        self._script = folder / "load.lua"
        self._users = users
        self._runs = 0

    def run(self, url: str, kind: Kind, *, connections: int, seconds: int) -> Run:
        """Send load to `url`. Raises RuntimeError if an answer does not have a 2xx status."""
        self._runs += 1
        other = _OTHER_USERS.format(
            users=",".join(map(str, self._users)),
            start=self._runs * 997 % len(self._users),
            path=PATH,
            more=f'"&cohort_id=run-{self._runs}-pass-" .. pass' if kind == "another user and query each time" else '""',
            authorization=AUTHORIZATION,
        )
        self._script.write_text(_DONE if kind == "same URL" else other + _DONE)
        # wrk omits answers that take longer than the timeout from its figures.
        options = [f"-c{connections}", f"-d{seconds}s", "-t1", "--timeout", "20s", "-s", str(self._script)]
        options += ["-H", f"Authorization: {AUTHORIZATION}"]
        target = f"{url}{PATH}{self._users[0]}"
        output = subprocess.run(["wrk", *options, target], capture_output=True, text=True, check=True).stdout
        result = json.loads(output.rstrip().rpartition("\n")[2])
        if result["refused"]:
            raise RuntimeError(f"{result['refused']} answers of {url} do not have a 2xx status")
        return Run(result["requests"] / result["seconds"], result["p50"], result["p99"], result["max"], result["lost"])
