"""Errors in a caller's request, with their HTTP status."""

from __future__ import annotations

from typing import ClassVar, Literal

BLANK_ID = "blank_id"
"""The error word for an anonymous user. The answer is a 200 and costs no call."""

Code = Literal[
    "missing_parameter",
    "invalid_parameter",
    "repeated_parameter",
    "invalid_body",
    "invalid_request",
    "unauthorized",
    "forbidden_network",
    "cross_site",
    "scope",
    "not_found",
    "method_not_allowed",
    "body_too_large",
    "unsupported_media_type",
    "newer_snapshot",
    "busy",
    "not_delivered",
    "no_answer",
    "internal",
]
"""The stable word of a problem, for programs. Callers depend on the words, so never rename a word."""


class ApiError(Exception):
    """An error in a caller's request.

    detail: the field, the problem and the fix; never an id or a secret. code: the stable word for programs.
    parameter: the name of the parameter, if only one has the error.
    """

    status: ClassVar[int]

    def __init__(self, detail: str, *, code: Code, parameter: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.parameter = parameter


class BadRequest(ApiError):
    """The request is wrong. Sending the same request again does not help."""

    status = 400


class Unauthorized(ApiError):
    """The credentials are missing or wrong."""

    status = 401

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="unauthorized")


class Forbidden(ApiError):
    """The credentials may be right, but not from this address or page, or not for this route."""

    status = 403


class BodyTooLarge(ApiError):
    """The body is larger than the route allows."""

    status = 413

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="body_too_large")


class UnsupportedMediaType(ApiError):
    """The route does not accept this type of body."""

    status = 415

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="unsupported_media_type")
