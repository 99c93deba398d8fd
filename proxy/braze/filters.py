"""Filters that Braze adds to Liquid, and those that python-liquid has otherwise than Ruby's Liquid."""

from __future__ import annotations

import json
from urllib.parse import quote

from proxy.braze.ruby import prints, text

OF_TEXT = frozenset(
    {"append", "prepend", "upcase", "downcase", "capitalize", "escape", "escape_once", "url_encode", "url_decode"}
    | {"replace", "replace_first", "replace_last", "remove", "remove_first", "remove_last", "truncate", "strip"}
    | {"lstrip", "rstrip", "strip_html", "strip_newlines", "newline_to_br"}
)
"""Those that make a text of whatever they are given."""


def url_param_escape(value: object) -> str:
    """Escape everything that means something in a URL."""
    return quote(prints(value), safe="")


def url_escape(value: object) -> str:
    """Escape what no URL may hold, but not what parts its parameters."""
    return quote(prints(value), safe="/:?#[]@!$&'()*+,;=")


def json_escape(value: object) -> str:
    """Escape what would end a JSON text."""
    return json.dumps(prints(value), ensure_ascii=False)[1:-1]


def property_accessor(value: object, name: object) -> object:
    """Return the property with a name that Liquid cannot write."""
    return value.get(str(name)) if isinstance(value, dict) else None


def truncatewords(value: object, words: object = 15, end: object = "...") -> str:
    """Cut a text after so many words; one that has no more stays as it is."""
    whole = text(value)
    most = max(1, int(str(words)))
    found = whole.split()
    return whole if len(found) <= most else " ".join(found[:most]) + text(end)
