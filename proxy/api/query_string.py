"""A URL's query, or a form: names and values, decoded. Pure."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl, unquote_plus

from proxy.api.errors import BadRequest

_SHORT = 1000
"""Characters of a text that is remembered."""
_USER_ID = "user_id="


def pairs(text: str) -> list[tuple[str, str]]:
    """Return names and values, blank ones too, in whatever order. UnicodeDecodeError when they are not UTF-8.

    In a send all ask the same, each of another user: what is left without the user is remembered.
    """
    before, found, after = text.partition(_USER_ID)
    if not found or (before and not before.endswith("&")) or len(text) > _SHORT:
        return _parsed(text)
    user_id, _, rest = after.partition("&")
    return [*_remembered(before + rest), ("user_id", unquote_plus(user_id, errors="strict"))]


def _parsed(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, errors="strict")


_remembered = lru_cache(256)(_parsed)


def pairs_of(encoded: bytes, where: str) -> list[tuple[str, str]]:
    """Return names and values of a URL's query or a form. BadRequest, which names `where`, when it is not UTF-8."""
    try:
        return pairs(encoded.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest(f"{where} is not UTF-8 once its percent-encoding is undone: encode it again") from None
