"""What a data answer says of its age, its freshness and where it came from (RFC 9111, RFC 9211)."""

from __future__ import annotations

import math

from flask import Request
from werkzeug.datastructures import RequestCacheControl
from werkzeug.http import parse_cache_control_header

from proxy.fetch.service import ANONYMOUS, ProfileResult

_CACHE = "connected-content-proxy"


def described(answer: ProfileResult) -> list[tuple[str, str]]:
    """Return the headers of `answer` that tell it: Age, Cache-Control, Cache-Status and X-Amplitude-Calls."""
    headers = [("X-Amplitude-Calls", str(answer.calls))]
    age = lifetime = 0
    if fresh := answer.freshness:
        age, lifetime = math.floor(fresh.age), round(fresh.age + fresh.ttl)
        headers.append(("Age", str(age)))
    if not may_be_kept(answer):
        headers.append(("Cache-Control", "no-store"))
    else:
        headers.append(("Cache-Control", f"private, max-age={max(lifetime, 0)}"))
    if answer is not ANONYMOUS:
        ttl = min(lifetime - age, -1) if answer.stale else lifetime - age
        headers.append(("Cache-Status", f"{_CACHE}; {outcome(answer, ttl=ttl)}"))
    return headers


def may_be_kept(answer: ProfileResult) -> bool:
    """Say whether a client may keep `answer`: one that is whole, of a user who has an id."""
    return answer.error is None and answer is not ANONYMOUS


def outcome(answer: ProfileResult, *, ttl: int) -> str:
    """Return the parameters of Cache-Status: where the answer came from, or why it did not."""
    if answer.forwarded is None:
        return f"hit; ttl={ttl}"
    if answer.error is not None:
        return f"fwd={'partial' if answer.freshness else 'miss'}; detail={answer.error.word}"
    if answer.fault is not None:
        return f"fwd=stale; detail={answer.fault.word}"
    return f"fwd={answer.forwarded}; {'collapsed' if answer.forwarded == 'miss' and not answer.opened else 'stored'}"


def word(answer: ProfileResult) -> str:
    """Return where the answer came from in one word: `stale` for an old copy, `expired` when that was fetched anew."""
    if answer.freshness is None and answer.forwarded is None:
        return "none"
    if answer.forwarded is None or answer.fault is not None:
        return "stale" if answer.stale else "hit"
    if answer.forwarded == "miss" and answer.error is None and not answer.opened:
        return "collapsed"
    return "expired" if answer.forwarded == "stale" else answer.forwarded


def wanted_age(request: Request) -> float | None:
    """Return the greatest age in seconds that the caller takes (no-cache is 0), None when it does not say."""
    header = request.environ.get("HTTP_CACHE_CONTROL")
    if header is None:
        return None
    # Directives are case-insensitive (RFC 9111, 5.2), which the parser does not know.
    asked = parse_cache_control_header(header.lower(), cls=RequestCacheControl)
    if asked.no_cache:
        return 0.0
    return float(min(asked.max_age, _FOR_EVER)) if asked.max_age is not None and asked.max_age >= 0 else None


def in_background(request: Request) -> bool:
    """Say whether the caller lets everybody else go first (RFC 9218: urgency 7), as one does ahead of a send."""
    header = request.environ.get("HTTP_PRIORITY")
    return header is not None and "u=7" in map(str.strip, header.split(","))


_FOR_EVER = 10**9
