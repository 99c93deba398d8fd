"""Renders one message in a process of its own; `proxy.liquid.process` starts it and describes what the two exchange."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from typing import Any

from proxy.liquid.report import report
from proxy.liquid.types import Answer, Rendering, Request, User
from proxy.profile.json import write_json

_MEMORY_BYTES = 384 * 1024 * 1024
"""Of address space. Python with Liquid has 151 MiB of it and uses 28; ten answers of 1 MB each take 130 more."""
_CPU_SECONDS = 12
"""More than any time limit, with room for loading Liquid: for a child whose parent cannot end it any more."""
_NICENESS = 10
_MAX_CALL_BYTES = 256 * 1024
"""Of a call as JSON; a data route takes a sixteenth of it."""


def main() -> None:
    """Read a template and a user from standard input, and write what becomes of it to standard output."""
    _limit_resources()
    incoming = _Incoming()
    # Loaded after the limits are set and, in a child that is kept ready, before there is a message.
    from liquid.exceptions import ResourceLimitError

    from proxy.liquid.limits import Limits
    from proxy.liquid.render import render

    def ask(request: Request) -> Answer:
        call = {
            "method": request.method,
            "target": request.target,
            "headers": dict(request.headers),
            "body": request.body,
            "content_type": request.content_type,
        }
        line = json.dumps({"ask": call}).encode()
        if len(line) > _MAX_CALL_BYTES:
            raise ResourceLimitError("a call grows too large", token=None)
        _write(line + b"\n")
        return Answer(**incoming.next())

    given = incoming.next()
    user = User(given["user_id"], given["device_id"])
    try:
        shown = report(render(given["template"], user, ask, limits=Limits(seconds=given["seconds"])))
        body = write_json(shown)
    except MemoryError:
        body = write_json(report(Rendering("refused", reason="it takes more memory than a preview may")))
    _write(json.dumps({"report": len(body)}).encode() + b"\n" + body)


class _Incoming:
    """What the parent writes. The process ends as soon as the parent has closed the pipe, whatever it is doing."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """Wait for the next message and return it."""
        message: dict[str, Any] = json.loads(self._lines.get())
        return message

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._lines.put(line)
        os._exit(1)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _limit_resources() -> None:
    # A terminal and some platforms signal every process they started; the parent decides when this one ends.
    for sent_to_all in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent_to_all, signal.SIG_IGN)
    os.nice(_NICENESS)
    for kind, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_SECONDS)):
        # macOS refuses to limit the address space; and a limit that is lower already cannot be raised.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    finally:
        os._exit(status)  # an orderly end would wait for the thread that reads
