"""The errors for a missing answer of Amplitude.

UpstreamError           (base class)
├─ UpstreamTimeout      upstream_timeout
├─ UpstreamUnavailable  upstream_unavailable
│  └─ ConnectionClosed  upstream_unavailable
├─ UpstreamRejected     upstream_rejected
├─ UpstreamInvalid      upstream_invalid
│  └─ AnotherUser       upstream_invalid
├─ QuotaExhausted       quota_exhausted
└─ NotAvailable         not_available

The second column has the error word. An `UpstreamError` intentionally has no HTTP status. It becomes a 200 with
`ok: false`, or a 500 for `on_error=retry`, and never a 429, 502, 503 or 504. Braze counts those statuses, and pauses
all calls to a host that returns too many.
"""

from __future__ import annotations

from typing import ClassVar


class UpstreamError(Exception):
    """Amplitude's answer is missing. `retry_after`: seconds until a retry may help; None if unknown."""

    word: ClassVar[str]

    def __init__(self, reason: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason or self.word)
        self.retry_after = retry_after


class UpstreamTimeout(UpstreamError):
    """The call was sent, but no complete answer arrived in time."""

    word = "upstream_timeout"


class UpstreamUnavailable(UpstreamError):
    """The connection failed, or Amplitude returned a 5xx. A later retry may succeed."""

    word = "upstream_unavailable"


class ConnectionClosed(UpstreamUnavailable):
    """A reused connection was closed before any byte of the answer. A retry on a new connection usually succeeds.

    `seconds_left`: seconds that remain of the timeout of the call.
    """

    def __init__(self, seconds_left: float) -> None:
        super().__init__("Amplitude closed a reused connection before the answer")
        self.seconds_left = seconds_left


class UpstreamRejected(UpstreamError):
    """Amplitude returned 401 or 403. No retry succeeds before an operator corrects the credentials."""

    word = "upstream_rejected"


class UpstreamInvalid(UpstreamError):
    """The answer differs from Amplitude's documentation, or an internal error occurred."""

    word = "upstream_invalid"


class AnotherUser(UpstreamInvalid):
    """The answer is about a user other than the requested user. Amplitude itself works."""

    def __init__(self) -> None:
        super().__init__(
            "the answer is about another user, not the requested one; "
            "set ACCEPT_MAPPED_USERS=true if Amplitude's User Mapping merges users in this project"
        )


class QuotaExhausted(UpstreamError):
    """The quota did not allow the call in time, or Amplitude returned 429."""

    word = "quota_exhausted"


class NotAvailable(UpstreamError):
    """The service runs without the User Profile API, and nothing was pushed or exported about the user and section."""

    word = "not_available"
