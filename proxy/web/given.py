"""What a caller sent, be it badly encoded or broken off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.exceptions import HTTPException

from proxy.api.errors import BadRequest


@contextmanager
def reading_the_body() -> Iterator[None]:
    """Turn what a server raises at a body that breaks off into a BadRequest."""
    try:
        yield
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001  # each server has its own for a broken transfer coding
        raise BadRequest("the body could not be read: is its transfer coding broken?") from None
