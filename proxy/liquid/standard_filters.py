"""The standard filters of Ruby's Liquid 5.4, with its results for values of any type and its error texts.

Outside fact: each filter is compared with Ruby in tests/liquid/test_filters_as_ruby.py.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.liquid import list_filters, lookup, number_filters, text_filters
from proxy.liquid.dates import date


def default(value: object, other: object = "", options: object = None) -> object:
    """Return `other` for a value that is absent, false or empty."""
    allow_false = options.get("allow_false") if isinstance(options, dict) else None
    missing = value is None or (value is False and allow_false in (None, False))
    return other if missing or (isinstance(value, str | list | tuple | dict) and not value) else value


_FUNCTIONS: tuple[Callable[..., object], ...] = (
    list_filters.size,
    text_filters.downcase,
    text_filters.upcase,
    text_filters.capitalize,
    text_filters.escape,
    text_filters.escape_once,
    text_filters.url_encode,
    text_filters.url_decode,
    text_filters.base64_encode,
    text_filters.base64_decode,
    text_filters.base64_url_safe_encode,
    text_filters.base64_url_safe_decode,
    text_filters.slice_,
    text_filters.truncate,
    text_filters.truncatewords,
    text_filters.split,
    text_filters.strip,
    text_filters.lstrip,
    text_filters.rstrip,
    text_filters.strip_html,
    text_filters.strip_newlines,
    text_filters.newline_to_br,
    text_filters.replace,
    text_filters.replace_first,
    text_filters.replace_last,
    text_filters.remove,
    text_filters.remove_first,
    text_filters.remove_last,
    text_filters.append,
    text_filters.prepend,
    list_filters.join,
    list_filters.sort,
    list_filters.sort_natural,
    list_filters.where,
    list_filters.uniq,
    list_filters.reverse,
    list_filters.map_,
    list_filters.compact,
    list_filters.concat,
    lookup.first,
    lookup.last,
    number_filters.abs_,
    number_filters.plus,
    number_filters.minus,
    number_filters.times,
    number_filters.divided_by,
    number_filters.modulo,
    number_filters.round_,
    number_filters.ceil,
    number_filters.floor,
    number_filters.at_least,
    number_filters.at_most,
    default,
    date,
)
STANDARD: dict[str, Callable[..., object]] = {
    **{function.__name__.rstrip("_"): function for function in _FUNCTIONS},
    "h": text_filters.escape,
}
"""Name to filter. A filter takes values of any type by position; Ruby passes named arguments as a last object."""
