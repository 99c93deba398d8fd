"""Processes of their own for the benches: the emulated Amplitude, the service under gunicorn, and what they take.

The service runs under its shipped configuration; of the settings only those are given that have no default, and
those that a bench is about.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.conftest import KEYS, ROOT, free_port

_START_SECONDS = 30.0


@dataclass(frozen=True)
class Seen:
    """What the emulated Amplitude has seen so far."""

    calls: list[tuple[float, str]]
    """When (monotonic seconds, the same in all processes of a machine), and the user asked about."""
    exposures: list[tuple[str, str]]
    statuses: Mapping[int, int]
    worst_minute: int
    """The most calls in any 60 seconds, refused ones too."""


class SandboxProcess:
    """The emulated Amplitude in a process of its own; a context manager. Takes the arguments of `Sandbox`."""

    def __init__(self, **arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, arguments), daemon=True)

    def __enter__(self) -> SandboxProcess:
        self._process.start()
        self.port, self.secret_key = self._pipe.recv()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def break_with(self, fault: Fault | None) -> None:
        """Set the fault of the calls to come; None ends it."""
        self._pipe.send(fault)
        self._pipe.recv()

    def begin_anew(self, per_minute: int) -> None:
        """Forget what was seen, and allow so many calls a minute from now on."""
        self._pipe.send(per_minute)
        self._pipe.recv()

    def seen(self) -> Seen:
        """Return what it has seen so far."""
        self._pipe.send("seen")
        found: Seen = self._pipe.recv()
        return found


def _serve(pipe: Connection, arguments: dict[str, Any]) -> None:
    with Sandbox(**arguments) as sandbox:
        pipe.send((sandbox.port, sandbox.secret_key))
        while True:
            try:
                asked = pipe.recv()
            except (EOFError, KeyboardInterrupt):
                return
            if asked == "seen":
                worst = sandbox.report()["worst_minute"]
                calls = [(moment, query.get("user_id", "")) for moment, query in sandbox.calls]
                pipe.send(Seen(calls, list(sandbox.exposures), Counter(sandbox.statuses), worst))
            elif isinstance(asked, int):
                sandbox.reset()
                sandbox.per_minute = asked
                pipe.send(None)
            else:
                sandbox.break_with(asked)
                pipe.send(None)


class Service:
    """The service under gunicorn in front of a sandbox; a context manager. Settings by name."""

    def __init__(self, sandbox: SandboxProcess, **variables: str) -> None:
        self.port = free_port()
        rest = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        given = {
            "AMPLITUDE_BASE_URL": sandbox.url,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "PROXY_API_KEYS": KEYS,
        }
        self._environment = rest | given | variables
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed on exit; a process writes to it meanwhile
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def start(self) -> None:
        """Start it, and return once it answers."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{self.port}"],
            cwd=ROOT,
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it in order (SIGTERM) and wait for its end. Does nothing while it is stopped."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(40)
            self.process = None

    def log(self) -> str:
        """Return what it has logged."""
        return Path(self._log.name).read_text(errors="replace")

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return [child.pid for child in self._children()]

    def resident_bytes(self) -> int:
        """Return what its processes hold in memory, all together; pages that they share are counted in each."""
        total = 0
        for process in self._children(and_itself=True):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _children(self, *, and_itself: bool = False) -> list[psutil.Process]:
        if self.process is None:
            return []
        try:
            master = psutil.Process(self.process.pid)
            return [master, *master.children(recursive=True)] if and_itself else master.children()
        except psutil.NoSuchProcess:
            return []

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True
