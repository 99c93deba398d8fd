"""Sends 10,000 random requests to the real service: `python -m tests.bench.random_requests`.

Requests can contain any bytes. The emulated Amplitude changes its fault every few hundred requests. Prints the
statuses. Exit code 1: there was an undocumented 5xx, or a data answer with a missing key or a value of the wrong type.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
from collections import Counter
from typing import Any, get_args
from urllib.parse import quote, urlencode

from proxy.profile.parts import SECTIONS, Section
from proxy.sandbox.faults import Fault, FaultKind
from tests.bench.load import command_line
from tests.bench.processes import UNLIMITED, SandboxProcess, Service
from tests.support.service import SECRET
from tests.support.shapes import ENVELOPE, SECTION, conforms

ROUTES = [*SECTIONS, "profile", "userprofile"]
NAMES = (
    "user_id device_id rec_id rec_type keys cohort_id comp_id prediction_id propensity_type include on_error get_recs"
)
HEADERS = "Cache-Control If-None-Match X-Request-ID X-Forwarded-For Accept Content-Type Authorization Cookie Range"


class Dice(random.Random):
    """Generates random requests, most of them almost valid."""

    def junk(self, limit: int = 40) -> bytes:
        return self.randbytes(self.randrange(limit))

    def word(self) -> bytes:
        words = ["ava", "ben", "user-7", "homepage", "vip", "pred-buy", "score", "model", "retry", "true", "no-cache"]
        words += [*SECTIONS, "", " ", "a,b", "é", "😀", "x" * 600, "\ud800".encode("utf-8", "surrogatepass").hex()]
        return self.choice(words).encode() if self.random() < 0.85 else self.junk()

    def parameters(self) -> list[tuple[str | bytes, bytes]]:
        sent: list[tuple[str | bytes, bytes]] = [
            ("user_id", self.choice([b"ava", b"ben", b"cleo", b"user-7", b"unknown", b""]))
        ]
        sent += [("rec_id", b"homepage,also-bought"), ("prediction_id", b"pred-buy")]
        sent.append(("include", ",".join(self.sample(SECTIONS, self.randrange(1, 6))).encode()))
        for _ in range(self.choice([0, 0, 1, 1, 2, 4])):
            sent.append((self.choice(NAMES.split()), self.word()))
        if self.random() < 0.2:
            sent.append((self.junk(8), self.junk()))
        if self.random() < 0.9:
            sent = list({name: (name, value) for name, value in sent}.values())
        return self.sample(sent, len(sent) - (self.random() < 0.2))

    def json(self, depth: int = 0) -> Any:
        kind = self.randrange(8 if depth < 3 else 5)
        if kind > 5:
            return {self.junk(6).decode("latin-1"): self.json(depth + 1) for _ in range(self.randrange(3))}
        values = [
            None,
            self.random() < 0.5,
            self.randrange(10**9),
            self.word().decode("latin-1"),
            self.random() * 1e300,
        ]
        return [self.json(depth + 1) for _ in range(self.randrange(3))] if kind == 5 else values[kind]

    def request(self) -> tuple[str, bytes]:
        """Return the route and the bytes of a request."""
        route = self.choice(ROUTES)
        method = self.choice(["GET"] * 8 + ["POST"] * 8 + ["HEAD", "PUT", "OPTIONS"])
        headers = [(b"Host", b"x"), (b"X-API-Key", SECRET.encode())]
        body = b""
        target = f"/v1/{route}".encode()
        sent = self.parameters()
        if method == "POST" and self.random() < 0.5:
            kind = self.choice(["application/x-www-form-urlencoded", "application/json"] * 5 + ["text/plain", ""])
            headers.append((b"Content-Type", kind.encode()))
            document = {str(name): value.decode("latin-1") for name, value in sent} | (
                {} if self.random() < 0.7 else {"keys": self.json()}
            )
            body = urlencode(sent).encode() if "form" in kind else json.dumps(document).encode()
            if self.random() < 0.2:
                body = self.junk(200)
            if self.random() < 0.02:
                body *= 300
        else:
            target += b"?" + urlencode(sent).encode()
        if self.random() < 0.05:
            target = b"/" + quote(self.junk()).encode()
        if self.random() < 0.3:
            junk = self.junk().translate(None, b"\r\n\0")
            headers.append(
                (self.choice(HEADERS.split()).encode(), junk if self.random() < 0.5 else self.word()[:200].strip())
            )
        lines = [f"{method} ".encode() + target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in headers if b"\n" not in value]
        lines += [b"Content-Length: " + str(len(body)).encode(), b"Connection: close"]
        return route, b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes. Return the status, headers and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method="HEAD" if request.startswith(b"HEAD") else None)
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def fault_in(route: str, request: bytes, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """Return the error in an answer, or None."""
    if request.startswith(b"HEAD") or status == 304:
        return None
    kind = headers.get("content-type", "")
    if status >= 500:
        is_documented = status == 500 and kind in ("application/problem+json", "application/json")
        if not is_documented or "error" not in json.loads(body):
            return f"the status {status} is not documented: {body[:200]!r}"
    elif status == 200 and request.split(b" ")[1].startswith(b"/v1/") and route in (*SECTIONS, "profile"):
        document = json.loads(body)
        sections: list[Section] = [section for section in SECTIONS if next(iter(SECTION[section])) in document]
        expected = dict(ENVELOPE)
        for section in sections:
            expected |= SECTION[section]
        if not conforms(document, expected) or (route != "profile" and sections != [route]) or not sections:
            return f"a key is missing or has the wrong type: {body[:300]!r}"
    elif status >= 400 and route != "userprofile" and kind == "application/problem+json":
        document = json.loads(body)
        if not {"type", "title", "status", "detail"} <= document.keys():
            return f"a problem lacks required keys: {body[:200]!r}"
    return None


def main() -> int:
    """Send the requests, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="number of requests")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random requests")
    options = parser.parse_args()
    dice = Dice(options.seed)
    kinds = [kind for kind in get_args(FaultKind) if kind not in ("hang", "slow", "drip-body", "drip-headers", "quota")]
    settings = {
        "AMPLITUDE_REQUESTS_PER_MINUTE": str(UNLIMITED),
        "CACHE_FRESH_SECONDS": "1",
        "CACHE_STALE_WHILE_REVALIDATE_SECONDS": "1",
    }
    with SandboxProcess() as sandbox, Service(sandbox, **settings) as service:
        return _send_all(dice, options.requests, service.port, sandbox, kinds)


def _send_all(dice: Dice, count: int, port: int, sandbox: SandboxProcess, kinds: list[Any]) -> int:
    statuses: Counter[int] = Counter()
    faults = []
    for number in range(1, count + 1):
        if number % 300 == 0:
            sandbox.break_with(Fault(dice.choice(kinds)) if dice.random() < 0.5 else None)
        route, request = dice.request()
        status, headers, body = exchange(port, request)
        statuses[status] += 1
        if error := fault_in(route, request, status, headers, body):
            faults.append(f"{error}\n  request: {request[:400]!r}")
        if number % 1000 == 0 or number == count:
            print(f"{number} requests, {len(faults)} faults, statuses {dict(sorted(statuses.items()))}", flush=True)
    print("\n".join(faults[:10]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
