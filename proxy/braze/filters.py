"""The filters that Braze adds to Liquid, as far as a message built on this service needs them."""

from __future__ import annotations

import json
from urllib.parse import quote

from proxy.braze.ruby import prints


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
