"""Request parameters, from the query string and the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from proxy.api.errors import BadRequest
from proxy.api.parameters import from_json
from proxy.api.query_string import pairs_of


@contextmanager
def reading_the_body() -> Iterator[None]:
    """Convert a server's errors while reading a body into BadRequest."""
    try:
        yield
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  # each server raises its own error for a broken transfer coding
        raise BadRequest("the body could not be read; correct its Content-Length or Transfer-Encoding") from None


MAX_BODY_BYTES = 16 * 1024


def sent_parameters(request: Request) -> list[tuple[str, Any]]:
    """Return the parameters of the query string and, for a POST, of the body."""
    parameters: list[tuple[str, Any]] = pairs_of(request.query_string, "the URL")
    return parameters if request.method != "POST" else [*parameters, *_sent_in_body(request)]


def _sent_in_body(request: Request) -> Sequence[tuple[str, Any]]:
    with reading_the_body():
        body = request.get_data()
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if not body:
        return []
    match request.mimetype:
        case "application/x-www-form-urlencoded":
            return pairs_of(body, "the body")
        case "application/json":
            return from_json(body)
        case _:
            raise UnsupportedMediaType
