"""Reads the text of a setting. Each reader returns the value, or raises BadValue with the problem and the fix."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from proxy.api.caller_keys import Key, Scope
from proxy.api.caller_keys import parse as parse_keys
from proxy.api.urls import is_loopback, parse_service_url, parse_url
from proxy.monitoring.log_format import LogFormat
from proxy.profile.liquid_names import USER_PROPERTY
from proxy.profile.parts import COHORTS, PROPERTIES, Part
from proxy.profile.values import BadValue, parse_list, split_list

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
YEAR_SECONDS = 31_536_000


def text(value: str) -> str:
    """Read a key or an id: printable ASCII without spaces."""
    if not value.isprintable() or not value.isascii() or " " in value:
        raise BadValue("contains a space or another invalid character; copy the key again")
    return value


def api_key(value: str) -> str:
    """Read Amplitude's API key."""
    if ":" in value:
        raise BadValue("contains a colon; set the API key alone, without the secret key")
    return text(value)


def project(value: str) -> str:
    """Read the name of a project."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise BadValue("must be 1 to 64 letters, digits, '.', '_' or '-'")
    return value


def key_secret(value: str) -> str:
    """Read the secret for the digests of ids."""
    if not 32 <= len(value) <= 512 or not value.isascii() or not value.isprintable():
        raise BadValue("must be 32 to 512 letters, digits or signs; create it with `openssl rand -hex 32`")
    return value


def base_url(value: str) -> str:
    """Read the URL of a service that receives a secret."""
    parse_service_url(value)
    return value.rstrip("/")


def braze_endpoint(value: str) -> str:
    """Read the URL of a REST endpoint of Braze. Loopback addresses are accepted for an emulated Braze.

    Source: braze.com/docs/api/basics, which lists the dashboard and the REST endpoint of each instance.
    """
    parts = parse_service_url(value)
    host = (parts.hostname or "").lower()
    if dashboard := re.fullmatch(r"(?:dashboard|sdk|rest)([.-])([a-z0-9-]+)\.braze\.(com|eu)", host):
        separator, instance, domain = dashboard.groups()
        if separator == "-":  # dashboard-01.braze.com belongs to rest.iad-01.braze.com
            instance = f"{'fra' if domain == 'eu' else 'iad'}-{instance}"
        endpoint = f"https://rest.{instance}.braze.{domain}"
        if not host.startswith("rest."):
            raise BadValue("must be the address of the REST API", example=endpoint)
    elif is_loopback(host):
        endpoint = f"{parts.scheme}://{parts.netloc}"
    else:
        raise BadValue("must be a REST endpoint of Braze; copy it from braze.com/docs/api/basics")
    if parts.path not in ("", "/") or (parts.port and not is_loopback(host)):
        raise BadValue("must have nothing after the host", example=endpoint)
    return endpoint


def redis_url(value: str) -> str:
    """Read the URL of a Redis."""
    scheme, separator, rest = value.partition("://")
    if scheme.lower() == "unix":
        raise BadValue("names a Unix socket, which is not supported; use redis://host:port")
    if scheme.lower() not in ("redis", "rediss") or not separator:
        raise BadValue("must begin with redis:// or rediss://")
    if not value.isprintable():
        raise BadValue("contains a control character; copy the URL again")
    url = f"{scheme.lower()}://{rest}"
    # An unencoded password may contain any character, but @ never occurs after the host.
    credentials, at, location = rest.rpartition("@")
    parts = parse_url(f"redis://{location}")
    try:
        is_encoded = urlsplit(url).netloc == credentials + at + parts.netloc
    except ValueError:
        is_encoded = False
    if not is_encoded:
        raise BadValue(
            "has special characters in the user or password; percent-encode them: / as %2F, ? as %3F, # as %23, "
            "@ as %40, % as %25, [ as %5B"
        )
    if "?" in location:
        raise BadValue(
            "has options after ?; remove them, and set REDIS_TLS_VERIFY=false if they turn off the TLS verification"
        )
    if parts.fragment or not re.fullmatch(r"/?[0-9]{0,5}", parts.path):
        raise BadValue("must have nothing after the port except a database number")
    return url


def without_credentials(url: str) -> str:
    """Return a URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of a number from `low` to `high`."""

    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise BadValue(f"must be a number from {low:.10g} to {high:.10g}")
        return number

    return read


duration = number(1, YEAR_SECONDS)
"""Reads seconds, at most a year."""


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of a whole number from `low` to `high`."""

    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit()) or len(value) > 12 or not low <= int(value) <= high:
            raise BadValue(f"must be a whole number from {low} to {high}")
        return int(value)

    return read


def boolean(value: str) -> bool:
    """Read `true` or `false`."""
    if value.lower() not in ("true", "false"):
        raise BadValue("must be true or false")
    return value.lower() == "true"


def on_off(value: str) -> bool:
    """Read `on` or `off`."""
    if value.lower() not in ("on", "off"):
        raise BadValue("must be on or off")
    return value.lower() == "on"


def level(value: str) -> str:
    """Read the level of the log."""
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise BadValue("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()


def log_format(value: str) -> LogFormat:
    """Read the format of the log."""
    match value.lower():
        case "json" | "text" as word:
            return word
    raise BadValue("must be json or text")


def fetch_along(value: str) -> tuple[Part, ...]:
    """Read the parts that each call also fetches."""
    free = {"properties": PROPERTIES, "cohorts": COHORTS}
    words = split_list(value)
    if not set(words) <= free.keys():
        raise BadValue("must be properties, cohorts, both, or empty; other data is fetched only on request")
    return tuple(part for word, part in free.items() if word in words)


def names(value: str) -> frozenset[str]:
    """Read names. `*` stands for all."""
    return frozenset(split_list(value))


def ids(value: str) -> tuple[str, ...]:
    """Read ids, in their order."""
    return tuple(split_list(value))


def property_names(value: str) -> frozenset[str]:
    """Read names of user properties, without their prefix `gp:`."""
    return frozenset(name.removeprefix(USER_PROPERTY) for name in split_list(value))


def networks(value: str) -> tuple[Network, ...]:
    """Read networks in CIDR notation."""
    networks = parse_list(value, _network)
    if not networks:
        raise BadValue("has no network; add a network, or remove the variable")
    return networks


def _network(number: int, entry: str) -> Network:
    try:
        # Not strict, because some forms show 52.58.142.0/24 as 52.58.142.7/24.
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise BadValue(f"entry {number} must be an address or a network in CIDR notation") from None


def keys(value: str) -> tuple[Key, ...]:
    """Read the keys of callers."""
    keys = parse_keys(value)
    if not keys:
        raise BadValue("has no entry; add name:secret")
    return keys


def secret(name: str, scope: Scope) -> Callable[[str], tuple[Key, ...]]:
    """Return a reader of the secret of the caller `name`."""

    def read(value: str) -> tuple[Key, ...]:
        if ":" in value or "," in value:
            raise BadValue("must be a secret without a name; put entries with names into PROXY_API_KEYS")
        return keys(f"{name}:{value}:{scope}")

    return read
