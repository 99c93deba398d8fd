"""What a data answer says of its age, its freshness and where it came from (RFC 9111, RFC 9211)."""

from __future__ import annotations

import math

from werkzeug.datastructures import Headers

from proxy.profiles import Answer

_CACHE = "connected-content-proxy"


def describe(headers: Headers, answer: Answer) -> None:
    """Add Age, Cache-Control, Cache-Status and X-Amplitude-Calls to the headers of `answer`."""
    age = math.floor(answer.freshness.age) if answer.freshness else 0
    lifetime = round(answer.freshness.age + answer.freshness.left) if answer.freshness else 0
    headers["X-Amplitude-Calls"] = str(answer.calls)
    if answer.freshness:
        headers["Age"] = str(age)
    headers["Cache-Control"] = f"private, max-age={max(lifetime, 0)}" if answer.error is None else "no-store"
    if status := outcome(answer, ttl=lifetime - age):
        headers["Cache-Status"] = f"{_CACHE}; {status}"


def outcome(answer: Answer, *, ttl: int) -> str:
    """Return the parameters of Cache-Status: where the answer came from, or why it did not."""
    if answer.forwarded is None:
        return f"hit; ttl={ttl}"
    if answer.error is None:
        how = "stored" if answer.forwarded == "partial" or answer.opened else "collapsed"
        return f"fwd={answer.forwarded}; {how}"
    some = "partial" if answer.freshness else "miss"
    return f"fwd={some}; detail={answer.error.word}"
