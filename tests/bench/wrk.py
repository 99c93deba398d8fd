"""Load with wrk: as many requests as the target answers, over keep-alive connections, and what came of them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.sandbox.people import find

SAME = "same"
"""Every request is for one user."""
NEW = "new"
"""Every request is for another user, in a way in which nobody asked of that user before."""
AGAIN = "again"
"""Every request is for another user, asked as it was when the user was warmed."""

ASK = "/v1/profile?include=recommendations,properties,cohorts&rec_id=homepage&user_id=user-"

_DONE = """
function done(summary, latency, requests)
  local lost = summary.errors
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"refused":%d,"lost":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    lost.status, lost.connect + lost.read + lost.write + lost.timeout))
end
"""
_DIFFERENT = """
local users = {{{users}}}
local at, pass = {start}, 0
local head = "GET {ask}"
local tail = " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nAuthorization: {authorization}\\r\\n\\r\\n"
function request()
  at = at + 1
  if at > #users then at = 1; pass = pass + 1 end
  return head .. users[at] .. {more} .. tail
end
"""


def known_users(start: int = 1) -> Iterator[int]:
    """Yield the numbers of users of the crowd whose answers are alike: known, and with recommendations."""
    for number in itertools.count(start):
        person = find(f"user-{number}", None)
        if person and person.recommendations:
            yield number


@dataclass(frozen=True)
class Run:
    """One run: requests per second, median and 99th percentile in milliseconds, connections lost or timed out."""

    rate: float
    p50: float
    p99: float
    lost: int


class Load:
    """Runs wrk. `folder` takes the scripts; `users` are the numbers of those who are asked for in turn."""

    def __init__(self, folder: Path, users: Sequence[int], authorization: str) -> None:
        self._folder = folder
        self._users = users
        self._authorization = authorization
        self._runs = 0

    def run(self, url: str, kind: str, *, connections: int, seconds: float) -> Run:
        """Load `url` and return what came of it. RuntimeError when some answer was not a success."""
        self._runs += 1
        script = self._folder / "load.lua"
        script.write_text((self._different(kind) if kind != SAME else "") + _DONE)
        arguments = [f"-c{connections}", f"-d{seconds:g}s", "-t1", "-s", str(script)]
        credentials = ["-H", f"Authorization: {self._authorization}"] if kind == SAME else []
        target = f"{url}{ASK}{self._users[0]}"
        done = subprocess.run(
            ["wrk", *arguments, *credentials, target], capture_output=True, text=True, check=True
        ).stdout
        told = json.loads(done.rstrip().rpartition("\n")[2])
        if told["refused"]:
            raise RuntimeError(f"{told['refused']} answers of {url} were no success")
        return Run(told["requests"] / told["seconds"], told["p50"], told["p99"], told["lost"])

    def _different(self, kind: str) -> str:
        # A cohort that no run asked for yet makes a new question of the old one. What is kept answers it, but the
        # answer was never written: a campaign that warmed its users and then asks for them once each.
        more = f'"&cohort_id=run-{self._runs}-pass-" .. pass' if kind == NEW else '""'
        return _DIFFERENT.format(
            users=",".join(map(str, self._users)),
            start=self._runs * 997 % len(self._users),
            ask=ASK,
            authorization=self._authorization,
            more=more,
        )
