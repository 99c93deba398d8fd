"""The answers to requests that are not valid HTTP, or that failed outside the application."""

from __future__ import annotations

import json
import logging

import pytest
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidRequestLine,
    InvalidResponseHeader,
    LimitRequestHeaders,
    LimitRequestLine,
)

from proxy.server.bad_requests import refusal


@pytest.mark.contract("1 problem codes")
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestLine("x"), 400, "invalid_request"),
        (LimitRequestLine(9000, 8190), 414, "invalid_request"),
        (ExpectationFailed("x"), 417, "invalid_request"),
        (LimitRequestHeaders("x"), 431, "invalid_request"),
        (InvalidResponseHeader("x"), 500, "internal"),
        (RuntimeError("x"), 500, "internal"),
    ],
)
def test_refusal__each_kind_of_error__code(error: Exception, status: int, code: str) -> None:
    head, _, body = refusal(error, ("192.0.2.1", 4711)).partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (problem["status"], problem["code"], "parameter" in problem) == (status, code, False)


def test_refusal__invalid_request__log_line_has_the_code(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("proxy"), "propagate", True)  # tests that configure logging turn this off
    refusal(InvalidRequestLine("x"), ("198.51.100.77", 4711))
    (line,) = (vars(record) for record in caplog.records if record.msg == "http_request_invalid")
    assert (line["code"], line["status"], line["address"]) == ("invalid_request", 400, "198.51.100.77")
