"""Errors that the caller made, with their HTTP status."""

from __future__ import annotations

from typing import ClassVar

BLANK_ID = "blank_id"
"""The error word for an anonymous user: nobody's mistake, and no call was tried."""


class ApiError(Exception):
    """The caller's mistake. `detail` names the fault and the mend, and never repeats an id or a secret."""

    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(ApiError):
    """The request itself is wrong; sending it again unchanged cannot help."""

    status = 400


class Unauthorized(ApiError):
    """No credentials, or wrong ones."""

    status = 401


class Forbidden(ApiError):
    """An address that may not call."""

    status = 403
