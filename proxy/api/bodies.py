"""The JSON bodies of responses, as types: the code builds these, and the OpenAPI document describes these.

A docstring here, or an `about`, is a description in that document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from proxy.api.errors import BLANK_ID
from proxy.profile.errors import UpstreamError
from proxy.profile.query import PropensityType


def about(description: str) -> Meta:
    """Return the description of a key."""
    return Meta(description=description)


MISSING_WORDS = [kind.word for kind in UpstreamError.__subclasses__()]
"""The error words that `on_error=retry` can meet: why Amplitude's answer is not there."""
ErrorWord = Annotated[str, Meta(extra_json_schema={"enum": MISSING_WORDS})]
Count = Annotated[int, Meta(ge=0)]
LiquidName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_-]*$")]


class Envelope(TypedDict):
    ok: Annotated[bool, about("Every part that was asked is answered, fresh or stale.")]
    found: Annotated[bool, about("Amplitude knows this user.")]
    error: Annotated[
        str | None,
        Meta(
            description="Null when `ok`; else why the first missing part is missing. Others are filled all the same.",
            extra_json_schema={"enum": [None, BLANK_ID, *MISSING_WORDS]},
        ),
    ]
    stale: Annotated[bool, about("Some part is older than its freshness lifetime.")]
    as_of: Annotated[int | None, about("When Amplitude said so (the oldest part's), in Unix seconds.")]
    user_id: Annotated[str | None, about("As Amplitude returned it, else as asked.")]
    device_id: Annotated[str | None, about("As Amplitude returned it, else as asked.")]


class FirstRecommendation(TypedDict):
    items: Annotated[list[str], about("The items to show; empty when there are none, and for the control group.")]
    personalized: Annotated[bool, about("`items` is not empty.")]
    is_control: Annotated[bool, about("The user is in the control group: show the default.")]
    control_items: Annotated[list[str], about("What Amplitude sent for a user of the control group: not to be shown.")]
    rec_id: str
    source: Annotated[str | None, about("Amplitude's `recommendation_source`.")]
    last_updated: Annotated[int | None, about("Unix seconds.")]


class Recommendation(FirstRecommendation):
    child_rec_id: str | None


class Recommendations(FirstRecommendation):
    recommendations: Annotated[list[Recommendation], about("One entry per `rec_id`, in the order asked.")]
    recommendations_by_id: Annotated[dict[str, Recommendation], about("The same entries by `rec_id`.")]


class Properties(TypedDict):
    properties: Annotated[dict[LiquidName, Any], about("By Liquid-safe name.")]
    properties_by_name: Annotated[dict[str, Any], about("By exact name, or as called in `keys`.")]


class Cohorts(TypedDict):
    cohort_ids: Annotated[list[str], about("The user's cohorts, of those asked.")]
    member: Annotated[dict[str, bool], about("Cohort id to whether the user is in it.")]
    is_member: Annotated[bool, about("In every asked `cohort_id`; false when none was asked.")]


class Computations(TypedDict):
    computations: Annotated[dict[LiquidName, Any], about("By Liquid-safe name; decimals are numbers.")]
    computations_by_name: Annotated[dict[str, Any], about("By Amplitude's exact name.")]


class Propensity(TypedDict):
    prediction_id: str
    value: Annotated[float | None, about("Null when Amplitude has none.")]
    type: PropensityType


class Propensities(TypedDict):
    propensity: Annotated[float | None, about("The first asked prediction's.")]
    propensities: Annotated[list[Propensity], about("One entry per `prediction_id`, in the order asked.")]
    propensities_by_id: Annotated[dict[str, Propensity], about("The same entries by `prediction_id`.")]


class AmplitudesPropensity(TypedDict):
    prop: float
    pred_id: str
    prop_type: PropensityType


class UserData(TypedDict):
    """What Amplitude's own endpoint answers; parts not asked for are null."""

    recommendations: list[AmplitudesRecommendation] | None
    user_id: str | None
    device_id: str | None
    amp_props: Annotated[dict[str, Any] | None, about("Properties and computations, merged.")]
    cohort_ids: list[str] | None
    propensity: NotRequired[Annotated[float | None, about("The first asked prediction's; only when asked.")]]
    propensities: NotRequired[Annotated[list[AmplitudesPropensity], about("Only when asked.")]]


