"""Errors in a caller's request, with their HTTP status."""

from __future__ import annotations

from typing import ClassVar

BLANK_ID = "blank_id"
"""The error word for an anonymous user. The answer is a 200 and costs no call."""


class ApiError(Exception):
    """An error in a caller's request.

    detail: the field, the problem and the fix; never an id or a secret. code: a stable word for programs.
    """

    status: ClassVar[int]

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class BadRequest(ApiError):
    """The request is wrong. Sending the same request again does not help."""

    status = 400


class Unauthorized(ApiError):
    """The credentials are missing or wrong."""

    status = 401


class Forbidden(ApiError):
    """The credentials may be right, but not from this address or page, or not for this route."""

    status = 403
