"""Bodies of the answers with user data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from proxy.api.bodies.vocabulary import ErrorWord, LiquidName, MissingWord, about
from proxy.profile.query import PropensityType


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
