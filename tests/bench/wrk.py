"""Load with wrk: as many requests as the target answers, over keep-alive connections."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.sandbox.people import find
from tests.bench.processes import AUTHORIZATION

Kind = Literal["same user", "other users", "other users, new query"]
"""A new query has parameters that no request had before: the record answers it, a finished body does not."""

PATH = "/v1/profile?include=recommendations,properties,cohorts&rec_id=homepage&user_id=user-"

_DONE = """
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"refused":%d,"lost":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
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
        sys.exit("wrk is not installed: apt-get install wrk")


def known_users(start: int = 1) -> Iterator[int]:
    """Yield the numbers of users whose answers are alike: known, and with recommendations."""
    for number in itertools.count(start):
        person = find(f"user-{number}", None)
        if person and person.recommendations:
            yield number


@dataclass(frozen=True)
class Run:
    """Requests per second, median and 99th percentile in milliseconds, and connections lost or timed out."""

    rate: float
    p50: float
    p99: float
    lost: int


class Wrk:
    """Runs wrk. `folder` takes the script; `users` are the numbers of the users requested in turn."""

    def __init__(self, folder: Path, users: Sequence[int]) -> None:
        self._script = folder / "load.lua"
        self._users = users
        self._runs = 0

    def run(self, url: str, kind: Kind, *, connections: int, seconds: int) -> Run:
        """Load `url`. RuntimeError when some answer was not a success."""
        self._runs += 1
        other = _OTHER_USERS.format(
            users=",".join(map(str, self._users)),
            start=self._runs * 997 % len(self._users),
            path=PATH,
            more=f'"&cohort_id=run-{self._runs}-pass-" .. pass' if kind == "other users, new query" else '""',
            authorization=AUTHORIZATION,
        )
        self._script.write_text(_DONE if kind == "same user" else other + _DONE)
        options = [f"-c{connections}", f"-d{seconds}s", "-t1", "-s", str(self._script)]
        options += ["-H", f"Authorization: {AUTHORIZATION}"]
        target = f"{url}{PATH}{self._users[0]}"
        output = subprocess.run(["wrk", *options, target], capture_output=True, text=True, check=True).stdout
        result = json.loads(output.rstrip().rpartition("\n")[2])
        if result["refused"]:
            raise RuntimeError(f"{result['refused']} answers of {url} were no success")
        return Run(result["requests"] / result["seconds"], result["p50"], result["p99"], result["lost"])
