"""Filters that Braze adds to Liquid.

Sources: Braze's documentation, User guide > Personalize > Liquid: "Filters" (money, hmac_sha256, hmac_sha512),
"Advanced filters" (encoding, URL, property accessor, number and JSON filters) and "Liquid use case library"
(time_zone). Braze's editor adds `id` to Content Blocks and `lid` to links.

Braze documents no result for inputs that do not fit. These filters convert any input to text, as Ruby's to_s does,
and leave text that is not a number, a date or a time zone unchanged.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from liquid import Environment
from liquid.filter import with_environment

from proxy.liquid.dates import moment
from proxy.liquid.moment import Moment
from proxy.liquid.ruby import printed, text
from proxy.liquid.text_filters import base64_encode
from proxy.liquid.types import Finding

_GROUP = re.compile(r"(\d)(?=(?:\d{3})+\Z)")
"""A digit before a delimiter."""
_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?\s*")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
_MAX_NUMBER = 100
"""Characters of a number that is formatted. A longer number stays unchanged."""
_MOMENTS = range(-62_135_510_400, 253_402_214_400)
"""Seconds since the epoch that Python's datetime supports in every time zone."""


def _bytes(value: object) -> bytes:
    return text(value).encode()


def md5(value: object) -> str:
    """Return the MD5 digest as hexadecimal text."""
    return hashlib.md5(_bytes(value), usedforsecurity=False).hexdigest()


def sha1(value: object) -> str:
    """Return the SHA-1 digest as hexadecimal text."""
    return hashlib.sha1(_bytes(value), usedforsecurity=False).hexdigest()


def sha2(value: object) -> str:
    """Return the SHA-256 digest as hexadecimal text."""
    return hashlib.sha256(_bytes(value)).hexdigest()


def hmac_sha1_hex(value: object, key: object) -> str:
    """Return the HMAC-SHA-1 signature as hexadecimal text."""
    return hmac.digest(_bytes(key), _bytes(value), "sha1").hex()


def hmac_sha1_base64(value: object, key: object) -> str:
    """Return the HMAC-SHA-1 signature as base64."""
    return base64.b64encode(hmac.digest(_bytes(key), _bytes(value), "sha1")).decode()


def hmac_sha256_hex(value: object, key: object) -> str:
    """Return the HMAC-SHA-256 signature as hexadecimal text."""
    return hmac.digest(_bytes(key), _bytes(value), "sha256").hex()


def hmac_sha256_base64(value: object, key: object) -> str:
    """Return the HMAC-SHA-256 signature as base64."""
    return base64.b64encode(hmac.digest(_bytes(key), _bytes(value), "sha256")).decode()


def hmac_sha512(value: object, key: object) -> str:
    """Return the HMAC-SHA-512 signature as hexadecimal text."""
    return hmac.digest(_bytes(key), _bytes(value), "sha512").hex()


def url_param_escape(value: object) -> str:
    """Escape every reserved character of a URL."""
    return quote(_bytes(value), safe="")


def url_escape(value: object) -> str:
    """Escape characters that are invalid in a URL, but not its separators."""
    return quote(_bytes(value), safe="/:?#[]@!$&'()*+,;=")


def property_accessor(value: object, name: object) -> object:
    """Return the property `name`, including names that Liquid cannot read after a dot."""
    return value.get(printed(name)) if isinstance(value, dict) else None


def number_with_delimiter(value: object) -> str:
    """Separate the thousands of a number by commas, as the Rails helper of this name does."""
    number = _as_number(value)
    if number is None:
        return printed(value)
    whole, point, fraction = number.partition(".")
    return _GROUP.sub(r"\1,", whole) + point + fraction


def money(value: object) -> str:
    """Format a number with two decimals and without a currency. Unlike Shopify, Braze does not divide by 100."""
    number = _as_number(value)
    if number is None:
        return printed(value)
    try:
        rounded = Decimal(number).quantize(Decimal("0.01"), ROUND_HALF_UP)
    except InvalidOperation:
        return number
    return number_with_delimiter(f"{rounded:f}")


def json_escape(value: object) -> str:
    """Escape a value for use inside a JSON string."""
    return json.dumps(text(value), ensure_ascii=False)[1:-1]


def json_parse(value: object) -> object:
    """Parse a text as JSON; nil stays nil, because only Braze may know the value."""
    if value is None:
        return None
    return json.loads(printed(value), parse_constant=_refuse)


def as_json_string(value: object) -> str:
    """Format a value as JSON."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


@with_environment
def time_zone(value: object, zone: object, *, environment: Environment) -> object:
    """Convert a time to a time zone, which is an IANA name, an offset or a number of hours.

    Returns text with the offset of the zone, which the filter date reads.
    """
    time = moment(value)
    if time is None or time.seconds not in _MOMENTS:
        return value
    local = _zone(zone)
    if local is None:
        run: Any = getattr(environment, "run")  # noqa: B009 - the type of the environment would import in a circle
        problem = f"{printed(zone)[:80]} is not a time zone, so the preview uses UTC"
        run.note(Finding(run.line, "unknown-time-zone", problem, "write a name such as 'America/New_York'"))
        local = UTC
    offset = local.utcoffset(datetime.fromtimestamp(time.seconds, local)) or timedelta()
    return Moment(time.seconds, time.nanoseconds, round(offset.total_seconds())).strftime("%Y-%m-%d %H:%M:%S %z")


def unchanged(value: object, _: object = None) -> object:
    """Return the value. The argument identifies a Content Block or a link for Braze's editor."""
    return value


def _as_number(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    number = printed(value)
    return number.strip() if len(number) <= _MAX_NUMBER and _NUMBER.fullmatch(number) else None


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _plain(value: object) -> object:
    """Return a value of Liquid as JSON types."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {printed(name): _plain(entry) for name, entry in value.items()}
        case list() | tuple() | range():
            return [_plain(entry) for entry in value]
    return printed(value)


def _zone(value: object) -> tzinfo | None:
    """Return a time zone; UTC for an unknown value, such as a user's time zone. None for an unknown name."""
    if value is None or value == "":
        return UTC
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Rails reads a number up to 13 as hours, and a larger number as seconds.
        seconds = value * 3600 if abs(value) <= 13 else value
        return timezone(timedelta(seconds=seconds)) if abs(seconds) < 86_400 else None
    name = printed(value).strip()
    if offset := _OFFSET.fullmatch(name):
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes)) if minutes < 1440 else None
    try:
        return ZoneInfo(name) if _ZONE.fullmatch(name) else None
    except (ValueError, OSError, LookupError):  # a directory of zones is an OSError
        return None


FILTERS: dict[str, Callable[..., object]] = {
    "md5": md5,
    "sha1": sha1,
    "sha2": sha2,
    "base64": base64_encode,
    "hmac_sha1": hmac_sha1_hex,
    "hmac_sha1_hex": hmac_sha1_hex,
    "hmac_sha1_base64": hmac_sha1_base64,
    "hmac_sha256": hmac_sha256_hex,
    "hmac_sha256_hex": hmac_sha256_hex,
    "hmac_sha256_base64": hmac_sha256_base64,
    "hmac_sha512": hmac_sha512,
    "url_escape": url_escape,
    "url_param_escape": url_param_escape,
    "property_accessor": property_accessor,
    "number_with_delimiter": number_with_delimiter,
    "money": money,
    "json_escape": json_escape,
    "json_parse": json_parse,
    "as_json_string": as_json_string,
    "time_zone": time_zone,
    "id": unchanged,
    "lid": unchanged,
}
"""The filters by name."""
