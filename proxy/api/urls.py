"""Parses URLs in settings and options."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from proxy.profile.values import BadValue

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")


def parse_url(url: str) -> SplitResult:
    """Return the parts of a URL. Raises BadValue if a client cannot connect to the host and port."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # as the resolver does; raises if a label is empty or too long
        malformed = parts.port == 0 or not _HOST.fullmatch(parts.netloc.rpartition("@")[2])
    except ValueError:
        malformed = True
    if malformed or not parts.hostname:
        raise BadValue("has a missing or malformed host or port")
    return parts


def parse_service_url(url: str) -> SplitResult:
    """Return the parts of the URL of a service that receives a secret. Raises BadValue."""
    if "://" not in url:
        raise BadValue("must start with https://")
    parts = parse_url(url)
    if not is_confidential(parts):
        raise BadValue(
            "must start with https://, because requests contain a secret; http:// is allowed only for loopback"
        )
    if "?" in url or "#" in url or "@" in parts.netloc:
        raise BadValue("must have only a host and a path, without credentials or a query")
    return parts


def is_confidential(parts: SplitResult) -> bool:
    """Return whether requests to a URL are confidential: https, or http within this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
