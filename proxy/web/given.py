"""What a caller sent, be it badly encoded or broken off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.exceptions import HTTPException

from proxy.profile.errors import BadRequest
from proxy.querystring import pairs


def pairs_of(encoded: bytes, where: str) -> list[tuple[str, str]]:
    """Return names and values of a URL's query or a form. BadRequest, which names `where`, when it is not UTF-8."""
    try:
        return pairs(encoded.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest(f"{where} is not UTF-8 once its percent-encoding is undone: encode it again") from None


@contextmanager
def reading_the_body() -> Iterator[None]:
    """Turn what a server raises at a body that breaks off into a BadRequest."""
    try:
        yield
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  # each server has its own for a broken transfer coding
        raise BadRequest("the body could not be read: is its transfer coding broken?") from None
