"""Bodies of errors."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from proxy.api.bodies.vocabulary import RetryWord, about
from proxy.api.errors import Code


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
