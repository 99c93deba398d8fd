"""Finds current problems, and describes how to fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proxy.monitoring.sync_runs import RunResult
from proxy.profile.errors import UpstreamInvalid, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable

Level = Literal["good", "warn", "bad"]
_FULL = 0.9
_MANY_NOT_AVAILABLE = 0.1
"""Share of the answers."""
_MIN_NOT_AVAILABLE = 10
SYNC_OLD_SECONDS = 26 * 3600.0
"""A daily run may end up to two hours later than on the day before."""


@dataclass(frozen=True, slots=True)
class State:
    """The input of the diagnosis.

    `upstream_errors` are the error words of recent calls. `dropped`, `refused`, `answers` and `not_available` (answers
    without data that was never pushed or exported) and `uncertain` (forwarded objects) are counts of the last ten
    minutes. `sync_result`: of the last run of `sync`; None if no run is known. `sync_age`: seconds since that run.
    """

    profile_api: bool = True
    answers: int = 0
    not_available: int = 0

    upstream_errors: frozenset[str] = frozenset()
    outage: bool = False
    cached: bool = True
    quota_closed: bool = False
    quota_spent: bool = False
    redis_unavailable: bool = False
    redis_full: bool = False
    backlog_users: int = 0
    backlog_max: int = 1
    dropped: int = 0
    refused: int = 0
    expired_snapshots: tuple[str, ...] = ()
    currents_rejected: bool = False
    braze_refused: bool = False
    braze_paused: bool = False
    uncertain: int = 0
    sync_result: RunResult | None = None
    sync_error: str = ""
    sync_age: float = 0.0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, or the statement that all is well. `what`: the problem. `meaning`: its effect on messages."""

    level: Level
    what: str
    meaning: str
    fix: str


def findings(state: State) -> list[Finding]:
    """Return the problems, worst first. Without problems, return a single good finding."""
    problems = sorted(_problems(state), key=lambda finding: finding.level != "bad")
    meaning = "Messages are personalised, and quota is left for users who are not cached."
    if not state.profile_api:
        meaning = "Messages are personalised with pushed and exported data. The User Profile API is off."
    return problems or [Finding("good", "All is well", meaning, "")]


