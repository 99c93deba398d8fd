"""URLs in settings and options."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from proxy.profile.values import BadValue

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_AMBIGUOUS = re.compile(r"[\\\s]")
"""In front of the path, other clients end the host at a backslash."""


def parse_url(url: str) -> SplitResult:
    """Return the parts of a URL with a host and a port that a client can connect to. Raises BadValue."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # as the resolver does; it raises for a label that is empty or too long
        malformed = (
            parts.port == 0
            or _AMBIGUOUS.search(parts.netloc) is not None
            or not _HOST.fullmatch(parts.netloc.rpartition("@")[2])
        )
    except ValueError:
        malformed = True
    if malformed or not parts.hostname:
        raise BadValue("is not a URL: its host or port is missing or malformed")
    return parts


def parse_service_url(url: str) -> SplitResult:
    """Return the parts of the URL of a service that a secret is sent to. Raises BadValue."""
    parts = parse_url(url)
    if not is_confidential(parts):
        raise BadValue("must be https: the secret travels in it (http is for a loopback address only)")
    if "?" in url or "#" in url or "@" in parts.netloc:
        raise BadValue("may have a host and a path only, and no credentials")
    return parts


def is_confidential(parts: SplitResult) -> bool:
    """Return whether nobody else can read what is sent to a URL: https, or http within this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
