"""Bodies of requests to webhooks and the playground.

The parsers accept more: see `webhooks.parse`. The types have one simple form of each field, for generated clients.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from proxy.api.bodies.playground import HeldAnswer
from proxy.api.bodies.vocabulary import about
from proxy.api.parameters import MAX_LENGTH

UserProperties = Annotated[
    dict[str, Any],
    about(
        "Names and values, or Amplitude's operators `$set` and `$unset`. For properties with other operators, only "
        "Amplitude knows the result, so the service fetches them again."
    ),
]
MessageId = Annotated[str, about("A message with an id that was already applied is skipped.")]


class CohortUser(TypedDict):
    user_id: str
    user_properties: NotRequired[UserProperties]


class CohortMessage(TypedDict):
    """Amplitude's default payload of a cohort webhook.

    Users without a valid `user_id` are skipped and counted. Unknown fields are ignored.
    """

    cohort_id: Annotated[str, Meta(max_length=MAX_LENGTH, pattern=r"^[^\s\x00-\x1f\x7f-\x9f]+$")]
    in_cohort: Annotated[bool, about("True if the users entered the cohort, false if they left it.")]
    computed_time: Annotated[
        str,
        Meta(
            pattern="^[1-9][0-9]{0,17}$",
            description="Unix seconds. Updates older than the cache lifetime are skipped.",
        ),
    ]
    users: list[CohortUser]
    message_id: NotRequired[MessageId]
    cohort_name: NotRequired[Annotated[str, about("Ignored.")]]


class UserMessage(TypedDict, total=False):
    """An event in Amplitude's export format, or properties of a user.

    Messages without a valid `user_id` or without properties are skipped and counted. Unknown fields are ignored.
    """

    user_id: str
    user_properties: UserProperties
    event_time: Annotated[
        str,
        about(
            "The time of the properties: ISO 8601 (UTC if without a zone), Unix seconds or milliseconds. The default "
            "is four hours ago, because Amplitude retries for four hours."
        ),
    ]
    whole: Annotated[bool, about("True if the user has no other properties.")]
    message_id: MessageId
    uuid: Annotated[str, about("Amplitude's id of an event. Replaces a missing `message_id`.")]
    event_type: Annotated[str, about("Ignored.")]


class CurrentsUser(TypedDict, total=False):
    external_user_id: Annotated[str, about("Amplitude's `user_id`.")]
    device_id: str
    user_id: Annotated[str, about("Braze's own id. Ignored.")]
    timezone: Annotated[str, about("Ignored.")]


class CurrentsEvent(TypedDict):
    """An event in the format of Braze's custom HTTP connector. Unknown fields are ignored."""

    event_type: Annotated[str, Meta(pattern="[A-Za-z0-9]", description="For example `users.messages.email.Open`.")]
    id: Annotated[str, Meta(min_length=1, description="Becomes Amplitude's `insert_id`.")]
    time: Annotated[float, Meta(gt=0, lt=1e11, description="Unix seconds.")]
    user: Annotated[CurrentsUser, about("An event without `external_user_id` and `device_id` is skipped.")]
    properties: NotRequired[dict[str, Any]]


class CurrentsMessage(TypedDict):
    """A batch of Braze Currents. Events that cannot be read are skipped and counted."""

    events: list[CurrentsEvent]


class Message(TypedDict):
    template: Annotated[str, about("The message as written in Braze.")]
    user_id: NotRequired[Annotated[str, about("The id of the user. If blank or absent, the user is anonymous.")]]
    device_id: NotRequired[str]
    fetch: NotRequired[
        Annotated[bool, about("False to make no call. The tags then get only `answers`. The default is true.")]
    ]
    answers: NotRequired[
        Annotated[
            list[HeldAnswer],
            Meta(max_length=20),
            about("Answers of earlier renderings, for tags with the same requests. Used only with `fetch: false`."),
        ]
    ]
    values: NotRequired[
        Annotated[
            dict[str, Any],
            about(
                "Test values for values that only Braze knows, by the name in the message: `custom_attribute.${plan}`."
            ),
        ]
    ]
