"""Finds current problems and how to fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proxy.profile.errors import UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable

Level = Literal["good", "warn", "bad"]
_FULL = 0.9


@dataclass(frozen=True, slots=True)
class State:
    """The state to judge. `upstream_errors`: error words of recent calls; `dropped`, `refused`: recent counts."""

    upstream_errors: frozenset[str] = frozenset()
    outage: bool = False
    cached: bool = True
    quota_closed: bool = False
    quota_spent: bool = False
    redis_gone: bool = False
    backlog_users: int = 0
    backlog_max: int = 1
    dropped: int = 0
    refused: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is wrong, its `meaning` for messages, and the `fix`."""

    level: Level
    what: str
    meaning: str
    fix: str


def findings(state: State) -> list[Finding]:
    """Return the problems, worst first, or a single good finding."""
    problems = sorted(_problems(state), key=lambda finding: finding.level != "bad")
    return problems or [
        Finding("good", "All is well", "Messages are personalised, and there is quota for users not seen before.", "")
    ]


def _problems(state: State) -> Iterator[Finding]:
    stand_in = "Users of whom something is kept get that" if state.cached else "Nothing is kept yet"
    defaults = f"{stand_in}; everybody else gets the message's default."
    if UpstreamRejected.word in state.upstream_errors:
        yield Finding(
            "bad",
            "Amplitude rejects this service's credentials",
            defaults,
            "Compare AMPLITUDE_SECRET_KEY, and AMPLITUDE_API_KEY where it is set, with the project's settings in "
            "Amplitude, then run: python -m proxy check",
        )
    elif state.outage or state.upstream_errors & {UpstreamTimeout.word, UpstreamUnavailable.word}:
        yield Finding(
            "bad" if state.outage else "warn",
            "Amplitude is failing" if state.outage else "Some calls to Amplitude fail",
            defaults,
            "Nothing need be done here: while users are asked for, a probe is sent every few seconds, and all resumes "
            "by itself. If it lasts, look at status.amplitude.com, and whether this host reaches AMPLITUDE_BASE_URL.",
        )
    if UpstreamInvalid.word in state.upstream_errors:
        yield Finding(
            "warn",
            "Amplitude gives answers that it does not document",
            defaults,
            "Run: python -m proxy check. Is AMPLITUDE_BASE_URL Amplitude's own address, and nothing else's? If the log "
            "says that answers are about another user, and User Mapping merges users in this project, set "
            "ACCEPT_MAPPED_USERS=true.",
        )
    if state.quota_closed:
        yield Finding(
            "bad",
            "Amplitude said that the organisation's quota is spent (429)",
            f"No call is sent until its minute has passed. {defaults}",
            "Something else spends the same quota: lower AMPLITUDE_REQUESTS_PER_MINUTE to what it leaves.",
        )
    elif state.quota_spent:
        yield Finding(
            "warn",
            "The quota is spent just now",
            f"{defaults} They are fetched as the quota allows, for Braze's next try.",
            "Slow the send down in Braze (delivery speed) to the quota's pace, let its tags use :retry with "
            "on_error=retry, or send to the same users again once they are kept.",
        )
    if state.redis_gone:
        yield Finding(
            "bad",
            "Redis is gone",
            "Each process goes on with what it has. No call is sent for a minute, then each sends its share.",
            "See to the server that REDIS_URL names: is it up, not full and not read-only? It is used again by itself.",
        )
    if state.dropped or state.backlog_users >= _FULL * max(state.backlog_max, 1):
        yield Finding(
            "warn",
            "The backlog is full" if not state.dropped else "Users leave the backlog unserved",
            "More users were asked for than the quota serves in time; Braze's next try finds nothing of the oldest.",
            "Slow the send down in Braze, or raise BACKLOG_MAX_USERS and BACKLOG_MAX_AGE_SECONDS.",
        )
    if state.refused:
        yield Finding(
            "warn",
            f"{state.refused} request{'s were' if state.refused != 1 else ' was'} refused in the last ten minutes",
            "Wrong credentials, or an address outside ALLOWED_NETWORKS: these messages got no content.",
            "The log has a line a minute for each address and why. credentials: compare what is stored in Braze with "
            "PROXY_API_KEYS. address: if it may call, add it to ALLOWED_NETWORKS.",
        )
    if state.draining:
        yield Finding("warn", "This process is stopping", "What was begun is still answered.", "")
