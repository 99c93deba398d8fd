"""Renders one message in a child process. `proxy.liquid.process` starts it and documents the protocol."""

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
"""Limit on address space. Python with Liquid reserves 151 MiB and uses 28; ten answers of 1 MB take 130 more."""
_CPU_SECONDS = 12
"""Above any time limit, with room for loading Liquid: for a child whose parent can no longer end it."""
_NICENESS = 10
_MAX_CALL_BYTES = 256 * 1024
"""Limit on a call as JSON, 16 times that of a data route."""


def main() -> None:
    """Read a template and a user from standard input, and write the report to standard output."""
    _limit_resources()
    incoming = _Incoming()
    # Imported after the limits are set and, in a child that is kept ready, before the message arrives.
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
            raise ResourceLimitError("the call is too large", token=None)
        _write(line + b"\n")
        return Answer(**incoming.next())

    message = incoming.next()
    user = User(message["user_id"], message["device_id"])
    try:
        rendering = render(message["template"], user, ask, limits=Limits(seconds=message["seconds"]))
        body = write_json(report(rendering))
    except MemoryError:
        body = write_json(report(Rendering("refused", reason="it takes more memory than a preview may")))
    _write(json.dumps({"report": len(body)}).encode() + b"\n" + body)


class _Incoming:
    """Reads the messages of the parent. Ends the process at once when the parent closes the pipe."""

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
    # A terminal and some platforms signal every process of a group; the parent decides when the child ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    for kind, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_SECONDS)):
        # macOS cannot limit the address space, and a lower limit cannot be raised.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    finally:
        os._exit(status)  # a normal exit would wait for the reading thread
