"""Types of the JSON bodies of responses. The code builds these bodies, and the OpenAPI document describes them.

The docstring of a class, and each `about`, is a description in the document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from proxy.api.caller_keys import Scope
from proxy.api.errors import BLANK_ID, Code
from proxy.profile.errors import NotAvailable, UpstreamError
from proxy.profile.query import PropensityType


def about(description: str) -> Meta:
    """Describe a key in the OpenAPI document."""
    return Meta(description=description)


MISSING_WORDS = [kind.word for kind in UpstreamError.__subclasses__()]
"""The error words for missing data."""
RETRY_WORDS = [word for word in MISSING_WORDS if word != NotAvailable.word]
"""The error words that cause a 500 with `on_error=retry`. A retry cannot bring data that is not available."""
MissingWord = Annotated[str, Meta(extra_json_schema={"enum": MISSING_WORDS})]
RetryWord = Annotated[str, Meta(extra_json_schema={"enum": RETRY_WORDS})]
ErrorWord = Annotated[str, Meta(extra_json_schema={"enum": [BLANK_ID, *MISSING_WORDS]})]
Count = Annotated[int, Meta(ge=0)]
LiquidName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_-]*$")]


class Envelope(TypedDict):
    ok: Annotated[bool, about("True if no requested data is missing.")]
    found: Annotated[bool, about("True if Amplitude knows this user.")]
    error: Annotated[
        ErrorWord | None,
        about("Null if `ok` is true; else the reason why data is missing. All other data is still included."),
    ]
    stale: Annotated[bool, about("True if some data is older than its freshness lifetime.")]
    as_of: Annotated[
        int | None, about("Time of the oldest data in the answer, in Unix seconds. Null if there is no data.")
    ]
    user_id: Annotated[str | None, about("The id that Amplitude returned, or else the requested id.")]
    device_id: Annotated[str | None, about("The id that Amplitude returned, or else the requested id.")]


class FirstRecommendation(TypedDict):
    items: Annotated[list[str], about("The items to show. Empty for users in the control group.")]
    personalized: Annotated[bool, about("True if `items` is not empty.")]
    is_control: Annotated[bool, about("True if the user is in the control group. Show the default content.")]
    control_items: Annotated[
        list[str], about("The items that Amplitude sent for a user in the control group. Do not show them.")
    ]
    rec_id: str
    source: Annotated[str | None, about("Amplitude's `recommendation_source`.")]
    last_updated: Annotated[int | None, about("Unix seconds.")]


class Recommendation(FirstRecommendation):
    child_rec_id: str | None


class Recommendations(FirstRecommendation):
    recommendations: Annotated[list[Recommendation], about("One entry per `rec_id`, in the requested order.")]
    recommendations_by_id: Annotated[dict[str, Recommendation], about("The same entries, keyed by `rec_id`.")]


class Properties(TypedDict):
    properties: Annotated[dict[LiquidName, Any], about("Values, keyed by Liquid-safe name.")]
    properties_by_name: Annotated[
        dict[str, Any], about("Values, keyed by the name in `keys`, or by Amplitude's exact name without `keys`.")
    ]


class Cohorts(TypedDict):
    cohort_ids: Annotated[list[str], about("The user's cohorts, limited to `cohort_id` if present.")]
    member: Annotated[
        dict[str, bool], about("Values, keyed by cohort id: true if the user is in the cohort, else false.")
    ]
    is_member: Annotated[bool, about("True if the user is in all requested cohorts. False without `cohort_id`.")]


class Computations(TypedDict):
    computations: Annotated[
        dict[LiquidName, Any], about("Values, keyed by Liquid-safe name. Decimals are JSON numbers.")
    ]
    computations_by_name: Annotated[dict[str, Any], about("Values, keyed by Amplitude's exact name.")]


class Propensity(TypedDict):
    prediction_id: str
    value: Annotated[float | None, about("Null if Amplitude has no value.")]
    type: PropensityType


class Propensities(TypedDict):
    propensity: Annotated[float | None, about("The value of the first prediction.")]
    propensities: Annotated[list[Propensity], about("One entry per `prediction_id`, in the requested order.")]
    propensities_by_id: Annotated[dict[str, Propensity], about("The same entries, keyed by `prediction_id`.")]


class AmplitudesPropensity(TypedDict):
    prop: float
    pred_id: str
    prop_type: PropensityType


class UserData(TypedDict):
    """The answer of Amplitude's own endpoint. Parts that were not requested are null."""

    recommendations: list[AmplitudesRecommendation] | None
    user_id: str | None
    device_id: str | None
    amp_props: Annotated[dict[str, Any] | None, about("Properties and computations together.")]
    cohort_ids: list[str] | None
    propensity: NotRequired[
        Annotated[float | None, about("The value of the first prediction. Present only if requested.")]
    ]
    propensities: NotRequired[Annotated[list[AmplitudesPropensity], about("Present only if requested.")]]


class AmplitudesRecommendation(TypedDict, total=False):
    """A recommendation as Amplitude sent it."""

    rec_id: str
    child_rec_id: str | None
    items: list[str]
    is_control: bool
    recommendation_source: str | None
    last_updated: int | None


class UserProfile(TypedDict):
    userData: UserData


class NotSeenBefore(TypedDict):
    error: Literal["User id and device id not seen before"]


class NoAnswer(TypedDict):
    error: MissingWord


