"""Filters that differ between python-liquid and Ruby's Liquid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from liquid import Environment
from liquid.builtin.filters import array, misc
from liquid.exceptions import ResourceLimitError
from liquid.filter import with_environment

from proxy.liquid.ruby import text

OF_TEXT = frozenset(
    {"append", "prepend", "upcase", "downcase", "capitalize", "escape", "escape_once", "url_encode", "url_decode"}
    | {"replace", "replace_first", "replace_last", "remove", "remove_first", "remove_last", "truncate", "strip"}
    | {"lstrip", "rstrip", "strip_html", "strip_newlines", "newline_to_br"}
)
"""Filters that convert any value to text."""

_MAX_DATE = 200
"""Characters. python-dateutil takes 1.5 s for 80 KB of digits and dots, with quadratic growth."""
_MAX_UNIQ = 5_000
"""Entries. python-liquid compares all pairs: 0.3 s for this number, with quadratic growth."""


def truncatewords(value: object, words: object = 15, end: object = "...") -> str:
    """Cut a text after `words` words; a shorter text is unchanged."""
    full = text(value)
    most = max(1, int(str(words)))
    parts = full.split()
    return full if len(parts) <= most else " ".join(parts[:most]) + text(end)


@with_environment
def date(value: Any, form: Any, *, environment: Environment) -> object:
    """Format a date. Text that is not a date, or too long for a date, is unchanged."""
    if isinstance(value, str) and len(value) > _MAX_DATE:
        return value
    return misc.date(value, form, environment=environment)


def uniq(value: Any, key: object = None) -> object:
    """Return a list without duplicates."""
    if isinstance(value, list | tuple | range) and len(value) > _MAX_UNIQ:
        raise ResourceLimitError("the list for uniq is too long; shorten the list", token=None)
    return array.uniq(value, key)


FILTERS: tuple[Callable[..., object], ...] = (
    truncatewords,
    date,
    uniq,
)
"""The filters, which are registered under the names of these functions."""
