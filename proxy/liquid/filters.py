"""Filters that Braze adds to Liquid, and those that python-liquid has otherwise than Ruby's Liquid."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from liquid import Environment
from liquid.builtin.filters import array, misc
from liquid.exceptions import ResourceLimitError
from liquid.filter import with_environment

from proxy.liquid.ruby_output import prints, text

OF_TEXT = frozenset(
    {"append", "prepend", "upcase", "downcase", "capitalize", "escape", "escape_once", "url_encode", "url_decode"}
    | {"replace", "replace_first", "replace_last", "remove", "remove_first", "remove_last", "truncate", "strip"}
    | {"lstrip", "rstrip", "strip_html", "strip_newlines", "newline_to_br"}
)
"""Those that make a text of whatever they are given."""

_MAX_DATE = 200
"""Characters. python-dateutil takes 1.5 s for 80 KB of digits and dots, and four times that for twice as many."""
_MAX_UNIQ = 5_000
"""Entries. python-liquid compares each with all before it: 0.3 s for as many, and four times that for twice as many."""


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


@with_environment
def date(value: Any, form: Any, *, environment: Environment) -> object:
    """Write a date in another form; what is too long to be a date stays as it is, like any text that is none."""
    if isinstance(value, str) and len(value) > _MAX_DATE:
        return value
    return misc.date(value, form, environment=environment)


def uniq(value: Any, key: object = None) -> object:
    """Return a list without its repetitions."""
    if isinstance(value, list | tuple | range) and len(value) > _MAX_UNIQ:
        raise ResourceLimitError("uniq is given too long a list", token=None)
    return array.uniq(value, key)
