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

from proxy.api.errors import Code
from proxy.monitoring.logs import OncePerMinute, request_id
from proxy.web.errors import problem
from proxy.web.security_headers import SECURITY_HEADERS

_log = logging.getLogger(__name__)
_invalid_requests = OncePerMinute(_log, "http_request_invalid")
_INTERNAL = (500, "Internal Server Error", "internal error; search the service's log for request_failed")
_HEADERS = "the headers are too large; send at most 100 headers, 8 KiB each and 32 KiB in total, and no cookies"
_EXPECT = "the Expect header is not supported; send Expect: 100-continue, or omit the header"
_STATUSES: tuple[tuple[type[Exception], tuple[int, str, str]], ...] = (
    (InvalidResponseHeader, _INTERNAL),
    (InvalidResponseHeaderName, _INTERNAL),
    (LimitRequestLine, (414, "URI Too Long", "the URL is too long; send the parameters in the body of a POST")),
    (LimitRequestHeaders, (431, "Request Header Fields Too Large", _HEADERS)),
    (ExpectationFailed, (417, "Expectation Failed", _EXPECT)),
    (ParseException, (400, "Bad Request", "the request is not valid HTTP; percent-encode the URL")),
)


def refusal(error: BaseException, address: Any) -> bytes:
    """Log a failed request from `address` and return the response, head and body.

    The response contains no part of the request.
    """
    request_id.set(None)  # otherwise the log line has the id of the previous request on this connection
    status, title, detail = next((answer for kind, answer in _STATUSES if isinstance(error, kind)), _INTERNAL)
    code: Code = "internal" if status == 500 else "invalid_request"
    if status == 500:
        _log.error("request_failed", exc_info=error)
    else:
        host = address[0] if isinstance(address, tuple) else None
        _invalid_requests.note(f"{host}", kind=type(error).__name__, address=host, status=status, code=code)
    response = problem(status, title, detail, code=code)
    headers = [("Connection", "close"), *response.headers, *SECURITY_HEADERS]
    head = f"HTTP/1.1 {status} {title}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    body: bytes = response.data
    return head.encode() + body