class AmplitudesRecommendation(TypedDict, total=False):
    """As Amplitude sent it."""

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
    error: ErrorWord


class Problem(TypedDict):
    """RFC 9457."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: Annotated[str, about("The fault and the mend; never an id or a secret.")]


class TryAgain(Problem):
    """RFC 9457, with the error word that a 200 would have had."""

    ok: Annotated[bool, Meta(extra_json_schema={"const": False})]
    error: ErrorWord


class Forgotten(TypedDict):
    records: Annotated[Count, about("How many pairs something was kept about, in the process asked or in Redis.")]
    waiting: Annotated[Count, about("How many of them waited for a call in the process asked.")]


class Taken(TypedDict):
    applied: Annotated[Count, about("Users of whom something was taken.")]
    skipped: Annotated[Count, about("Users of whom nothing could be.")]
    skipped_by_reason: dict[str, Count]
    unapplied_properties: Annotated[
        Count,
        about(
            "Properties that could not be taken: malformed, or changed by an operator whose outcome only Amplitude "
            "knows."
        ),
    ]
    duplicate: Annotated[bool, about("A message that was applied before; nothing was done.")]


class Health(TypedDict):
    status: Literal["ok"]


class Readiness(TypedDict):
    status: Literal["ok", "degraded"]
    upstream: Literal["ok", "unknown", "rejected", "failing", "invalid"]
    quota: Literal["ok", "spent"]
    redis: NotRequired[Literal["ok", "gone"]]


class Unready(Readiness):
    status: Literal["unavailable", "draining"]  # type: ignore[misc]


class StatusFinding(TypedDict):
    level: Literal["good", "warn", "bad"]
    what: str
    meaning: Annotated[str, about("For messages.")]
    fix: Annotated[str, about("What to do; empty where there is nothing.")]


class StatusHourAnswers(TypedDict):
    hit: list[Count]
    stale: list[Count]
    fetched: list[Count]
    missing: list[Count]


class StatusHourTimes(TypedDict):
    """In milliseconds; null where nothing was asked."""

    median: list[Annotated[float, Meta(ge=0)] | None]
    p95: list[Annotated[float, Meta(ge=0)] | None]


class StatusHour(TypedDict):
    at: Annotated[list[Count], about("Unix seconds; the other lists have an entry for each of these.")]
    answers: StatusHourAnswers
    answer_ms: StatusHourTimes
    call_ms: StatusHourTimes
    calls: list[Count]
    quota_used: list[Count]
    backlog: list[Count]
    errors: dict[ErrorWord, list[Count]]


class Status(TypedDict):
    findings: Annotated[list[StatusFinding], Meta(min_length=1)]
    now: Annotated[
        dict[str, Count], about("How things stand, by the names of the gauges in `/metrics` without their prefix.")
    ]
    step_seconds: Count
    kept_seconds: Count
    hour: StatusHour


Line = Annotated[int, Meta(ge=1, description="Of the message, counted from 1.")]


class TagCall(TypedDict):
    line: Line
    method: str
    url: Annotated[str, about("As rendered; its host is not looked at.")]
    called: Annotated[str | None, about("The data route; null when the URL names none.")]
    saved_as: str | None
    status: Annotated[int | None, about("Null when nothing was called.")]
    json: Annotated[Any, about("The answer; text when it is not JSON.")]
    cache_status: str | None
    age: Count | None
    calls: Annotated[Count, about("To Amplitude, sent or joined.")]
    ms: Count
    exposure: Annotated[str | None, about("Null where no recommendation was asked for.")]


class Finding(TypedDict):
    line: Line
    rule: str
    problem: str
    fix: Annotated[str, about("What to write instead.")]
    level: Literal["problem", "note"]


class Rendering(TypedDict):
    outcome: Annotated[
        Literal["sent", "aborted", "retried", "refused"],
        about(
            "What Braze would do: send `message`; abort, for `reason`; try again later, since a call with `:retry` "
            "failed; refuse the message, for `reason`."
        ),
    ]
    message: str
    reason: str
    tags: list[TagCall]
    findings: list[Finding]
