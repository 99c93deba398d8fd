"""Errors of the caller, with their HTTP status."""

from __future__ import annotations

from typing import ClassVar

BLANK_ID = "blank_id"
"""The error word for an anonymous user: not a mistake, and no call is made."""


class ApiError(Exception):
    """An error of the caller. `detail` names the problem and the fix, and never repeats an id or a secret."""

    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(ApiError):
    """The request itself is wrong; sending it again unchanged cannot help."""

    status = 400


class Unauthorized(ApiError):
    """The credentials are missing or wrong."""

    status = 401


class Forbidden(ApiError):
    """The caller's address is not allowed."""

    status = 403
