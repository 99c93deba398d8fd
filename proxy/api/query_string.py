"""Decodes the query of a URL, or a form, into names and values."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import parse_qsl, unquote_plus

from proxy.api.errors import BadRequest

_SHORT = 1000
"""Characters of a text whose pairs are cached."""
_USER_ID = "user_id="


def pairs(text: str) -> list[tuple[str, str]]:
    """Return names and values, blank ones too, in any order. Raises UnicodeDecodeError when they are not UTF-8.

    The requests of a send differ only in the user, so the pairs of all other parameters are cached: without, a cached
    answer with four parameters takes 5 % longer.
    """
    before, separator, after = text.partition(_USER_ID)
    if not separator or (before and not before.endswith("&")) or len(text) > _SHORT:
        return _parsed(text)
    user_id, _, rest = after.partition("&")
    return [*_cached(before + rest), ("user_id", unquote_plus(user_id, errors="strict"))]


def _parsed(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, errors="strict")


_cached = lru_cache(256)(_parsed)


def pairs_of(encoded: bytes, where: str) -> list[tuple[str, str]]:
    """Return the names and values of a query or a form. Raises BadRequest, which names `where`, unless it is UTF-8."""
    try:
        return pairs(encoded.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest(f"{where} is not UTF-8 once its percent-encoding is undone: encode it again") from None
