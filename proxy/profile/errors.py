"""Errors that mean Amplitude's answer is missing.

UpstreamError           error word in the body; the caller did nothing wrong
├─ UpstreamTimeout      upstream_timeout
├─ UpstreamUnavailable  upstream_unavailable
├─ UpstreamRejected     upstream_rejected
├─ UpstreamInvalid      upstream_invalid
│  └─ AnotherUser       upstream_invalid
└─ QuotaExhausted       quota_exhausted

An `UpstreamError` has no HTTP status on purpose: it becomes a 200 with `ok: false`, or a 500 for `on_error=retry`. It
can then never become a 429, 502, 503 or 504, which Braze would count towards halting every call to the host.
"""

from __future__ import annotations

from typing import ClassVar


class UpstreamError(Exception):
    """Amplitude's answer is missing. retry_after: seconds until a retry may help, where known."""

    word: ClassVar[str]

    def __init__(self, reason: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason or self.word)
        self.retry_after = retry_after


class UpstreamTimeout(UpstreamError):
    """The call was sent and no complete answer came in time; the outcome is unknown."""

    word = "upstream_timeout"


class UpstreamUnavailable(UpstreamError):
    """No connection, a reset, or a 5xx: a retry later may succeed."""

    word = "upstream_unavailable"


class UpstreamRejected(UpstreamError):
    """401 or 403: the operator's credentials are wrong, and no retry helps before they are fixed."""

    word = "upstream_rejected"


class UpstreamInvalid(UpstreamError):
    """The answer does not have the documented shape."""

    word = "upstream_invalid"


class AnotherUser(UpstreamInvalid):
    """The answer is about another user than the requested one. This says nothing about Amplitude's health."""

    def __init__(self) -> None:
        super().__init__(
            "the answer is about another user than the requested one; "
            "set ACCEPT_MAPPED_USERS=true if Amplitude's User Mapping merges users in this project"
        )


class QuotaExhausted(UpstreamError):
    """The call could not be sent in time within our quota, or Amplitude answered 429."""

    word = "quota_exhausted"
