"""Renders one message in a child process. `proxy.liquid.render_process` starts it and documents the protocol."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import sys
import threading
from dataclasses import asdict

from proxy.liquid.report import report
from proxy.liquid.types import OUR_LIMIT, Answer, HeldAnswer, Rendering, Request, User
from proxy.profile.json import write_json

_MEMORY_BYTES = 384 * 1024 * 1024
"""Limit on address space. Python with Liquid reserves 151 MiB and uses 28; ten answers of 1 MB take 130 more."""
_CPU_SECONDS = 12
"""Longer than any time limit, with time to load Liquid. Ends a child whose parent cannot end the child."""
_NICENESS = 10
_MAX_CALL_BYTES = 256 * 1024
"""Limit on a call as JSON, 16 times that of a data route."""
_MAX_HELD_BODY = 64 * 1024
"""Limit on an answer that the page may keep. The page must be able to send the answers back with the message."""


def main() -> None:
    """Read a template and a user from standard input, and write the report to standard output."""
    _limit_resources()
    incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(incoming,), daemon=True).start()
    # Imported after the limits are set, and in a spare child before the message arrives.
    from liquid.exceptions import ResourceLimitError

    from proxy.liquid.render import render

    answers: list[HeldAnswer] = []

    def ask(request: Request) -> Answer | None:
        call = json.dumps(asdict(request)).encode()
        if len(call) > _MAX_CALL_BYTES:
            raise ResourceLimitError("the call is too large; shorten its body", token=None)
        _write(b"ask", call)
        received = json.loads(incoming.get())
        if received is None:
            return None
        answer = Answer(**received)
        if len(answer.body) <= _MAX_HELD_BODY:
            answers.append(HeldAnswer(request, answer.status, answer.body))
        return answer

    message = json.loads(incoming.get())
    user = User(message["user_id"], message["device_id"])
    try:
        rendering = render(
            message["template"],
            user,
            ask,
            aliases=message["aliases"],
            values=message["values"],
            seconds=message["seconds"],
        )
        body = write_json(report(rendering, answers))
    except MemoryError:
        body = write_json(report(Rendering("refused", reason=f"rendering takes too much memory; {OUR_LIMIT}")))
    _write(b"report", body)


def _read(incoming: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        incoming.put(line)
    os._exit(1)  # the parent has closed the pipe


def _write(kind: bytes, data: bytes) -> None:
    sys.stdout.buffer.write(kind + b" " + data + b"\n")
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
