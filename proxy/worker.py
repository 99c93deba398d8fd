"""gunicorn's threaded worker, answering what is no HTTP in the contract's way: problem+json that quotes nothing."""

from __future__ import annotations

import contextlib
import logging
import socket
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
from proxy.web.hooks import SECURITY, problem

_log = logging.getLogger(__name__)
_unreadable = OncePerMinute()
_INTERNAL = (500, "Internal Server Error", "internal error")
_STATUSES: tuple[tuple[type[Exception], tuple[int, str, str]], ...] = (
    (InvalidResponseHeader, _INTERNAL),
    (InvalidResponseHeaderName, _INTERNAL),
    (LimitRequestLine, (414, "URI Too Long", "the URL is too long: send the parameters in the body of a POST")),
    (LimitRequestHeaders, (431, "Request Header Fields Too Large", "the headers are too large")),
    (ExpectationFailed, (417, "Expectation Failed", "send no Expect header other than 100-continue")),
    (ParseException, (400, "Bad Request", "this is not HTTP as it should be: is the URL percent-encoded?")),
)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A ThreadWorker with a `handle_error` of its own; gunicorn's writes what it read into its log and its answer."""

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that could not be read, or failed outside the application."""
        request_id.set(None)  # the one that this thread served before is not the one that failed
        status, title, detail = next((found for kind, found in _STATUSES if isinstance(exc, kind)), _INTERNAL)
        if status == 500:
            _log.error("a request failed", exc_info=exc)
        else:
            address = addr[0] if isinstance(addr, tuple) else None
            if times := _unreadable.note(f"{address}"):
                told = {"kind": type(exc).__name__, "address": address, "status": status, "times": times}
                _log.warning("requests that are no HTTP", extra=told)
        response = problem(status, title, detail)
        headers = [("Connection", "close"), *response.headers, *SECURITY]
        head = f"HTTP/1.1 {status} {title}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        with contextlib.suppress(OSError):  # it has gone, and whom else to tell
            client.sendall(head.encode() + response.data)
