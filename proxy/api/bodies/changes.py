"""Bodies of answers to requests that store, forward or remove data."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from proxy.api.bodies.vocabulary import Count, about


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
