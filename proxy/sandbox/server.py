"""The emulated User Profile API over HTTP, with its quota, faults on request, and counts of calls.

It serves `/v1/userprofile`, the download of cohorts below `/api/5/cohorts/`, `GET /sandbox/report`,
`POST /sandbox/fault?kind=…` and `DELETE /sandbox/fault`.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from proxy.sandbox.cohort_api import Exports
from proxy.sandbox.faults import Fault, fault_from
from proxy.sandbox.people import Person, find
from proxy.sandbox.user_data import Documented, listed, user_data

WINDOW_SECONDS = 60.0


class Sandbox:
    """Runs the emulated Amplitude on a thread. A context manager with public counts."""

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        secret_key: str = "sandbox-secret-key",  # noqa: S107  # opens nothing but this sandbox
        api_key: str = "sandbox-api-key",
        per_minute: int = 600,
        latency: float = 0.0,
        documented: Documented | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.documented = documented or Documented()
        self.latency = latency
        self.per_minute = per_minute
        self.secret_key = secret_key
        self.api_key = api_key
        self.closing = threading.Event()
        self.exports = Exports(polls=self.documented.cohort_polls, inline=self.documented.cohort_file == "inline")
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._faulty_calls = 0
        self._accepted: deque[float] = deque()  # within the quota, in the last minute
        self._arrived: deque[float] = deque()  # refused calls included
        self.reset()
        self._server = _Server((host, port), self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self.exports.close()

    def reset(self) -> None:
        """Reset the counts and the quota."""
        with self._lock:
            self.calls: list[tuple[float, dict[str, str]]] = []  # when (monotonic seconds), and the query
            self.exposures: list[tuple[str, str]] = []  # user or device, and rec_id
            self.statuses: Counter[int] = Counter()
            self._accepted.clear()
            self._arrived.clear()
            self._worst_minute = 0
            self.exports.counts.clear()

    def report(self) -> dict[str, Any]:
        """Return the counts: calls, statuses, exposures, and calls in the last and in the busiest 60 seconds."""
        with self._lock:
            horizon = time.monotonic() - WINDOW_SECONDS
            return {
                "calls": len(self.calls),
                "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
                "exposures": len(self.exposures),
                "last_minute": sum(1 for moment, _ in self.calls if moment > horizon),
                "worst_minute": self._worst_minute,
                "per_minute": self.per_minute,
                "cohorts": dict(self.exports.counts),
                "fault": asdict(self._fault) if self._fault else None,
            }

    def break_with(self, fault: Fault | None) -> None:
        """Set the fault of future calls; None clears it."""
        with self._lock:
            self._fault = fault
            self._faulty_calls = 0

    # Called by a handler.

    def admit(self, query: dict[str, str]) -> tuple[bool, Fault | None]:
        """Count a call. Return whether it is within the quota, and the fault to show."""
        with self._lock:
            now = time.monotonic()
            self.calls.append((now, query))
            self._arrived.append(now)
            while self._arrived[0] <= now - WINDOW_SECONDS:
                self._arrived.popleft()
            self._worst_minute = max(self._worst_minute, len(self._arrived))
            while self._accepted and self._accepted[0] <= now - WINDOW_SECONDS:
                self._accepted.popleft()
            within = len(self._accepted) < self.per_minute
            if within:
                self._accepted.append(now)
            return within, self._due(query.get("user_id"), of_a_cohort=False)

    def fault_of_a_cohort(self) -> Fault | None:
        """Return the fault of a cohort download."""
        with self._lock:
            return self._due(None, of_a_cohort=True)

    def _due(self, user_id: str | None, *, of_a_cohort: bool) -> Fault | None:
        """Return the fault of a call and count it. Called under the lock."""
        fault = self._fault
        if fault is None or fault.of_a_cohort is not of_a_cohort or fault.user_id not in (None, user_id):
            return None
        if fault.times:
            self._faulty_calls += 1
            if self._faulty_calls >= fault.times:
                self._fault = None
        return fault

    def expose(self, person: Person, rec_ids: list[str]) -> None:
        """Log an exposure event for each requested recommendation, as Amplitude does."""
        with self._lock:
            self.exposures += [(person.user_id or person.device_id or "", rec_id) for rec_id in rec_ids]

    def answered(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self.statuses[status] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        super().__init__(address, _Handler)
        self.sandbox = sandbox

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients disconnect during a fault on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # Unbuffered writes and Nagle's algorithm together cost 40 ms an answer.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing; `report` counts."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v1/userprofile":
            self._userprofile(self._query())
        elif path.startswith("/api/"):
            self._cohorts(path)
        elif path == "/sandbox/report":
            self._send(200, self.server.sandbox.report(), counted=False)
        else:
            self._send(404, "", counted=False)

    def do_POST(self) -> None:
        if urlsplit(self.path).path != "/sandbox/fault":
            return self._send(404, "", counted=False)
        try:
            fault = fault_from(self._query())
        except ValueError as error:
            return self._send(400, {"error": str(error)}, counted=False)
        self.server.sandbox.break_with(fault)
        return self._send(200, {"fault": asdict(fault)}, counted=False)

    def do_DELETE(self) -> None:
        if urlsplit(self.path).path != "/sandbox/fault":
            return self._send(404, "", counted=False)
        self.server.sandbox.break_with(None)
        return self._send(200, {"fault": None}, counted=False)

    def _query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    def _userprofile(self, query: dict[str, str]) -> None:
        sandbox = self.server.sandbox
        within, fault = sandbox.admit(query)
        if sandbox.latency:
            sandbox.closing.wait(sandbox.latency)
        if refusal := self._unauthorized():
            return self._send(401, refusal)
        if not within or (fault and fault.kind == "quota"):
            return self._send(
                429,
                {"error": f"Number of requests per minute exceeds system limit of {sandbox.per_minute}"},
                {} if sandbox.documented.retry_after is None else {"Retry-After": str(sandbox.documented.retry_after)},
            )
        if not query.get("user_id") and not query.get("device_id"):
            return self._send(400, {"error": "Missing user_id or device_id"})
        person = find(query.get("user_id"), query.get("device_id"))
        if fault and fault.kind not in ("slow", "drip-headers", "drip-body", "bad-header", "another-user"):
            return self._fail(fault)
        if fault and fault.kind == "slow":
            sandbox.closing.wait(fault.seconds)
        if person is None:
            return self._send(sandbox.documented.unknown_status, {"error": "User id and device id not seen before"})
        sandbox.expose(person, listed(query, "rec_id"))
        answer = {"userData": user_data(person, query, sandbox.documented)}
        if fault and fault.kind == "another-user":
            answer["userData"] |= {"user_id": "another-user", "device_id": "another-device"}
        if fault and fault.kind in ("drip-headers", "drip-body"):
            return self._drip(fault, json.dumps(answer).encode())
        extra = {"X Odd": "a header name with a space"} if fault and fault.kind == "bad-header" else {}
        return self._send(200, answer, extra)

    def _cohorts(self, path: str) -> None:
        sandbox = self.server.sandbox
        if refusal := self._unauthorized("basic"):
            return self._send(401, refusal, counted=False)
        reply = sandbox.exports.answer(path, sandbox.fault_of_a_cohort())
        if not isinstance(reply.body, bytes):
            return self._send(reply.status, reply.body, reply.headers, counted=False)
        self.close_connection = self.close_connection or reply.cut > 0
        return self._send_bytes(reply.status, reply.body, reply.headers, counted=False, cut=reply.cut)

    def _unauthorized(self, wanted: str | None = None) -> str | None:
        """Return the text of a 401, or None for a caller with the right key. `wanted`: the only accepted scheme."""
        sandbox = self.server.sandbox
        credentials = self.headers.get("Authorization", "")
        if not credentials:
            return "Missing Api-Key in Authorization header"
        basic = base64.b64encode(f"{sandbox.api_key}:{sandbox.secret_key}".encode()).decode()
        right = {"api-key": f"Api-Key {sandbox.secret_key}", "basic": f"Basic {basic}"}
        wanted = wanted or sandbox.documented.credentials
        accepted = right.values() if wanted == "both" else [right[wanted]]
        return None if credentials in accepted else "Invalid Api-Key"

    def _fail(self, fault: Fault) -> None:
        match fault.kind:
            case "hang":
                self.server.sandbox.closing.wait(fault.seconds)
                self.close_connection = True
            case "reset":
                # Closing with a linger of zero sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RD)
                self.close_connection = True
            case "status":
                self._send(fault.status, {"error": "Internal Server Error"} if fault.status >= 500 else "")
            case "broken-json":
                self._send(200, '{"userData": {"user_id": ')
            case "wrong-shape":
                self._send(200, [{"userData": None}])
            case "wrong-types":
                self._send(200, {"userData": {"amp_props": [1], "cohort_ids": "c1", "recommendations": {"items": 3}}})
            case "oversize":
                self._send(200, {"userData": {"amp_props": {"gp:blob": "x" * (3 * 1024 * 1024)}}})
            case "redirect":
                self._send(301, "", {"Location": self.server.sandbox.url + "/elsewhere"})
            case _:
                self._send_bytes(200, b'{"userData": {"amp_props": {"gp:name": "\xff\xfe"}}}')

    def _drip(self, fault: Fault, body: bytes) -> None:
        """Send one byte at a time, so that no single read ever waits long."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        if fault.kind == "drip-body":
            self.wfile.write(head)
            self.wfile.flush()
            head = b""
        text = head + body
        pause = fault.seconds / len(text)
        for number in range(len(text)):
            if self.server.sandbox.closing.wait(pause):
                return
            self.wfile.write(text[number : number + 1])
            self.wfile.flush()
        self.server.sandbox.answered(200)

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None, *, counted: bool = True) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "text/plain" if isinstance(body, str) and not body.startswith("{") else "application/json"
        self._send_bytes(status, text.encode(), {"Content-Type": kind, **(headers or {})}, counted=counted)

    def _send_bytes(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, counted: bool = True, cut: int = 0
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        if counted:
            self.server.sandbox.answered(status)
