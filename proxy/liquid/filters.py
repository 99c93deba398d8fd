"""Filters that Braze adds to Liquid."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

from proxy.liquid.ruby import printed


def url_param_escape(value: object) -> str:
    """Escape every reserved character of a URL."""
    return quote(printed(value), safe="")


def url_escape(value: object) -> str:
    """Escape characters that are invalid in a URL, but not its separators."""
    return quote(printed(value), safe="/:?#[]@!$&'()*+,;=")


def json_escape(value: object) -> str:
    """Escape a value for use inside a JSON string."""
    return json.dumps(printed(value), ensure_ascii=False)[1:-1]


def property_accessor(value: object, name: object) -> object:
    """Return the property with any name, including names that Liquid cannot write."""
    return value.get(str(name)) if isinstance(value, dict) else None


FILTERS: tuple[Callable[..., object], ...] = (
    url_param_escape,
    url_escape,
    json_escape,
    property_accessor,
)
"""The filters, which are registered under the names of these functions."""
