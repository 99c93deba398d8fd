"""Request bodies, and request parameters from the query string and the body."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request

from proxy.api.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from proxy.api.json_body import from_json
from proxy.api.query_string import pairs_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


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


_PIECE_BYTES = 64 * 1024
_LENGTH = re.compile(r"[0-9]{1,18}\Z")


def largest_size(request: Request, max_bytes: int, too_large: str) -> int:
    """Return the largest possible size of the body.

    Raises BodyTooLarge with the text `too_large` if the size is over `max_bytes`.
    """
    length = request.environ.get("CONTENT_LENGTH", "")
    if not _LENGTH.match(length) or "Content-Encoding" in request.headers:
        return max_bytes
    size = int(length)
    if size > max_bytes:
        raise BodyTooLarge(too_large)
    return size


def read_large_body(
    request: Request, max_bytes: int, too_large: str, checkpoint: Callable[[], object], *, zipped: bool = False
) -> bytearray:
    """Return the body, of at most `max_bytes` after decompression. Yields to other greenlets.

    Raises BadRequest, and BodyTooLarge with the text `too_large`.
    """
    # One byte over the limit: Werkzeug silently truncates a body without a length; the extra byte shows the excess.
    request.max_content_length = max_bytes + 1
    body = bytearray()  # grows in place, because joining a list of pieces needs twice the memory
    with reading_the_body(too_large):
        source: Any = gzip.GzipFile(fileobj=request.stream) if zipped else request.stream
        while len(body) <= max_bytes and (piece := source.read(_PIECE_BYTES)):
            body += piece
            checkpoint()
    if len(body) > max_bytes:
        raise BodyTooLarge(too_large)
    return body


MAX_BODY_BYTES = 16 * 1024


def sent_parameters(environ: WSGIEnvironment) -> list[tuple[str, Any]]:
    """Return the parameters of the query string and, for a POST, of the body, which can be read only once.

    Raises BadRequest, BodyTooLarge and UnsupportedMediaType.
    """
    parameters = [*pairs_of(environ.get("QUERY_STRING", "").encode("latin-1"), "the URL")]
    if environ["REQUEST_METHOD"] == "POST":
        parameters += _sent_in_body(Request(environ, populate_request=False))
    return parameters


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
