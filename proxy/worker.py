"""gunicorn's threaded worker, answering what is no HTTP in the contract's way: problem+json that quotes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import traceback
from typing import Any

from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.gthread import ThreadWorker

from proxy.telemetry import OncePerMinute, request_id

_log = logging.getLogger(__name__)
_unreadable = OncePerMinute()
_INTERNAL = (500, "Internal Server Error", "internal error")
_STATUSES = (
    (InvalidResponseHeader, *_INTERNAL),
    (InvalidResponseHeaderName, *_INTERNAL),
    (LimitRequestLine, 414, "URI Too Long", "the URL is too long: send the parameters in the body of a POST"),
    (LimitRequestHeaders, 431, "Request Header Fields Too Large", "the headers are too large"),
    (ExpectationFailed, 417, "Expectation Failed", "send no Expect header other than 100-continue"),
    (ParseException, 400, "Bad Request", "this is not HTTP as it should be: is the URL percent-encoded?"),
)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A ThreadWorker with a `handle_error` of its own; gunicorn's writes what it read into its log and its answer."""

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that could not be read, or failed outside the application."""
        request_id.set(None)  # the one that this thread served before is not the one that failed
        status, title, detail = next((found for kind, *found in _STATUSES if isinstance(exc, kind)), _INTERNAL)
        if status == 500:
            places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(exc.__traceback__)]
            _log.error("a request failed", extra={"kind": type(exc).__name__, "where": " < ".join(reversed(places))})
        else:
            address = addr[0] if isinstance(addr, tuple) else None
            if times := _unreadable.note(f"{address}"):
                told = {"kind": type(exc).__name__, "address": address, "status": status, "times": times}
                _log.warning("requests that are no HTTP", extra=told)
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}) + "\n"
        head = (
            f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):  # it has gone, and whom else to tell
            client.sendall((head + body).encode())