def _problems(state: State) -> Iterator[Finding]:
    if state.cached:
        defaults = "Cached users get their cached data. All other users get the default content."
    else:
        defaults = "Nothing is cached yet, so all users get the default content."
    if UpstreamRejected.word in state.upstream_errors:
        yield Finding(
            "bad",
            "Amplitude rejects this service's credentials",
            defaults,
            "Compare AMPLITUDE_SECRET_KEY, and AMPLITUDE_API_KEY if set, with the project's settings in Amplitude. "
            "Then run: python -m proxy check",
        )
    elif state.outage or state.upstream_errors & {UpstreamTimeout.word, UpstreamUnavailable.word}:
        yield Finding(
            "bad" if state.outage else "warn",
            "Amplitude is down or cannot be reached" if state.outage else "Some calls to Amplitude fail",
            defaults,
            "Wait: while users are requested, the service sends a trial call every few seconds, and recovers by "
            "itself. If the problem lasts, "
            "check status.amplitude.com, and check that this host can reach AMPLITUDE_BASE_URL.",
        )
    if UpstreamInvalid.word in state.upstream_errors:
        yield Finding(
            "warn",
            "Amplitude's answers differ from its documentation",
            defaults,
            "Run: python -m proxy check. Make sure that AMPLITUDE_BASE_URL is an address of Amplitude. If the log "
            "reports answers about another user, and User Mapping merges users in this project, set "
            "ACCEPT_MAPPED_USERS=true.",
        )
    if state.currents_rejected:
        yield Finding(
            "bad",
            "Amplitude rejects the API key, so no event of Braze Currents is delivered",
            "Braze sends the events again. After five days of failures, Braze stops the Current.",
            "Set AMPLITUDE_API_KEY to the API key of the project, and restart the service. For a project in the EU, "
            "check AMPLITUDE_INGEST_URL too.",
        )
    yield from _braze_problems(state)
    if state.quota_closed:
        yield Finding(
            "bad",
            "Amplitude answered 429: the organisation's quota is used up",
            f"No call is sent until the time in Amplitude's answer has passed, usually one minute. {defaults}",
            "Another program uses the same quota. Lower AMPLITUDE_REQUESTS_PER_MINUTE to the part that is left for "
            "this service.",
        )
    elif state.quota_spent and not state.redis_unavailable:  # otherwise Redis is the cause, not the send
        yield Finding(
            "warn",
            "Quota used up: users who are not cached get the default content",
            f"{defaults} Missing data is fetched as the quota allows, for Braze's next try. Recommendations are "
            "fetched only for tags with on_error=retry.",
            "Lower the delivery speed in Braze to match the quota. Or add :retry and on_error=retry to the tags. "
            "Or send again to the same users after their data has been cached.",
        )
    if state.redis_unavailable:
        yield Finding(
            "bad",
            "Redis is unavailable",
            "Each process continues with its own cache. "
            + (
                "No call is sent for one minute. After that, each process uses its share of the quota."
                if state.profile_api
                else "Pushed data that this process has not read yet is missing, and pushes fail until Redis answers."
            ),
            "Check whether the Redis at REDIS_URL is down or read-only. The log has the cause (redis_unavailable "
            "or redis_permission_missing). This service reconnects by itself.",
        )
    elif state.redis_full:
        yield Finding(
            "bad",
            "Redis is full",
            "New data of users is only in the memory of one process. Amplitude's webhooks get status 500, and warmed "
            "users can be lost.",
            "Increase maxmemory of Redis, or use a larger Redis. The service continues by itself.",
        )
    if state.not_available >= max(_MIN_NOT_AVAILABLE, _MANY_NOT_AVAILABLE * state.answers):
        share = state.not_available / max(state.answers, state.not_available)
        yield Finding(
            "warn",
            f"{round(100 * share)} % of the answers of the last ten minutes lack data",
            "Nothing was pushed or exported about these users and sections, or the data is too old. These users get "
            "the default content.",
            "Check that Amplitude's webhooks and the nightly download run, and that they cover these users, cohorts "
            "and properties. Recommendations, computations and propensities need the User Profile API.",
        )
    if state.dropped or state.backlog_users >= _FULL * max(state.backlog_max, 1):
        yield Finding(
            "warn",
            "Users are removed from the backlog without an answer" if state.dropped else "The backlog is full",
            "More users are requested than the quota allows. The oldest users in the backlog are removed, and get the "
            "default at Braze's next try.",
            "Lower the delivery speed in Braze, or increase BACKLOG_MAX_USERS and BACKLOG_MAX_AGE_SECONDS.",
        )
    if state.refused:
        yield Finding(
            "warn",
            f"{state.refused} request{'s were' if state.refused != 1 else ' was'} refused in the last ten minutes",
            "The credentials are wrong, the key lacks the scope of the route, the address is outside ALLOWED_NETWORKS, "
            "or a browser sends the request for a page of another site. These requests get no data and store none.",
            "Search the log for caller_refused. If `why` is credentials, compare the secret in Braze with "
            "PROXY_API_KEYS. If `why` is scope, give the caller a key with the scope of the route (new-key --scope). "
            "If `why` is address, and you trust the address, add it to ALLOWED_NETWORKS. If `why` is cross_site, call "
            "the data routes from a server.",
        )
    if state.expired_snapshots:
        yield Finding(
            "warn",
            f"The snapshot of a cohort has expired: {', '.join(state.expired_snapshots)}",
            "Answers about this cohort are old. With the User Profile API, each request for it may cost a call again.",
            "Run warm --cohort again, or send the current members to PUT /v1/snapshots/{cohort_id}. If no template "
            "needs the cohort, remove the snapshot with DELETE /v1/snapshots/{cohort_id}.",
        )
    if state.draining:
        yield Finding("warn", "This process is stopping", "Requests already received are still answered.", "")


def _braze_problems(state: State) -> Iterator[Finding]:
    if state.braze_refused:
        yield Finding(
            "bad",
            "Braze refuses the API key, so no event is forwarded",
            "Amplitude sends each event again for four hours. After that, Braze never gets the event. Messages are not "
            "affected.",
            "Compare BRAZE_API_KEY and BRAZE_REST_ENDPOINT with Braze, Settings > API Keys. The key needs the "
            "permission users.track. Then run: python -m proxy check",
        )
    if state.braze_paused:
        yield Finding(
            "warn",
            "Braze's rate limit is reached",
            "No request is sent until the time in Braze's answer has passed. Amplitude sends the events again later.",
            "Lower BRAZE_REQUESTS_PER_MINUTE if other programs use the same limit. Otherwise forward fewer event types "
            "(FORWARD_EVENTS), or ask Braze for a higher limit.",
        )
    if state.uncertain:
        yield Finding(
            "warn",
            f"{state.uncertain} forwarded object{'s are' if state.uncertain != 1 else ' is'} uncertain",
            "The connection to Braze ended before the answer, so Amplitude sends the events again. Braze may have some "
            "events twice.",
            "Check the network between this host and BRAZE_REST_ENDPOINT, and status.braze.com. If Braze answers "
            "slowly, increase RESPONSE_DEADLINE_SECONDS.",
        )
    if state.sync_result not in (None, "complete"):
        failed = state.sync_result == "failed"
        yield Finding(
            "warn",
            "The last run of sync failed" if failed else "The last run of sync is incomplete",
            "Some users in Braze keep old values."
            + (f" The error was: {state.sync_error}" if state.sync_error else ""),
            "Correct the cause that the command printed, and run it again. Values already sent are not sent again.",
        )
    elif state.sync_age > SYNC_OLD_SECONDS:
        yield Finding(
            "warn",
            f"The last run of sync was {round(state.sync_age / 3600)} hours ago",
            "Users in Braze keep the values of that run.",
            "Check that cron or the scheduler starts python -m proxy sync, and read its output. If you no longer use "
            "sync, this message disappears 90 days after the last run.",
        )
