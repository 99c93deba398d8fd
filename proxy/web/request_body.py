"""Request parameters, from the query string and the body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from proxy.api.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from proxy.api.json_body import from_json
from proxy.api.query_string import pairs_of


@contextmanager
def reading_the_body(too_large: str) -> Iterator[None]:
    """Convert errors while reading a body into BadRequest, or into BodyTooLarge with the text `too_large`."""
    try:
        yield
    except RequestEntityTooLarge:
        raise BodyTooLarge(too_large) from None
    except Exception:  # noqa: BLE001  # each server raises its own error for a broken transfer coding
        raise BadRequest(
            "the body could not be read; correct its Content-Length or Transfer-Encoding", code="invalid_body"
        ) from None


def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of the request. Raises BadRequest and BodyTooLarge."""
    # One byte over the limit: Werkzeug silently truncates a body without a length; the extra byte shows the excess.
    request.max_content_length = max_bytes + 1
    with reading_the_body(f"the body is too large; send at most {max_bytes // 1024} KiB"):
        body = request.get_data()
        if len(body) > max_bytes:
            raise RequestEntityTooLarge
    return body


MAX_BODY_BYTES = 16 * 1024


def sent_parameters(request: Request) -> list[tuple[str, Any]]:
    """Return the parameters of the query string and, for a POST, of the body."""
    parameters: list[tuple[str, Any]] = pairs_of(request.query_string, "the URL")
    return parameters if request.method != "POST" else [*parameters, *_sent_in_body(request)]


def _sent_in_body(request: Request) -> Sequence[tuple[str, Any]]:
    body = read_body(request, MAX_BODY_BYTES)
    if not body:
        return []
    match request.mimetype:
        case "application/x-www-form-urlencoded":
            return pairs_of(body, "the body")
        case "application/json":
            return from_json(body)
        case _:
            raise UnsupportedMediaType(
                "the content type is not supported; send application/x-www-form-urlencoded or application/json"
            )
