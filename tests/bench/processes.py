"""Processes of their own for the benches: the emulated Amplitude, the service under gunicorn, and what they take.

The service runs under its shipped configuration; of the settings only those are given that have no default, and
those that a bench is about.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from proxy.sandbox.faults import Fault
from proxy.sandbox.server import Sandbox
from tests.bench.running import running
from tests.conftest import KEYS, free_port


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
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and return once it answers."""
        command = [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{self.port}"]
        log = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        started = self._stack.enter_context(running(command, self.port, log, self._environment))
        self._master = psutil.Process(started.process)

    def stop(self) -> None:
        """Stop it in order (SIGTERM) and wait for its end. Does nothing while it is stopped."""
        self._stack.close()

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return [child.pid for child in self._master.children()]

    def resident_bytes(self) -> int:
        """Return what its processes hold in memory, all together; pages that they share are counted in each."""
        total = 0
        for process in [self._master, *self._master.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total
