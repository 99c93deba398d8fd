"""Emulates the Behavioral Cohorts API: request an export, poll the status, download the file.

Large files are redirected to a storage with its own port, because Amplitude's storage is another host. The storage
counts and rejects requests with credentials, like a storage with signed links.
"""

from __future__ import annotations

import gzip
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from proxy.sandbox.cohort_csv import table
from proxy.sandbox.faults import Fault
from proxy.sandbox.http import QuietHandler, QuietServer, Reply
from proxy.sandbox.user_data import Documented

_REQUESTS = 60
_WINDOW_SECONDS = 600.0
_LINK_SECONDS = 60.0
_CUT_OFF = len('"356000000001",""\n')
"""Number of bytes that `cohort-cut-off` withholds: the last row of `crowd-N`, so that the rest looks complete."""


_PREPARE_SECONDS = 2.0
"""Maximum wait for the file before a request is answered. Polls then return "in progress"."""


@dataclass
class _Job:
    """An export. `file`: None for an unknown cohort. `polls`: the number of polls that still return "in progress"."""

    cohort_id: str
    polls: int
    file: bytes | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    def prepare(self, properties: Sequence[str] | None, documented: Documented, *, repeated_column: bool) -> None:
        """Start to prepare the file in a thread, and wait briefly, so that small files are ready at once."""

        def build() -> None:
            self.file = table(self.cohort_id, documented, properties, repeated_column=repeated_column)
            self.ready.set()

        threading.Thread(target=build, daemon=True).start()
        self.ready.wait(_PREPARE_SECONDS)


class Exports:
    """Prepares exports and serves their files. Thread-safe."""

    def __init__(self, documented: Documented) -> None:
        self._documented = documented
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._requests: deque[float] = deque()
        self._storage: _Storage | None = None
        self.counts: Counter[str] = Counter()
        """Counts of `requests`, `polls` and `files`, and of `stored` and `credentials` in the storage."""

    def close(self) -> None:
        """Stop the storage."""
        if self._storage is not None:
            self._storage.shutdown()
            self._storage.server_close()

    def answer(self, path: str, fault: Fault | None, query: str = "") -> Reply:
        """Answer an authorized GET of this path and query below `/api/`."""
        kind = fault.kind if fault else ""
        retry_headers = {"Retry-After": f"{fault.seconds:.0f}"} if fault else {}
        if kind == "cohort-429" or (kind == "cohort-file-429" and path.endswith("/file")):
            return Reply(429, {"error": {"http_code": 429}}, retry_headers)
        if kind == "cohort-500":
            return Reply(500, "Internal Server Error")
        match path.removeprefix("/api/5/cohorts/").split("/"):
            case ["request", cohort_id]:
                return self._requested(unquote(cohort_id), parse_qs(query), kind)
            case ["request-status", request_id] if request_id in self._jobs:
                return self._status(request_id, stuck=kind == "cohort-stuck")
            case ["request", request_id, "file"] if request_id in self._jobs:
                return self._file(self._jobs[request_id].file or b"", kind, retry_headers)
            case _:
                return Reply(404)

    def _requested(self, cohort_id: str, query: Mapping[str, list[str]], kind: str) -> Reply:
        with self._lock:
            self.counts["requests"] += 1
            now = time.monotonic()
            while self._requests and self._requests[0] <= now - _WINDOW_SECONDS:
                self._requests.popleft()
            if len(self._requests) >= _REQUESTS:
                return Reply(429, {"error": {"http_code": 429}})
            self._requests.append(now)
        # `props=1` alone requests all properties.
        properties = (query.get("propKeys") or None) if query.get("props") == ["1"] else ()
        job = _Job(cohort_id, self._documented.cohort_polls)
        job.prepare(properties, self._documented, repeated_column=kind == "cohort-two-columns")
        if job.ready.is_set() and job.file is None:
            return Reply(404, {"error": {"http_code": 404, "message": "cohort not found"}})
        request_id = secrets.token_hex(4)
        self._jobs[request_id] = job
        return Reply(202, {"request_id": request_id, "cohort_id": cohort_id})

    def _status(self, request_id: str, *, stuck: bool) -> Reply:
        job = self._jobs[request_id]
        with self._lock:
            self.counts["polls"] += 1
            job.polls -= 1
            done = job.polls < 0 and job.ready.is_set() and not stuck
        job_ids = {"request_id": request_id, "cohort_id": job.cohort_id}
        return Reply(200 if done else 202, job_ids | {"async_status": "JOB COMPLETED" if done else "JOB INPROGRESS"})

    def _file(self, file: bytes, kind: str, retry_headers: Mapping[str, str]) -> Reply:
        self.counts["files"] += 1
        headers = {"Content-Type": "text/csv"}
        if self._documented.cohort_gzip == "yes":  # the file itself, not the transfer
            file, headers = gzip.compress(file), {"Content-Type": "application/gzip"}
        cut = _CUT_OFF if kind == "cohort-cut-off" else 0
        if self._documented.cohort_file == "inline":
            return Reply(200, file, headers, cut)
        if kind == "cohort-elsewhere":
            return Reply(302, "", {"Location": "ftp://127.0.0.1/members.csv"})
        if kind == "cohort-nowhere":
            return Reply(302, "", {"Location": f"https://{'storage' * 10}.example.com/members.csv"})
        link = secrets.token_urlsafe(12)
        with self._lock:
            if self._storage is None:
                self._storage = _Storage(self.counts)
                threading.Thread(target=self._storage.serve_forever, args=(0.05,), daemon=True).start()
        if kind == "cohort-loop":
            reply = Reply(302, "", {"Location": f"/{link}"})
        elif kind == "cohort-storage-429":
            reply = Reply(429, "", retry_headers)
        elif kind == "cohort-unbounded-cut":
            reply = Reply(200, file, headers, _CUT_OFF + len("\n"), unbounded=True)
        elif kind.startswith("cohort-gzip"):
            # A file that is stored compressed is sent compressed, even if the request does not accept gzip.
            packed = gzip.compress(file)
            packed = packed[: len(packed) // 2] if kind == "cohort-gzip-cut" else packed
            reply = Reply(200, packed, headers | {"Content-Encoding": "gzip"})
        else:
            reply = Reply(200, file, headers, cut, unbounded=kind == "cohort-unbounded")
        expires = time.monotonic() + (0 if kind == "cohort-expired" else _LINK_SECONDS)
        self._storage.links[f"/{link}"] = expires, reply
        return Reply(302, "", {"Location": f"http://127.0.0.1:{self._storage.server_port}/{link}"})


class _Storage(QuietServer):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(("127.0.0.1", 0), _StorageHandler)
        self.counts = counts
        self.links: dict[str, tuple[float, Reply]] = {}
        """By path: the expiry time in monotonic seconds, and the reply."""


class _StorageHandler(QuietHandler):
    server: _Storage

    def do_GET(self) -> None:
        counts = self.server.counts
        counts["stored"] += 1
        if any(name in self.headers for name in ("Authorization", "Cookie", "X-Amp-Authorization")):
            counts["credentials"] += 1
            return self.send(Reply(400, "Only one auth mechanism allowed"))
        expires, reply = self.server.links.get(self.path, (0.0, Reply(404)))
        return self.send(reply if time.monotonic() < expires else Reply(403, "Request has expired"))
