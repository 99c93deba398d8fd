"""Renders messages in child processes, so that a template cannot block the process that answers Braze.

A thread would block it, because it holds the interpreter's lock. Each child renders one message, so no rendering can
affect another. Parent and child exchange lines of JSON over two pipes:

- the parent sends `{"template": …, "user_id": …, "device_id": …, "seconds": …}`;
- for each Connected Content call the child sends `{"ask": {"method": …, "target": …, "headers": …, "body": …,
  "content_type": …}}`, and the parent answers `{"status": …, "headers": …, "body": …, "milliseconds": …}`;
- last, the child sends `{"report": N}` and N bytes: the report as JSON, which the parent passes on unparsed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from proxy.liquid.report import report
from proxy.liquid.types import SECONDS, Ask, Rendering, Request, User
from proxy.profile.json import write_json

AT_ONCE = 2
"""Concurrent renderings per process. Each may need a processor and 384 MiB; a small one takes 20 ms."""
OTHERS_RENDER = "others are rendering just now: try again in a moment"
_GRACE_SECONDS = 2.0
"""Extra time for a child that has to load Liquid first on a busy machine. Most children end in time."""
_IDLE_SECONDS = 60.0
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that Python needs. A child sees no other, so no secret."""
_SOURCE = Path(__file__).resolve().parents[2]


def refused(reason: str) -> bytes:
    """Return the report of a message that cannot be rendered."""
    return write_json(report(Rendering("refused", reason=reason)))


class Child:
    """A process that renders one message. Leaving the context ends the process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(_SOURCE), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "proxy.liquid.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback could hold the data of a user
            env=environment,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        assert self._process.stdin and self._process.stdout  # noqa: S101, PT018  # both are pipes
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # the process has not read everything
                pipe.close()
        self._process.wait()

    def render(
        self,
        template: str,
        user: User,
        ask: Ask,
        *,
        seconds: float = SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
    ) -> bytes:
        """Render `template` for `user` and return the report as JSON. `ask` answers each call, in this thread.

        A child ends itself after `seconds` and is killed `grace_seconds` later. That and other failures are reported.
        Errors of `ask` are raised.
        """
        began = time.monotonic()
        limit = threading.Timer(seconds + grace_seconds, self._process.kill)
        limit.daemon = True
        limit.start()
        try:
            self._send({"template": template, **asdict(user), "seconds": seconds})
            while "ask" in (message := self._receive()):
                self._send(asdict(ask(Request(**message["ask"]))))
            return self._read(message["report"])
        except (BrokenPipeError, EOFError):
            pass  # the child ended too early
        finally:
            limit.cancel()
        if time.monotonic() - began >= seconds:
            return refused(f"it takes longer than {seconds:g} s")
        if self._process.wait() < 0:
            return refused("it takes more memory or time than a preview may")
        return refused("the preview cannot render it, through a fault of its own: please report this message")

    def _send(self, message: object) -> None:
        assert self._process.stdin  # noqa: S101  # a pipe
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101  # a pipe
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def _read(self, length: int) -> bytes:
        assert self._process.stdout  # noqa: S101  # a pipe
        data = self._process.stdout.read(length)
        if len(data) < length:
            raise EOFError
        return data


class Renderer:
    """Renders a few messages at once, and keeps a child ready for the next message.

    A child needs 0.2 s to load Liquid. None is started before the first message, and an unused one ends after a minute.
    """

    def __init__(
        self, *, at_once: int = AT_ONCE, seconds: float = SECONDS, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        self._places = threading.BoundedSemaphore(at_once)
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._spare: tuple[Child, threading.Timer] | None = None  # with the timer that ends it

    def render(self, template: str, user: User, ask: Ask) -> bytes:
        """Render `template` for `user` and return the report as JSON. `ask` answers each call, in this thread."""
        if not self._places.acquire(blocking=False):
            return refused(OTHERS_RENDER)
        try:
            try:
                child = self._child()
            except OSError:
                return refused("the server cannot start another process right now: try again in a moment")
            with child:
                rendered = child.render(template, user, ask, seconds=self._seconds)
            with contextlib.suppress(OSError):  # the next message starts a child itself
                self._keep_ready()
            return rendered
        finally:
            self._places.release()

    def close(self) -> None:
        """End the spare child."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare:
            spare[1].cancel()
            spare[0].close()

    def _child(self) -> Child:
        with self._lock:
            spare, self._spare = self._spare, None
        if not spare:
            return Child()
        child, ending = spare
        ending.cancel()
        if child.running:
            return child
        child.close()
        return Child()

    def _keep_ready(self) -> None:
        with self._lock:
            if self._spare:
                return
            ending = threading.Timer(self._idle_seconds, self.close)
            ending.daemon = True
            self._spare = Child(), ending
            ending.start()
