"""What a caller sent, be it badly encoded or broken off."""

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
    """Turn what a server raises at a body that breaks off into a BadRequest."""
    try:
        yield
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  # each server has its own for a broken transfer coding
        raise BadRequest("the body could not be read: is its transfer coding broken?") from None


MAX_BODY_BYTES = 16 * 1024


def sent_parameters(asked: Request) -> list[tuple[str, Any]]:
    given: list[tuple[str, Any]] = pairs_of(asked.query_string, "the URL")
    return given if asked.method != "POST" else [*given, *_sent_in_body(asked)]


def _sent_in_body(asked: Request) -> Sequence[tuple[str, Any]]:
    with reading_the_body():
        body = asked.get_data()
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if not body:
        return []
    match asked.mimetype:
        case "application/x-www-form-urlencoded":
            return pairs_of(body, "the body")
        case "application/json":
            return from_json(body)
        case _:
            raise UnsupportedMediaType
