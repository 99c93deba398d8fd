"""The emulated Amplitude and Braze over HTTP, with quota, faults on request, and counts of calls.

Serves `/v1/userprofile`, the download of cohorts below `/api/5/cohorts/`, `GET /sandbox/report`,
`POST /sandbox/fault?kind=…` and `DELETE /sandbox/fault`.

Receives data at Braze's `/users/track` and at `/batch`, the Batch Event Upload API. NAME is `braze` or `batch`:
`GET /emulator/NAME` returns the counts of received data, `GET /emulator/NAME/requests` (or `events`, and for Braze
`users` and `purchases`) the data. `DELETE /emulator/NAME` forgets it. `POST /emulator/NAME/fault?kind=…` and
`DELETE /emulator/NAME/fault` set and clear the fault.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

from proxy.sandbox.batch_api import BatchApi
from proxy.sandbox.braze_api import BrazeApi
from proxy.sandbox.cohort_api import Exports
from proxy.sandbox.faults import Fault, FaultKind, FaultSwitch, fault_from
from proxy.sandbox.http import QuietHandler, QuietServer, Reply
from proxy.sandbox.people import Person, find
from proxy.sandbox.receiving import ReceivingApi, answer_report, receive
from proxy.sandbox.user_data import Documented, split_parameter, user_data

WINDOW_SECONDS = 60.0


class Sandbox:
    """Runs the emulated Amplitude and Braze on a thread, as a context manager."""

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        secret_key: str = "sandbox-secret-key",  # noqa: S107  # accepted only by this sandbox
        api_key: str = "sandbox-api-key",
        former_secret_key: str | None = None,
        per_minute: int = 600,
        latency: float = 0.0,
        documented: Documented | None = None,
        profile_api: bool = True,
        tls: ssl.SSLContext | None = None,
        braze: BrazeApi | None = None,
        batch: BatchApi | None = None,
    ) -> None:
        self.documented = documented or Documented()
        self.latency = latency
        self.per_minute = per_minute
        self.secret_key = secret_key
        self.api_key = api_key
        self.former_secret_key = former_secret_key
        """Accepted too, during a rotation."""
        self.profile_api = profile_api
        """False to answer calls as a host without the User Profile API, which Amplitude's EU region lacks."""
        self.closing = threading.Event()
        self.exports = Exports(self.documented)
        self.braze = braze or BrazeApi()
        self.batch = batch or BatchApi(key=api_key)
        self.faults = FaultSwitch(get_args(FaultKind))
        self._lock = threading.Lock()
        self._accepted: deque[float] = deque()  # within the quota, in the last minute
        self._arrived: deque[float] = deque()  # including rejected calls
        self.reset()
        self._server = _Server((host, port), self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def receiving(self) -> dict[str, ReceivingApi]:
        """Return the emulated APIs that receive data, by their name below `/emulator/`."""
        return {"braze": self.braze, "batch": self.batch}

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
            self.calls: list[tuple[float, dict[str, str]]] = []  # time in monotonic seconds, and the query
            self.exposures: list[tuple[str, str]] = []  # user id or device id, and rec_id
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
                "fault": asdict(self.faults.current) if self.faults.current else None,
            }

    def break_with(self, fault: Fault | None) -> None:
        """Set the fault of future calls to Amplitude's downloads and profiles; None clears it."""
        self.faults.set(fault)

    def admit(self, query: dict[str, str]) -> tuple[bool, Fault | None]:
        """Count a call. Return whether the call is within the quota, and its fault."""
        with self._lock:
            now = time.monotonic()
            self.calls.append((now, query))
            self._arrived.append(now)
            for moments in (self._arrived, self._accepted):
                while moments and moments[0] <= now - WINDOW_SECONDS:
                    moments.popleft()
            self._worst_minute = max(self._worst_minute, len(self._arrived))
            within = len(self._accepted) < self.per_minute
            if within:
                self._accepted.append(now)
            user_id = query.get("user_id")
            return within, self.faults.take(lambda fault: not fault.of_a_cohort and fault.concerns(user_id))

    def fault_of_a_cohort(self) -> Fault | None:
        """Return the fault of a cohort download."""
        return self.faults.take(lambda fault: fault.of_a_cohort and fault.concerns(None))

    def expose(self, person: Person, rec_ids: list[str]) -> None:
        """Log an exposure event for each requested recommendation, as Amplitude does."""
        with self._lock:
            self.exposures += [(person.user_id or person.device_id or "", rec_id) for rec_id in rec_ids]

    def answered(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self.statuses[status] += 1


class _Server(QuietServer):
    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        super().__init__(address, _Handler)
        self.sandbox = sandbox


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        sandbox, url = self.server.sandbox, urlsplit(self.path)
        path = url.path
        if path == "/v1/userprofile":
            self._userprofile(self._query())
        elif path == "/sandbox/report":
            self.send(Reply(200, sandbox.report()))
        elif path.startswith("/emulator/"):
            name, _, detail = path.removeprefix("/emulator/").partition("/")
            api = sandbox.receiving.get(name)
            self.send(answer_report(api, detail) if api else Reply(404))
        elif not path.startswith("/api/"):
            self.send(Reply(404))
        elif refusal := self._unauthorized("basic"):
            self.send(Reply(401, refusal))
        else:
            self.send(sandbox.exports.answer(path, sandbox.fault_of_a_cohort(), url.query))

    def do_POST(self) -> None:
        sandbox, path = self.server.sandbox, urlsplit(self.path).path
        if path in ("/users/track", "/users/track/"):
            return receive(self, path, sandbox.braze, sandbox.closing)
        if path == "/batch":
            return receive(self, path, sandbox.batch, sandbox.closing)
        self.body()
        switch = self._switch(path)
        if switch is None:
            return self.send(Reply(404))
        try:
            return self._set_fault(switch, fault_from(self._query(), switch.kinds))
        except ValueError as error:
            return self.send(Reply(400, {"error": str(error)}))

    def do_DELETE(self) -> None:
        path = urlsplit(self.path).path
        if switch := self._switch(path):
            return self._set_fault(switch, None)
        api = self.server.sandbox.receiving.get(path.removeprefix("/emulator/"))
        if api is None:
            return self.send(Reply(404))
        api.reset()
        return self.send(Reply(200, api.report()))

    def _switch(self, path: str) -> FaultSwitch | None:
        """Return the faults that are set below `path`."""
        sandbox = self.server.sandbox
        switches = {f"/emulator/{name}/fault": api.faults for name, api in sandbox.receiving.items()}
        return (switches | {"/sandbox/fault": sandbox.faults}).get(path)

    def _set_fault(self, switch: FaultSwitch, fault: Fault | None) -> None:
        switch.set(fault)
        self.send(Reply(200, {"fault": asdict(fault) if fault else None}))

    def _query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    def _userprofile(self, query: dict[str, str]) -> None:
        sandbox = self.server.sandbox
        within, fault = sandbox.admit(query)
        kind = fault.kind if fault else None
        if sandbox.latency:
            sandbox.closing.wait(sandbox.latency)
        if not sandbox.profile_api:
            return self._answer(404, "")
        if refusal := self._unauthorized():
            return self._answer(401, refusal)
        if not within or kind == "quota":
            seconds = sandbox.documented.retry_after
            return self._answer(
                429,
                {"error": f"Number of requests per minute exceeds system limit of {sandbox.per_minute}"},
                {} if seconds is None else {"Retry-After": str(seconds)},
            )
        if not query.get("user_id") and not query.get("device_id"):
            return self._answer(400, {"error": "Missing user_id or device_id"})
        if fault and self._fail(fault):
            return None
        person = find(query.get("user_id"), query.get("device_id"))
        if person is None:
            return self._answer(sandbox.documented.unknown_status, {"error": "User id and device id not seen before"})
        sandbox.expose(person, split_parameter(query, "rec_id"))
        answer = {"userData": user_data(person, query, sandbox.documented)}
        if kind == "another-user":
            answer["userData"] |= {"user_id": "another-user", "device_id": "another-device"}
        if fault and kind in ("drip-headers", "drip-body"):
            return self._drip(fault, json.dumps(answer).encode())
        return self._answer(200, answer, {"X Odd": "a header name with a space"} if kind == "bad-header" else {})

    def _answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer of the User Profile API, and count it."""
        self.send(Reply(status, body, headers or {}))
        self.server.sandbox.answered(status)

    def _unauthorized(self, wanted: str | None = None) -> str | None:
        """Return the text of a 401, or None if the key is right. `wanted` is the only accepted scheme."""
        sandbox = self.server.sandbox
        credentials = self.headers.get("Authorization", "")
        if not credentials:
            return "Missing Api-Key in Authorization header"
        wanted = wanted or sandbox.documented.credentials
        for secret_key in filter(None, (sandbox.secret_key, sandbox.former_secret_key)):
            basic = base64.b64encode(f"{sandbox.api_key}:{secret_key}".encode()).decode()
            right = {"api-key": f"Api-Key {secret_key}", "basic": f"Basic {basic}"}
            if credentials in (right.values() if wanted == "both" else [right[wanted]]):
                return None
        return "Invalid Api-Key"

    def _fail(self, fault: Fault) -> bool:
        """Send the answer of a fault. Return False if the fault only changes or delays the usual answer."""
        match fault.kind:
            case "slow":
                self.server.sandbox.closing.wait(fault.seconds)
                return False
            case "hang":
                self.server.sandbox.closing.wait(fault.seconds)
                self.close_connection = True
            case "reset":
                self.reset()
            case "status":
                self._answer(fault.status, {"error": "Internal Server Error"} if fault.status >= 500 else "")
            case "broken-json":
                self._answer(200, b'{"userData": {"user_id": ')
            case "wrong-shape":
                self._answer(200, [{"userData": None}])
            case "wrong-types":
                self._answer(200, {"userData": {"amp_props": [1], "cohort_ids": "c1", "recommendations": {"items": 3}}})
            case "oversize":
                self._answer(200, {"userData": {"amp_props": {"gp:blob": "x" * (3 * 1024 * 1024)}}})
            case "redirect":
                self._answer(301, "", {"Location": self.server.sandbox.url + "/elsewhere"})
            case "not-utf-8":
                self._answer(200, b'{"userData": {"amp_props": {"gp:name": "\xff\xfe"}}}')
            case _:
                return False
        return True

    def _drip(self, fault: Fault, body: bytes) -> None:
        """Send one byte at a time, so that no single read waits long."""
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
