"""Errors in a caller's request, with their HTTP status."""

from __future__ import annotations

from typing import ClassVar

BLANK_ID = "blank_id"
"""The error word for an anonymous user. The answer is a 200 and costs no call."""


class ApiError(Exception):
    """An error in a caller's request.

    detail: the field, the problem and the fix; never an id or a secret.
    """

    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(ApiError):
    """The request is wrong. Sending the same request again does not help."""

    status = 400


class Unauthorized(ApiError):
    """The credentials are missing or wrong."""

    status = 401


class Forbidden(ApiError):
    """The caller's address is not in the allowed networks."""

    status = 403
