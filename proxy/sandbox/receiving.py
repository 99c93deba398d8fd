"""Serves the emulated APIs that receive data: POST requests, common faults, and reports as JSON."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from email.message import Message
from typing import Any, Protocol

from proxy.sandbox.faults import Fault, FaultSwitch
from proxy.sandbox.http import QuietHandler, Reply


class ReceivingApi(Protocol):
    """An emulated API that receives data."""

    faults: FaultSwitch

    def receive(self, path: str, headers: Message, body: bytes) -> Reply:
        """Return the answer to a POST."""

    def report(self) -> dict[str, Any]:
        """Return counts of the received data."""

    def details(self, name: str) -> Any:
        """Return a list or an object of received data; None for an unknown name."""

    def reset(self) -> None:
        """Delete the received data."""


def receive(handler: QuietHandler, path: str, api: ReceivingApi, closing: threading.Event) -> None:
    """Answer a POST. If a fault ends the connection before the body is read, the request is not logged."""
    fault = api.faults.take(lambda fault: fault.kind in ("hang", "reset"))
    if fault is None:
        reply = api.receive(path, handler.headers, handler.body())
        if reply.delay:
            closing.wait(reply.delay)
        return handler.send(reply)
    if fault.kind == "reset":
        return handler.reset()
    closing.wait(fault.seconds)
    handler.close_connection = True
    return None


def answer_report(api: ReceivingApi, detail: str) -> Reply:
    """Answer GET /emulator/NAME with the report and the fault, and GET /emulator/NAME/DETAIL with received data."""
    if not detail:
        fault = api.faults.current
        return Reply(200, api.report() | {"fault": vars(fault) if fault else None})
    data = api.details(detail)
    return Reply(404) if data is None else Reply(200, data)


def upstream_error(fault: Fault, body: Mapping[str, Any]) -> Reply | None:
    """Return the answer of the faults `status`, with `body`, and `status-text`; None for other faults."""
    match fault.kind:
        case "status":
            return Reply(fault.status, body)
        case "status-text":
            return Reply(fault.status, "<html><body>Bad gateway</body></html>", {"Content-Type": "text/html"})
        case _:
            return None


def apply_fault(reply: Reply, fault: Fault | None) -> Reply:
    """Return the answer to an accepted request, after a fault that delays, drops or damages the answer."""
    match fault:
        case Fault(kind="slow"):
            return replace(reply, delay=fault.seconds)
        case Fault(kind="hang-accepted"):
            return replace(reply, delay=fault.seconds, lost=True)
        case Fault(kind="uncertain"):
            return replace(reply, lost=True)
        case Fault(kind="broken-json"):
            return replace(reply, body=b'{"message": "succ')
        case _:
            return reply