class Problem(TypedDict):
    """An error in the format of RFC 9457."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: Annotated[str, about("The problem and the fix. Never contains an id or a secret.")]
    code: Annotated[Code, about("The kind of problem, for programs. `detail` may change, and `code` does not.")]
    parameter: NotRequired[
        Annotated[
            str,
            about("The parameter, or the field of the body, with the problem. Absent unless only one has the problem."),
        ]
    ]


class TryAgain(Problem):
    """An error in the format of RFC 9457, with the error word of the missing data."""

    ok: Annotated[bool, Meta(extra_json_schema={"const": False})]
    error: RetryWord


class ForgetResult(TypedDict):
    records: Annotated[
        Count, about("Number of records deleted from Redis and from the process that handles the request.")
    ]
    waiting: Annotated[
        Count, about("Number of users removed from the backlog of the process that handles the request.")
    ]


class WebhookResult(TypedDict):
    applied: Annotated[Count, about("Number of users with at least one stored update.")]
    skipped: Annotated[Count, about("Number of users without a usable update.")]
    skipped_by_reason: dict[str, Count]
    unapplied_properties: Annotated[
        Count,
        about(
            "Number of properties that could not be stored: malformed properties, and properties changed by an "
            "operator that only Amplitude can evaluate."
        ),
    ]
    duplicate: Annotated[bool, about("True if the message was already applied. The service then changes nothing.")]
    forwarded: NotRequired[
        Annotated[
            dict[str, Count],
            about("Number of objects for Braze by outcome, and of skipped values by reason. Only with forwarding."),
        ]
    ]


class CurrentsResult(TypedDict):
    accepted: Annotated[Count, about("Number of events that Amplitude accepted. Amplitude ignores repeated events.")]
    skipped: Annotated[Count, about("Number of events that Amplitude can never accept.")]
    skipped_by_reason: dict[str, Count]
    repeated: Annotated[
        Count, about("Number of events that were already accepted or skipped in an attempt with status 503.")
    ]


class SnapshotResult(TypedDict):
    cohort_id: str
    members: Annotated[
        Count, about("Number of members in the snapshot, without users who were forgotten after `as_of`.")
    ]
    as_of: Annotated[Count, about("The time of the snapshot in Unix seconds.")]
    skipped: Annotated[Count, about("Number of lines without a valid user id.")]


class Snapshot(TypedDict):
    cohort_id: str
    members: Annotated[Count, about("Number of members.")]
    as_of: Annotated[Count, about("The time of the snapshot in Unix seconds.")]
    expires_at: Annotated[Count, about("The time at which the snapshot expires, in Unix seconds.")]


class CacheState(TypedDict):
    """The state of the memory cache in the process that handles the request."""

    max_bytes: Annotated[Count, about("`CACHE_MAX_MB` in bytes.")]
    records: Annotated[Count, about("Number of cached users.")]
    evictions: Annotated[Count, about("Number of users removed to make room for others, since the process started.")]


class SnapshotList(TypedDict):
    snapshots: list[Snapshot]
    cache: CacheState


class SnapshotRemoval(TypedDict):
    cohort_id: str
    removed: bool


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


Line = Annotated[int, Meta(ge=1, description="Line number in the message. The first line is 1.")]


class TagCall(TypedDict):
    line: Line
    method: str
    url: Annotated[str, about("The rendered URL. Its host is ignored.")]
    called: Annotated[str | None, about("The data route. Null if the URL has no data route.")]
    saved_as: str | None
    status: Annotated[int | None, about("Null if no route was called.")]
    needs_render: Annotated[
        bool, about("True if the tag has no answer because of `fetch: false`. Its variable is then null.")
    ]
    json: Annotated[Any, about("The answer. A string if the answer is not JSON.")]
    cache_status: str | None
    age: Count | None
    calls: Annotated[Count, about("Number of calls to Amplitude that the request sent or joined.")]
    ms: Count
    exposure: Annotated[str | None, about("Null if the tag requests no recommendation.")]


class Finding(TypedDict):
    line: Line
    rule: str
    problem: str
    fix: Annotated[str, about("The action that fixes the problem.")]
    level: Literal["problem", "note"]
    column: Annotated[
        int, Meta(ge=1, description="Column of the first affected character. The first character of a line is 1.")
    ]
    length: Annotated[
        Count, about("Number of affected characters. The range can contain line breaks. 0 if only the line is known.")
    ]
    replacement: Annotated[
        str | None,
        about("Text that replaces the range and fixes the problem. Null if the author must choose the text."),
    ]


class TagRequest(TypedDict):
    method: str
    target: Annotated[str, about("Path and query.")]
    headers: dict[str, str]
    body: str
    content_type: str


class HeldAnswer(TypedDict):
    """An answer to a tag. Send it back with `fetch: false` to render again without a call."""

    request: TagRequest
    status: int
    body: str


class UnknownValue(TypedDict):
    """A value that only Braze knows."""

    name: Annotated[str, about("The name as in the message, such as `custom_attribute.${plan}`.")]
    line: int


class Rendering(TypedDict):
    outcome: Annotated[
        Literal["sent", "aborted", "retried", "refused"],
        about(
            "The outcome in Braze. `sent`: Braze sends `message`. `aborted`: Braze aborts the message for `reason`. "
            "`retried`: Braze tries again later, because a call with `:retry` failed. `refused`: Braze rejects the "
            "message for `reason`."
        ),
    ]
    good: Annotated[
        bool,
        about(
            "True if Braze sends the message, and the message needs no attention. False if the message is empty or "
            "blank, contains `Liquid error`, or has a call that failed. `reason` says why."
        ),
    ]
    message: str
    reason: Annotated[str, about("Empty if `good` is true.")]
    tags: list[TagCall]
    findings: list[Finding]
    answers: Annotated[list[HeldAnswer], about("The answers to the tags, without answers longer than 64 KiB.")]
    unknown_values: Annotated[
        list[UnknownValue],
        about("The values in the message that only Braze knows. To set test values, send `values` in the request."),
    ]
