"""Bodies of the preview of a message."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from proxy.api.bodies.vocabulary import Count, about

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
