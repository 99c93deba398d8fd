"""Renders messages in child processes, so that a template cannot block the process that answers Braze.

A thread would block the process, because a thread holds the interpreter's lock. Each child renders one message, so
no rendering can affect another. Parent and child exchange lines of JSON over two pipes:

- the parent sends `{"template": …, "user_id": …, "device_id": …, "aliases": …, "values": …, "seconds": …}`;
- for each Connected Content call the child sends `ask {"method": …, "target": …, "headers": …, "body": …,
  "content_type": …}`, and the parent answers `{"status": …, "headers": …, "body": …, "milliseconds": …}`,
  or `null` if the tag must wait for a rendering that may make calls;
- last, the child sends `report` and the report as JSON, which the parent passes on unparsed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from proxy.liquid.report import report
from proxy.liquid.types import NO_ALIASES, OUR_LIMIT, SECONDS, AskForTag, Rendering, Request, User
from proxy.profile.json import write_json

AT_ONCE = 2
"""Concurrent renderings per process. Each may need a processor and 384 MiB; a small message takes 20 ms."""
OTHERS_RENDER = "the preview is busy with other messages; try again in a moment"
_GRACE_SECONDS = 2.0
"""Extra time for loading Liquid on a busy machine."""
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that Python needs. A child gets no other variable, so no secret."""
_SOURCE = Path(__file__).resolve().parents[2]


def refusal_report(reason: str) -> bytes:
    """Return the report of a message that cannot be rendered."""
    return write_json(report(Rendering("refused", reason=reason)))


class Child:
    """A process that renders one message. Leaving the context ends the process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(_SOURCE), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "proxy.liquid.render_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback could hold the data of a user
            env=environment,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # the process has not read all input
                cast(IO[bytes], pipe).close()
        self.process.wait()

    def render(
        self,
        template: str,
        user: User,
        ask: AskForTag,
        *,
        aliases: Mapping[str, Sequence[str]] = NO_ALIASES,
        values: Mapping[str, Any] | None = None,
        seconds: float = SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
    ) -> bytes:
        """Render `template` for `user` and return the report as JSON. `ask` answers each call, in this thread.

        `aliases`: the operator's short names by kind. `values`: test values for the names that only Braze knows
        (`proxy.liquid.braze_objects`). A child ends itself after `seconds` and is killed `grace_seconds` later. The
        report names such failures. Errors of `ask` are raised.
        """
        started_at = time.monotonic()
        limit = threading.Timer(seconds + grace_seconds, self.process.kill)
        limit.daemon = True
        limit.start()
        try:
            message = {"template": template, **asdict(user), "aliases": aliases, "values": values or {}}
            kind, data = self._exchange({**message, "seconds": seconds})
            while kind == b"ask":
                answer = ask(Request(**json.loads(data)))
                kind, data = self._exchange(answer and asdict(answer))
            return data
        except (BrokenPipeError, EOFError):
            pass  # the child ended too early
        finally:
            limit.cancel()
        if time.monotonic() - started_at >= seconds:
            return refusal_report(f"rendering takes longer than {seconds:g} s; simplify the message; {OUR_LIMIT}")
        if self.process.wait() < 0:
            return refusal_report(f"rendering takes too much memory or time; simplify the message; {OUR_LIMIT}")
        return refusal_report("the preview failed with an internal error; report this message")

    def _exchange(self, message: object) -> tuple[bytes, bytes]:
        """Send a message and return kind and data of the child's next message."""
        stdin, stdout = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        stdin.write(json.dumps(message).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        kind, _, data = line[:-1].partition(b" ")
        return kind, data


class Renderer:
    """Renders a few messages at once, and keeps a child ready for the next message.

    A child needs 0.2 s to load Liquid. The first message starts a child, and an unused child ends after a minute.
    """

    def __init__(self, *, idle_seconds: float = 60.0) -> None:
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._spare: tuple[Child, threading.Timer] | None = None  # with the timer that ends it

    def render(
        self,
        template: str,
        user: User,
        ask: AskForTag,
        values: Mapping[str, Any] | None = None,
        aliases: Mapping[str, Sequence[str]] = NO_ALIASES,
    ) -> bytes:
        """Render `template` for `user` and return the report as JSON. `ask` answers each call, in this thread.

        `values`: test values for the names that only Braze knows (`proxy.liquid.braze_objects`). `aliases`: the
        operator's short names by kind.
        """
        if not self._places.acquire(blocking=False):
            return refusal_report(OTHERS_RENDER)
        try:
            try:
                child = self._child()
            except OSError:
                return refusal_report("the server cannot start a process now; try again in a moment")
            with child:
                rendered = child.render(template, user, ask, aliases=aliases, values=values)
            with contextlib.suppress(OSError):  # the next message starts a child itself
                self._keep_ready()
            return rendered
        finally:
            self._places.release()

    def close(self) -> None:
        """End the spare child."""
        if spare := self._take_spare():
            spare.close()

    def _child(self) -> Child:
        spare = self._take_spare()
        if spare and spare.process.poll() is not None:
            spare.close()
            spare = None
        return spare or Child()

    def _take_spare(self) -> Child | None:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return None
        child, ending = spare
        ending.cancel()
        return child

    def _keep_ready(self) -> None:
        with self._lock:
            if self._spare:
                return
            ending = threading.Timer(self._idle_seconds, self.close)
            ending.daemon = True
            self._spare = Child(), ending
            ending.start()
