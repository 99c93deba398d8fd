"""URLs in settings and options."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from proxy.profile.values import BadValue


def parse_url(url: str) -> SplitResult:
    """Return the parts of a URL whose host and port can be read. Raises BadValue."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise BadValue("is not a URL: its host or port is malformed") from None
    return parts


def require_confidential(parts: SplitResult) -> None:
    """Raise BadValue where a secret that is sent to a URL could be read on the way."""
    if not is_confidential(parts):
        raise BadValue("must be https: the secret travels in it (http is for a loopback address only)")


def is_confidential(parts: SplitResult) -> bool:
    """Return whether nobody else can read what is sent to a URL: https, or http within this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
