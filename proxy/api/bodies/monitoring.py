"""Bodies of the health checks and of the status."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from proxy.api.bodies.changes import Snapshot
from proxy.api.bodies.vocabulary import Count, MissingWord, about
from proxy.api.caller_keys import Scope


class Health(TypedDict):
    status: Literal["ok"]
    version: NotRequired[Annotated[str, about("Only with the credentials of a key.")]]


class Readiness(TypedDict):
    status: Literal["ok", "degraded"]
    upstream: Literal["ok", "unknown", "rejected", "failing", "invalid", "off"]
    quota: Literal["ok", "spent"]
    redis: NotRequired[Literal["ok", "full", "gone"]]


class Unready(Readiness):
    status: Literal["unavailable", "draining"]  # type: ignore[misc]


class StatusFinding(TypedDict):
    level: Literal["good", "warn", "bad"]
    what: str
    meaning: Annotated[str, about("The consequence for messages.")]
    fix: Annotated[str, about("The action for the operator. Empty if no action is needed.")]


class StatusHourAnswers(TypedDict):
    hit: list[Count]
    stale: list[Count]
    fetched: list[Count]
    missing: list[Count]


class StatusHourTimes(TypedDict):
    """Times in milliseconds. Null where there were no requests."""

    median: list[Annotated[float, Meta(ge=0)] | None]
    p95: list[Annotated[float, Meta(ge=0)] | None]


class StatusHour(TypedDict):
    at: Annotated[list[Count], about("Times in Unix seconds. Each other list has one entry for each time.")]
    answers: StatusHourAnswers
    answer_ms: StatusHourTimes
    call_ms: StatusHourTimes
    calls: list[Count]
    quota_used: list[Count]
    backlog: list[Count]
    errors: dict[MissingWord, list[Count]]
    background: Annotated[list[Count], about("Answers to background requests of `warm`. The other lists omit these.")]


class StatusCaller(TypedDict):
    name: str
    scope: Scope


UnixTime = Annotated[Count, about("Unix seconds.")]
ByOutcome = Annotated[dict[str, Count], about("Counts of the last hour, by outcome as in `/metrics`.")]


class StatusEventStream(TypedDict):
    """Forwarding of Amplitude's event stream to Braze, of all worker processes on this machine."""

    accepted_at: Annotated[UnixTime | None, about("The time at which Braze last accepted objects.")]
    failed_at: Annotated[UnixTime | None, about("The time of the last failure.")]
    failure: Annotated[
        str | None, about("The reason of the last failure, if it occurred in this worker process; otherwise null.")
    ]
    refused: Annotated[bool, about("Whether Braze refuses the API key, its permission or the instance.")]
    paused_until: Annotated[
        UnixTime | None, about("The time until which no request is sent, because Braze returned 429.")
    ]
    waiting: Annotated[Count, about("Number of objects that wait for Braze.")]
    outcomes: ByOutcome


class StatusCurrents(TypedDict):
    """Relay of Braze Currents to Amplitude, of all worker processes on this machine."""

    accepted_at: Annotated[UnixTime | None, about("The time of the last batch that was relayed.")]
    failed_at: Annotated[UnixTime | None, about("The time of the last batch that was not relayed.")]
    failure: Annotated[
        str | None, about("The reason of the last failure, if it occurred in this worker process; otherwise null.")
    ]
    rejected: Annotated[bool, about("Whether Amplitude rejects the API key.")]
    outcomes: ByOutcome


class StatusSyncRun(TypedDict):
    ended_at: UnixTime
    result: Literal["complete", "incomplete", "failed"]
    error: Annotated[str, about("The error of a failed run. Otherwise empty.")]
    users_sent: Count
    users_unchanged: Count
    users_failed: Count
    values: Annotated[Count, about("Number of values that were sent.")]
    requests: Annotated[Count, about("Number of requests to Braze.")]


class StatusSync(TypedDict):
    """Runs of `python -m proxy sync` with the same Redis."""

    last: StatusSyncRun | None
    runs: Annotated[dict[str, Count], about("Number of runs by result.")]


class StatusDirections(TypedDict):
    """A direction that is switched off is null. `sync` is null without Redis."""

    event_stream: StatusEventStream | None
    currents: StatusCurrents | None
    sync: StatusSync | None


class Status(TypedDict):
    findings: Annotated[list[StatusFinding], Meta(min_length=1)]
    now: Annotated[
        dict[str, Count], about("Current values. The keys are the gauges of `/metrics`, without the prefix.")
    ]
    step_seconds: Count
    kept_seconds: Count
    snapshots: Annotated[list[Snapshot], about("The installed snapshots of cohorts.")]
    hour: StatusHour
    directions: Annotated[StatusDirections, about("The state of each direction between Amplitude and Braze.")]
    profile_api: Annotated[bool, about("False with `AMPLITUDE_PROFILE_API=off`: the service makes no calls.")]
    callers: Annotated[list[StatusCaller], about("The callers that the service accepts.")]
    aliases: Annotated[dict[str, list[str]], about("The names in `ALIASES`, by kind.")]
