"""HTTP caching headers of data responses (Cache-Control, Cache-Status, Age, ETag) and of requests for them.

Sources: RFC 9110 (ETag), RFC 9111 (Cache-Control, Age), RFC 9211 (Cache-Status), RFC 9218 (Priority).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from werkzeug.datastructures import RequestCacheControl
from werkzeug.http import parse_cache_control_header, parse_etags

from proxy.fetch.service import ANONYMOUS, ProfileResult

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CACHE = "connected-content-proxy"
_LONGEST_MAX_AGE = 10**9


def headers_of(result: ProfileResult) -> list[tuple[str, str]]:
    """Return X-Amplitude-Calls, Age, Cache-Control and Cache-Status for `result`."""
    headers = [("X-Amplitude-Calls", str(result.calls))]
    age = lifetime = ttl = 0
    if fresh := result.freshness:
        age, lifetime = math.floor(fresh.age), round(fresh.age + fresh.ttl)
        ttl = lifetime - age if fresh.ttl >= 0 else min(lifetime - age, -1)
        headers.append(("Age", str(age)))
    control = f"private, max-age={max(lifetime, 0)}" if is_cacheable(result) else "no-store"
    headers.append(("Cache-Control", control))
    if result is not ANONYMOUS:
        status = f"hit; ttl={ttl}" if result.forwarded is None else _cache_status(result)
        headers.append(("Cache-Status", f"{_CACHE}; {status}"))
    return headers


def is_cacheable(result: ProfileResult) -> bool:
    """Return whether a client may cache `result`: the result is complete, and the user has an id."""
    return result.error is None and result is not ANONYMOUS


def etag_of(body: bytes) -> str:
    """Return the entity tag of a response body, without the quotes."""
    return hashlib.sha256(body).hexdigest()[:32]


def is_not_modified(environ: WSGIEnvironment, result: ProfileResult, etag: str) -> bool:
    """Return whether the client already has the body with this `etag`, so that a 304 is enough."""
    return (
        "HTTP_IF_NONE_MATCH" in environ
        and parse_etags(environ["HTTP_IF_NONE_MATCH"]).contains_weak(etag)
        and environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and is_cacheable(result)
    )


def _cache_status(result: ProfileResult) -> str:
    """Return the parameters of Cache-Status for a result that needed a call."""
    if result.error is not None:
        return f"fwd={'partial' if result.freshness else 'miss'}; detail={result.error.word}"
    if result.fault is not None:
        return f"fwd=stale; detail={result.fault.word}"
    collapsed = result.forwarded == "miss" and not result.started_fetch
    return f"fwd={result.forwarded}; {'collapsed' if collapsed else 'stored'}"


def cache_label(result: ProfileResult) -> str:
    """Return the source of `result` as a metric label.

    `stale` is an old copy from the cache. `expired` is an answer that replaced an old copy.
    """
    if result.forwarded is None or result.fault is not None:
        if result.freshness is None and result.forwarded is None:
            return "none"
        return "stale" if result.stale else "hit"
    if result.forwarded == "miss" and result.error is None and not result.started_fetch:
        return "collapsed"
    return "expired" if result.forwarded == "stale" else result.forwarded


def requested_max_age(environ: WSGIEnvironment) -> float | None:
    """Return the maximum age in seconds that the client accepts (0 for no-cache), or None without a limit."""
    header = environ.get("HTTP_CACHE_CONTROL")
    if header is None:
        return None
    # Directives are case-insensitive (RFC 9111, 5.2), but werkzeug's parser is not.
    directives = parse_cache_control_header(header.lower(), cls=RequestCacheControl)
    if directives.no_cache:
        return 0.0
    max_age = directives.max_age
    return float(min(max_age, _LONGEST_MAX_AGE)) if max_age is not None and max_age >= 0 else None


def is_background(environ: WSGIEnvironment) -> bool:
    """Return whether all other requests have priority over this request (RFC 9218, urgency 7), as with `warm`."""
    header = environ.get("HTTP_PRIORITY")
    return header is not None and "u=7" in map(str.strip, header.split(","))
