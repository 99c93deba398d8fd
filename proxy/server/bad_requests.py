"""Problem responses for requests that are not valid HTTP or that failed outside the application."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)

from proxy.monitoring.logs import OncePerMinute, request_id
from proxy.web.errors import problem
from proxy.web.security_headers import SECURITY_HEADERS

_log = logging.getLogger(__name__)
_unreadable = OncePerMinute(_log, "requests that are no HTTP")
_INTERNAL = (500, "Internal Server Error", "internal error")
_HEADERS = "the headers are too large: send at most 100, each at most 8 KiB, 32 KiB in all, and no cookies"
_STATUSES: tuple[tuple[type[Exception], tuple[int, str, str]], ...] = (
    (InvalidResponseHeader, _INTERNAL),
    (InvalidResponseHeaderName, _INTERNAL),
    (LimitRequestLine, (414, "URI Too Long", "the URL is too long: send the parameters in the body of a POST")),
    (LimitRequestHeaders, (431, "Request Header Fields Too Large", _HEADERS)),
    (ExpectationFailed, (417, "Expectation Failed", "send no Expect header other than 100-continue")),
    (ParseException, (400, "Bad Request", "this is not HTTP as it should be: is the URL percent-encoded?")),
)


def refusal(error: BaseException, address: Any) -> bytes:
    """Log a failed request from `address` and return the response, head and body.

    The response quotes nothing of the request.
    """
    request_id.set(None)  # the id of the last request on this connection
    status, title, detail = next((described for kind, described in _STATUSES if isinstance(error, kind)), _INTERNAL)
    if status == 500:
        _log.error("a request failed", exc_info=error)
    else:
        host = address[0] if isinstance(address, tuple) else None
        _unreadable.note(f"{host}", kind=type(error).__name__, address=host, status=status)
    response = problem(status, title, detail)
    headers = [("Connection", "close"), *response.headers, *SECURITY_HEADERS]
    head = f"HTTP/1.1 {status} {title}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    body: bytes = response.data
    return head.encode() + body
